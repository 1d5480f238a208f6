"""The files of a task folder, and what mteb takes in their place.

In: a folder with JSON lines, and the columns that a file has to have. Out: rows; of queries, corpus and qrels, the data
of a retrieval task.
Careful: ids become text, since mteb compares them as such; a score that is no whole number is refused, since nDCG is
computed on whole ones.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..errors import DataError
from ..files import strict_rows

Row = dict[str, Any]


def rows_of(folder: Path, name: str, *columns: str) -> list[Row]:
    """The rows of a file of the folder.

    Raises:
        DataError: if it is missing, empty or damaged, or a row lacks one of the columns.
    """
    path = folder / f"{name}.jsonl"
    if not path.is_file():
        raise DataError(f"{path} is missing; {folder / 'task.json'} says a type that needs it (docs/tasks.md)")
    with path.open("rb") as file:
        rows = [row for _, row in strict_rows(file, path)]
    for number, row in enumerate(rows, 1):
        if absent := [column for column in columns if column not in row]:
            raise DataError(f"{path}, row {number} has no {' and no '.join(absent)}; it has {', '.join(row)}")
        row.update({column: str(row[column]) for column in ("id", "query", "doc") if column in columns})
    if not rows:
        raise DataError(f"{path} is empty")
    return rows


def _table(rows: Iterable[Row], columns: Sequence[str]) -> Dataset:
    rows = list(rows)
    there = [column for column in columns if column in rows[0]]
    return Dataset.from_dict({column: [row.get(column, "") for row in rows] for column in there})


def retrieval_data(
    folder: Path, queries: list[Row], corpus: list[Row], qrels: list[Row], ranked: dict[str, list[str]] | None = None
) -> Row:
    """The `dataset` of a retrieval task.

    Args:
        folder: for messages.
        queries: rows with id and text.
        corpus: rows with id, text and perhaps a title.
        qrels: rows with query, doc and score.
        ranked: of each query the documents to rank; all of them without it.

    Raises:
        DataError: if qrels name a query or document that is not there, or a score is no whole number.
    """
    known = {row["id"] for row in queries}, {row["id"] for row in corpus}
    relevant: dict[str, dict[str, int]] = {}
    for row in qrels:
        for ids, name in zip(known, (row["query"], row["doc"]), strict=True):
            if name not in ids:
                raise DataError(f"{folder / 'qrels.jsonl'} names {name!r}, which is in no other file of the folder")
        if row["score"] != int(row["score"]):
            raise DataError(f"{folder / 'qrels.jsonl'} has the score {row['score']}; nDCG takes whole numbers")
        relevant.setdefault(row["query"], {})[row["doc"]] = int(row["score"])
    columns = ("id", "text", "title")
    tables = {"queries": _table(queries, columns[:2]), "corpus": _table(corpus, columns)}
    return {"default": {"test": {**tables, "relevant_docs": relevant, "top_ranked": ranked}}}
