"""Chunks to documents, and two rankings to one.

In: rows, best first. Out: `Hit` values, one a document, best first.
Careful: chunks are merged before rankings are fused, since a rank is a document's place among documents.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from .documents import Hit
from .rows import Row

K = 60
"""Cormack et al. (SIGIR 2009) found it near-optimal and not critical."""


def documents(fetch: Callable[[int], list[Row]], wanted: int) -> list[Hit]:
    """The best documents: each by its best chunk. Fetches more rows until there are enough documents, or no more."""
    limit = wanted
    while True:
        rows = fetch(limit)
        hits = _best(rows)
        if len(hits) >= wanted or len(rows) < limit:
            return hits[:wanted]
        limit *= 4


def _best(rows: Sequence[Row]) -> list[Hit]:
    best: dict[str, Hit] = {}
    for row in rows:
        if row.id not in best:
            best[row.id] = Hit(row.id, row.score, row.text, row.metadata, row.start, row.end)
    return list(best.values())


def fuse(rankings: Sequence[Sequence[Hit]], wanted: int) -> list[Hit]:
    """Reciprocal-rank fusion: a document's score is the sum of 1 / (K + rank); ties go to the first ranking."""
    scores: dict[str, float] = defaultdict(float)
    hits: dict[str, Hit] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, 1):
            scores[hit.id] += 1 / (K + rank)
            hits.setdefault(hit.id, hit)
    order = sorted(hits, key=lambda name: -scores[name])
    return [replace(hits[name], score=scores[name]) for name in order[:wanted]]
