"""Whoever keeps the vectors of an adopted index: the `Backend` protocol, and the registry of its kinds.

In: a place (an address or a path, and names of columns). Out: a back end of the first kind that knows it.
A kind is one file in this folder: a class, and a function under `@kind` that opens it, or returns None for a place that
is not its own. A kind of your own is registered by `@kind` in your file, and asked first.
Careful: every back end only reads. Other programs go on writing to the same table.
"""

import json
import math
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from ...config import AdoptConfig
from ...embedded import Array
from ...errors import DataError, InputError
from ..rows import Row, Searchable

TEXTS = ("text", "document", "passage", "contents", "content", "body", "chunk", "page_content")
"""What a column of texts is called, here and in other libraries."""
IDS = ("id", "_id", "uuid")


@dataclass(frozen=True)
class Place:
    """Where a table is.

    Attributes:
        source: address, path or URL.
        config: its table and columns, where they cannot be found out.
    """

    source: str
    config: AdoptConfig


@dataclass(frozen=True, eq=False)
class Sample:
    """Some rows: `ids` and `texts` (empty where a row has none), `vectors` (rows, dim) float32."""

    ids: list[str]
    texts: list[str]
    vectors: Array


class Backend(Searchable, Protocol):
    """A table of vectors that somebody else keeps.

    Attributes:
        name: the table, for people.
        dim: width of its vectors.
        has_words: whether it has full-text search.
        ranks_by: `cosine`, or what it ranks by instead (`dot`, `euclid`), which is the same for vectors of length 1.
    """

    name: str
    dim: int
    ranks_by: str
    has_words: bool = False

    def sample(self, rows: int) -> Sample:
        """Rows from all over the table; fewer, if it has fewer."""
        ...

    def fetch(self, ids: Sequence[str]) -> Sample:
        """Rows by id: those that are there still; without texts."""
        ...

    def close(self) -> None:
        """Ends a connection, where there is one."""
        return

    def words(self, query: str, limit: int, where: str | None) -> list[Row]:
        """As `Searchable` says; not every kind has full-text search."""
        raise InputError(f"{self.name} has no full-text search, which --mode words and hybrid need; use --mode dense")


# -- the registry ----------------------------------------------------------------------------------------

Opener = Callable[[Place], Backend | None]
Opens = TypeVar("Opens", bound=Opener)
_KINDS: list[Opener] = []
KNOWN = (
    "a LanceDB folder, a .parquet or .npy file, a PostgreSQL address (postgresql://HOST/DATABASE), or a Qdrant URL or "
    "folder (qdrant:http://HOST:6333, qdrant:FOLDER)"
)


def kind(opener: Opens) -> Opens:
    """Registers what opens places of a kind; the one registered last is asked first."""
    _KINDS.insert(0, opener)
    return opener


def open_backend(place: Place) -> Backend:
    """The back end of a place.

    Raises:
        InputError: if no kind knows it, or its library is missing.
        DataError: if there is no such file, table or column.
    """
    from . import __path__ as folder

    for module in pkgutil.iter_modules(folder):
        import_module(f"{__package__}.{module.name}")
    for opener in list(_KINDS):
        backend = opener(place)
        if backend is not None:
            return backend
    path = Path(place.source).expanduser()
    if "://" not in place.source and (path.suffix or len(path.parts) > 1) and not path.exists():
        raise DataError(f"there is no {place.source}: put it back where it was, or adopt it where it is now")
    raise InputError(f"no kind of index knows {place.source!r}; expected {KNOWN}")


# -- what kinds share ------------------------------------------------------------------------------------


def library(name: str, extra: str) -> Any:  # noqa: ANN401 - a module
    """An optional library.

    Raises:
        InputError: if it is not installed, with the command that installs it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"this index needs {error.name}: pip install 'foresay[{extra}]'") from error


def choose(what: str, given: str, found: Sequence[str], known: Iterable[str], option: str) -> str:
    """The column that a name was given for, or the first of the known names that is there.

    Raises:
        DataError: if there is none.
    """
    for name in (given,) if given else known:
        if name in found:
            return name
    wanted = repr(given) if given else "one called " + ", ".join(known)
    raise DataError(f"no column of {what}: there are {', '.join(found)}; expected {wanted}: name it with {option}")


def only(what: str, given: str, found: Sequence[str], option: str) -> str:
    """The one there is, or the one that is named.

    Raises:
        DataError: if there is none, or several and none is named.
    """
    if given in found or (not given and len(found) == 1):
        return given or found[0]
    there = ", ".join(found) or "none"
    raise DataError(f"{what}: there are {there}; expected {repr(given) if given else 'one'}: name it with {option}")


def name_of(given: object) -> str:
    """An id as text; empty where a row has none."""
    return "" if given is None else str(given)


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON has them; what it has not is spelt out."""
    made: dict[str, Any] = json.loads(json.dumps(dict(metadata), default=str))
    return {name: value for name, value in made.items() if not isinstance(value, float) or math.isfinite(value)}


def matrix(rows: Sequence[Any], dim: int) -> Array:
    """Vectors (rows, dim) float32."""
    return np.asarray(rows, np.float32).reshape(len(rows), dim)


def cosine_of(score: float, ranks_by: str) -> float:
    """The cosine of two vectors of length 1 from their distance or product."""
    return 1 - score * score / 2 if ranks_by == "euclid" else score
