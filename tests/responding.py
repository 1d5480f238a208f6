"""Queries, options and shortcuts for the tests of `respond`."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foresay.backbone import Backbone
from foresay.config import RespondConfig
from foresay.data.queries import Query
from foresay.data.responses import read_responses

from .conftest import SENTENCES

Get = Callable[[str], Backbone]
TEXTS = [*SENTENCES, "a fox " * 9, "What?", "y", "Once upon", "fever and a cough"]
QUERIES = [Query(f"q{i}", text) for i, text in enumerate(TEXTS)]
GREEDY = RespondConfig(max_new_tokens=8, batch_size=3)
SAMPLED = RespondConfig(max_new_tokens=8, batch_size=3, temperature=1.0, top_p=0.9, seed=7)


def alone(backbone: Backbone, text: str) -> list[int]:
    """One text's greedy response, by the library alone: no padding, no batch, nothing to stop it but the length."""
    before, behind = backbone.frame("chat")
    ids = torch.tensor([[*before, *backbone.tokenize([text])[0], *behind]])
    out = backbone.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=8,
        eos_token_id=backbone.text_config.vocab_size,  # nothing says that
        pad_token_id=backbone.pad_id,
    )
    new: list[int] = out[0, ids.shape[1] :].tolist()
    return new


def expected(backbone: Backbone, query: Query) -> tuple[str, str]:
    """Text and finish of a greedy response, cut at its first stop token."""
    new = alone(backbone, query.text)
    ends = [place for place, token in enumerate(new) if token in backbone.stop_ids]
    text = backbone.tokenizer.decode(new[: ends[0]] if ends else new, skip_special_tokens=True)
    return text.strip(), "stop" if ends else "length"


def texts(path: Path) -> dict[str, tuple[str, str]]:
    """Response and finish by id."""
    return {row.id: (row.response, row.finish) for row in read_responses(path)}


def spy(monkeypatch: pytest.MonkeyPatch, backbone: Backbone) -> list[tuple[int, int]]:
    """Rows and columns of each pass through the model."""
    passes: list[tuple[int, int]] = []
    forward = backbone.decoder.forward

    @functools.wraps(forward)
    def run(*arguments: Any, **options: Any) -> object:  # noqa: ANN401
        passes.append(tuple(options["input_ids"].shape))
        return forward(*arguments, **options)

    monkeypatch.setattr(backbone.decoder, "forward", run)
    return passes


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def thousand() -> list[Query]:
    """A thousand queries, a tenth of them repeated texts."""
    return [Query(f"q{i}", f"text {i % 900} {'x' * (i % 50)}") for i in range(1000)]
