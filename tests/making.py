"""What several tests train on: a few pairs with random targets, options for seconds, files of rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from foresay.config import TrainConfig
from foresay.data.pairs import Pairs
from foresay.training.metrics import Report, Step

from .conftest import SENTENCES

QUERIES = [f"{sentence} ({i})" for i in range(4) for sentence in SENTENCES]
RESPONSES = [f"{sentence} is the answer to {i}." for i in range(4) for sentence in reversed(SENTENCES)]


def small(**changes: Any) -> TrainConfig:  # noqa: ANN401
    """Options for seconds."""
    few: dict[str, Any] = {"documents": "checkpoint"}
    few |= {"compression": 3, "batch_size": 8, "warmup_steps": 2, "evaluate_every": 2, "micro_batch_tokens": 400}
    return TrainConfig(**{**few, **changes})


def pairs(dim: int = 8) -> Pairs:
    """24 rows with random targets."""
    targets = np.random.default_rng(0).normal(size=(len(QUERIES), dim)).astype(np.float32)
    return Pairs(QUERIES, RESPONSES, targets, {"responses": "made up"})


def noting(steps: list[int]) -> Report:
    """A report that notes the numbers of the steps."""
    return lambda event: steps.append(event.step) if isinstance(event, Step) else None


def killed_config() -> TrainConfig:
    """Every loss on, and more states than are kept."""
    return small(steps=6, held_out=2, keep=1, contrast_weight=0.5, dims=(4,), token_learning_rate=1e-2)


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    """A JSON lines file of the rows."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
