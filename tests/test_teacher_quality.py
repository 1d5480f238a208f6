"""The figures of a teacher: the interval's arithmetic, and the whole script on tiny tasks."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smollm2_sets as labelled
import teacher_quality as quality
from foresay.backbone import Backbone
from foresay.config import TeacherConfig
from foresay.teachers.llm2vec import LLM2VecTeacher
from foresay.teachers.make import make_teacher

from .conftest import SENTENCES


def outcome(scores: list[float]) -> Any:  # noqa: ANN401 - a class of a module that is loaded by path
    """Items with these scores."""
    items = np.array(scores)
    return quality.Outcome(len(items), lambda pick: float(items[pick].mean()))


def test_interval_of_one_seed_is_of_its_items() -> None:
    """Half of 400 items right: 0.5 ± 1.96 · 0.5 / 20."""
    mean, low, high = quality.figure([outcome([0.0, 1.0] * 200)])
    assert mean == 0.5
    assert (low, high) == pytest.approx((0.451, 0.549), abs=0.01)


def test_interval_of_seeds_is_of_items_and_seeds() -> None:
    """Seeds that agree add nothing; the items are the same for all; where items say nothing, Student's t is left."""
    one = outcome([0.0, 1.0] * 200)
    assert quality.figure([one] * 3) == pytest.approx(quality.figure([one]), abs=1e-9)
    flat = [outcome([score] * 50) for score in (0.4, 0.5, 0.6)]
    mean, low, high = quality.figure(flat)
    assert mean == pytest.approx(0.5)
    half = 4.303 * 0.1 / np.sqrt(3)  # t of two degrees of freedom
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.3)


def test_the_script(backbone: Callable[[str], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage of two seeds, plain and whitened, and the same figures from what was kept."""
    rows = [{"id": str(i), "text": text, "score": i} for i, text in enumerate(SENTENCES)]
    files: dict[str, dict[str, list[dict[str, Any]]]] = {
        "found": {
            "queries": rows[:3],
            "corpus": rows[3:],
            "qrels": [{"query": "0", "doc": "3", "score": 1}, {"query": "2", "doc": "5", "score": 1}],
        },
        "alike": {"pairs": [{"text1": row["text"], "text2": rows[0]["text"], "score": row["score"]} for row in rows]},
    }
    for task, parts in files.items():
        (tmp_path / task).mkdir()
        (tmp_path / task / "task.json").write_text(json.dumps({"name": task}))
        for name, content in parts.items():
            (tmp_path / task / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)))
    sets = [labelled.retrieval(tmp_path / "found"), labelled.similarity(tmp_path / "alike")]
    monkeypatch.setattr(quality, "all_sets", lambda data: sets)
    monkeypatch.setattr(quality, "BOOTSTRAP", 20)
    pairs = [{"id": str(i), "query": f"{one} {i}", "response": SENTENCES[i % 3]} for i, one in enumerate(SENTENCES * 3)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    command = ["teacher_quality.py", "--causal"]
    for option in ("data", "pairs", "cache", "output"):
        command += [f"--{option}", str(tmp_path / {"pairs": "pairs.jsonl", "data": ""}.get(option, option))]
    for seed in (0, 1):
        config = TeacherConfig(mntp_steps=1, simcse_steps=1, mntp_batch_size=2, simcse_batch_size=2, seed=seed)
        make_teacher(SENTENCES, backbone("qwen3"), tmp_path / f"t{seed}", config)
        command += ["--teacher", str(tmp_path / f"t{seed}")]
    monkeypatch.setattr(sys, "argv", command)
    quality.main()
    printed = (tmp_path / "output").read_text()
    names = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")]
    for stage, more in (
        ("backbone, causal", ""),
        ("both directions, untrained", ""),
        ("after stage 1", ", mean"),
        ("after stage 2", ", mean"),
    ):
        assert {stage + more, f"{stage}, whitened{more}"} <= set(names)
        assert bool(more) == (f"{stage}, whitened, teacher 1" in names)
    assert "after stage 2, whitened" in names, "a row of the differences"
    assert names.count(quality.BASE) == 1, "measured, and no difference to itself"
    (tmp_path / "output").unlink()
    monkeypatch.setattr(LLM2VecTeacher, "embed", lambda *_: pytest.fail("it was embedded before"))
    quality.main()
    assert (tmp_path / "output").read_text() == printed
