"""Embeddings in a folder of shards: written whole or not at all, resumed shard by shard, as .npy or Parquet.

In: rows (id and text) with their vectors. Out: `shard-00000.npy` and `shard-00000.ids.jsonl` (a line a row: the id and
a hash of the text), or `shard-00000.parquet` with the columns id, text_hash and embedding; `manifest.json` of how they
were made; `ranges.npy` (2, dim), where int8 needs the least and largest number of each axis; `rejected.jsonl`.
Be careful: a shard is finished when its vectors are there, so its ids are written first. int8 is only comparable with
vectors that went through the same ranges: those of the first shard, also in later runs.
"""

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..config import Precision
from ..errors import DataError, InputError
from ..files import differences, locked, read_json, strict_rows, write_json
from ..outputs import check_own, check_space, replacing, writing
from .queries import Query
from .seen import content_id

logger = logging.getLogger(__name__)

_ENOUGH = 100
"""Vectors whose extremes say how far other vectors go."""
MANIFEST, RANGES, REJECTED = "manifest.json", "ranges.npy", "rejected.jsonl"


def check_vectors(folder: Path) -> None:
    """Fails if a folder holds anything else than shards; DataError."""
    shards = (path.name for path in folder.glob("shard-*")) if folder.is_dir() else ()
    check_own(folder, MANIFEST, {RANGES, *shards}, "foresay encode --shards")


class VectorFolder:
    """A folder of shards open for writing, locked. Use it in a `with`."""

    def __init__(self, folder: Path, made: dict[str, Any]) -> None:
        """Makes the folder, or goes on with one that was made alike.

        Args:
            folder: to make, or to go on with.
            made: what the vectors depend on, with `format`, `precision`, `dim` and `shard_rows`.

        Raises:
            DataError: if it was made otherwise, holds something else, or cannot be written.
        """
        self.folder, self.made = folder, made
        self.format: str = made["format"]
        self.precision: Precision = made["precision"]
        if self.precision.endswith("binary") and made["dim"] % 8:
            raise InputError(
                f"precision is {self.precision!r}, and embeddings of {made['dim']} numbers do not fill bytes; "
                "take --truncate-dim with a multiple of 8, or --precision int8"
            )
        check_vectors(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Locks the folder and compares its manifest."""
        self._stack.enter_context(locked(self.folder / ".lock"))
        try:
            self._claim()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unlocks it."""
        self._stack.close()

    @property
    def needs_ranges(self) -> bool:
        """Whether the first shard has to be there before any other can be written."""
        return self.precision.endswith("int8") and not (self.folder / RANGES).exists()

    def holds(self, number: int, rows: Sequence[Query]) -> bool:
        """Whether a shard of just these rows is finished; one that has fewer of them is to be made again.

        Raises:
            DataError: if it holds other rows.
        """
        if not self.path(number).exists():
            return False
        found, wanted = self._read_ids(number), [(row.id, content_id(row.text)) for row in rows]
        if found != wanted[: len(found)]:
            raise DataError(
                f"{self.path(number)} holds other texts than are now in its place: the input has changed; use another "
                f"-o, or delete {self.folder}"
            )
        return len(found) == len(wanted)

    def write(self, number: int, rows: Sequence[Query], vectors: NDArray[np.float32]) -> None:
        """Writes a shard: when it returns, it is on the disk, quantised as asked; or it is not there.

        Args:
            number: from 0; the first has to be written before all others where `needs_ranges`.
            rows: ids and texts.
            vectors: (rows, dim) float32.
        """
        check_space(self.folder, vectors.nbytes)
        numbers = self._quantised(vectors)
        digests = [content_id(row.text) for row in rows]
        self.path(number).unlink(missing_ok=True)  # a shorter one: its vectors must not be found with these ids
        if self.format == "parquet":
            _write_parquet(self.path(number), [row.id for row in rows], digests, numbers)
            return
        with replacing(self._ids(number)) as part, part.open("w", encoding="utf-8") as file:
            for row, digest in zip(rows, digests, strict=True):
                file.write(json.dumps({"id": row.id, "text": digest}, ensure_ascii=False) + "\n")
        with replacing(self.path(number)) as part, part.open("wb") as raw:
            np.save(raw, numbers)

    def finish(self, rows: int, shards: int) -> None:
        """Notes what there is; DataError if there are shards beyond the last one."""
        beyond = self.path(shards)
        if beyond.exists():
            raise DataError(
                f"{beyond} is beyond the last text: there were more of them; use another -o, or delete {self.folder}"
            )
        write_json(self.folder / MANIFEST, {**self.made, "rows": rows, "shards": shards})

    def path(self, number: int) -> Path:
        """The file of a shard's vectors."""
        return self.folder / f"shard-{number:05d}.{self.format}"

    def _ids(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.ids.jsonl"

    def _read_ids(self, number: int) -> list[tuple[str, str]]:
        if self.format == "parquet":
            from pyarrow import parquet

            table = parquet.read_table(self.path(number), columns=["id", "text_hash"])
            return list(zip(*(table.column(name).to_pylist() for name in ("id", "text_hash")), strict=True))
        path = self._ids(number)
        with path.open("rb") as file:
            return [(row["id"], row["text"]) for _, row in strict_rows(file, path)]

    def _quantised(self, vectors: NDArray[np.float32]) -> NDArray[Any]:
        if self.precision == "float32":
            return vectors
        from sentence_transformers import quantize_embeddings

        ranges = None
        if self.precision.endswith("int8"):
            if self.needs_ranges:
                if len(vectors) < _ENOUGH:
                    logger.warning(
                        "%s takes the range of each axis from the first %d vectors, and cuts off what lies beyond it "
                        "in later ones; %d or more in the first shard make good ranges (--shard-rows)",
                        self.precision,
                        len(vectors),
                        _ENOUGH,
                    )
                with replacing(self.folder / RANGES) as part, part.open("wb") as file:
                    np.save(file, np.stack([vectors.min(axis=0), vectors.max(axis=0)]))
            ranges = np.load(self.folder / RANGES)
        return np.asarray(quantize_embeddings(vectors, self.precision, ranges=ranges))

    def _claim(self) -> None:
        path = self.folder / MANIFEST
        if not path.exists():
            if any(self.folder.glob("shard-*")) or (self.folder / RANGES).exists():
                raise DataError(f"{self.folder} holds shards or {RANGES} but no {MANIFEST}; use another -o")
            write_json(path, self.made)
            return
        changed = differences(read_json(path), self.made)
        if changed:
            raise DataError(f"{self.folder} was made otherwise: {changed}; use another -o, or delete it")


def _write_parquet(path: Path, ids: list[str], digests: list[str], numbers: NDArray[Any]) -> None:
    import pyarrow
    from pyarrow import parquet

    flat = pyarrow.array(np.ascontiguousarray(numbers).reshape(-1))
    embedding = pyarrow.FixedSizeListArray.from_arrays(flat, numbers.shape[1])
    table = pyarrow.table({"id": ids, "text_hash": digests, "embedding": embedding})
    with replacing(path) as part:
        parquet.write_table(table, part)
