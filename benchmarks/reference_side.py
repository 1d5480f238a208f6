"""The reference implementation's side of the comparison; it runs in the reference's environment, without Foresay.

In: a folder that `foresay_side.py prepare` filled, and a task. Out: one JSON object on standard output.
The reference's package holds its model, losses and decoding, but not its training script, so `step` joins those parts
as the script in its repository (scripts/train.py) does: rows padded to the longest, a frozen decoder, gradient
checkpointing (`--checkpointing`) as its configuration has it. Where that leaves a choice, the cheaper one is taken for
it: a causal teacher without LoRA, and no time for tokenizers.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from llm2vec_gen.losses import compute_mse_loss, get_teacher_embeddings
from llm2vec_gen.models.modeling_encoder_decoder import EncoderDecoderModel, ProjectionModel
from peft import PeftModel, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM

from timing import Result, timed

Rows = list[list[int]]


class Side:
    """The reference's model on the given weights and rows."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        """Builds encoder and decoder, two copies of the language model, as its `from_pretrained` does."""
        self.folder, self.dtype = folder, dtype
        self.spec: dict[str, Any] = json.loads((folder / "spec.json").read_text())
        self.given = load_file(folder / "given.safetensors")
        special = self.given["special_tokens"]
        encoder = AutoModel.from_pretrained(folder / "model", torch_dtype=dtype)
        vocabulary = encoder.config.vocab_size
        encoder.resize_token_embeddings(vocabulary + len(special), mean_resizing=False)
        encoder.get_input_embeddings().weight.data[vocabulary:] = special.to(dtype)
        self.special_ids = list(range(vocabulary, vocabulary + len(special)))
        peft_encoder = get_peft_model(encoder, TrainableTokensConfig(token_indices=self.special_ids))
        peft_encoder.config.num_special_tokens = len(special)
        decoder = AutoModelForCausalLM.from_pretrained(folder / "model", torch_dtype=dtype).requires_grad_(False)
        self.model = EncoderDecoderModel(
            peft_encoder,
            decoder,
            f"last_{len(special)}_tokens",
            self.projection("reconstruct"),
            self.projection("align"),
        )

    def projection(self, name: str) -> ProjectionModel:
        """One of the two linear maps, with the given weights."""
        weight, bias = self.given[f"{name}.weight"], self.given[f"{name}.bias"]
        projection = ProjectionModel(weight.shape[1], weight.shape[0], dtype=self.dtype)
        projection.projection.load_state_dict({"weight": weight.to(self.dtype), "bias": bias.to(self.dtype)})
        return projection

    def teacher(self) -> PeftModel:
        """A third copy of the language model; its loss code accepts nothing but a PEFT model."""
        base = AutoModel.from_pretrained(self.folder / "model", torch_dtype=self.dtype)
        return get_peft_model(base, TrainableTokensConfig(token_indices=[0])).requires_grad_(False)

    def padded(self, rows: Rows, behind: list[int]) -> tuple[Tensor, Tensor]:
        """Ids and mask, padded on the left to the longest row, as its decoder function expects."""
        longest = max(map(len, rows)) + len(behind)
        ids = torch.full((len(rows), longest), self.spec["pad_id"])
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            start = longest - len(row) - len(behind)
            ids[i, start:], mask[i, start:] = torch.tensor(row + behind), 1
        return ids, mask

    def step(self, rows: int, teacher: PeftModel | None) -> tuple[Tensor, Tensor]:
        """Both losses of the first rows, and their gradient; without a teacher, the given targets are used."""
        ids, mask = self.padded(self.spec["queries"][:rows], self.special_ids)
        answer_ids, answer_mask = self.padded(self.spec["responses"][:rows], [])
        labels = torch.where(answer_mask == 1, answer_ids, -100)
        states, decoded = self.model(ids, mask, answer_ids, answer_mask, labels)
        embedding = states.mean(dim=1)
        if teacher is None:
            target = self.given["targets"][:rows].to(self.dtype)
        else:
            target = get_teacher_embeddings(answer_ids, answer_mask, teacher, embedding)
        total, alignment = compute_mse_loss(embedding, target, mse_loss_weight=1.0)
        (total + decoded.loss).backward()
        return alignment.detach(), decoded.loss.detach()

    @torch.no_grad()
    def encode(self, rows: Rows) -> Tensor:
        """Embeddings (rows, dim): all rows as one batch, as its `LLM2VecGenModel.encode` does."""
        states, _ = self.model.encode(*self.padded(rows, self.special_ids))
        return states.mean(dim=1)

    def decode(self, texts: int, tokens: int) -> Tensor:
        """Ids (texts, tokens): one text after another, as its `LLM2VecGenModel.generate` demands."""
        ids = torch.zeros(1, 1, dtype=torch.long)
        prompts = self.given["soft_prompts"][:texts, None].to(self.dtype)
        options = {"input_ids": ids, "attention_mask": ids, "max_new_tokens": tokens}
        return torch.cat([self.model.generate(**options, decoder_inputs_embeds=prompt) for prompt in prompts])


def check(side: Side) -> Result:
    """What both sides must agree on, from a few rows."""
    rows = side.spec["check_rows"]
    alignment, reconstruction = side.step(rows, None)
    (gradient,) = (weight.grad for name, weight in side.model.named_parameters() if "trainable_tokens_delta" in name)
    return {
        "alignment": alignment.item(),
        "reconstruction": reconstruction.item(),
        "gradient": gradient.flatten().tolist(),
        "embeddings": side.encode(side.spec["texts"][:rows]).flatten().tolist(),
        "decoded": side.decode(2, 8).flatten().tolist(),
    }


def train(side: Side, *, teacher: bool, checkpointing: bool) -> Result:
    """One step of AdamW on the whole batch, behind one of a few rows: the optimiser holds what it will hold."""
    side.model.train()
    if checkpointing:
        side.model.gradient_checkpointing_enable({"use_reentrant": False})  # as its script asks for it
    online = side.teacher() if teacher else None
    optimizer = torch.optim.AdamW([weight for weight in side.model.parameters() if weight.requires_grad], lr=1e-4)

    def step(rows: int) -> None:
        side.step(rows, online)
        optimizer.step()
        optimizer.zero_grad()

    step(side.spec["check_rows"])
    return timed(lambda: step(len(side.spec["queries"])))


def encode(side: Side) -> Result:
    """All texts, behind two."""
    side.encode(side.spec["texts"][:2])
    return timed(lambda: side.encode(side.spec["texts"]))


def decode(side: Side, texts: int, tokens: int) -> Result:
    """Some texts, behind two tokens of one; seconds are those of a text."""
    side.decode(1, 2)
    ids: list[Tensor] = []
    result = timed(lambda: ids.append(side.decode(texts, tokens)))
    if ids[0].shape != (texts, tokens):
        raise RuntimeError(f"decoded {tuple(ids[0].shape)} tokens; expected {(texts, tokens)}: a stop token came")
    return {**result, **{name: result[name] / texts for name in ("seconds", "wall_seconds")}}


def main() -> None:
    """Runs one task and reports it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=["check", "train", "encode", "decode"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--teacher", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--texts", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    dtype = json.loads((options.folder / "spec.json").read_text())["dtype"]
    side = Side(options.folder, torch.float32 if options.task == "check" else getattr(torch, dtype))
    if options.task == "check":
        result = check(side)
    elif options.task == "train":
        result = train(side, teacher=options.teacher, checkpointing=options.checkpointing)
    elif options.task == "encode":
        result = encode(side)
    else:
        result = decode(side, options.texts, options.tokens)
    packages = ("llm2vec-gen", "torch", "transformers", "peft")
    sys.stdout.write(json.dumps({**result, "versions": {name: version(name) for name in packages}}) + "\n")


if __name__ == "__main__":
    main()
