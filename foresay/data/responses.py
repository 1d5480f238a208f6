"""Responses: what the language model said to each query, and reading them from a file.

In: the JSON lines that `respond` wrote, or a file from elsewhere with `query` and `response`. Out: `Response` values.
Be careful: here every line has to be whole. A gap in the responses would shift nothing (targets are joined by id), but
would go unnoticed.
"""

import gzip
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from ..errors import DataError
from ..files import strict_rows, unzipping
from .queries import problem_of
from .seen import Seen

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Response:
    """What the language model said: `finish` is `stop`, or `length` where it was cut at the longest length."""

    id: str
    query: str
    response: str
    finish: Finish = "stop"


def read_responses(path: Path) -> list[Response]:
    """Every response of a file, in its order.

    Raises:
        DataError: if the file is missing or empty, a line is broken, or an id occurs twice.
    """
    return list(stream_responses(path))


def stream_responses(path: Path) -> Iterator[Response]:
    """The responses of a file one by one; memory does not grow with them.

    Raises:
        DataError: as `read_responses`, and where the iteration has come to the fault.
    """
    write = f"foresay respond QUERIES -m BACKBONE -o {quote(str(path))}"
    check_responses(path)
    none = True
    with unzipping(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for response in parse_responses(strict_rows(file, path), path):
            none = False
            yield response
    if none:
        raise DataError(f"{path} holds no response; fill it with: {write}")


def check_responses(path: Path) -> None:
    """DataError if no file is there."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected the file that foresay respond wrote, which goes first")
    if not path.is_file():
        raise DataError(f"there is no {path}; write it with: foresay respond QUERIES -m BACKBONE -o {quote(str(path))}")


def parse_responses(rows: Iterable[tuple[int, dict[str, Any]]], path: Path) -> Iterator[Response]:
    """The responses in the numbered rows of a file; DataError for a row that is not one, or an id used twice."""
    with Seen() as seen:
        for number, row in rows:
            problem = problem_of_response(row)
            if not problem and seen.setdefault(row["id"], number) != number:
                problem = f"the id {row['id']!r} was used before, in line {seen.get(row['id'])}"
            if problem:
                raise DataError(
                    f"{path}, line {number}: {problem}; expected an id of its own, query and response, all strings: "
                    "repair or delete the line"
                )
            yield Response(row["id"], row["query"], row["response"], row.get("finish", "stop"))


def problem_of_response(row: dict[str, Any]) -> str | None:
    """Why a row is not a response; None if it is one."""
    for name in ("id", "query", "response"):
        problem = problem_of(row.get(name), name)
        if problem:
            return problem
    finish = row.get("finish", "stop")  # a file from elsewhere may not say
    return None if finish in ("stop", "length") else f"finish is {finish!r}, not 'stop' or 'length'"
