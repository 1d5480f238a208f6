"""Responses to targets: a frozen teacher embeds each response, once, into a folder that training maps into memory.

In: a responses file, a teacher. Out: a folder of targets (data/targets.py), to which a later run adds what is new; a
killed run resumes after the last finished block.
Be careful: the teacher sees the response alone, with no instruction and no query, and its vectors are stored as they
come, not normalised: the alignment loss compares lengths too.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ..config import Of, TeachConfig
from ..data.likeness import SAMPLE, reservoir, warn_of_texts, warn_of_vectors
from ..data.queries import Progress
from ..data.responses import Response, stream_responses
from ..data.targets import Manifest, Targets, TargetsFolder, Vectors
from ..errors import DataError
from .base import Teacher

BLOCK = 4096
"""Responses embedded between two marks of progress on the disk, sorted by length among themselves."""


@dataclass(frozen=True)
class Taught:
    """What a run did: targets there are now, those that are new, and what they were made by."""

    rows: int
    new: int
    manifest: Manifest


def teach(
    responses: str | Path,
    teacher: Teacher,
    output: str | Path,
    progress: Progress | None = None,
    *,
    query_weight: float = 0.0,
    of: Of = "response",
    average: bool = False,
) -> Taught:
    """Embeds every response that has no target yet; run again after a kill, it goes on at the last finished block.

    Args:
        responses: what `respond` wrote; read as a stream, twice.
        teacher: what `load_teacher` returned.
        output: the folder of targets, made or added to.
        progress: told after each block.
        query_weight: share of the query's own vector in the target, as HyDE averages it in (arXiv 2212.10496):
            with some of it a question finds more of its answers, and a harmful one more of its own.
        of: what to embed: the responses, or the queries alone.
        average: let all responses to one query share the mean of their vectors.

    Raises:
        InputError: for a share outside 0 to 1, or something else to embed.
        DataError: if the folder was made from something else, a text has changed under its id, the disk has no room,
            or a vector is not finite.
    """
    responses, output = Path(responses), Path(output)
    TeachConfig(query_weight=query_weight, of=of)  # checks both
    own = query_weight if of == "response" else 0.0
    made = Manifest(
        teacher=teacher.name,
        revision=teacher.revision,
        pooling=teacher.pooling,
        dim=teacher.dim,
        max_tokens=teacher.max_tokens,
        query_weight=own,
        of=of,
        average=average,
        dtype=teacher.dtype,
    )
    rows = sum(1 for _ in stream_responses(responses))  # a broken line is said before anything is embedded
    with TargetsFolder(output, made) as folder:
        missing = sum(not folder.is_done(row) for row in stream_responses(responses))
        folder.make_room(missing)
        new = 0
        for block in _blocks((r for r in stream_responses(responses) if not folder.is_done(r)), teacher.blocks * BLOCK):
            folder.append(block, _embed(teacher, block, made))
            new += len(block)
            if progress:
                progress(rows - missing + new, rows, "")
    if new:
        _warn(responses, output)
    return Taught(rows, new, made)


def _blocks(rows: Iterable[Response], size: int) -> Iterator[list[Response]]:
    iterator = iter(rows)
    while block := list(islice(iterator, size)):
        yield block


def _warn(responses: Path, output: Path) -> None:
    """Says if the responses or their targets are nearly all the same."""
    warn_of_texts(reservoir(row.response for row in stream_responses(responses)), responses)
    vectors = Targets.load(output, responses).vectors
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), SAMPLE)).astype(int))
    warn_of_vectors(np.array(vectors[rows]), output)


def _embed(teacher: Teacher, rows: Sequence[Response], made: Manifest) -> Vectors:
    if made.of == "query":
        vectors = teacher.embed([row.query for row in rows])
    else:
        vectors = teacher.embed([row.response for row in rows])
        if made.query_weight:
            vectors = (1 - made.query_weight) * vectors + made.query_weight * teacher.embed([row.query for row in rows])
    ids = [rows[i].id for i in np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()]
    if ids:
        raise DataError(
            f"{teacher.name} gives vectors that are not finite for {len(ids)} responses (ids {', '.join(ids[:5])}); "
            "remove those rows, or use another teacher or dtype (float16 overflows first)"
        )
    return vectors
