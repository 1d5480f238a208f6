"""Queries and responses: what they are, and reading them from files.

In: queries as JSON lines, CSV, TSV, Parquet, plain text or a hub data set; responses as JSON lines.
Out: `Query` values, each text once, streamed; a list of `Response`.
What a reader would get wrong: a bad row is a value, not an exception. `read_queries` yields a `Reject` in
its place, so one bad row among millions neither stops the run nor vanishes.
"""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import DataError
from ..files import file_hash as file_hash
from ..files import load_object, strict_rows
from ..files import write_json as write_json

TEXT_COLUMNS = ("query", "text", "question", "prompt", "instruction")
Progress = Callable[[int, int | None, str], None]
"""Told after each batch: rows done, rows in all where that is known, and a note such as the speed."""


@dataclass(frozen=True)
class Query:
    """What is asked. `id` comes from the source, or is a hash of the text, so that order does not matter."""

    id: str
    text: str


@dataclass(frozen=True)
class Response:
    """What the language model said: `finish` is `stop`, or `length` where it was cut at the longest length."""

    id: str
    query: str
    response: str
    finish: Literal["stop", "length"] = "stop"


@dataclass(frozen=True)
class Reject:
    """A row that cannot be used: the row as text, why, and its line (or row number) where that is known."""

    row: str
    reason: str
    line: int | None = None


def content_id(text: str) -> str:
    """16 hex digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# -- reading queries -------------------------------------------------------------------------------------

_Row = tuple[int, dict[str, Any]] | Reject


def read_queries(source: str | Path, *, column: str | None = None, split: str = "train") -> Iterator[Query | Reject]:
    """Streams the queries of a file or of a hub data set; only the ids seen so far are kept.

    Args:
        source: a .jsonl, .json (an object a line), .csv, .tsv, .parquet or .txt (a query a line) file, or a
            hub data set such as `org/name`.
        column: where the text stands; else the first there is of query, text, question, prompt, instruction.
        split: of a hub data set.

    Yields:
        each query once, and a `Reject` for each row that cannot be used.

    Raises:
        DataError: if there is no such file or column, if two texts share an id, or if no row can be used.
    """
    digests: dict[str, str] = {}
    first = "it holds no row"
    for item in _parse(str(source), column, split):
        if isinstance(item, Reject):
            first = item.reason if not digests else first
            yield item
            continue
        digest = content_id(item.text)
        if digests.setdefault(item.id, "") == "":
            digests[item.id] = digest
            yield item
        elif digests[item.id] != digest:
            raise DataError(f"{source} has two texts under the id {item.id!r}; give each text its own id")
    if not digests:
        raise DataError(f"{source} has no row that can be used ({first}); expected one text a row")


def _parse(source: str, column: str | None, split: str) -> Iterator[Query | Reject]:
    chosen = None
    for item in _rows(source, split):
        if isinstance(item, Reject):
            yield item
            continue
        line, row = item
        chosen = chosen or _choose_column(list(row), column, source)
        text, given = row.get(chosen), row.get("id")
        reason = _problem(text, f"column {chosen!r}") or _problem_of_id(given)
        if reason:
            yield Reject(_printable(row), reason, line)
        else:
            yield Query(content_id(str(text)) if given in (None, "") else str(given), str(text))


def _choose_column(found: list[str], column: str | None, source: str) -> str:
    for name in TEXT_COLUMNS if column is None else (column,):
        if name in found:
            return name
    wanted = " or ".join(TEXT_COLUMNS) if column is None else repr(column)
    raise DataError(f"{source} has the columns {', '.join(found)}; expected {wanted}: name the text's with --column")


def _problem(text: object, what: str) -> str | None:
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


def _problem_of_id(given: object) -> str | None:
    is_number = isinstance(given, int) and not isinstance(given, bool)
    return None if given in (None, "") or is_number else _problem(given, "id")


def _printable(row: dict[str, Any] | str) -> str:
    """A row as text that any JSON file can hold: what is not valid Unicode is spelt out."""
    text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=str)
    return text.encode("utf-8", "backslashreplace").decode()


def _rows(source: str, split: str) -> Iterator[_Row]:
    path = Path(source)
    read = _READERS.get(path.suffix.lower())
    if read is not None and path.is_file():
        return read(path)
    if read is None and re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        return _read_hub(source, split)
    raise DataError(
        f"there is no {source}; expected a file ending in {', '.join(_READERS)}, or a hub data set org/name"
    )


def _read_text(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers. A byte that is not UTF-8 spoils its own line only."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\n")


def _read_lines(path: Path) -> Iterator[_Row]:
    for number, line in _read_text(path):
        yield number, {"query": line}


def _read_jsonl(path: Path) -> Iterator[_Row]:
    for number, line in _read_text(path):
        row = load_object(line)
        yield (number, row) if row is not None else Reject(_printable(line), "the line is not a JSON object", number)


def _read_csv(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        try:
            for row in reader:
                if None in row:  # a comma outside quotes: the text would silently be cut there
                    yield Reject(_printable(row), "the row has more cells than the header", reader.line_num)
                else:
                    yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}; look for a quote that is not closed") from error


def _read_parquet(path: Path) -> Iterator[_Row]:
    from pyarrow import ArrowInvalid, parquet

    try:
        file = parquet.ParquetFile(path)
    except ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file ({error}); expected one") from error
    with file:
        yield from enumerate((row for batch in file.iter_batches(1024) for row in batch.to_pylist()), 1)


def _read_hub(name: str, split: str) -> Iterator[_Row]:
    from datasets import load_dataset

    try:
        rows = load_dataset(name, split=split, streaming=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"cannot read the hub data set {name!r}, split {split!r}: {reason} (expected an id such as "
            f"org/name, or a file ending in {', '.join(_READERS)})"
        ) from error
    yield from enumerate(rows, 1)


_READERS: dict[str, Callable[[Path], Iterator[_Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_lines,
}


# -- reading responses -----------------------------------------------------------------------------------


def read_responses(path: Path) -> list[Response]:
    """Every response of a file, in its order.

    Raises:
        DataError: if the file is missing or empty, a line is broken, or an id occurs twice.
    """
    write = f"foresay respond QUERIES -m BACKBONE -o {path}"
    if not path.is_file():
        raise DataError(f"there is no {path}; write it with: {write}")
    with path.open("rb") as file:
        responses = list(parse_responses(strict_rows(file, path), path))
    if not responses:
        raise DataError(f"{path} holds no response; fill it with: {write}")
    return responses


def parse_responses(rows: Iterable[tuple[int, dict[str, Any]]], path: Path) -> Iterator[Response]:
    """The responses in the numbered rows of a file; DataError for a row that is not one, or an id used twice."""
    seen: set[str] = set()
    for number, row in rows:
        problem = _problem_of_response(row) or (f"the id {row['id']!r} was used before" if row["id"] in seen else None)
        if problem:
            raise DataError(
                f"{path}, line {number}: {problem}; expected an id of its own, query and response, all strings: "
                "repair or delete the line"
            )
        seen.add(row["id"])
        yield Response(row["id"], row["query"], row["response"], row.get("finish", "stop"))


def _problem_of_response(row: dict[str, Any]) -> str | None:
    for name in ("id", "query", "response"):
        problem = _problem(row.get(name), name)
        if problem:
            return problem
    finish = row.get("finish", "stop")  # a file from elsewhere may not say
    return None if finish in ("stop", "length") else f"finish is {finish!r}, not 'stop' or 'length'"
