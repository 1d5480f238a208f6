"""The table on disk: rows in, nearest rows and rows with words in common out. Embedded LanceDB.

In: rows (`pyarrow.Table`), vectors, words. Out: `Row` lists, best first.
Careful: a commit of LanceDB is whole or not at all. `replace` deletes a document's old chunks and writes its new ones
in one commit, so that a kill leaves the old document or the new one, and never half of either.
"""

import json
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..embedded import Array
from ..errors import DataError, InputError
from .numbers import number
from .rows import Row, as_condition, reason_of
from .states import Keeping

os.environ.setdefault("LANCE_DEFAULT_IO_BUFFER_SIZE", str(64 << 20))  # read ahead while joining files; 2 GB by default
try:
    import lancedb
    from lancedb.index import FTS, HnswSq
    from lancedb.query import MatchQuery
except ImportError as error:  # pragma: no cover - an environment without the extra
    raise InputError(f"an index needs {error.name}: pip install 'foresay[search]'") from error

SHOWN = ["id", "chunk", "start", "end", "text", "metadata"]
META = b"foresay"
_TIES = 50
"""Rows fetched beyond the wanted ones: those that share the last one's score."""
_GRAPH = 50_000
"""Rows in a partition, which is a graph of its own: the smaller the graphs, the faster they are built, and the slower a
search, which looks into all of them."""
_UNKNOWN = 0.05
"""Share of the rows that a vector index may not know. A search compares these one by one: 50,000 of a million take
about as long as the index itself, while building it again takes minutes."""
_METADATA_CACHE = 64 << 20
"""Bytes of what is known of files, those of old versions included; by default a gigabyte, which adding rows fills."""
_ALL = 1 << 16
"""Partitions that are looked into: more than there are."""
_BUILT, _EF, _REFINE = 200, 800, 2
"""Candidates kept while a graph is built, and while it is searched; and how many times what is wanted is ranked again.
Whitened vectors lie far from each other: of what exact search finds among 100,000, 200 candidates in each of two graphs
find .865, 400 find .957, and 800 find .994."""


def schema(dim: int, about: dict[str, Any], keeping: Keeping | None = None) -> pa.Schema:
    """The columns of a table, and in its metadata what the vectors were made by, and how states are kept."""
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
    if keeping is not None:
        columns += keeping.fields()
        about = {**about, "states": {"storage": keeping.storage, "shape": list(keeping.shape)}}
    return pa.schema(columns, metadata={META: json.dumps(about).encode()})


class Store:
    """One table of an index."""

    def __init__(self, table: Any, *, exact: bool = False) -> None:  # noqa: ANN401 - lancedb is not type-checked here
        """Wraps a table that is open; see `create` and `open`."""
        self.table, self._exact = table, exact

    @classmethod
    def create(
        cls, folder: Path, name: str, dim: int, about: dict[str, Any], keeping: Keeping | None = None
    ) -> "Store":
        """A new, empty table."""
        return cls(_connect(folder).create_table(name, schema=schema(dim, about, keeping)))

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

    @staticmethod
    def names(folder: Path) -> list[str]:
        """The tables of a folder."""
        return sorted(path.stem for path in folder.glob("*.lance"))

    @staticmethod
    def drop(folder: Path, name: str) -> None:
        """Deletes a table."""
        _connect(folder).drop_table(name, ignore_missing=True)

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

    def documents(self) -> int:
        """Documents."""
        return int(self.table.count_rows("chunk = 0"))

    def digests(self) -> Iterator[tuple[str, str]]:
        """Id and digest of each document."""
        query = self.table.search().select(["id", "digest"]).where("chunk = 0")
        for batch in query.to_batches(batch_size=8192):
            yield from zip(batch["id"].to_pylist(), batch["digest"].to_pylist(), strict=True)

    def sizes(self) -> dict[int, int]:
        """Chunks of each document that has several, by a number that stands for its id."""
        sizes: dict[int, int] = {}
        for batch in self.table.search().select(["id", "chunk"]).where("chunk > 0").to_batches(batch_size=8192):
            for name, chunk in zip(batch["id"].to_pylist(), batch["chunk"].to_pylist(), strict=True):
                sizes[number(name)] = max(sizes.get(number(name), 0), chunk + 1)
        return sizes

    def scan(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """All rows, a batch after another: these columns, besides what each chunk has."""
        for batch in self.table.search().select([*SHOWN, "digest", *columns]).to_batches(batch_size=1024):
            yield pa.Table.from_batches([batch])

    def head(self, columns: Sequence[str], rows: int) -> pa.Table:
        """Some columns of the first few rows."""
        return self.table.search().select(list(columns)).limit(rows).to_arrow()

    def of_documents(self, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Some columns of all rows of some documents."""
        return self.table.search().select(list(columns)).where(f"id IN ({_quoted(ids)})").to_arrow()

    def sample(self, rows: int) -> tuple[list[str], Array]:
        """Texts and vectors of the first few rows."""
        found = self.head(["text", "vector"], rows)
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

    def join(self) -> None:
        """Joins small files, brings the index of words up to date, and drops versions older than ten minutes.

        LanceDB would also rebuild the vector index, graph by graph. While that index knows nearly all rows, this does
        nothing, since a search reads the rows that the indexes do not know as well. Later, it drops the vector index
        first, and `finish` builds a new one.
        """
        for name in self._indexes("vector"):
            if self.table.index_stats(name).num_unindexed_rows < _UNKNOWN * self.count():
                return
            self.table.drop_index(name)
        self.table.optimize(cleanup_older_than=timedelta(minutes=10))

    def finish(self, ann_rows: int = 0) -> None:
        """Joins small files, then makes the indexes that are missing. Without an index, words are sought in all rows.

        Args:
            ann_rows: rows from which there is to be a vector index; 0 for never.
        """
        self.join()
        count = self.count()
        if count and not self._is_indexed("text"):
            self.table.create_index("text", config=FTS())
        if ann_rows and count >= ann_rows and not self._is_indexed("vector"):
            graphs = -(-count // _GRAPH)
            index = HnswSq(distance_type="cosine", num_partitions=graphs, ef_construction=_BUILT)
            self.table.create_index("vector", config=index)

    def exactly(self) -> "Store":
        """The same table, which passes over its vector index."""
        return Store(self.table, exact=True)

    def nearest(self, vector: Array, limit: int, where: str | None) -> list[Row]:
        """The rows whose vectors have the largest cosine with this one.

        What a vector index finds is ranked again by whole vectors. Rows that it does not know yet are compared besides.
        """
        query = self.table.search(vector, vector_column_name="vector").distance_type("cosine")
        if self._exact:
            query = query.bypass_vector_index()
        elif self._is_indexed("vector"):
            query = query.nprobes(_ALL).ef(max(_EF, 2 * limit)).refine_factor(_REFINE)
        return self._rows(query, limit, where, "_distance")

    def is_approximate(self) -> bool:
        """Whether there is a vector index."""
        return self._is_indexed("vector")

    def _is_indexed(self, column: str) -> bool:
        return bool(self._indexes(column))

    def _indexes(self, column: str) -> list[str]:
        return [index.name for index in self.table.list_indices() if index.columns == [column]]

    def words(self, query: str, limit: int, where: str | None) -> list[Row]:
        """The rows that have words in common with the query, by BM25; equal scores by id, which LanceDB leaves open."""
        found = self.table.search(MatchQuery(query, "text"), query_type="fts")
        rows = self._rows(found, limit + _TIES, where, "_score")
        return sorted(rows, key=lambda row: (-row.score, row.id, row.start))[:limit]

    def _rows(self, query: Any, limit: int, where: str | None, score: str) -> list[Row]:  # noqa: ANN401
        if where is not None:
            query = query.where(as_condition(where), prefilter=True)
        try:
            found = query.select([*SHOWN, score]).limit(limit).to_list()
        except (ValueError, OSError, RuntimeError) as error:
            if where is None:
                raise
            raise InputError(
                f"the filter {where!r} cannot be used ({reason_of(error)}); expected SQL such as "
                "\"json_get_int(metadata, 'year') > 1990\" or \"json_get_string(metadata, 'author') = 'Bly'\""
            ) from error
        sign = (lambda distance: 1 - distance) if score == "_distance" else float
        return [
            Row(r["id"], sign(r[score]), r["text"], json.loads(r["metadata"] or "{}"), r["start"], r["end"])
            for r in found
        ]


def _connect(folder: Path) -> Any:  # noqa: ANN401
    session = lancedb.Session(metadata_cache_size_bytes=_METADATA_CACHE)
    return lancedb.connect(str(folder), read_consistency_interval=timedelta(0), session=session)


def _quoted(ids: Sequence[str]) -> str:
    return ", ".join("'" + name.replace("'", "''") + "'" for name in ids)
