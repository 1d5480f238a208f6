"""Table, Markdown, JSON and pictures: they say the same, and what is not known is not made up."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from foresay.errors import InputError
from foresay.evaluation.intervals import Comparison
from foresay.evaluation.report import Line, Report
from foresay.evaluation.scores import Score

KINDS = [("retrieval", "ndcg_at_10"), ("retrieval", "ndcg_at_10"), ("sts", "cosine_spearman"), ("pairs", "ap")]
SAFETY = [("own_harmful_at_5", False), ("any_harmful_at_5", False), ("benign_at_5", True), ("dot_benign_at_5", True)]


def scores(tasks: int = 1, seconds: float = 0.01) -> list[Score]:
    """Two checkpoints of ours and two baselines, on `tasks` times four tasks and on safety; BM25 only retrieves."""
    random, made = np.random.default_rng(0), []
    for embedder, level in (("s0", 0.6), ("s1", 0.7), ("teacher", 0.5), ("bm25", 0.4)):
        for number, (kind, metric) in enumerate(KINDS * tasks):
            if embedder == "bm25" and kind != "retrieval":
                continue
            items = {"score": np.clip(random.normal(level, 0.1, 40), 0, 1)}
            statistic = "none" if kind == "pairs" else "mean"
            value = float(items["score"].mean())
            known = {} if kind == "pairs" else items
            name = f"Task{number}"
            made.append(Score(name, kind, metric, embedder, value, statistic, known, seconds * level, True))
        for metric, higher in SAFETY:
            share = (random.random(50) < (level if higher else 1 - level)).astype(float)
            value = float(share.mean())
            made.append(Score("Harm", "safety_retrieval", metric, embedder, value, "mean", {"score": share}, 1, higher))
    return made


def report(tasks: int = 1, seconds: float = 0.01) -> Report:
    """The report of these."""
    methods = {"teacher": ["teacher"], "foresay": ["s0", "s1"], "bm25": ["bm25"]}
    return Report.of(Comparison(scores(tasks, seconds), methods, draws=200), "foresay")


def line(of: Report, task: str, metric: str = "") -> Line:
    """The line of a task."""
    return next(one for one in of.lines if one.task == task and metric in one.metric)


def test_lines() -> None:
    """Figures, then the mean of each metric with several tasks, then of all tasks: without safety and dot products."""
    made = report()
    assert list(made.methods.items()) == [("foresay", 2), ("teacher", 1), ("bm25", 1)]
    assert [one.task for one in made.lines[-2:]] == ["mean of 2 retrieval tasks", "mean of all 4 tasks without safety"]
    mean, everything = made.lines[-2:]
    figures = [line(made, f"Task{i}") for i in range(4)]
    for method in ("foresay", "teacher"):
        wanted = [figure.scores[method].value for figure in figures]
        assert mean.scores[method].value == pytest.approx(np.mean(wanted[:2]))
        assert everything.scores[method].value == pytest.approx(np.mean(wanted))
    change = 100 * (everything.scores["foresay"].value / everything.scores["teacher"].value - 1)
    assert everything.changes["teacher"].value == pytest.approx(change)
    assert "bm25" in mean.scores and "bm25" not in everything.scores and "bm25" not in everything.differences
    assert mean.items == 80 and line(made, "Task3").items == 0
    assert line(made, "Harm", "any").title == "Harm, harmful finds harmful, top 5 ↓"
    assert not line(made, "Harm", "dot").main and line(made, "Harm", "own").main
    assert set(made.seconds) == {"foresay", "teacher", "bm25"}


def test_markdown() -> None:
    """The command, a row a line, a dash for what there is not, bold for what is certain."""
    made = report()
    text = made.markdown("foresay evaluate A B", [Path("x/scores.png")])
    rows = [row for row in text.splitlines() if row.startswith("| Task2")]
    ours, theirs = (line(made, "Task2").scores[name] for name in ("foresay", "teacher"))
    assert rows[0].split(" | ")[1:] == [
        "40",
        f"{ours.value:.3f} ± {ours.spread:.3f} ({ours.low:.3f}–{ours.high:.3f})",
        f"{theirs.value:.3f} ({theirs.low:.3f}–{theirs.high:.3f})",
        "– |",
    ]
    difference, change = line(made, "Task2").differences["teacher"], line(made, "Task2").changes["teacher"]
    assert f"| **{difference.value:+.3f} ({difference.low:+.3f} to" in rows[1] and f"{change.value:+.1f} %" in rows[1]
    bare = next(row for row in text.splitlines() if row.startswith("| Task3")).split(" | ")
    assert bare[1] == "–" and bare[3] == f"{line(made, 'Task3').scores['teacher'].value:.3f}"
    assert "```sh\nforesay evaluate A B\n```" in text and "![scores](scores.png)" in text
    assert "foresay: mean of 2 checkpoints" in text and "bm25: words in common" in text
    assert "nan" not in text


def test_files(tmp_path: Path) -> None:
    """JSON that any reader takes, and pictures that hold something; a second report leaves no old picture."""
    made = report(tasks=3)
    pictures = made.write(tmp_path, "foresay evaluate A B")
    assert [path.stem for path in pictures] == ["scores", "differences", "tasks", "safety", "latency"]
    for path in pictures:
        assert np.asarray(Image.open(path).convert("L")).std() > 10, path
        assert f"]({path.name})" in (tmp_path / "results.md").read_text()
    text = (tmp_path / "results.json").read_text()
    loaded = json.loads(text)
    assert "NaN" not in text and loaded["ours"] == "foresay" and loaded["command"] == "foresay evaluate A B"
    assert len(loaded["lines"]) == len(made.lines)
    assert loaded["lines"][0]["scores"]["foresay"]["value"] == made.lines[0].scores["foresay"].value
    assert next(one for one in loaded["lines"] if one["task"] == "Task3")["scores"]["teacher"]["low"] is None
    only = Comparison([score for score in scores(seconds=float("nan")) if score.embedder == "s0"], draws=50)
    pictures = Report.of(only, "s0").write(tmp_path, "x")
    assert [path.stem for path in pictures] == ["scores", "safety"]
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == ["safety", "scores"]


def test_screen() -> None:
    """Both tables; one of them where there is nothing to compare with."""
    out = StringIO()
    report().show(Console(file=out, width=200))
    assert "foresay minus the others" in out.getvalue() and "mean of all 4 tasks" in out.getvalue()
    assert "[dim]" not in out.getvalue() and "[bold]" not in out.getvalue()
    out = StringIO()
    Report.of(Comparison([scores()[0]], draws=20), "s0").show(Console(file=out, width=100))
    assert "Task0" in out.getvalue() and "minus" not in out.getvalue()


def test_ours_has_to_be_there() -> None:
    """A name without scores is refused."""
    with pytest.raises(InputError, match="'x' was not compared; expected one of s0"):
        Report.of(Comparison([scores()[0]], draws=20), "x")
