"""Queries to hits, whatever table they come from: what an own and an adopted index share.

In: queries. Out: `Hit` lists, best first; and why a query finds what it finds.
Careful: vectors of two models look alike and mean nothing to each other, so whoever opens an index has compared the
encoder with what made its vectors.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Self

from ..backbone import check_texts
from ..embedded import Array, unit
from ..encoder import Encoder
from ..errors import InputError
from .documents import Hit
from .ranking import documents, fuse
from .rows import Searchable

MODES = ("hybrid", "dense", "words")
_DEEP = 100
"""Documents of each ranking that are fused, at least."""


@dataclass(frozen=True)
class Explained:
    """Why a query finds what it finds.

    Attributes:
        decoded: what the model thinks is asked, in words.
        teacher: who embedded the bare query for comparison.
        hits: what that vector finds.
    """

    decoded: str
    teacher: str
    hits: list[Hit]


class Searcher(ABC):
    """Anything that can be searched with an encoder.

    Attributes:
        path: its folder.
        encoder: embeds queries.
        mode: how it ranks unless asked otherwise.
        exact: whether searches pass over a vector index; others' tables are searched as they are.
    """

    path: Path
    encoder: Encoder
    mode: str
    exact: bool = False

    def __enter__(self) -> Self:
        """The index itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Lets go of what holds the rows, where that is a connection."""

    @abstractmethod
    def __len__(self) -> int:
        """Documents."""

    @abstractmethod
    def holds(self, ids: Sequence[str]) -> set[str]:
        """Those of some ids that are there."""

    def modes(self) -> tuple[str, ...]:
        """The modes that it can be searched in."""
        return MODES

    @abstractmethod
    def _table(self) -> Searchable:
        """Where rows come from."""

    @abstractmethod
    def _queries(self, texts: Sequence[str]) -> Array:
        """Vectors (texts, dim) of queries, in the space of the table."""

    @abstractmethod
    def _documents(self, texts: Sequence[str]) -> Array:
        """Vectors (texts, dim) of documents, in the space of the table."""

    def search(self, query: str, top: int = 10, *, mode: str = "", where: str | None = None) -> list[Hit]:
        """Finds documents for one query; see `search_many`."""
        return self.search_many([query], top, mode=mode, where=where)[0]

    def search_many(
        self, queries: Sequence[str], top: int = 10, *, mode: str = "", where: str | None = None
    ) -> list[list[Hit]]:
        """Finds documents for each query.

        Args:
            queries: embedded together.
            top: documents wanted.
            mode: `dense` ranks by cosine, `words` by BM25, `hybrid` fuses both by reciprocal rank; empty for the
                index's own `mode`.
            where: a filter in the words of whoever holds the table; for our own, SQL over `id`, `text` and
                `metadata`, such as `json_get_int(metadata, 'year') > 1990`.

        Returns:
            hits of each query, best first.

        Raises:
            InputError: for a bad filter, mode or number.
        """
        mode = mode or self.mode
        if mode not in MODES:
            raise InputError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
        if not isinstance(top, Integral) or top < 1:
            raise InputError(f"top is {top!r}; expected a whole number, 1 or more")
        queries = check_texts(queries, "query")
        table = self._table()
        vectors: Sequence[Array | None] = [None] * len(queries)
        if mode != "words" and queries:
            vectors = list(unit(self._queries(queries)))
        return [ranked(table, text, vector, (top, mode, where)) for text, vector in zip(queries, vectors, strict=True)]

    def explain(self, query: str, top: int = 10, *, where: str | None = None) -> Explained:
        """What the model thinks is asked, and what a search for the bare query finds.

        The bare query is embedded as a document is, by the teacher where one embeds documents.
        """
        decoded = self.encoder.decode(query, max_new_tokens=64)[0] if self.encoder.decodes else "(it cannot decode)"
        vector = unit(self._documents(check_texts(query, "query")))[0]
        hits = ranked(self._table(), query, vector, (top, "dense", where))
        teacher = self.encoder.document_teacher
        return Explained(decoded, "the checkpoint as documents" if teacher is None else teacher.name, hits)


def ranked(table: Searchable, text: str, vector: Array | None, how: tuple[int, str, str | None]) -> list[Hit]:
    """The documents of a table for one query.

    Args:
        table: where rows come from.
        text: of the query.
        vector: of the query, of length 1; None where it is not needed.
        how: documents wanted, mode, and filter.
    """
    top, mode, where = how
    depth = max(top, _DEEP) if mode == "hybrid" else top
    rankings = []
    if vector is not None and mode != "words":
        rankings.append(documents(lambda n: table.nearest(vector, n, where), depth))
    if mode != "dense":
        rankings.append(documents(lambda n: table.words(text, n, where), depth))
    return fuse(rankings, top) if mode == "hybrid" else rankings[0]
