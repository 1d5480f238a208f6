"""Texts and pairs to a small language model with a tokenizer and a chat template, as the packaged one was made.

In: a file of plain texts, and one of queries with responses. Out: a folder that `-m` takes. Sequences of packed tokens
from both parts mixed; in the last fifth of the steps from the pairs alone. Muon on the matrices, AdamW on embeddings
and norms.
Careful: nothing is random but by seed and step, so a run that was killed and resumed is the one that was not. Which
texts a model saw decides what it can answer: hold out from the pairs what you mean to measure on.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from foresay.backbone import NANO_FOLDER
from foresay.data.queries import Query, read_queries
from foresay.data.responses import read_responses
from foresay.files import read_json, write_json
from foresay.outputs import check_output

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPARE = 32
"""Rows of the embedding matrix that no text reaches: there plain sentence-transformers finds the special tokens."""
PAIRS_ALONE, DECAY = 0.2, 0.45
"""Share of the steps at the end on the pairs alone, and over which the learning rates fall to zero."""


@dataclass(frozen=True)
class Shape:
    """The model and its training; the defaults are the packaged model's."""

    vocabulary: int = 8160
    width: int = 256
    layers: int = 8
    length: int = 256
    batch_size: int = 16
    steps: int = 5600
    warmup: int = 100
    matrix_rate: float = 0.02
    other_rate: float = 3e-3
    save_every: int = 200
    seed: int = 0


def make_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of these texts, with the packaged model's control tokens and template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [END, START, STOP]
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    )
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=STOP, pad_token=END)
    made.chat_template = (NANO_FOLDER / "chat_template.jinja").read_text(encoding="utf-8")
    return made


def make_model(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """The packaged model's architecture, at random."""
    config = AutoConfig.from_pretrained(NANO_FOLDER)
    config.vocab_size = len(tokenizer) + SPARE
    config.hidden_size, config.num_hidden_layers = shape.width, shape.layers
    config.num_attention_heads = config.num_key_value_heads = max(1, shape.width // config.head_dim)
    config.intermediate_size = round(shape.width * 2.75)
    config.layer_types = ["full_attention"] * shape.layers
    config.max_position_embeddings = max(1024, shape.length)
    torch.manual_seed(shape.seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def packed(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], shape: Shape) -> NDArray[np.int32]:
    """The texts one behind the other, cut into sequences of one length: (sequences, length)."""
    order = np.random.default_rng(shape.seed).permutation(len(texts))
    ids: list[int] = []
    for row in tokenizer([texts[i] for i in order], add_special_tokens=False).input_ids:
        ids += row
    count = len(ids) // shape.length
    if count < 1:
        raise click.ClickException(f"{len(ids)} tokens of text; a sequence takes {shape.length}: give more texts")
    return np.array(ids[: count * shape.length], np.int32).reshape(count, shape.length)


def share(step: int, shape: Shape) -> float:
    """Of the peak learning rates: a rise, then the peak, then a line to zero."""
    start = shape.steps * (1 - DECAY)
    return min(1.0, (step + 1) / max(1, shape.warmup), (shape.steps - step) / max(1.0, shape.steps - start))


class Run:
    """One run: the model, the two optimisers, and where it is."""

    def __init__(
        self, model: PreTrainedModel, parts: tuple[NDArray[np.int32], NDArray[np.int32]], shape: Shape
    ) -> None:
        """Begins at the first step."""
        self.model, self.parts, self.shape, self.step = model, parts, shape, 0
        matrices = [w for name, w in model.named_parameters() if w.ndim == 2 and "embed" not in name]
        chosen = {id(w) for w in matrices}
        others = [w for w in model.parameters() if id(w) not in chosen]
        self.optimizers = (
            torch.optim.Muon(matrices, lr=shape.matrix_rate, weight_decay=0.0),
            torch.optim.AdamW(others, lr=shape.other_rate, betas=(0.9, 0.95), weight_decay=0.0),
        )
        self.peaks = (shape.matrix_rate, shape.other_rate)

    def next_step(self) -> float:
        """One step; the loss of its batch, in nats a token."""
        batch = torch.from_numpy(self._batch()).long()
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(input_ids=batch, use_cache=False).logits[:, :-1]
        loss = functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, peak in zip(self.optimizers, self.peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * share(self.step, self.shape)
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return float(loss.detach())

    def _batch(self) -> NDArray[np.int32]:
        """Sequences of both parts; towards the end of the pairs alone."""
        random = np.random.default_rng([self.shape.seed, self.step])
        texts, pairs = self.parts
        rows = pairs if self.step >= self.shape.steps * (1 - PAIRS_ALONE) else np.concatenate([texts, pairs])
        return rows[random.integers(len(rows), size=self.shape.batch_size)]

    def save(self, folder: Path) -> None:
        """Writes the state, whole or not at all."""
        draft = folder / "state.draft"
        save_file(dict(self._tensors()), draft)
        draft.replace(folder / "state.safetensors")

    def load(self, folder: Path) -> None:
        """Goes back to the state on disk, if there is one."""
        path = folder / "state.safetensors"
        if not path.is_file():
            return
        saved = load_file(path)
        self.step = int(saved["step"])
        for name, weight in self.model.named_parameters():
            weight.data.copy_(saved[f"model.{name}"])
        for number, optimizer in enumerate(self.optimizers):
            state = optimizer.state_dict()
            for index in range(sum(len(group["params"]) for group in state["param_groups"])):
                prefix = f"{number}.{index}."
                state["state"][index] = {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
            optimizer.load_state_dict(state)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield "step", torch.tensor(self.step)
        for name, weight in self.model.named_parameters():
            yield f"model.{name}", weight.detach().contiguous()
        for number, optimizer in enumerate(self.optimizers):
            for index, values in optimizer.state_dict()["state"].items():
                for name, value in values.items():
                    yield f"{number}.{index}.{name}", torch.as_tensor(value).contiguous()


def make(texts: Path, pairs: Path, output: Path, shape: Shape) -> float:
    """Trains, or resumes, and writes the model; the mean loss of the last steps."""
    check_output(output / "config.json")
    plain = [row.text for row in read_queries(str(texts)) if isinstance(row, Query)]
    rows = [(row.query, row.response) for row in read_responses(pairs)]
    begun = output / "run.json"
    if begun.is_file() and read_json(begun) != asdict(shape):
        raise click.ClickException(f"{output} holds a run with other options; use another folder, or delete it")
    write_json(begun, asdict(shape))
    tokenizer = make_tokenizer([*plain, *(text for row in rows for text in row)], shape.vocabulary)
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": r}] for q, r in rows]
    chats = tokenizer.apply_chat_template(turns, tokenize=False)
    parts = packed(tokenizer, [text + END for text in plain], shape), packed(tokenizer, chats, shape)
    run = Run(make_model(shape, tokenizer), parts, shape)
    run.load(output)
    losses: list[float] = []
    while run.step < shape.steps:
        losses = [*losses[-19:], run.next_step()]
        if run.step % 20 == 0 or run.step == shape.steps:
            click.echo(f"step {run.step}/{shape.steps}  loss {sum(losses) / len(losses):.3f}", err=True)
        if run.step % shape.save_every == 0:
            run.save(output)
    run.model.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / "state.safetensors").unlink(missing_ok=True)
    return sum(losses) / len(losses) if losses else math.nan


@click.command(context_settings={"show_default": True})
@click.argument("texts", type=click.Path(path_type=Path))
@click.argument("pairs", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--vocabulary", default=Shape.vocabulary, help="Tokens of the tokenizer.")
@click.option("--width", default=Shape.width, help="Width of the model; 64 for each head.")
@click.option("--layers", default=Shape.layers, help="Its layers.")
@click.option("--length", default=Shape.length, help="Tokens of a packed sequence.")
@click.option("--batch-size", default=Shape.batch_size, help="Sequences a step.")
@click.option("--steps", default=Shape.steps, help="Steps; 5,600 of the default size are 22.9 M tokens.")
@click.option("--warmup", default=Shape.warmup, help="Steps over which the learning rates rise.")
@click.option("--matrix-rate", default=Shape.matrix_rate, help="Peak learning rate of Muon.")
@click.option("--other-rate", default=Shape.other_rate, help="Peak learning rate of AdamW.")
@click.option("--save-every", default=Shape.save_every, help="Steps between two saves of the state.")
@click.option("--seed", default=Shape.seed, help="Seed of the weights and the order.")
def main(texts: Path, pairs: Path, output: Path, **options: int | float) -> None:
    """Make a language model of TEXTS and PAIRS in the folder OUTPUT."""
    loss = make(texts, pairs, output, Shape(**options))  # type: ignore[arg-type]
    click.echo(f"{output}: loss {loss:.3f} nats a token; try: foresay respond QUERIES -m {output} -o responses.jsonl")


if __name__ == "__main__":
    main()
