"""Files that survive a kill: JSON lines that are only appended to, and JSON files replaced in one move.

In: rows, dictionaries. Out: a `Journal` that a later run continues, `write_json` and `read_json` for manifests,
`file_hash` and `differences` to tell a stale file from a fresh one.
What a reader would get wrong: only the *last* line of a journal may be torn, since every batch is one write
behind a finished one. A torn line further up is damage, and is an error rather than a silent gap.
"""

import hashlib
import json
import logging
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from .errors import DataError

try:
    import fcntl
except ImportError:  # Windows has no flock; not to start two writers is up to the user there
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


class Journal:
    """A JSON lines file open for appending, locked, its torn last line cut away. Use it in a `with`."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file.

        Raises:
            DataError: if another process is writing it.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            self._lock()
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
        self._file.seek(0)
        return strict_rows(self._file, self.path)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows in one write, and returns when they are on the disk."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if lines:
            self._file.write(lines.encode())
            self._file.flush()
            os.fsync(self._file.fileno())

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process is writing {self.path}; wait for it, or use another -o") from None
        except OSError as error:  # some network file systems cannot lock
            logger.warning("cannot lock %s (%s): make sure that nothing else writes to it", self.path, error)

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


def strict_rows(file: BinaryIO, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and rows of a JSON lines file in which every line has to be whole."""
    for number, line in enumerate(file, 1):
        row = load_object(line)
        if row is None:
            raise DataError(
                f"{path}, line {number} is not a whole JSON object; delete that line, then repeat the command "
                "that wrote the file: it fills the gap"
            )
        yield number, row


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file in one move: a reader, or a kill, sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".tmp")
    with part.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")
    sync(part)
    os.replace(part, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Returns when a file's content, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folder
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def as_json(value: object) -> Any:  # noqa: ANN401 - whatever it is
    """A value as it reads when it comes back from JSON: tuples are lists there."""
    return json.loads(json.dumps(value))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; DataError if it is missing or damaged."""
    row = load_object(path.read_bytes()) if path.is_file() else None
    if row is None:
        raise DataError(f"{path} is missing or damaged; delete it and what it describes, and repeat the command")
    return row


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
