"""Foresay's side of the comparison: prepares the model and the rows, and runs the same tasks as `reference_side.py`.

In: a folder, and a task. Out: one JSON object on standard output; `prepare` fills the folder instead.
Both sides read token ids, so that two versions of a tokenizer cannot make two workloads. Targets are given, as
Foresay computes them once before training; the reference computes them in each step.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foresay.backbone import Backbone
from foresay.config import TrainConfig
from foresay.model import Model
from foresay.reconstruction import generate
from foresay.training.step import gradient
from timing import Result, hardware, timed
from workbench import SPECIAL_TOKENS, Shape, encoding, versions


def prepare(folder: Path) -> None:
    """Writes random weights, the tokens' and maps' first values, targets and soft prompts, from `spec.json`."""
    spec = json.loads((folder / "spec.json").read_text())
    backbone = Shape(**spec["shape"]).backbone(dtype=torch.float32)
    embedding, hidden = backbone.embedding.weight, backbone.hidden_size
    embedding[spec["end_id"]] = 0  # its logit is 0, never the largest of a vocabulary: decoding does not stop
    scale = embedding.std()
    reconstruct, align = torch.nn.Linear(hidden, hidden), torch.nn.Linear(hidden, hidden)
    given = {
        "special_tokens": torch.randn(SPECIAL_TOKENS, hidden) * scale,
        "targets": torch.randn(len(spec["queries"]), hidden),
        "soft_prompts": torch.randn(spec["soft_prompts"], SPECIAL_TOKENS, hidden) * scale,
        **{f"reconstruct.{name}": weight for name, weight in reconstruct.state_dict().items()},
        **{f"align.{name}": weight for name, weight in align.state_dict().items()},
    }
    save_file(given, folder / "given.safetensors")
    backbone.model.to(getattr(torch, spec["dtype"])).save_pretrained(folder / "model")
    backbone.tokenizer.save_pretrained(folder / "model")


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
        return encoding(self.model, rows)()

    def decode(self, texts: int, tokens: int) -> Tensor:
        """Ids (texts, tokens), all texts as one batch."""
        return generate(self.model.backbone, self.soft_prompts[:texts], tokens)


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


def train(side: Side) -> Result:
    """One step of AdamW on the whole batch, behind one of a few rows: the optimiser holds what it will hold."""
    optimizer = torch.optim.AdamW(side.model.parameters(), lr=1e-4)

    def step(rows: int) -> None:
        side.step(rows)
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


def run(arguments: Sequence[str] | None = None) -> Result:
    """One task's result; nothing for `prepare`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=["prepare", "check", "train", "encode", "decode"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args(arguments)
    if options.task == "prepare":
        prepare(options.folder)
        return {}
    dtype = json.loads((options.folder / "spec.json").read_text())["dtype"]
    side = Side(options.folder, "float32" if options.task == "check" else dtype)
    works: dict[str, Callable[[], Result]] = {
        "check": lambda: check(side),
        "train": lambda: train(side),
        "encode": lambda: encode(side),
        "decode": lambda: decode(side, options.texts, options.tokens),
    }
    return {**works[options.task](), "hardware": hardware(), "versions": versions()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run()) + "\n")
