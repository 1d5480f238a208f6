"""Hits to a run file that trec_eval, pytrec_eval and ranx read.

In: hits by query id. Out: a line a hit: `query Q0 document rank score foresay`.
Careful: white space separates the columns, so an id that holds some is refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

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
        f"{query} Q0 {hit.id} {rank} {hit.score!r} {name}\n"
        for query, hits in found.items()
        for rank, hit in enumerate(hits, 1)
    ]
    with replacing(path) as part:
        part.write_text("".join(lines), encoding="utf-8")
