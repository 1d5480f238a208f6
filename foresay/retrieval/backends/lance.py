"""A LanceDB table that another program made.

In: a `Place`: the folder of the database, or `table.lance` in it. Out: a `LanceTable`.
Careful: cosines are asked for whatever its vector index is made for; where that is another distance, LanceDB says so.
Full-text search is there if the table has such an index on the column of texts.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from ...embedded import Array
from ...errors import DataError, InputError
from ..rows import Row, as_condition
from .base import IDS, TEXTS, Backend, Place, Sample, choose, kind, library, matrix, name_of, only, plain


class LanceTable(Backend):
    """A table of somebody else's LanceDB."""

    ranks_by = "cosine"

    def __init__(self, folder: Path, table: str, place: Place) -> None:
        """Opens the table.

        Raises:
            DataError: if it or a column is missing.
        """
        lancedb = library("lancedb", "search")
        database = lancedb.connect(str(folder), read_consistency_interval=timedelta(0))
        found = sorted(path.stem for path in folder.glob("*.lance"))
        self.name = f"{folder}, table {only(f'tables in {folder}', table, found, '--table')}"
        self._table = database.open_table(only("tables", table, found, "--table"))
        config, columns = place.config, list(self._table.schema)
        names = [one.name for one in columns]
        vectors = {one.name: one.type.list_size for one in columns if _width(one.type)}
        self._vector = only(
            f"columns of vectors in {self.name}", config.vector_column, list(vectors), "--vector-column"
        )
        self._text = choose("texts", config.text_column, names, TEXTS, "--text-column")
        self._id = choose("ids", config.id_column, names, IDS, "--id-column")
        self._shown = [name for name in names if name not in vectors]
        self.dim = vectors[self._vector]
        indexed = [index.columns for index in self._table.list_indices() if index.index_type == "FTS"]
        self.has_words = [self._text] in indexed

    def count(self) -> int:
        """Rows."""
        return int(self._table.count_rows())

    def nearest(self, vector: Array, limit: int, where: str | None) -> list[Row]:
        """By cosine; through the table's own vector index, if it has one."""
        query = self._table.search(vector, vector_column_name=self._vector).distance_type("cosine")
        return self._rows(query, limit, where, "_distance")

    def words(self, query: str, limit: int, where: str | None) -> list[Row]:
        """By BM25, if the table has a full-text index."""
        if not self.has_words:
            return super().words(query, limit, where)
        match = library("lancedb.query", "search").MatchQuery(query, self._text)
        return self._rows(self._table.search(match, query_type="fts"), limit, where, "_score")

    def sample(self, rows: int) -> Sample:
        """Drawn at random, always the same."""
        picks = np.random.default_rng(0).permutation(self.count())[:rows]
        columns = [self._id, self._text, self._vector]
        return self._sample(self._table.take_offsets(sorted(picks.tolist())).select(columns).to_arrow(), texts=True)

    def fetch(self, ids: Sequence[str]) -> Sample:
        """By id."""
        is_text = str(self._table.schema.field(self._id).type) in ("string", "large_string")
        quoted = ", ".join("'" + name.replace("'", "''") + "'" if is_text else name for name in ids)
        query = self._table.search().select([self._id, self._vector]).where(f"{self._id} IN ({quoted})")
        return self._sample(query.to_arrow(), texts=False)

    def _sample(self, found: Any, *, texts: bool) -> Sample:  # noqa: ANN401 - pyarrow is not type-checked here
        ids = [name_of(name) for name in found[self._id].to_pylist()]
        read = [text or "" for text in found[self._text].to_pylist()] if texts else [""] * len(ids)
        return Sample(ids, read, matrix(found[self._vector].to_pylist(), self.dim))

    def _rows(self, query: Any, limit: int, where: str | None, score: str) -> list[Row]:  # noqa: ANN401
        if where is not None:
            query = query.where(as_condition(where), prefilter=True)
        try:
            found = query.select([*self._shown, score]).limit(limit).to_list()
        except (ValueError, OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            if where is None:
                raise DataError(f"{self.name} cannot be searched by cosine ({reason}); repair it there") from error
            raise InputError(
                f"the filter {where!r} cannot be used ({reason}); expected SQL over its columns"
            ) from error
        made = []
        for row in found:
            value = 1 - row.pop(score) if score == "_distance" else float(row.pop(score))
            name, text = name_of(row.pop(self._id)), str(row.pop(self._text) or "")
            made.append(Row(name, value, text, plain(row), 0, len(text)))
        return made


def _width(found: Any) -> int:  # noqa: ANN401
    """Numbers of a vector of this type; 0 if it is none."""
    import pyarrow as pa

    is_vector = pa.types.is_fixed_size_list(found) and pa.types.is_floating(found.value_type)
    return int(found.list_size) if is_vector else 0


@kind
def open_lance(place: Place) -> LanceTable | None:
    """A folder that holds `*.lance`, or one of these itself."""
    path = Path(place.source).expanduser()
    if path.suffix == ".lance" and path.is_dir():
        return LanceTable(path.parent, path.stem, place)
    if path.is_dir() and any(path.glob("*.lance")):
        return LanceTable(path, place.config.table, place)
    return None
