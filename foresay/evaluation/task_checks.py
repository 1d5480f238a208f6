"""What makes a score mean something, looked at when the data of a task folder is loaded.

In: rows of a task's files. Out: nothing, a warning, or one line that says what is missing.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def check_qrels(qrels: Sequence[Row], path: Path) -> None:
    """Warns of queries that nothing answers, which score 0 whatever is found.

    Raises:
        DataError: if all of them are such, or a score is no whole number.
    """
    best: dict[str, int] = {}
    for row in qrels:
        score = row["score"]
        if not isinstance(score, (int, float)) or not float(score).is_integer():
            raise DataError(f"{path} has the score {score!r}; nDCG takes whole numbers")
        best[row["query"]] = max(int(score), best.get(row["query"], 0))
    vain = [query for query, score in best.items() if score == 0]
    if len(vain) == len(best):
        raise DataError(f"{path} has no score above 0, so every result scores 0; give relevant documents 1 or more")
    if vain:
        logger.warning(
            "%s: of %d queries %d have no score above 0 (first: %r), and score 0 whatever is found; take them out",
            *(path, len(best), len(vain), vain[0]),
        )


def check_groups(groups: Sequence[Row], path: Path) -> None:
    """Warns of groups that lack positives or negatives, so that every order of them scores the same.

    Raises:
        DataError: if all of them do, or one holds something else than lists of texts.
    """
    for number, row in enumerate(groups, 1):
        for name in ("positive", "negative"):
            if not isinstance(row[name], list) or not all(isinstance(text, str) for text in row[name]):
                raise DataError(f"{path}, row {number}: {name} is {row[name]!r:.60}; expected a list of texts")
    vain = [number for number, row in enumerate(groups, 1) if not row["positive"] or not row["negative"]]
    if len(vain) == len(groups):
        raise DataError(f"{path}: no row has both positive and negative texts, so every order scores the same")
    if vain:
        logger.warning(
            "%s: of %d rows %d lack positive or negative texts (first: row %d), and score the same in every order; "
            "take them out",
            *(path, len(groups), len(vain), vain[0]),
        )


def check_scores(rows: Sequence[Row], path: Path) -> None:
    """Refuses pairs whose scores nothing can correlate with.

    Raises:
        DataError: if a score is no finite number, or all are the same.
    """
    for number, row in enumerate(rows, 1):
        if not isinstance(row["score"], (int, float)) or not math.isfinite(row["score"]):
            raise DataError(f"{path}, row {number} has the score {row['score']!r}; expected a number")
    if len({row["score"] for row in rows}) < 2:  # noqa: PLR2004
        raise DataError(
            f"{path} has no score but {rows[0]['score']}, with which nothing correlates; expected different scores"
        )


def check_labels(rows: Sequence[Row], path: Path, known: Sequence[Row] | None = None) -> None:
    """Refuses labels that cannot be told apart, or that nobody can learn.

    Args:
        rows: with labels.
        path: their file.
        known: the rows of `train.jsonl`, from which a classifier learns.

    Raises:
        DataError: if there is one label only, or one that `known` lacks.
    """
    labels = list(dict.fromkeys(str(row["label"]) for row in rows))
    if len(labels) == 1:
        raise DataError(f"{path} has no label but {labels[0]!r}; expected two or more")
    if known is None:
        return
    learnt = {str(row["label"]) for row in known}
    if strange := [label for label in labels if label not in learnt]:
        raise DataError(
            f"{path} has the label {strange[0]!r}, which train.jsonl lacks; add such rows there, or take them out here"
        )
