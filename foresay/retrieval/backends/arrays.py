"""Vectors in a file, searched exactly: Parquet with a column of vectors, or .npy with ids and texts beside it.

In: a `Place`. Out: an `Arrays`. An .npy stays on the disk, mapped into memory; of a Parquet file the vectors are read,
and the other columns of a row when it is a hit.
Careful: every search reads all vectors. A million rows of 384 numbers are 1.5 GB: half a second from memory.
"""

import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...embedded import Array
from ...errors import DataError, InputError
from ..documents import Document, read_documents
from ..rows import Row
from .base import IDS, TEXTS, Backend, Place, Sample, choose, kind, name_of, only, plain

_BLOCK = 1 << 16
"""Rows compared at once."""


class Arrays(Backend):
    """Vectors in memory or mapped into it, and what reads the rest of a row."""

    ranks_by = "cosine"

    def __init__(self, path: Path, vectors: NDArray[Any]) -> None:
        """Takes vectors (rows, dim) of any float type.

        Raises:
            DataError: if they are no matrix of floats.
        """
        if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating) or not vectors.size:
            raise DataError(f"{path} holds {vectors.dtype} of shape {vectors.shape}; expected floats (rows, dim)")
        self.path, self.name, self.vectors, self.dim = path, str(path), vectors, int(vectors.shape[1])
        self._numbers: dict[str, int] | None = None

    @abstractmethod
    def _ids(self) -> list[str]:
        """The id of each row."""

    @abstractmethod
    def _read(self, rows: Sequence[int]) -> list[tuple[str, str, dict[str, Any]]]:
        """Id, text and metadata of some rows."""

    def count(self) -> int:
        """Rows."""
        return len(self.vectors)

    def nearest(self, vector: Array, limit: int, where: str | None) -> list[Row]:
        """By comparing all; rows with NaN are never found."""
        if where is not None:
            raise InputError(f"{self.name} is a file, which takes no filter; leave out --where, or filter its hits")
        best: NDArray[np.float32] = np.empty(0, np.float32)
        rows: NDArray[np.int64] = np.empty(0, np.int64)
        for start in range(0, len(self.vectors), _BLOCK):
            block = np.asarray(self.vectors[start : start + _BLOCK], np.float32)
            with np.errstate(invalid="ignore", over="ignore"):
                cosines = block @ vector / np.maximum(np.linalg.norm(block, axis=1), 1e-12)
            cosines = np.where(np.isfinite(cosines), cosines, -np.inf)
            best = np.concatenate([best, cosines])
            rows = np.concatenate([rows, np.arange(start, start + len(block))])
            keep = np.argpartition(-best, limit - 1)[:limit] if len(best) > limit else np.arange(len(best))
            best, rows = best[keep], rows[keep]
        order = np.argsort(-best, kind="stable")
        order = order[np.isfinite(best[order])]
        scores = [float(best[i]) for i in order]
        return [
            Row(name, score, text, metadata, 0, len(text))
            for score, (name, text, metadata) in zip(scores, self._read([int(rows[i]) for i in order]), strict=True)
        ]

    def sample(self, rows: int) -> Sample:
        """Drawn at random, always the same."""
        picks = sorted(np.random.default_rng(0).permutation(self.count())[:rows].tolist())
        read = self._read(picks)
        return Sample([row[0] for row in read], [row[1] for row in read], self._vectors(picks))

    def fetch(self, ids: Sequence[str]) -> Sample:
        """By id."""
        if self._numbers is None:
            self._numbers = {name: row for row, name in enumerate(self._ids())}
        there = [name for name in ids if name in self._numbers]
        return Sample(there, [""] * len(there), self._vectors([self._numbers[name] for name in there]))

    def _vectors(self, rows: Sequence[int]) -> Array:
        return np.asarray(self.vectors[list(rows)], np.float32)


class ParquetFile(Arrays):
    """A Parquet file, or a folder of them, with a column of vectors."""

    def __init__(self, path: Path, place: Place) -> None:
        """Reads the vectors.

        Raises:
            DataError: if it is no such file, or holds no row, or no column of vectors or texts.
        """
        import pyarrow as pa
        from pyarrow import dataset

        try:
            self._file = dataset.dataset(str(path), format="parquet")
            fields = list(self._file.schema)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path} is not a Parquet file ({error}); expected one") from error
        config, names = place.config, [one.name for one in fields]
        lists = [one.name for one in fields if _is_vector(one.type)]
        self._vector = only(f"columns of vectors in {path}", config.vector_column, lists, "--vector-column")
        self._text = choose("texts", config.text_column, names, TEXTS, "--text-column")
        self._id = choose("ids", config.id_column, names, IDS, "--id-column")
        self._others = [name for name in names if name != self._vector]
        if not self._file.count_rows():
            raise DataError(f"{path} has no rows, so there is nothing to search; expected a vector in every row")
        column = self._file.to_table(columns=[self._vector])[self._vector].combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=False)
        if column.null_count or len(flat) % len(column):
            raise DataError(f"{path}, column {self._vector!r}: expected as many numbers in every row, and none missing")
        super().__init__(path, flat.reshape(len(column), -1))

    def _ids(self) -> list[str]:
        return [name_of(name) for name in self._file.to_table(columns=[self._id])[self._id].to_pylist()]

    def _read(self, rows: Sequence[int]) -> list[tuple[str, str, dict[str, Any]]]:
        found = self._file.take(list(rows), columns=self._others).to_pylist() if rows else []
        return [
            (
                name_of(row[self._id]),
                str(row[self._text] or ""),
                plain({name: value for name, value in row.items() if name not in (self._id, self._text)}),
            )
            for row in found
        ]


class NpyFile(Arrays):
    """An .npy with ids in a file beside it, and documents in another."""

    def __init__(self, path: Path, place: Place) -> None:
        """Maps the vectors, reads ids and documents.

        Raises:
            DataError: if a file is missing or damaged, or there are not as many ids as vectors.
        """
        config = place.config
        try:
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{path} is no array of numpy ({error}); expected vectors (rows, dim)") from error
        super().__init__(path, vectors)
        if not config.texts:
            raise InputError(f"{path} holds no texts; name the documents that its vectors are of with --texts FILE")
        # whoever made the vectors need not have joined titles to the texts
        read = read_documents(config.texts, column=config.text_column or None, titles=False)
        self._texts = {item.id: item for item in read if isinstance(item, Document)}
        self._names = self._read_ids(Path(config.ids or path.with_suffix(".ids.json")))
        if len(self._names) != len(vectors):
            found = f"{len(vectors)} vectors and {len(self._names)} ids"
            raise DataError(f"{path}: there are {found}; expected an id for each vector: name their file with --ids")

    def _read_ids(self, path: Path) -> list[str]:
        if not path.is_file():
            if path.name == self.path.with_suffix(".ids.json").name and len(self._texts) == len(self.vectors):
                return list(self._texts)  # a vector for each document, in their order
            raise DataError(f"there is no {path}; name the file of ids with --ids (a JSON list, or an id a line)")
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else text.splitlines()
        if not isinstance(found, list):
            raise DataError(f"{path} is no list; expected a JSON list of ids, or a text file with an id a line")
        return [name_of(name) for name in found]

    def _ids(self) -> list[str]:
        return self._names

    def _read(self, rows: Sequence[int]) -> list[tuple[str, str, dict[str, Any]]]:
        found = [(self._names[row], self._texts.get(self._names[row])) for row in rows]
        return [(name, "", {}) if item is None else (name, item.text, dict(item.metadata)) for name, item in found]


def _is_vector(found: Any) -> bool:  # noqa: ANN401 - pyarrow is not type-checked here
    import pyarrow as pa

    is_list = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
    return bool(is_list and pa.types.is_floating(found.value_type))


@kind
def open_arrays(place: Place) -> Arrays | None:
    """A .parquet or .npy file, or a folder of .parquet files."""
    path = Path(place.source).expanduser()
    if path.suffix == ".npy" and path.is_file():
        return NpyFile(path, place)
    if (path.suffix == ".parquet" and path.is_file()) or (path.is_dir() and any(path.glob("*.parquet"))):
        return ParquetFile(path, place)
    return None
