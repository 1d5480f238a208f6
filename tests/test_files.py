"""Files that are written whole or not at all, journals, and responses read back."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from foresay.data.responses import Response, read_responses
from foresay.errors import DataError
from foresay.files import Journal, differences, file_hash, read_json, write_json
from foresay.outputs import check_output, check_space
from foresay.shown import size

from .making import write_jsonl

# -- the journal -----------------------------------------------------------------------------------------


def test_journal_appends(tmp_path: Path) -> None:
    """What was appended is there for the next to open it, behind what it appends."""
    path = tmp_path / "new" / "j.jsonl"
    for i in range(2):
        with Journal(path) as journal:
            assert [row for _, row in journal.rows()] == [{"i": n} for n in range(i)]
            journal.append([{"i": i}])
    assert path.read_text() == '{"i": 0}\n{"i": 1}\n'


@pytest.mark.parametrize("tail", [b'{"i": 1, "te', b'{"i": 1}', b'{"i"\n', b"\0\0\0\0\n", b'{"i": "\xc3', b"\n"])
def test_torn_last_line_is_cut_away(tmp_path: Path, tail: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """However a kill or a power cut left it; and the log says so."""
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"i": 0}\n' + tail)
    with Journal(path) as journal:
        journal.append([{"i": 2}])
    assert path.read_bytes() == b'{"i": 0}\n{"i": 2}\n'
    assert "torn" in caplog.text


def test_torn_only_line(tmp_path: Path) -> None:
    """A file with nothing but a torn line is an empty file."""
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"i"')
    with Journal(path) as journal:
        assert len(journal) == 0
    assert path.read_bytes() == b""


def test_torn_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    """It is damage, not a kill; the file is left as it is."""
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"i": 0}\n{"i"\n{"i": 2}\n')
    with Journal(path) as journal, pytest.raises(DataError, match="line 2 is not a whole JSON object; delete that"):
        list(journal.rows())
    assert len(path.read_bytes().splitlines()) == 3


def test_two_writers(tmp_path: Path) -> None:
    """Another process cannot write at the same time, and can as soon as the first has ended."""
    pytest.importorskip("fcntl")
    path = tmp_path / "j.jsonl"
    code = f"from foresay.files import *\nwith Journal(Path({str(path)!r})) as j: j.append([{{'i': 1}}])"
    with Journal(path):
        with pytest.raises(DataError, match="another process is writing"):
            Journal(path)
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert other.returncode and "another process is writing" in other.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert path.read_text() == '{"i": 1}\n'


def test_a_write_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is one line, and the rows before it are whole."""
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        assert journal.append([{"i": 0}, {"i": "ä"}]) == [0, 9]
        assert journal.row_at(9) == {"i": "ä"}

        def full(handle: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(DataError, match=r"cannot write .*j.jsonl: the disk is full; free some space, then repeat"):
            journal.append([{"i": 2}])
        with pytest.raises(DataError, match="the disk is full"):
            write_json(tmp_path / "m.json", {})
    assert path.read_text(encoding="utf-8") == '{"i": 0}\n{"i": "ä"}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["j.jsonl"]


def test_what_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    """A folder, a file where a folder should be; and looking leaves nothing behind."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="it is a folder; name a file"):
        check_output(tmp_path)
    with pytest.raises(DataError, match="part of the path is a file"):
        check_output(tmp_path / "file" / "r.jsonl")
    check_output(tmp_path / "new" / "r.jsonl")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "new"]
    with pytest.raises(DataError, match="needs 1,152,921,504.6 GB and the disk has"):
        check_space(tmp_path, 1 << 60)
    assert [size(n) for n in (3, 12_000, 999_940, 1.5e9)] == ["3 bytes", "12.0 kB", "999.9 kB", "1.5 GB"]


# -- JSON files and responses ----------------------------------------------------------------------------


def test_write_json_replaces_or_leaves(tmp_path: Path) -> None:
    """A value that cannot be written leaves the old file whole."""
    path = tmp_path / "deep" / "m.json"
    write_json(path, {"a": "日本"})
    with pytest.raises(TypeError):
        write_json(path, {"b": object()})
    assert read_json(path) == {"a": "日本"}
    write_json(path, {"a": 2})
    assert [file.name for file in path.parent.iterdir()] == ["m.json"]
    for text, message in (('{"a": 1,\n "b"}', "is damaged: .* line 2 column"), ("[]", "holds a list"), ("", "damaged")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_json(path)
    path.unlink()
    with pytest.raises(DataError, match="there is no"):
        read_json(path)


def test_differences() -> None:
    """In words, into nested options; another version is no difference."""
    found = {"backbone": "a", "config": {"seed": 0, "top_p": 1.0}, "version": "1"}
    assert differences(found, {**found, "version": "2"}) == ""
    words = differences(found, {"backbone": "b", "config": {"seed": 1, "top_p": 1.0}})
    assert words == "backbone was 'a' and is now 'b', seed was 0 and is now 1"


def test_read_responses(tmp_path: Path) -> None:
    """What is written comes back; a file from elsewhere need not say how a response ended."""
    rows = [{"id": "a", "query": "q", "response": "r", "finish": "length"}, {"id": "b", "query": "q", "response": "s"}]
    path = write_jsonl(tmp_path / "r.jsonl", rows)
    assert read_responses(path) == [Response("a", "q", "r", "length"), Response("b", "q", "s", "stop")]
    before = file_hash(path)
    write_jsonl(path, [*rows, {"id": "c", "query": "q", "response": "t"}])
    assert len(before) == 64 and file_hash(path) != before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a", "query": "q", "response": "r"}', "line 2: the id 'a' was used before"),
        ('{"id": "b", "query": "q"}', "line 2: response is missing"),
        ('{"id": ["b"], "query": "q", "response": "r"}', "line 2: id is not a string"),
        ('{"id": "b", "query": "q", "response": "r", "finish": "tired"}', "line 2: finish is 'tired'"),
        ('{"id": "b", "que', "line 2 is not a whole JSON object"),
    ],
)
def test_read_responses_is_strict(tmp_path: Path, line: str, message: str) -> None:
    """A broken row is named by its line."""
    path = write_jsonl(tmp_path / "r.jsonl", [{"id": "a", "query": "q", "response": "r"}])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=message):
        read_responses(path)


def test_no_responses(tmp_path: Path) -> None:
    """The error holds the command."""
    with pytest.raises(DataError, match="write it with: foresay respond QUERIES -m BACKBONE -o .*gone.jsonl"):
        read_responses(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="holds no response"):
        read_responses(write_jsonl(tmp_path / "r.jsonl", []))
