"""Queries: what they are, and reading them from files.

In: whatever `formats` reads. Out: `Query` values, streamed, each text once unless repeats are asked for.
Be careful with bad rows: one is a value, not an exception. `read_queries` yields a `Reject` in its place, so one bad
row among millions neither stops the run nor vanishes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from .formats import Reject as Reject
from .formats import nearly, printable, rows_of
from .seen import Seen
from .seen import content_id as content_id

TEXT_COLUMNS = ("query", "text", "question", "prompt", "instruction")
ID_COLUMNS = ("id", "_id")
"""The second as BEIR's files call it."""
Progress = Callable[[int, int | None, str], None]
"""Told after each batch: rows done, rows in all where that is known, and a note such as the speed."""


@dataclass(frozen=True)
class Query:
    """What is asked. `id` comes from the source, or is a hash of the text, so that order does not matter."""

    id: str
    text: str


def read_queries(
    source: str | Path,
    *,
    column: str | None = None,
    split: str = "train",
    repeats: bool = False,
    on_repeat: Callable[[Query], None] | None = None,
) -> Iterator[Query | Reject]:
    """Streams the queries of a file, a folder or a hub data set; memory does not grow with the rows.

    Args:
        source: a .jsonl, .ndjson, .json (an object a line, or an array of objects), .csv, .tsv, .parquet or .txt
            (a query a line) file, also gzipped; a folder of such files of one kind; or a hub data set `org/name`.
        column: where the text is; else the first there is of query, text, question, prompt, instruction.
        split: of a hub data set.
        repeats: yield every row, also one whose id was there before.
        on_repeat: told of each such row.

    Yields:
        each query once (every row with `repeats`), and a `Reject` for each row that cannot be used.

    Raises:
        DataError: if there is no such file or column, if two texts share an id, or if no row can be used.
    """
    first = ""
    with Seen() as seen:
        for item in _parse(str(source), column, split):
            if isinstance(item, Reject):
                first = first or item.reason
                yield item
                continue
            before, digest = len(seen), content_id(item.text)
            if seen.setdefault(item.id, digest) != digest:
                raise DataError(f"{source} has two texts under the id {item.id!r}; give each text its own id")
            if on_repeat and len(seen) == before:
                on_repeat(item)
            if repeats or len(seen) > before:
                yield item
        if not len(seen):
            raise DataError(
                f"{source} has no row that can be used ({first or 'it holds no row'}); expected one text a row"
            )


def _parse(source: str, column: str | None, split: str) -> Iterator[Query | Reject]:
    chosen = None
    for item in rows_of(source, split):
        if isinstance(item, Reject):
            yield item
            continue
        line, row = item
        chosen = chosen or _choose_column(list(row), column, source)
        text, given = row.get(chosen), next((row[name] for name in ID_COLUMNS if name in row), None)
        reason = problem_of(text, f"column {chosen!r}") or problem_of_id(given)
        if reason:
            yield Reject(printable(row), reason, line)
        else:
            yield Query(content_id(str(text)) if given in (None, "") else str(given), str(text))


def _choose_column(found: list[str], column: str | None, source: str) -> str:
    known = TEXT_COLUMNS if column is None else (column,)
    for name in known:
        if name in found:
            return name
    wanted = " or ".join(TEXT_COLUMNS) if column is None else repr(column)
    hint = nearly(found, known)
    raise DataError(
        f"{source} has the columns {', '.join(found)}; expected {wanted}: name the text's with --column{hint}"
    )


def problem_of(text: object, what: str) -> str | None:
    """Why this cannot be a text; None if it can."""
    if text is None:
        return f"{what} is missing"
    if not isinstance(text, str):
        return f"{what} is not a string but of type {type(text).__name__}"
    if not text.strip():
        return f"{what} is empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{what} is not valid Unicode: it holds a lone surrogate or a byte that is not UTF-8"
    return None


def problem_of_id(given: Any) -> str | None:  # noqa: ANN401 - whatever the file holds
    """Why this cannot be an id: a number can, as it is written."""
    is_number = isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)
    return None if given in (None, "") or is_number else problem_of(given, "id")
