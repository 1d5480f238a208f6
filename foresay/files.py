"""Files that survive a kill: JSON lines that are only appended to, and JSON files replaced in one move.

In: rows, dictionaries. Out: a `Journal` that a later run continues, `write_json` and `read_json` for manifests,
`file_hash` and `differences` to tell a stale file from a fresh one.
Be careful: only the *last* line of a journal may be torn, since every batch is one write after a finished one. A torn
line further up is damage, and is an error rather than a silent gap. A full disk leaves
what was there as it was (outputs.py).
"""

import gzip
import hashlib
import json
import logging
import mmap
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .errors import DataError
from .outputs import hold, replacing, writing

logger = logging.getLogger(__name__)


class Journal:
    """A JSON lines file open for appending, locked, its torn last line cut away. Use it in a `with`."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file.

        Raises:
            DataError: if another process is writing it.
        """
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        try:
            hold(self._file, self.path)
            self._repair()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        """The journal itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file, which also unlocks it."""
        self._file.close()

    def __len__(self) -> int:
        """Size in bytes."""
        return self._file.seek(0, os.SEEK_END)

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Line numbers and rows that the file already holds; DataError at a damaged line."""
        return ((number, row) for number, _, row in self.places())

    def places(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Line numbers, offsets in bytes and rows; DataError at a damaged line."""
        with self.path.open("rb") as file:
            yield from _strict_places(file, self.path)

    def row_at(self, offset: int) -> dict[str, Any]:
        """The row that begins at an offset which `places` or `append` gave."""
        with self.path.open("rb") as file:
            file.seek(offset)
            row = load_object(file.readline())
        if row is None:
            raise DataError(f"{self.path} has changed while it was being written; repeat the command")
        return row

    def append(self, rows: Iterable[Mapping[str, Any]]) -> list[int]:
        """Adds rows, and returns when they are on the disk. Where they do not fit, none is added.

        Returns:
            the offset at which each row begins.
        """
        lines = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows]
        start = len(self)
        data = memoryview(b"".join(lines))
        try:
            with writing(self.path):
                while data:
                    data = data[self._file.write(data) :]
                if lines:
                    os.fsync(self._file.fileno())
        except BaseException:
            self._file.truncate(start)  # shrinking a file needs no space
            raise
        return list(accumulate(map(len, lines[:-1]), initial=start)) if lines else []

    def _repair(self) -> None:
        if not len(self):
            return
        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = data.rfind(b"\n", 0, len(data) - 1) + 1
            last = data[start:]
        if not last.endswith(b"\n") or load_object(last) is None:
            logger.warning("the last line of %s is torn; it is cut away and its row will be made again", self.path)
            self._file.truncate(start)


def load_object(line: str | bytes) -> dict[str, Any] | None:
    """The JSON object in a line; None if it holds anything else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # ValueError: torn, not JSON, or not UTF-8
        return None
    return row if isinstance(row, dict) else None


def strict_rows(file: Iterable[bytes], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and rows of a JSON lines file in which every line has to be whole."""
    return ((number, row) for number, _, row in _strict_places(file, path))


def _strict_places(file: Iterable[bytes], path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    offset = 0
    for number, line in enumerate(file, 1):
        row = load_object(line)
        if row is None and number == 1 and Path(path.name.removesuffix(".gz")).suffix not in (".jsonl", ".ndjson"):
            raise DataError(f"{path} does not hold JSON lines; expected a .jsonl that an earlier command wrote")
        if row is None:
            raise DataError(
                f"{path}, line {number} is not a whole JSON object; delete that line, then repeat the command "
                "that wrote the file: it fills the gap"
            )
        yield number, offset, row
        offset += len(line)


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file in one move: a reader, or a kill, sees the old file or the new one."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock file for as long as the block runs; the lock ends with the process, however it ends.

    Raises:
        DataError: if another process holds it.
    """
    with writing(path), path.open("a+b") as file:
        hold(file, path.parent)
        yield


def as_json(value: object) -> Any:  # noqa: ANN401 - whatever it is
    """A value as it reads when it comes back from JSON: tuples are lists there."""
    return json.loads(json.dumps(value))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; DataError, with the line of a syntax error, if there is none."""
    if not path.is_file():
        raise DataError(f"there is no {path}; repeat the command that makes it, or name another place")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}; repair it, or make it again as it was made") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} holds a {type(found).__name__}; expected a JSON object")
    return found


@contextmanager
def unzipping(path: Path) -> Iterator[None]:
    """Turns what a torn or damaged gzip file raises, wherever in it that is, into a DataError."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is torn or damaged ({error}); copy it again, whole") from error


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """What a manifest says otherwise than expected, in words; empty if nothing. The version may differ."""
    words = []
    for name in expected.keys() - {"version"}:
        there, here = found.get(name), expected[name]
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            words.append(differences(there, here))
        elif there != here:
            words.append(f"{name} was {there!r} and is now {here!r}")
    return ", ".join(sorted(filter(None, words)))
