"""A PostgreSQL table with a column of vectors (pgvector).

In: a `Place`: `postgresql://HOST/DATABASE`. Out: a `PostgresTable`.
Careful: every statement runs in a read-only transaction. A password belongs in PGPASSWORD or ~/.pgpass, since the
address is written down. A vector index of pgvector finds at most `hnsw.ef_search` rows, so that is raised to what is
wanted, and with a filter it goes on until there are enough.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any
from urllib.parse import urlsplit
from weakref import finalize

from ...embedded import Array
from ...errors import DataError, InputError
from ..rows import Row
from .base import IDS, TEXTS, Backend, Place, Sample, choose, kind, library, matrix, name_of, only, plain

_TYPES = ("vector", "halfvec")
_COLUMNS = """
SELECT a.attname, t.typname, a.atttypmod,
       EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey))
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_TABLES = """
SELECT DISTINCT a.attrelid::regclass::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_class c ON c.oid = a.attrelid
WHERE t.typname IN ('vector', 'halfvec') AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT a.attisdropped ORDER BY 1
"""
_MOST_EF = 1000
"""pgvector's own limit."""


class PostgresTable(Backend):
    """A table of somebody else's PostgreSQL."""

    ranks_by, has_words = "cosine", True

    def __init__(self, place: Place) -> None:
        """Connects, and finds the columns.

        Raises:
            InputError: if the address holds a password, or psycopg is missing.
            DataError: if there is no such server, table or column.
        """
        if urlsplit(place.source).password:
            raise InputError(
                "the address holds a password, which would be written down; leave it out and set PGPASSWORD, or put it "
                "into ~/.pgpass"
            )
        self._psycopg, self._sql = library("psycopg", "postgres"), library("psycopg.sql", "postgres")
        self._address, self._lock = place.source, RLock()
        self._connection: Any = None
        with self._transaction() as run:
            tables = [str(row[0]) for row in run(_TABLES)]
            table = place.config.table or only(f"tables with vectors in {place.source}", "", tables, "--table")
            columns = self._columns(run, table)
        names = [str(row[0]) for row in columns]
        types = {str(row[0]): str(row[1]) for row in columns if row[1] in _TYPES}
        keys = [str(row[0]) for row in columns if row[3]]
        config = place.config
        self.name = f"{place.source}, table {table}"
        vector = only(f"columns of vectors in {self.name}", config.vector_column, list(types), "--vector-column")
        text = choose("texts", config.text_column, names, TEXTS, "--text-column")
        own = keys if len(keys) == 1 else []
        key = choose("ids", config.id_column, names, [*own, *IDS], "--id-column")
        sql = self._sql
        self._names = {
            "table": sql.SQL(".").join(sql.Identifier(part.strip('"')) for part in table.split(".")),
            "id": sql.Identifier(key),
            "text": sql.Identifier(text),
            "vector": sql.Identifier(vector),
            "type": sql.SQL(types[vector]),
            "hidden": sql.Literal([key, text, *types, "foresay_score"]),
        }
        with self._transaction() as run:
            found = run(self._compose("SELECT vector_dims({vector}) FROM {table} WHERE {vector} IS NOT NULL LIMIT 1"))
        if not found:
            raise DataError(f"{self.name} has no row with a vector; expected some")
        self.dim = int(found[0][0])

    def count(self) -> int:
        """Rows."""
        with self._transaction() as run:
            return int(run(self._compose("SELECT count(*) FROM {table} WHERE {vector} IS NOT NULL"))[0][0])

    def nearest(self, vector: Array, limit: int, where: str | None) -> list[Row]:
        """By cosine; through the table's own vector index, if it has one for cosines."""
        query = "[" + ",".join(map(repr, vector.astype(float).tolist())) + "]"
        inner = "SELECT *, {vector} <=> %s::{type} AS foresay_score FROM {table} WHERE {vector} IS NOT NULL{filter}"
        before = [f"SET LOCAL hnsw.ef_search = {min(max(limit, 40), _MOST_EF)}"]
        if where is not None:
            before.append("SET LOCAL hnsw.iterative_scan = strict_order")
        rows = self._found(inner + " ORDER BY {vector} <=> %s::{type} LIMIT %s", where, [query, query, limit], before)
        return [_row(row, 1 - float(row[2])) for row in rows if row[2] == row[2]]  # NaN for a vector of zeros

    def words(self, query: str, limit: int, where: str | None) -> list[Row]:
        """By PostgreSQL's own `ts_rank_cd`: rows with any of the English words. Not BM25: it knows no rare words."""
        asked = "replace(plainto_tsquery('english', %s)::text, '&', '|')::tsquery"
        inner = (
            "SELECT *, ts_rank_cd(to_tsvector('english', {text}), " + asked + ") AS foresay_score FROM {table} "
            "WHERE to_tsvector('english', {text}) @@ " + asked + "{filter} ORDER BY foresay_score DESC LIMIT %s"
        )
        rows = self._found(inner, where, [query, query, limit], [])
        return [_row(row, float(row[2])) for row in rows]

    def sample(self, rows: int) -> Sample:
        """Drawn at random."""
        return self._sample(
            "SELECT {id}::text, coalesce({text}::text, ''), {vector}::real[] FROM {table} WHERE {vector} IS NOT NULL "
            "ORDER BY random() LIMIT %s",
            rows,
        )

    def fetch(self, ids: Sequence[str]) -> Sample:
        """By id."""
        return self._sample(
            "SELECT {id}::text, '', {vector}::real[] FROM {table} WHERE {vector} IS NOT NULL AND {id}::text = ANY(%s)",
            list(ids),
        )

    def close(self) -> None:
        """Ends the connection; a later call makes a new one."""
        if self._connection is not None:
            self._connection.close()

    # -- statements --------------------------------------------------------------------------------------

    def _columns(self, run: Any, table: str) -> list[Any]:  # noqa: ANN401
        try:
            rows: list[Any] = run(_COLUMNS, [table])
        except self._psycopg.Error as error:
            raise DataError(f"there is no table {table!r} ({_line(error)}); name one with --table") from error
        return rows

    def _found(self, inner: str, where: str | None, values: list[Any], before: list[str]) -> list[Any]:
        outer = "SELECT {id}::text, coalesce({text}::text, ''), foresay_score, to_jsonb(f) - {hidden}::text[] FROM ("
        chosen = self._sql.SQL("" if where is None else " AND (" + where.replace("%", "%%") + ")")
        try:
            with self._transaction() as run:
                for statement in before:
                    run(statement)
                found: list[Any] = run(self._compose(outer + inner + ") f", filter=chosen), values)
                return found
        except self._psycopg.Error as error:
            if where is None:
                raise DataError(f"{self.name} cannot be searched ({_line(error)}); repair it there") from error
            raise InputError(
                f"the filter {where!r} cannot be used ({_line(error)}); expected SQL over its columns, such as "
                '"year > 1990"'
            ) from error

    def _sample(self, statement: str, value: object) -> Sample:
        with self._transaction() as run:
            rows = run(self._compose(statement), [value])
        names = [name_of(row[0]) for row in rows]
        return Sample(names, [row[1] for row in rows], matrix([row[2] for row in rows], self.dim))

    def _compose(self, statement: str, **more: Any) -> Any:  # noqa: ANN401
        return self._sql.SQL(statement).format(**self._names, **more)

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """What runs statements and gives their rows, in one read-only transaction; one thread at a time."""
        with self._lock:
            if self._connection is None or self._connection.closed:
                try:
                    self._connection = self._psycopg.connect(self._address, connect_timeout=10)
                except self._psycopg.OperationalError as error:
                    raise DataError(f"cannot reach {self._address} ({_line(error)}); check the address") from error
                self._connection.read_only = True
                finalize(self, self._connection.close)
            connection = self._connection

            def run(statement: Any, values: Sequence[Any] | None = None) -> list[Any]:  # noqa: ANN401
                done = connection.execute(statement, values)
                return list(done.fetchall()) if done.description else []

            with connection.transaction():
                yield run


def _row(found: Sequence[Any], score: float) -> Row:
    return Row(name_of(found[0]), score, found[1], plain(found[3]), 0, len(found[1]))


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@kind
def open_postgres(place: Place) -> PostgresTable | None:
    """An address of PostgreSQL."""
    return PostgresTable(place) if place.source.startswith(("postgresql://", "postgres://")) else None
