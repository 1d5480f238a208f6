"""Hits to a run file that trec_eval, pytrec_eval and ranx read.

In: hits by query id. Out: a line a hit: `query Q0 document rank score foresay`.
Careful: white space separates the columns, so an id that holds some is refused. trec_eval ignores the rank, reads
scores in single precision and orders equal ones by id; so each score is written smaller than the last.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..outputs import replacing
from .documents import Hit


def write_run(path: Path, found: Mapping[str, Sequence[Hit]], name: str = "foresay") -> None:
    """Writes a run file.

    Raises:
        InputError: for an id with white space in it.
    """
    for one in (*found, *(hit.id for hits in found.values() for hit in hits)):
        if one.split() != [one]:
            raise InputError(f"the id {one!r} holds white space, which a TREC run cannot; use --json")
    lines = [
        f"{query} Q0 {hit.id} {rank} {score} {name}\n"
        for query, hits in found.items()
        for rank, (hit, score) in enumerate(zip(hits, _falling([hit.score for hit in hits]), strict=True), 1)
    ]
    with replacing(path) as part:
        part.write_text("".join(lines), encoding="utf-8")


def _falling(scores: Sequence[float]) -> Iterator[str]:
    """Scores in single precision, each smaller than the one before it."""
    last = np.float32(np.inf)
    for score in scores:
        last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
        yield str(last)
