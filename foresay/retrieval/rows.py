"""What hits are made of: rows of a table, and what every table that can be searched offers.

In: a vector, or words. Out: `Row` values, best first.
Careful: a row is a chunk, a hit a document; several rows may share an id (`ranking.py` merges them).
"""

import re
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..embedded import Array
from ..errors import InputError

_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""")
_PLACE = re.compile(r",? \S+\.rs:\d+:\d+")
"""Where in LanceDB's sources an error was raised."""


@dataclass(frozen=True)
class Row:
    """A chunk that was found.

    Attributes:
        id: of its document.
        score: higher is better.
        text: of the chunk.
        metadata: of the document.
        start: where the chunk begins in the document, in characters.
        end: where it ends.
    """

    id: str
    score: float
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    start: int = 0
    end: int = 0


def as_condition(where: str) -> str:
    """A filter as one condition: in brackets, since LanceDB takes the first that it reads and passes over the rest.

    Raises:
        InputError: if it is not text, or several statements.
    """
    if not isinstance(where, str):
        raise InputError(f"the filter is {type(where).__name__}; expected a text with one condition")
    if ";" in _QUOTED.sub("", where):
        raise InputError(f"the filter {where!r} cannot be used (it holds a ;); expected one condition: take it out")
    return f"({where}\n)"


def reason_of(error: Exception) -> str:
    """Why LanceDB cannot use a filter, in one line, without where in its sources that is."""
    if "InvalidCast" in str(error):
        return "some document has a value of another type there"
    return _PLACE.sub("", str(error).strip().splitlines()[0])


class Searchable(Protocol):
    """A table that hits come from."""

    def count(self) -> int:
        """Rows."""
        ...

    def nearest(self, vector: Array, limit: int, where: str | None) -> list[Row]:
        """The rows whose vectors have the largest cosine with this one (dim,), best first; the score is the cosine."""
        ...

    def words(self, query: str, limit: int, where: str | None) -> list[Row]:
        """The rows that have words in common with the query, best first.

        Raises:
            InputError: if the table has no full-text search.
        """
        ...
