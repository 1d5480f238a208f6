"""Documents: what they are, and reading them from files.

In: whatever `data.formats` reads. Out: `Document` values, streamed, and a `Reject` in the place of a row that is none.
Careful: every other column of a row is metadata, so a filter can ask for it; it has to be plain JSON. A title is both:
metadata, and the beginning of the text, as mteb joins the two.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from ..data.formats import Reject as Reject
from ..data.formats import nearly, printable, rows_of
from ..data.queries import ID_COLUMNS, problem_of, problem_of_id
from ..data.seen import Seen, content_id
from ..errors import DataError

TEXT_COLUMNS = ("text", "document", "passage", "contents", "content", "body", "query")
"""The last is what a line of a .txt file is called."""
TITLE = "title"


@dataclass(frozen=True)
class Document:
    """What is found.

    Attributes:
        id: its own in an index; a second document of the same id replaces the first.
        text: what is embedded and shown.
        metadata: plain JSON values by name, to filter by.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """Changes when anything of the document does."""
        parts = (self.id, self.text, json.dumps(self.metadata, sort_keys=True, ensure_ascii=False))
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Hit:
    """One document that was found.

    Attributes:
        id: of the document.
        score: higher is better; cosine, BM25, or the sum of reciprocal ranks, by the search's mode.
        text: its best chunk.
        metadata: of the document.
        start: where that chunk begins in the document, in characters.
        end: where it ends.
    """

    id: str
    score: float
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    start: int = 0
    end: int = 0


def checked(document: Document) -> Document:
    """The document itself, if an index can hold it.

    Raises:
        DataError: for an id or text that is empty or no valid Unicode, for metadata that is not JSON, and
            for what is no `Document`.
    """
    if not isinstance(document, Document):
        raise DataError(f"an index holds foresay.Document values, found {type(document).__name__}: {document!r:.80}")
    problem = problem_of(document.id, "its id") or problem_of(document.text, "its text")
    if problem is None:
        problem = _problem_of_metadata(document.metadata)
    if problem is not None:
        raise DataError(f"document {document.id!r} cannot be indexed: {problem}; mend it or leave it out")
    return document


def _problem_of_metadata(metadata: Any) -> str | None:  # noqa: ANN401
    """Why it cannot be stored, by the name of the first value that cannot; None if it can."""
    if not isinstance(metadata, Mapping):
        return f"its metadata is {type(metadata).__name__}, not names and values"
    for name, value in metadata.items():
        try:
            _check_plain(name, value)
            json.dumps({name: value}, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            return f"{name!r} in its metadata is not plain JSON ({error})"
    return None


def _check_plain(name: Any, value: Any) -> None:  # noqa: ANN401
    """Refuses what Python's JSON writes and the table does not hold: names that are no strings, and huge integers."""
    if not isinstance(name, str):
        raise TypeError(f"the name {name!r} is no string")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{value} is beyond 64 bits")
    if isinstance(value, Mapping):
        for inner, one in value.items():
            _check_plain(inner, one)
    elif isinstance(value, list | tuple):
        for one in value:
            _check_plain(name, one)


def read_documents(
    source: str | Path, *, column: str | None = None, split: str = "train", titles: bool = True
) -> Iterator[Document | Reject]:
    """Streams the documents of a file, a folder or a hub data set; memory does not grow with the rows.

    Args:
        source: what `read_queries` takes.
        column: where the text is; else the first there is of text, document, passage, contents, content, body.
        split: of a hub data set.
        titles: whether a document's text begins with its title, where it has one.

    Yields:
        each document, and a `Reject` for each row that cannot be one.

    Raises:
        DataError: if there is no such file or column, if two documents share an id, or if no row can be used.
    """
    first = ""
    with Seen() as seen:
        for item in _parse(str(source), column, split, titles):
            if isinstance(item, Reject):
                first = first or item.reason
                yield item
                continue
            before, digest = len(seen), item.digest()
            if seen.setdefault(item.id, digest) != digest:
                raise DataError(f"{source} has two documents under the id {item.id!r}; give each its own id")
            if len(seen) > before:
                yield item
        if not len(seen):
            raise DataError(
                f"{source} has no row that can be used ({first or 'it holds no row'}); expected one document a row"
            )


def _parse(source: str, column: str | None, split: str, titles: bool) -> Iterator[Document | Reject]:
    chosen: str | None = None
    for item in rows_of(source, split):
        if isinstance(item, Reject):
            yield item
            continue
        line, row = item
        chosen = chosen or _choose(list(row), column, source)
        document = _document(row, chosen, titles)
        yield Reject(printable(row), document, line) if isinstance(document, str) else document


def _document(row: dict[str, Any], column: str, titles: bool) -> Document | str:
    """The document in a row, or why there is none."""
    given = next((row[name] for name in ID_COLUMNS if row.get(name) not in (None, "")), None)
    problem = problem_of(row.get(column), f"column {column!r}") or problem_of_id(given)
    if problem is not None:
        return problem
    text = str(row[column])
    others = {name: _plain(value) for name, value in row.items() if name not in (column, *ID_COLUMNS)}
    metadata = {name: value for name, value in others.items() if value is not None}
    name = content_id(text) if given is None else str(given)
    title = metadata.get(TITLE)
    if titles and isinstance(title, str):
        text = f"{title} {text}".strip()
    try:
        return checked(Document(name, text, metadata))
    except DataError as error:
        return str(error)


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever the file holds
    """What a column of Parquet holds, as JSON has it: dates as ISO 8601 writes them, missing numbers as None."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _choose(found: list[str], column: str | None, source: str) -> str:
    known = TEXT_COLUMNS if column is None else (column,)
    for name in known:
        if name in found:
            return name
    wanted = " or ".join(TEXT_COLUMNS[:-1]) if column is None else repr(column)
    hint = nearly(found, known)
    raise DataError(
        f"{source} has the columns {', '.join(found)}; expected {wanted}: name the text's with --column{hint}"
    )
