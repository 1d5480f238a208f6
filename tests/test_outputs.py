"""What a command may write over: an earlier output of its own, and nothing else; and what a full disk is told as."""

import errno
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from foresay.cli.embedding import _write
from foresay.cli.main import main
from foresay.cli.options import Group
from foresay.errors import DataError
from foresay.evaluation.vector_cache import Store
from foresay.outputs import hold, holding, holds, replacing, unwritable, writing

ROW = '{"id": "a", "query": "What is a cat?", "response": "An animal."}\n'


def run(*words: object) -> str:
    """What a command that fails says; nothing but one line."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 1, result.output
    assert result.output.startswith("error: ") and result.output.count("\n") == 1, result.output
    return result.output


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with somebody's work, which must come out as it was; no model is loaded."""
    for place in ("embedding", "explaining", "reading", "search"):
        monkeypatch.setattr(f"foresay.cli.{place}.load_encoder", lambda *_, **__: pytest.fail("it loaded a model"))
    (tmp_path / "responses.jsonl").write_text(ROW)
    (tmp_path / "pairs.jsonl").write_text('{"query": "a", "document": "b"}\n')
    (tmp_path / "page.html").write_text('{"query": "a", "document": "b"}\n')
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "results.md").write_text("mine")
    (tmp_path / "tasks.png").write_text("mine")
    np.save(tmp_path / "labels.npy", np.arange(3))
    np.save(tmp_path / "vectors.npy", np.zeros((2, 4), np.float32))
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    yield tmp_path
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("encode c responses.jsonl -o responses.jsonl", "does not end in .npy; try responses.jsonl.npy"),
        ("encode c responses.jsonl -o labels.npy", "without labels.ids.json, so foresay encode did not write it"),
        ("report c responses.jsonl responses.jsonl -o thesis.tex", "does not end in .html"),
        ("explain c --pairs pairs.jsonl --html pairs.jsonl", "--html pairs.jsonl does not end in .html"),
        ("explain c --pairs page.html --html ../{0}/page.html", "is what the command reads"),
        ("lens c text --heat-map thesis.tex", "--heat-map thesis.tex does not end in .png"),
        ("look responses.jsonl --plot responses.jsonl", "--plot responses.jsonl does not end in .png"),
        ("search c i -f responses.jsonl --trec responses.jsonl", "is what the command reads"),
        ("whiten-index vectors.npy -t t -o vectors.npy", "is what the command reads"),
        ("whiten-index vectors.npy -t t -o thesis.tex", "does not end in .npy"),
        ("evaluate c quick -o .", "results.md is there already, and foresay evaluate would replace it"),
        ("teach responses.jsonl -t t -o .", "holds labels.npy and 6 more, which foresay teach did not write"),
        ("teach responses.jsonl -t t -o thesis.tex", "thesis.tex is a file; foresay teach writes a folder"),
        ("encode c responses.jsonl --shards npy -o .", "labels.npy and 7 more, which foresay encode --shards did not"),
        ("index c responses.jsonl -o .", "holds labels.npy and 7 more, which foresay did not write; use another -o"),
        ("index c responses.jsonl -o thesis.tex", "thesis.tex is a file"),
        ("adopt c vectors.npy -o .", "holds labels.npy and 7 more, which foresay did not write; use another -o"),
    ],
)
def test_what_is_not_an_earlier_output_stays(command: str, told: str, work: Path) -> None:
    """Refused before any model is loaded, in one line."""
    assert told in run(*command.format(work.name).split())


def test_after_an_error_nothing_has_changed(tmp_path: Path) -> None:
    """A file is replaced in one move."""
    (tmp_path / "page.html").write_text("before")
    with pytest.raises(DataError, match="the disk is full"), replacing(tmp_path / "page.html") as part:
        part.write_text("half of")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "before"


def test_two_that_write_one_file(tmp_path: Path) -> None:
    """The second is refused, and does not touch what the first is writing; afterwards it may."""
    path = tmp_path / "v.npy"
    with replacing(path) as part:
        part.write_text("first")
        with pytest.raises(DataError, match="another process is writing .*v.npy"), replacing(path):
            pytest.fail("both write")
        assert part.read_text() == "first"
    assert path.read_text() == "first"
    with replacing(path) as part:
        part.write_text("second")
    assert path.read_text() == "second" and [one.name for one in tmp_path.iterdir()] == ["v.npy"]


HELD = "another process is writing"


def in_a_thread(work: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever it returns
    """Runs something in a thread of its own; its error is raised here."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def elsewhere(folder: Path) -> str:
    """What a process says that wants to write a folder."""
    code = "import sys, pathlib\nfrom foresay.outputs import holding\nwith holding(pathlib.Path(sys.argv[1])): pass"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    return done.stderr


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    """Not by a second block, nor by another thread or process; what a killed process left holds nobody back."""
    folder, lock = tmp_path / "deep" / "c", tmp_path / "deep" / ".c.lock"
    with holding(folder):
        for start in (lambda work: work(), in_a_thread):
            with pytest.raises(DataError, match="another process is writing .*c; wait for it or stop it"):
                start(lambda: holding(folder).__enter__())
        assert holds(folder) and not in_a_thread(lambda: holds(folder))
        assert HELD in elsewhere(folder)
    assert not holds(folder) and not lock.exists()
    lock.touch()  # of a process that was killed
    assert HELD not in elsewhere(folder) and not lock.exists()
    with holding(folder):
        pass


def test_a_lock_that_is_removed_while_another_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking, its holder may end and remove it: a lock on a removed file keeps nobody out."""
    lock, opened = tmp_path / ".c.lock", []

    def late(file: IO[bytes], what: Path) -> None:
        opened.append(os.fstat(file.fileno()).st_ino)
        if len(opened) == 1:
            lock.unlink()
        if len(opened) == 2:
            lock.replace(tmp_path / "away")
            lock.touch()
        hold(file, what)

    monkeypatch.setattr("foresay.outputs.hold", late)
    with holding(tmp_path / "c"):
        assert len(opened) == 3 and opened[-1] == lock.stat().st_ino


def test_vectors_that_cannot_be_written_leave_the_earlier_ones_and_their_ids(tmp_path: Path) -> None:
    """A file may have 4 kB here: NumPy writes a part, and says so without an error number."""
    output, ids = tmp_path / "v.npy", tmp_path / "v.ids.json"
    assert _write(output, ["a"], np.ones((1, 4), np.float32)) == ids
    before = output.read_bytes(), ids.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DataError, match="the disk is full"):
            _write(output, ["b"], np.ones((100, 64), np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (output.read_bytes(), ids.read_bytes()) == before


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "v.npy"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "v.npy"),
        OSError(errno.EROFS, "Read-only file system", "v.npy"),
        sqlite3.OperationalError("database or disk is full"),
        sqlite3.OperationalError("disk I/O error"),
        OSError("15360 requested and 4064 written"),
        RuntimeError("lance error: LanceError(IO): No space left on device (os error 28), /src/writer.rs:191:9"),
    ],
)
def test_a_full_disk_is_one_line_whoever_meets_it(error: Exception) -> None:
    """Also from inside a library, through every command."""

    @click.command()
    def fails() -> None:
        raise error

    group = Group()
    group.add_command(fails)
    result = CliRunner().invoke(group, ["fails"])
    assert result.exit_code == 1 and result.output.startswith("error: cannot write ")
    assert result.output.count("\n") == 1 and "then repeat the command" in result.output


@pytest.mark.parametrize(
    ("text", "codec"), [(os.fsencode("größer").decode("ascii", "surrogateescape"), "utf-8"), ("größer", "ascii")]
)
def test_what_a_library_cannot_spell(text: str, codec: str) -> None:
    """A name, or a text that it writes to a file in the locale's encoding: one line, with what repairs it."""

    @click.command()
    def fails() -> None:
        text.encode(codec)

    group = Group()
    group.add_command(fails)
    result = CliRunner().invoke(group, ["fails"])
    assert result.exit_code == 1 and result.output.startswith("error: a library cannot spell '")
    assert "ößer" in result.output and result.output.endswith("PYTHONUTF8=1 before it\n")


def test_half_a_character_is_told_in_one_line() -> None:
    """It is no name's byte either, so no locale helps."""

    @click.command()
    def fails() -> None:
        "x\ud800y".encode()

    group = Group()
    group.add_command(fails)
    result = CliRunner().invoke(group, ["fails"])
    assert result.exit_code == 1 and result.output.startswith(
        "error: a text holds '\\ud800y', which is not valid Unicode"
    )
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "No such file", "x"), RuntimeError("os error 28")])
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    """A missing file of somebody else's is not taken for an output that cannot be written."""
    assert unwritable(error) is None
    with pytest.raises(type(error)), writing(tmp_path / "out"):
        raise error


def test_a_place_where_nothing_can_be_made() -> None:
    """The system says that there is no such file."""
    if not Path("/proc/self").exists():
        pytest.skip("needs Linux")
    assert "no such file can be made there" in run("encode", "c", __file__, "-o", "/proc/v.npy")


def test_ctrl_c_is_said_in_words() -> None:
    """As shells expect it, 130; and a file that ends too early is not taken for it."""

    @click.command()
    @click.argument("what")
    def fails(what: str) -> None:
        raise KeyboardInterrupt if what == "ctrl-c" else EOFError("Compressed file ended")

    group = Group()
    group.add_command(fails)
    result = CliRunner().invoke(group, ["fails", "ctrl-c"])
    assert result.exit_code == 130 and result.output.strip() == "interrupted; run the same command again"
    result = CliRunner().invoke(group, ["fails", "eof"])
    assert isinstance(result.exception, RuntimeError) and "Aborted" not in result.output


def test_a_picture_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """One line, and the earlier picture stays."""
    (tmp_path / "responses.jsonl").write_text(ROW)
    (small_disk / "lengths.png").write_bytes(b"earlier")
    (small_disk / "filler").write_bytes(b"0" * (shutil.disk_usage(small_disk).free - 4096))
    result = CliRunner().invoke(
        main, ["look", str(tmp_path / "responses.jsonl"), "--plot", str(small_disk / "lengths.png")]
    )
    assert result.exit_code == 1 and "the disk is full" in result.output.splitlines()[-1]
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "lengths.png"]
    assert (small_disk / "lengths.png").read_bytes() == b"earlier"


@pytest.mark.parametrize("small_disk", ["1m"], indirect=True)
def test_vectors_of_an_evaluation_on_a_full_disk(small_disk: Path) -> None:
    """SQLite has several words for it; a damaged file is told as such."""
    for left in (0, 4096, 65536, 200_000):
        filler = small_disk / "filler"
        filler.write_bytes(b"0" * (shutil.disk_usage(small_disk).free - left))
        with pytest.raises(DataError, match=r"cannot write .*v.sqlite: the disk is full"):
            Store(small_disk / "v.sqlite").add([b"a"], np.ones((1, 500_000), np.float32), [False])
        filler.unlink()
        for path in small_disk.iterdir():
            path.unlink()
    (small_disk / "v.sqlite").write_text("something else" * 100)
    with pytest.raises(DataError, match="v.sqlite is damaged .*delete it, and the same command"):
        Store(small_disk / "v.sqlite")
