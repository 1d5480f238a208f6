"""The table on disk: rows in, nearest rows and rows with words in common out. Embedded LanceDB.

In: rows (`pyarrow.Table`), vectors, words. Out: `Row` lists, best first.
Careful: a commit of LanceDB is whole or not at all. `replace` deletes a document's old chunks and writes its new ones
in one commit, so that a kill leaves the old document or the new one, and never half of either.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from ..embedded import Array
from ..errors import DataError, InputError

try:
    import lancedb
    from lancedb.index import FTS
    from lancedb.query import MatchQuery
except ImportError as error:  # pragma: no cover - an environment without the extra
    raise InputError(f"an index needs {error.name}: pip install 'foresay[search]'") from error

SHOWN = ["id", "chunk", "start", "end", "text", "metadata"]
META = b"foresay"


@dataclass(frozen=True)
class Row:
    """A chunk that was found, with its score: higher is better."""

    id: str
    score: float
    text: str
    metadata: dict[str, Any]
    start: int
    end: int


class Searchable(Protocol):
    """What hits come from."""

    def count(self) -> int:
        """Rows."""
        ...

    def nearest(self, vector: Array, limit: int, where: str | None) -> list[Row]:
        """Rows by cosine."""
        ...

    def words(self, query: str, limit: int, where: str | None) -> list[Row]:
        """Rows by BM25."""
        ...


def schema(dim: int, about: dict[str, Any]) -> pa.Schema:
    """The columns of a table, and in its metadata what the vectors were made by."""
    columns = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("chunk", pa.int32(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("metadata", pa.json_()),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
    ]
    return pa.schema(columns, metadata={META: json.dumps(about).encode()})


class Store:
    """One table of an index."""

    def __init__(self, table: Any) -> None:  # noqa: ANN401 - lancedb is not type-checked here
        """Wraps a table that is open; see `create` and `open`."""
        self.table = table

    @classmethod
    def create(cls, folder: Path, name: str, dim: int, about: dict[str, Any]) -> "Store":
        """A new, empty table."""
        return cls(_connect(folder).create_table(name, schema=schema(dim, about)))

    @classmethod
    def open(cls, folder: Path, name: str) -> "Store":
        """A table that is there.

        Raises:
            DataError: if it is missing or damaged.
        """
        try:
            return cls(_connect(folder).open_table(name))
        except (ValueError, OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(f"the table of {folder.parent} is missing or damaged ({reason}); make it again") from error

    def about(self) -> dict[str, Any]:
        """What the table's metadata says."""
        found = (self.table.schema.metadata or {}).get(META)
        if found is None:
            raise DataError("the table says nothing of its model, so it is not one of ours; make the index again")
        about: dict[str, Any] = json.loads(found)
        return about

    def count(self) -> int:
        """Rows, that is chunks."""
        return int(self.table.count_rows())

    def digests(self) -> Iterator[tuple[str, str]]:
        """Id and digest of each document."""
        query = self.table.search().select(["id", "digest"]).where("chunk = 0")
        for batch in query.to_batches(batch_size=8192):
            yield from zip(batch["id"].to_pylist(), batch["digest"].to_pylist(), strict=True)

    def sample(self, rows: int) -> tuple[list[str], Array]:
        """Texts and vectors of the first few rows."""
        found = self.table.search().select(["text", "vector"]).limit(rows).to_arrow()
        vectors = found["vector"].combine_chunks().flatten().to_numpy().reshape(found.num_rows, -1)
        return found["text"].to_pylist(), vectors

    def append(self, rows: pa.Table) -> None:
        """Writes rows of documents that are new, in one commit."""
        self.table.add(rows)

    def replace(self, rows: pa.Table) -> None:
        """Writes rows, and deletes all others of the same documents, in one commit."""
        old = f"id IN ({_quoted(sorted(set(rows['id'].to_pylist())))})"
        merge = self.table.merge_insert(["id", "chunk"]).when_matched_update_all().when_not_matched_insert_all()
        merge.when_not_matched_by_source_delete(old).execute(rows)

    def delete(self, ids: Sequence[str]) -> None:
        """Deletes documents, in one commit."""
        self.table.delete(f"id IN ({_quoted(ids)})")

    def tidy(self) -> None:
        """Joins small files, brings the full-text index up to date, and drops versions older than ten minutes."""
        if self.count() and not any(index.columns == ["text"] for index in self.table.list_indices()):
            self.table.create_index("text", config=FTS())
        self.table.optimize(cleanup_older_than=timedelta(minutes=10))

    def nearest(self, vector: Array, limit: int, where: str | None) -> list[Row]:
        """The rows whose vectors have the largest cosine with this one."""
        query = self.table.search(vector, vector_column_name="vector").distance_type("cosine")
        return self._rows(query, limit, where, "_distance")

    def words(self, query: str, limit: int, where: str | None) -> list[Row]:
        """The rows that have words in common with the query, by BM25."""
        return self._rows(self.table.search(MatchQuery(query, "text"), query_type="fts"), limit, where, "_score")

    def _rows(self, query: Any, limit: int, where: str | None, score: str) -> list[Row]:  # noqa: ANN401
        if where is not None:
            query = query.where(where, prefilter=True)
        try:
            found = query.select([*SHOWN, score]).limit(limit).to_list()
        except (ValueError, OSError, RuntimeError) as error:
            if where is None:
                raise
            raise InputError(
                f"the filter {where!r} cannot be used ({str(error).strip().splitlines()[0]}); expected SQL such as "
                "\"json_get_int(metadata, 'year') > 1990\" or \"id <> 'x'\""
            ) from error
        sign = (lambda distance: 1 - distance) if score == "_distance" else float
        return [
            Row(r["id"], sign(r[score]), r["text"], json.loads(r["metadata"] or "{}"), r["start"], r["end"])
            for r in found
        ]


def _connect(folder: Path) -> Any:  # noqa: ANN401
    return lancedb.connect(str(folder), read_consistency_interval=timedelta(0))


def _quoted(ids: Sequence[str]) -> str:
    return ", ".join("'" + name.replace("'", "''") + "'" for name in ids)
