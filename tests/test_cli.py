"""The command line: help at once, one line an error, and the whole way from queries to decoded answers."""

import json
import logging
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foresay.cli.main import main
from foresay.config import TrainConfig

from .commands import run

README = Path(__file__).parents[1] / "README.md"
COMMANDS = list(main.commands)


def test_help_is_quick_and_imports_no_torch() -> None:
    """Invariant 11: 0.3 s of processor time, or on a slow machine five times what importing click takes there.

    The least of five, since the machine may be busy.
    """
    code = "import sys; from foresay.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    check = "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'heavy'"
    least, shown = _quickest(code + check)
    assert set(COMMANDS) <= set(shown.split())
    assert least < max(0.3, 5 * _quickest("import click")[0])


def _quickest(code: str) -> tuple[float, str]:
    """Processor time of the quickest of five runs, in seconds, and what the last one printed."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
    return min(times), done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_and_is_in_the_readme(command: str) -> None:
    """Invariant 12: every option says what it does, and the help ends with an example of the command."""
    page = run(command, "--help")
    assert re.search(rf"`foresay {command}`", README.read_text(encoding="utf-8"))
    for parameter in main.commands[command].params:
        if parameter.param_type_name == "option":
            assert getattr(parameter, "help", None), parameter.name
    head, _, example = page.partition("\n  Example:\n")
    lines = [line.split() for line in example.strip().splitlines()]
    assert head and ["foresay", command] in [words[:2] for words in lines]
    assert {words[0] for words in lines} == {"foresay"}, "the help goes on after its example"


@pytest.mark.parametrize("command", COMMANDS)
def test_verbose_goes_behind_the_command_too(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before it."""
    logger = logging.getLogger("foresay")
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    for flag in ("-v", "--verbose"):
        main.commands[command].make_context(command, [], resilient_parsing=True)
        assert logger.level == logging.NOTSET
        main.commands[command].make_context(command, [flag], resilient_parsing=True)
        assert logger.level == logging.INFO
        logger.setLevel(logging.NOTSET)


def test_the_help_of_train_is_in_groups() -> None:
    """Each section of its options is a heading, and none is so long that nobody finds anything in it."""
    page = run("train", "--help")
    sections = set(TrainConfig.sections().values())
    assert len(sections) >= 4 and all(f"\n{section}:\n" in page for section in sections)
    assert max(len(re.findall(r"(?m)^  -", part)) for part in re.split(r"(?m)^\S.*:$", page)) <= 15


def test_the_whole_way(folder: Callable[[str], Path], tmp_path: Path, figures: list[Any]) -> None:
    """respond → teach → train → encode, decode, lens, verify, with a tiny random model."""
    model = folder("qwen3")
    queries = tmp_path / "queries.csv"
    queries.write_text("text\n" + "\n".join(f"What is number {i}?" for i in range(12)) + "\n")
    responses, targets, checkpoint = tmp_path / "responses.jsonl", tmp_path / "teacher", tmp_path / "checkpoint"
    where = ["--device", "cpu"]
    assert "12 written" in run("respond", queries, "-m", model, "-o", responses, "--max-new-tokens", 6, *where)
    assert "0 written, 12 there before" in run(
        "respond", queries, "-m", model, "-o", responses, "--max-new-tokens", 6, *where
    )
    assert "12 vectors of width 32 by" in run("teach", responses, "-t", "self", "-m", model, "-o", targets, *where)
    few = ["--steps", 4, "--batch-size", 4, "--warmup-steps", 1, "--compression", 3, "--evaluate-every", 2]
    run("train", responses, targets, "-m", model, "-o", checkpoint, *few, *where)
    assert (checkpoint / "training" / "curves.png").is_file()
    assert [list(axes.lines[0].get_xdata()) for axes in figures[-1].axes] == [[1, 2, 3, 4], [1, 2, 3, 4], [2, 4]]
    metrics = [json.loads(line) for line in (checkpoint / "training" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    assert {"alignment", "reconstruction", "loss", "learning_rate"} <= metrics[0].keys()
    assert {"cosine", "retrieval@1"} <= metrics[-1].keys()

    run("encode", checkpoint, queries, "-o", tmp_path / "vectors.npy", *where)
    vectors = np.load(tmp_path / "vectors.npy")
    assert vectors.shape == (12, 32)
    line = json.loads(run("encode", checkpoint, "--text", "What is number 3?", *where))
    np.testing.assert_allclose(line["embedding"], vectors[3], atol=1e-5)
    assert line["id"] == json.loads((tmp_path / "vectors.ids.json").read_text())[3]
    one = run("decode", checkpoint, "--text", "What is number 3?", "--max-new-tokens", 6, *where)
    many = run("decode", checkpoint, queries, "--max-new-tokens", 6, *where).splitlines()
    assert len(many) == 12
    assert one.split() == many[3].split()
    assert "reads as (probability)" in run("lens", checkpoint, "fox", *where)
    assert "verified" in run("verify", checkpoint, *where)


def test_errors_are_one_line_and_exit_1(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """No traceback for what a user can mend; the message says how."""
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"text": 7}\n')
    model = folder("qwen3")
    cases: list[tuple[list[object], str]] = [
        (["encode", tmp_path / "nowhere", "--text", "x"], "no such folder"),
        (["encode", tmp_path, "--text", "x"], "foresay.json"),
        (["encode", tmp_path], "either a file of texts or --text"),
        (["encode", tmp_path, empty], "has no row that can be used"),
        (["encode", tmp_path, bad], "row 2"),
        (["respond", tmp_path / "no.jsonl", "-m", model, "-o", tmp_path / "r.jsonl"], "no.jsonl"),
        (["respond", bad, "-m", tmp_path / "no-model", "-o", tmp_path / "r.jsonl"], "there is no "),
        (["respond", bad, "-m", model, "-o", tmp_path / "r.jsonl", "--device", "cuda"], "'cuda' is not available"),
        (["teach", bad, "-t", "self", "-o", tmp_path / "t"], "-m BACKBONE"),
        (["train", tmp_path / "r.jsonl", tmp_path / "t", "-m", model, "-o", tmp_path / "c"], "foresay respond"),
        (["train", bad, tmp_path / "t", "-m", model, "-o", tmp_path / "c", "--steps", "0"], "expected 1 or more"),
        (["verify", tmp_path / "nowhere"], "no such folder"),
        (["convert", tmp_path, "-o", tmp_path / "c"], "run_config.yml"),
    ]
    for arguments, message in cases:
        output = run(*arguments, code=1)
        last = output.strip().splitlines()[-1]
        assert last.startswith("error: "), output
        assert message in last, output
        assert "Traceback" not in output
