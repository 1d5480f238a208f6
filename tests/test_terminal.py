"""What a terminal or a pipe shows: progress, tables in 80 columns, other encodings than UTF-8, and `~` in paths."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.table import Table

from foresay.backbone import Backbone
from foresay.cli import running
from foresay.cli.main import main
from foresay.cli.options import HomePath
from foresay.cli.running import on_bar, progress_bar
from foresay.data.pairs import Pairs
from foresay.encoder import Encoder
from foresay.evaluation.intervals import Comparison
from foresay.evaluation.report import Report
from foresay.evaluation.scores import Score
from foresay.model import Model
from foresay.tables import in_pieces
from foresay.training.closed_form import closed_form
from foresay.training.metrics import Event, Read

from .conftest import SENTENCES, save_and_export

Get = Callable[[str], Backbone]


@pytest.fixture(scope="module")
def checkpoint(backbone: Get, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained checkpoint that decodes."""
    folder = tmp_path_factory.mktemp("terminal") / "checkpoint"
    save_and_export(folder, Encoder(Model(backbone("qwen3"), thought=0, compression=3, dim=8), max_tokens=60))
    return folder


def run(*arguments: object) -> tuple[str, str]:
    """What a command in this process prints on stdout and on stderr."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


# -- paths -------------------------------------------------------------------------------------------------


def test_every_path_option_knows_home() -> None:
    """A shell expands `-o ~/x`, and leaves `--output=~/x` to the program; no option may take a path as it is."""
    plain = [
        f"{name} {parameter.name}"
        for name, command in main.commands.items()
        for parameter in command.params
        if isinstance(parameter.type, click.Path) and not isinstance(parameter.type, HomePath)
    ]
    assert not plain


def test_home_in_an_option(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file lies at home, not in a folder called `~`; a checkpoint there is found, too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").symlink_to(checkpoint)
    run("encode", "~/mine", "--text", "x", "--output=~/v.npy", "--device", "cpu")
    assert np.load(tmp_path / "v.npy").shape == (1, 8)
    assert not (tmp_path / "~").exists()


# -- encodings ---------------------------------------------------------------------------------------------

NO_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LATIN_1 = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}


@pytest.mark.parametrize(("locale", "encoding"), [(NO_LOCALE, "utf-8"), (LATIN_1, "latin-1")])
def test_a_terminal_without_utf8(checkpoint: Path, tmp_path: Path, locale: dict[str, str], encoding: str) -> None:
    """Texts come in as UTF-8; what cannot go out is escaped as JSON spells it, so JSON stays JSON."""
    text = "Ça coûte 3 €? 日本語 🙂"
    queries = tmp_path / "queries.txt"
    queries.write_text(f"{text}\nplain\n", encoding="utf-8")
    script = (
        "import sys\nfrom foresay.cli.main import main\n"
        f"for words in (['decode', {str(checkpoint)!r}, {str(queries)!r}, '--json', '--max-new-tokens', '9'],\n"
        f"  ['encode', {str(checkpoint)!r}, '--text', sys.argv[1]],\n"
        f"  ['encode', {str(checkpoint)!r}, {str(queries)!r}],\n"
        f"  ['lens', {str(checkpoint)!r}, sys.argv[1]], ['lens', {str(checkpoint)!r}, sys.argv[1], '--json']):\n"
        "    main(words + ['--device', 'cpu'], standalone_mode=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, text], capture_output=True, env={**os.environ, **locale}, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode(encoding).splitlines()
    decoded, embedded = [json.loads(line) for line in lines[:2]], [json.loads(line) for line in lines[2:5]]
    assert [row["id"] for row in decoded] == [row["id"] for row in embedded[1:]]
    assert embedded[0]["id"] == embedded[1]["id"]
    assert embedded[0]["embedding"] == pytest.approx(embedded[1]["embedding"], abs=1e-5)  # alone, and in a batch
    wanted = Encoder.from_pretrained(checkpoint, device="cpu").decode_tokens([text, "plain"], max_new_tokens=9)
    assert [row["text"] for row in decoded] == [one.text for one in wanted]
    assert json.loads(lines[-1])["text"] == text
    assert any(not one.text.isascii() for one in wanted)  # or nothing was tested


# -- progress ----------------------------------------------------------------------------------------------

COMMANDS = """
respond QUERIES -m MODEL -o antworten-ä.jsonl --max-new-tokens 4 --system TEXT --device cpu
look antworten-ä.jsonl
merge antworten-ä.jsonl -o merged.jsonl
teach merged.jsonl -t self -m MODEL -o targets --device cpu
fit merged.jsonl targets -m MODEL -o é --compression 2 --held-out 1 --query-prompt TEXT --device cpu
encode é QUERIES -o ü.npy --keep-soft-prompts --prompt TEXT --device cpu
decode é --soft-prompts ü.soft_prompts.npy --ask TEXT --max-new-tokens 4 --device cpu
latent-index QUERIES -m MODEL -o latent --layers 1 --device cpu
lens é TEXT --lens latent --latent-index latent --layers 1 --device cpu
explain é TEXT TEXT --max-new-tokens 4 --device cpu
faithfulness é --text TEXT --max-new-tokens 4 --device cpu
report é QUERIES QUERIES -o report.html --title TEXT --max-new-tokens 4 --device cpu
index é QUERIES -o index --device cpu
search é index TEXT --explain --device cpu
search é index TEXT --json --device cpu
train merged.jsonl targets -m MODEL -o trained --compression 2 --held-out 1 --steps 2 --query-prompt TEXT --device cpu
verify trained --device cpu
migrate trained index --device cpu
bundle trained -o bundle --device cpu
encode bundle QUERIES -o scherben-ß --shards npy --devices cpu
"""
ALL_OF_THEM = """
import json, os, sys
from foresay.cli.main import main
for line in json.loads(sys.argv[1]):
    line = [os.fsdecode(word.encode()) for word in line]  # as a shell hands them over
    try:
        main(line, standalone_mode=False)
    except BaseException as error:
        sys.exit(f"{line}: {type(error).__name__}: {error}")
"""


@pytest.mark.slow
def test_every_command_without_utf8(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Names, options and texts that neither locale nor terminal can spell: all goes through, and files are in UTF-8."""
    text = "Ça coûte 3 €? 日本語 🙂"
    (tmp_path / "queries-ß.txt").write_text(f"{text}\nплан\nplain\n", encoding="utf-8")
    meant = {"QUERIES": "queries-ß.txt", "MODEL": str(folder("qwen3")), "TEXT": text}
    lines = [[meant.get(word, word) for word in line.split()] for line in COMMANDS.strip().splitlines()]
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", ALL_OF_THEM, json.dumps(lines)],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, **NO_LOCALE, **LATIN_1, "PYTHONPATH": root, "PYTHONWARNDEFAULTENCODING": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    warned = [line for line in done.stderr.decode("latin-1").splitlines() if "EncodingWarning" in line]
    assert warned and not [line for line in warned if "/foresay/" in line]  # only libraries open files that way
    rows = [json.loads(line) for line in (tmp_path / "antworten-ä.jsonl").read_bytes().splitlines()]
    assert [row["query"] for row in rows] == [text, "план", "plain"]
    assert "日本語 🙂" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "é" / "foresay.json").read_bytes())["prompts"]["query"] == text
    assert len(list((tmp_path / "scherben-ß").glob("shard-*.npy"))) == 1
    printed = done.stdout.decode("latin-1").split("\n")
    hits = [json.loads(line) for line in printed if line.startswith('{"id"') and '"hits"' in line]
    assert hits[0]["query"] == text and {hit["text"] for hit in hits[0]["hits"]} == {text, "план", "plain"}


def test_a_bar_in_a_pipe_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log of a long run shows a line now and then, not nothing until the end; the last one is the end."""
    clock = iter(float(second) for second in range(0, 1000, 4))
    monkeypatch.setattr(running, "_now", lambda: next(clock))
    with progress_bar("responding") as progress:
        for done in range(1, 13):
            progress(done, 12, "fine")
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 6
    assert lines[0].startswith("responding 3/12") and lines[-1].startswith("responding 12/12")
    assert all(line.endswith("fine") for line in lines)


def test_encode_and_decode_show_progress_in_a_pipe(checkpoint: Path, tmp_path: Path) -> None:
    """On stderr, so that stdout stays what it was."""
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(f"number {i}" for i in range(5)), encoding="utf-8")
    out, err = run("encode", checkpoint, queries, "--device", "cpu")
    assert len(out.splitlines()) == 5 and "5/5" in err
    for more in ([], ["--json"]):
        out, err = run(
            "decode", checkpoint, queries, "--max-new-tokens", 3, "--batch-size", 2, "--device", "cpu", *more
        )
        assert len(out.splitlines()) == 5 and "decoding 5/5" in err
    assert not run("encode", checkpoint, "--text", "x", "--device", "cpu")[1]


def test_fits_bar_ends_at_all_rows(backbone: Get) -> None:
    """Held-out rows are read too, and counted; then the bar says what takes the rest of the time."""
    encoder = Encoder(Model(backbone("qwen3"), thought=0, compression=2, dim=8))
    pairs = Pairs(SENTENCES, SENTENCES, np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32))
    events: list[Event] = []
    closed_form(encoder, pairs, np.arange(4), np.arange(4, 6), events.append)
    assert events[-1] == Read(6, 6)
    seen: list[tuple[int, int | None, str]] = []
    report = on_bar(lambda done, total, note: seen.append((done, total, note)))
    for event in events:
        report(event)
    assert seen[-1] == (6, 6, "solving for the maps")


# -- tables ------------------------------------------------------------------------------------------------


def screen(width: int = 80) -> tuple[Console, io.StringIO]:
    """A terminal of so many columns."""
    file = io.StringIO()
    return Console(file=file, width=width, force_terminal=False), file


def test_a_table_in_pieces() -> None:
    """As many columns a table as fit whole; one that is too wide alone stands alone."""
    console, _ = screen(30)
    widths = [9, 9, 40, 9, 9]

    def make(columns: range) -> Table:
        table = Table("", *(f"c{i}" for i in columns), box=None)
        table.add_row("name", *("x" * widths[i] for i in columns))
        return table

    made = [[str(column.header) for column in table.columns[1:]] for table in in_pieces(console, make, 5)]
    assert made == [["c0", "c1"], ["c2"], ["c3", "c4"]]


def test_scores_of_many_methods_fit_80_columns() -> None:
    """Every figure of every method is on the screen, none cut off with dots."""
    methods = ["checkpoint", "teacher", "hyde", "response", "bm25", "a-sentence-encoder"]
    tasks = ["wordnet_define", "entailment_bank"]
    values = {(m, t): round(0.1 + 0.07 * i + 0.011 * j, 3) for i, m in enumerate(methods) for j, t in enumerate(tasks)}
    scores = [
        Score(t, "retrieval", "ndcg_at_10", m, value, "mean", {"score": np.full(5, value)}, 0.1, True)
        for (m, t), value in values.items()
    ]
    console, file = screen()
    Report.of(Comparison(scores, draws=20), "checkpoint").show(console)
    shown = file.getvalue()
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert all(f"{value:.3f}" in shown for value in values.values())


def test_a_lens_over_many_layers_fits_80_columns(
    backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve tokens and their merged words: nothing is cut."""
    save_and_export(tmp_path / "c", Encoder(Model(backbone("qwen3"), thought=0, compression=12, dim=8), max_tokens=60))
    monkeypatch.setenv("COLUMNS", "80")
    shown, _ = run("lens", tmp_path / "c", "What does frugal mean?", "--layers", "all", "--device", "cpu")
    assert "…" not in shown
    assert all(f" {number} " in f"{shown} " for number in range(1, 13))
