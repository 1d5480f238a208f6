"""The files of a task folder, and what mteb takes in their place.

In: a folder with JSON lines, and the columns that a file has to have. Out: rows; of queries, corpus and qrels, the data
of a retrieval task.
Careful: ids become text, since mteb compares them as such, so 1 and "1" are the same one; two rows of one id that say
different things are refused, since only one of them would count.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..errors import DataError
from ..files import strict_rows

Row = dict[str, Any]
_KEYS = {"id": ("id",), "doc": ("query", "doc")}
"""What no two rows may share, by the column that tells such a file."""
_SAID = ("text", "title", "harmful", "score")
"""What a row says of it."""


def rows_of(folder: Path, name: str, *columns: str) -> list[Row]:
    """The rows of a file of the folder, each id or pair once.

    Raises:
        DataError: if it is missing, empty or damaged, a row lacks one of the columns, or two contradict each other.
    """
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        raise DataError(f"{path} is missing; {folder / 'task.json'} says a type that needs it (docs/tasks.md)")
    with path.open("rb") as file:
        rows = [row for _, row in strict_rows(file, path)]
    for number, row in enumerate(rows, 1):
        if absent := [column for column in columns if row.get(column) is None]:
            raise DataError(f"{path}, row {number} has no {' and no '.join(absent)}; it has {', '.join(row)}")
        row.update({column: str(row[column]) for column in ("id", "query", "doc") if column in columns})
    if not rows:
        raise DataError(f"{path} is empty")
    keys = next((_KEYS[column] for column in _KEYS if column in columns), ())
    return _once(rows, keys, path) if keys else rows


def _once(rows: Iterable[Row], keys: Sequence[str], path: Path) -> list[Row]:
    """The rows without exact repeats; DataError where two of the same keys differ in what they say."""
    first: dict[tuple[str, ...], tuple[int, Row]] = {}
    for number, row in enumerate(rows, 1):
        before, other = first.setdefault(tuple(row[key] for key in keys), (number, row))
        if differing := [name for name in _SAID if row.get(name) != other.get(name)]:
            what = " and ".join(f"{key} {row[key]!r}" for key in keys)
            raise DataError(
                f"{path}, rows {before} and {number} have the same {what} and another {differing[0]}; "
                f"expected {'one row a pair' if len(keys) > 1 else 'an id for each row'}: take one of them out"
            )
    return [row for _, row in first.values()]


def _table(rows: Iterable[Row], columns: Sequence[str]) -> Dataset:
    rows = list(rows)
    there = [column for column in columns if any(row.get(column) is not None for row in rows)]
    return Dataset.from_dict({column: [row.get(column) or "" for row in rows] for column in there})


def retrieval_data(
    folder: Path, queries: list[Row], corpus: list[Row], qrels: list[Row], ranked: dict[str, list[str]] | None = None
) -> Row:
    """The `dataset` of a retrieval task.

    Args:
        folder: for messages.
        queries: rows with id and text.
        corpus: rows with id, text and perhaps a title.
        qrels: rows with query, doc and a whole score.
        ranked: of each query the documents to rank; all of them without it.

    Raises:
        DataError: if qrels name a query or document that is not there.
    """
    known = {row["id"] for row in queries}, {row["id"] for row in corpus}
    relevant: dict[str, dict[str, int]] = {}
    for row in qrels:
        for ids, name in zip(known, (row["query"], row["doc"]), strict=True):
            if name not in ids:
                raise DataError(f"{folder / 'qrels.jsonl'} names {name!r}, which is in no other file of the folder")
        relevant.setdefault(row["query"], {})[row["doc"]] = int(row["score"])
    columns = ("id", "text", "title")
    tables = {"queries": _table(queries, columns[:2]), "corpus": _table(corpus, columns)}
    return {"default": {"test": {**tables, "relevant_docs": relevant, "top_ranked": ranked}}}
