"""Targets: the teacher's vectors of the responses, in a folder that training maps into memory.

In: what `teach` adds. Out: `vectors.npy` (rows, dim) float32, `ids.jsonl` (a line a row: the id, and a hash of the text
that was embedded) and `manifest.json`; and `Targets`, joined with a file of responses by id and hash.
Be careful: `ids.jsonl` says how many rows there are. A killed run leaves vectors after the last one, and the row count
in the header of `vectors.npy` may lag behind.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from .. import __version__
from ..config import Of
from ..errors import DataError
from ..files import Journal, differences, load_object, read_json, write_json
from ..outputs import check_own, check_space, writing
from .responses import Response, stream_responses
from .seen import Seen, content_id

Vectors = NDArray[np.float32]

VECTORS, IDS, MANIFEST = "vectors.npy", "ids.jsonl", "manifest.json"
_NAMES = (VECTORS, IDS, "ids.json")


@dataclass(frozen=True)
class Manifest:
    """What the vectors were made by, and of which text.

    Attributes:
        teacher: its name; with `revision`, `pooling` and `max_tokens` all that its vectors depend on.
        dim: width of a vector.
        dtype: of the teacher's weights; empty where a kind of teacher does not say it, and in folders of versions that
            did not record it.
        query_weight: share of the query's own vector.
        of: whether the responses were embedded, or the queries.
        average: whether the responses to one query share the mean of their vectors.
    """

    teacher: str
    revision: str | None
    pooling: str
    dim: int
    max_tokens: int
    query_weight: float = 0.0
    of: Of = "response"
    average: bool = False
    dtype: str = ""
    version: str = __version__

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest of a folder; DataError if it is missing or damaged."""
        path = folder / MANIFEST
        try:
            return cls(**read_json(path))
        except TypeError as error:
            raise DataError(
                f"{path} is of another version ({error}); delete {folder} and repeat the command"
            ) from error

    def write(self, folder: Path) -> None:
        """Replaces the manifest of a folder in one move."""
        write_json(folder / MANIFEST, asdict(self))

    def texts(self, row: Response) -> tuple[str, ...]:
        """The texts of which a row's vector is made."""
        if self.of == "query":
            return (row.query,)
        return (row.response, row.query) if self.query_weight else (row.response,)

    def digest(self, row: Response) -> str:
        """A hash of these texts: the same as long as the row's vector is."""
        return content_id("\0".join(self.texts(row)))


def check_targets(folder: Path) -> None:
    """Fails if a folder holds anything else than targets; DataError."""
    check_own(folder, MANIFEST, _NAMES, "foresay teach")


class TargetsFolder:
    """A folder of targets open for adding rows, locked, what a kill left behind cut away. Use it in a `with`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Makes the folder, or goes on with one that was made alike.

        Raises:
            DataError: if it was made otherwise, is damaged, cannot be written, or another process is writing it.
        """
        self.folder, self.manifest = folder, manifest
        check_targets(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MANIFEST).exists() and any(map(_holds_something, [folder / name for name in _NAMES])):
            raise DataError(f"{folder} holds files of these names but no {MANIFEST}; use another -o")
        self._ids = Journal(folder / IDS)
        try:
            self._claim()
            self._known = Seen()
            for _, row in self._ids.rows():
                self._known.setdefault(row["id"], row["text"])
            with writing(folder):
                self._file = (folder / VECTORS).open("r+b" if (folder / VECTORS).exists() else "w+b", buffering=0)
                try:
                    self._cut()
                except BaseException:
                    self._file.close()
                    raise
        except BaseException:
            self._ids.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        """The folder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the files, which also unlocks the folder."""
        self._file.close()
        self._ids.__exit__(kind, error, trace)

    def __len__(self) -> int:
        """Rows that are done."""
        return len(self._known)

    def is_done(self, row: Response) -> bool:
        """Whether a row's vector is there; DataError if it is that of another text."""
        found = self._known.get(row.id)
        if found is not None and found != self.manifest.digest(row):
            raise _changed(self.folder, row.id)
        return found is not None

    def make_room(self, rows: int) -> None:
        """DataError now if the disk cannot hold so many more rows."""
        check_space(self.folder, rows * (self.manifest.dim * 4 + 100))

    def append(self, rows: Sequence[Response], vectors: Vectors) -> None:
        """Adds rows; when it returns, they are on the disk. Where they do not fit, none is added."""
        digests = {row.id: self.manifest.digest(row) for row in rows}
        with writing(self.folder / VECTORS):
            self._file.seek(_start(self.manifest.dim) + len(self) * self.manifest.dim * 4)
            data = memoryview(np.ascontiguousarray(vectors, np.float32).tobytes())
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        self._ids.append({"id": id, "text": text} for id, text in digests.items())
        for id, text in digests.items():
            self._known.setdefault(id, text)
        self._write_header()

    def _claim(self) -> None:
        if not (self.folder / MANIFEST).exists():
            self.manifest.write(self.folder)
            return
        found = asdict(Manifest.read(self.folder))
        free = {"average": self.manifest.average} | ({} if found["dtype"] else {"dtype": self.manifest.dtype})
        changed = differences({**found, **free}, asdict(self.manifest))
        if changed:
            raise DataError(f"{self.folder} holds targets made otherwise: {changed}; use another -o, or delete it")
        if found["average"] != self.manifest.average:  # the vectors are the same, only how they are read differs
            self.manifest.write(self.folder)

    def _cut(self) -> None:
        whole = _start(self.manifest.dim) + len(self) * self.manifest.dim * 4
        if len(self) and os.fstat(self._file.fileno()).st_size < whole:
            self._file.close()
            raise _damaged(self.folder, f"it is shorter than the {len(self)} rows of {IDS}")
        self._file.truncate(whole)
        self._write_header()

    def _write_header(self) -> None:
        with writing(self.folder / VECTORS):
            self._file.seek(0)
            self._file.write(_header(len(self), self.manifest.dim))


@dataclass(frozen=True, eq=False)
class Targets:
    """What `teach` made, row i for row i of the responses.

    Attributes:
        vectors: (rows, dim) float32; mapped into memory where the folder has the order of the responses.
        ids: of the rows.
        manifest: what they were made by.
    """

    vectors: Vectors
    ids: list[str]
    manifest: Manifest

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.manifest.dim

    @property
    def teacher(self) -> str:
        """Name of the teacher."""
        return self.manifest.teacher

    @classmethod
    def load(cls, folder: Path, responses: Path) -> "Targets":
        """Opens a folder of targets, joined with these responses by id.

        Targets of further responses are left out. Where the order differs, or targets are averaged, the vectors are
        copied into memory.

        Raises:
            DataError: if they are missing, not finished, damaged, or of other texts.
        """
        command = f"foresay teach {quote(str(responses))} -o {quote(str(folder))} -t"
        if not (folder / MANIFEST).exists():
            raise DataError(f"there are no targets in {folder}; make them with: {command} TEACHER")
        manifest = Manifest.read(folder)
        if not responses.is_file():
            raise DataError(f"there is no {responses}, whose targets {folder} should hold; name the file they are of")
        vectors, places = _open(folder, manifest)
        rows = list(stream_responses(responses))
        missing = [row.id for row in rows if row.id not in places]
        if missing:
            done = len(rows) - len(missing)
            rest = f"{command} {quote(manifest.teacher)}"
            raise DataError(f"{folder} holds {done} of {len(rows)} targets; for the rest run: {rest}")
        for row in rows:
            if places[row.id][1] != manifest.digest(row):
                raise _changed(folder, row.id)
        order = np.array([places[row.id][0] for row in rows])
        joined = vectors[: len(rows)] if np.array_equal(order, np.arange(len(rows))) else np.asarray(vectors[order])
        if manifest.average:
            joined = _averaged(joined, [row.query for row in rows])
        return cls(joined, [row.id for row in rows], manifest)


def _holds_something(path: Path) -> bool:
    """Whether a file is there and not empty: a full disk leaves empty ones behind, and no manifest."""
    return path.is_file() and path.stat().st_size > 0


def _open(folder: Path, manifest: Manifest) -> tuple[Vectors, dict[str, tuple[int, str]]]:
    """The vectors, mapped into memory; and each id's row and hash."""
    try:
        lines = (folder / IDS).read_bytes().splitlines()
        rows = [row for row in map(load_object, lines) if row]  # a kill may have torn the last one
        shape = (len(rows), manifest.dim)
        mapped: Vectors = np.empty(shape, np.float32)
        if rows:
            mapped = np.memmap(folder / VECTORS, np.float32, "r", _start(manifest.dim), shape)
    except (OSError, ValueError) as error:
        raise _damaged(folder, str(error)) from error
    return mapped, {row["id"]: (place, row["text"]) for place, row in enumerate(rows)}


def _averaged(vectors: Vectors, queries: Sequence[str]) -> Vectors:
    """For each row the mean over all rows of its query."""
    groups = {query: place for place, query in enumerate(dict.fromkeys(queries))}
    group = np.array([groups[query] for query in queries])
    sums = np.zeros((len(groups), vectors.shape[1]), np.float64)
    np.add.at(sums, group, vectors)
    means: Vectors = (sums / np.bincount(group)[:, None]).astype(np.float32)[group]
    return means


def _header(rows: int, dim: int) -> bytes:
    """The header of a .npy file; numpy leaves room in it for any number of rows, so its length stays the same."""
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)})
    return buffer.getvalue()


def _start(dim: int) -> int:
    return len(_header(0, dim))


def _changed(folder: Path, id: str) -> DataError:
    return DataError(
        f"the text of {id!r} has changed since {folder} was made; delete that folder and repeat foresay teach, or give "
        "the changed text another id"
    )


def _damaged(folder: Path, reason: str) -> DataError:
    return DataError(f"{folder / VECTORS} is missing or damaged ({reason}); delete {folder} and repeat foresay teach")
