"""foresay.json: every field comes back as it was, and every kind of damage is named."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foresay.checkpoints.record import BackboneRecord, DocumentsRecord, Exported, Record, Training
from foresay.errors import CheckpointError

RECORD = Record(
    backbone=BackboneRecord("someone/model", "abc", "bfloat16"),
    thought=1,
    compression=3,
    hidden=32,
    dim=8,
    template="chat",
    prefix_ids=(1, 2),
    suffix_ids=(),
    readout="tokens",
    reconstruct="one",
    lora_rank=0,
    dims=(4, 6),
    decodes=True,
    max_tokens=90,
    prompts={"query": "Q: ", "document": ""},
    documents=DocumentsRecord("teacher", None, 64),
    query_weight=0.25,
    sentence_transformers=Exported(True, False, ("modules.json",)),
    training=Training("closed form", {"dims": [4, 6]}, {"teacher": "teacher"}, None, {"cosine": 0.5}),
    environment={"torch": "2"},
    files=("foresay.json",),
)


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        replace(RECORD, documents=None, training=Training(step=3)),
        replace(RECORD, training=Training("refit", before=Training(config={"dims": [4]}, step=3))),
    ],
)
def test_it_comes_back(record: Record, tmp_path: Path) -> None:
    """Tuples are tuples again."""
    record.save(tmp_path)
    assert Record.load(tmp_path) == record


def _paths(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:  # noqa: ANN401
    found = [path] if path else []
    for key, inner in value.items() if isinstance(value, dict) else ():
        found += _paths(inner, (*path, key))
    return found


def _saved(tmp_path: Path) -> dict[str, Any]:
    RECORD.save(tmp_path)
    found: dict[str, Any] = json.loads((tmp_path / "foresay.json").read_text())
    return found


FREE = {("foresay_version",), ("format",), ("format_version",)}
"""Checked on their own."""
OPEN = {("prompts",), ("environment",), ("training", "config"), ("training", "pairs"), ("training", "metrics")}
"""Dictionaries with keys of their own."""


def test_every_missing_key_is_named(tmp_path: Path) -> None:
    """Each key of each level."""
    whole = _saved(tmp_path)
    for path in _paths(whole):
        if path in FREE or path[:-1] in OPEN:
            continue
        damaged = copy.deepcopy(whole)
        inner = damaged
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        (tmp_path / "foresay.json").write_text(json.dumps(damaged))
        with pytest.raises(CheckpointError) as caught:
            Record.load(tmp_path)
        assert path[-1] in str(caught.value) and "\n" not in str(caught.value)


def test_every_mistyped_value_is_named(tmp_path: Path) -> None:
    """A value that fits no field's type, at each place; a whole number is no truth value."""
    whole = _saved(tmp_path)
    for path in _paths(whole):
        if path in FREE or path[:2] in {("training", "config"), ("training", "pairs")} and len(path) > 2:
            continue
        for wrong in (-1.5, True) if path not in {("training", "metrics", "cosine")} else (True, "0.5"):
            damaged = copy.deepcopy(whole)
            inner = damaged
            for key in path[:-1]:
                inner = inner[key]
            if type(inner[path[-1]]) is type(wrong):
                continue
            inner[path[-1]] = wrong
            (tmp_path / "foresay.json").write_text(json.dumps(damaged))
            with pytest.raises(CheckpointError) as caught:
                Record.load(tmp_path)
            assert path[-1] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": "html"}, "template is 'html', expected 'none' or 'chat'"),
        ({"dims": [4, "6"]}, r"dims\[1\] is '6', expected a whole number"),
        ({"prompts": {"query": 1}}, "prompts.query is 1, expected text"),
        ({"colour": "blue"}, "colour is unknown"),
    ],
)
def test_messages(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """What was found, and what was expected."""
    (tmp_path / "foresay.json").write_text(json.dumps({**_saved(tmp_path), **change}))
    with pytest.raises(CheckpointError, match=message):
        Record.load(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "null", '{"format": "other"}', "[" * 5000, "\udcff"])
def test_not_a_record(content: str, tmp_path: Path) -> None:
    """JSON of another kind, none at all, or not even text."""
    (tmp_path / "foresay.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=r"foresay\.json"):
        Record.load(tmp_path)
