"""Foresay's side of the benchmark: prepares the model and the rows, and runs the same tasks as `reference_side.py`.

In: a folder, and a task. Out: one JSON object on standard output; `prepare` fills the folder instead.
Both sides read token ids, so that two versions of a tokenizer cannot make two workloads. Targets are given, as
Foresay computes them once before training; the reference computes them in each step.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from foresay import __version__
from foresay.backbone import Backbone
from foresay.config import TrainConfig
from foresay.encoder import Encoder
from foresay.model import Model
from foresay.step import gradient

Result = dict[str, Any]
PAD, END = "<pad>", "<end>"


def prepare(folder: Path) -> None:
    """Writes random weights, the tokens' and maps' first values, targets and soft prompts, from `spec.json`."""
    spec = json.loads((folder / "spec.json").read_text())
    torch.manual_seed(spec["seed"])
    config = AutoConfig.for_model("qwen3", **spec["model"], eos_token_id=spec["end_id"], pad_token_id=spec["pad_id"])
    model = AutoModelForCausalLM.from_config(config)
    embedding = model.get_input_embeddings().weight.detach()
    embedding[spec["end_id"]] = 0  # its logit is 0, never the largest of a vocabulary: decoding does not stop
    model.to(getattr(torch, spec["dtype"])).save_pretrained(folder / "model")
    words = {PAD: spec["pad_id"], END: spec["end_id"]}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=PAD))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END).save_pretrained(folder / "model")
    hidden, tokens = config.hidden_size, spec["special_tokens"]
    scale = embedding.std()
    given = {
        "special_tokens": torch.randn(tokens, hidden) * scale,
        "targets": torch.randn(len(spec["queries"]), hidden),
        "soft_prompts": torch.randn(spec["soft_prompts"], tokens, hidden) * scale,
        **{f"reconstruct.{name}": weight for name, weight in torch.nn.Linear(hidden, hidden).state_dict().items()},
        **{f"align.{name}": weight for name, weight in torch.nn.Linear(hidden, hidden).state_dict().items()},
    }
    save_file(given, folder / "given.safetensors")


class _IdEncoder(Encoder):
    """An encoder whose texts are token ids already."""

    def _rows(self, texts: Any, *_: object) -> list[list[int]]:  # noqa: ANN401
        rows: list[list[int]] = texts
        return rows


class Side:
    """A Foresay model on the given weights and rows."""

    def __init__(self, folder: Path, dtype: str) -> None:
        """Loads the backbone once; it serves every task."""
        self.spec: dict[str, Any] = json.loads((folder / "spec.json").read_text())
        given = load_file(folder / "given.safetensors")
        self.targets, self.soft_prompts = given.pop("targets"), given.pop("soft_prompts")
        backbone = Backbone.load(str(folder / "model"), device="cpu", dtype=dtype)
        tokens, hidden = given["special_tokens"].shape
        self.model = Model(backbone, thought=0, compression=tokens, dim=hidden)
        self.model.load_state_dict(given)

    def step(self, rows: int) -> dict[str, float]:
        """Both losses of the first rows, and their gradient."""
        queries, responses = self.spec["queries"][:rows], self.spec["responses"][:rows]
        return gradient(self.model, queries, responses, self.targets[:rows], TrainConfig())

    def encode(self, rows: list[list[int]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Embeddings (rows, dim)."""
        return _IdEncoder(self.model).encode(rows)  # type: ignore[arg-type]

    def decode(self, texts: int, tokens: int) -> Tensor:
        """Ids (texts, tokens), all texts as one batch."""
        return self.model.generate(self.soft_prompts[:texts], tokens)


def check(side: Side) -> Result:
    """What both sides must agree on, from a few rows."""
    rows = side.spec["check_rows"]
    figures = side.step(rows)
    grad = side.model.special_tokens.grad
    if grad is None:
        raise RuntimeError("the special tokens have no gradient")
    return {
        "alignment": figures["alignment"],
        "reconstruction": figures["reconstruction"],
        "gradient": grad.flatten().tolist(),
        "embeddings": side.encode(side.spec["texts"][:rows]).flatten().tolist(),
        "decoded": side.decode(2, 8).flatten().tolist(),
    }


def timed(work: Callable[[], Any], count: int = 1) -> Result:
    """Seconds of processor and of clock for `count` pieces of work, and the peak memory of the process so far."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    seconds, wall_seconds = time.process_time() - processor, time.perf_counter() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    threads = torch.get_num_threads()
    return {"seconds": seconds, "wall_seconds": wall_seconds, "count": count, "peak_bytes": peak, "threads": threads}


def train(side: Side) -> Result:
    """One step of AdamW on the whole batch, behind another one: memory that a run holds is there already."""
    optimizer = torch.optim.AdamW(side.model.parameters(), lr=1e-4)

    def step(rows: int) -> None:
        side.step(rows)
        optimizer.step()
        optimizer.zero_grad()

    rows = len(side.spec["queries"])
    step(rows)
    return timed(lambda: step(rows))


def encode(side: Side) -> Result:
    """All texts, behind two."""
    side.encode(side.spec["texts"][:2])
    return timed(lambda: side.encode(side.spec["texts"]))


def decode(side: Side, texts: int, tokens: int) -> Result:
    """Some texts, behind two tokens of one."""
    side.decode(1, 2)
    ids: list[Tensor] = []
    result = timed(lambda: ids.append(side.decode(texts, tokens)), texts)
    if ids[0].shape != (texts, tokens):
        raise RuntimeError(f"decoded {tuple(ids[0].shape)} tokens; expected {(texts, tokens)}: a stop token came")
    return result


def run(task: str, folder: Path, texts: int = 1, tokens: int = 128) -> Result:
    """One task's result."""
    dtype = json.loads((folder / "spec.json").read_text())["dtype"]
    side = Side(folder, "float32" if task == "check" else dtype)
    if task == "check":
        return check(side)
    if task == "train":
        return train(side)
    return encode(side) if task == "encode" else decode(side, texts, tokens)


def main() -> None:
    """Runs one task and reports it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=["prepare", "check", "train", "encode", "decode"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    if options.task == "prepare":
        prepare(options.folder)
        return
    result = run(options.task, options.folder, options.texts, options.tokens)
    versions = {"foresay": __version__, **{name: version(name) for name in ("torch", "transformers")}}
    sys.stdout.write(json.dumps({**result, "versions": versions}) + "\n")


if __name__ == "__main__":
    main()
