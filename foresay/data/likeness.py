"""Are the responses all the same? How many begin alike, how many refuse, which targets can no longer be told apart.

In: texts or vectors, a sample of them. Out: counts, and a warning in words: a model that answers 196 of 200 questions
with one of four refusals trains into embeddings that tell nothing apart, and every loss looks fine meanwhile.
Be careful: refusals are recognised by their openings, in English.
"""

import logging
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

T = TypeVar("T")

SAMPLE = 2000
"""Rows looked at: the share is then known to two hundredths."""
TOO_MANY = 0.2
"""Share of near-identical rows above which a run warns."""
SAME = 0.999
"""Cosine above which two targets count as one."""
WORDS = 8
"""Two responses are near-identical if they begin with the same words, this many."""

_REFUSAL = re.compile(
    r"\W*(i'?m|i am|we'?re|we are)\s+(really\s+|very\s+|so\s+)?(sorry|afraid|unable|not able)"
    r"|\W*(i|we)\s+(can'?t|cannot|can not|won'?t|will not|couldn'?t|could not|do not|don'?t)\s+"
    r"(\w+\s+)?(help|assist|provide|answer|fulfil|comply|support|offer|give|do that|engage|create|write|discuss)"
    r"|\W*(sorry|apologies|unfortunately)\b.{0,40}\b(can'?t|cannot|unable|not able)"
    r"|\W*as an? (ai|artificial|language|large)\b.{0,80}\b(can'?t|cannot|don'?t|do not|unable|not able)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Likeness:
    """How alike texts are.

    Attributes:
        rows: texts looked at.
        alike: those that begin as another one does.
        refusals: those that open with a refusal.
        commonest: openings that occur more than once, with their counts, the most frequent first.
    """

    rows: int
    alike: int
    refusals: int
    commonest: list[tuple[str, int]]


def is_refusal(text: str) -> bool:
    """Whether a response opens by declining."""
    return _REFUSAL.match(text.replace("\u2019", "'")) is not None


def opening(text: str) -> str:
    """The first words of a text, in lower case, without punctuation."""
    return " ".join(re.findall(r"\w+", text.lower())[:WORDS]) or text.strip()


def likeness(texts: Sequence[str]) -> Likeness:
    """Counts the texts that begin alike, and those that refuse."""
    counts = Counter(map(opening, texts))
    repeated = [(words, count) for words, count in counts.most_common() if count > 1]
    return Likeness(len(texts), sum(count for _, count in repeated), sum(map(is_refusal, texts)), repeated)


def warn_of_texts(texts: Sequence[str], where: object) -> None:
    """Says in the log if too many responses are near-identical."""
    found = likeness(texts)
    if found.rows < 10 or found.alike <= TOO_MANY * found.rows:
        return
    examples = ", ".join(f"{count} begin {words!r}" for words, count in found.commonest[:3])
    logger.warning(
        "%s: %d of %d responses looked at begin like another one (%s), and %d refuse; an embedding of them tells "
        "queries apart badly. Look at them (foresay look %s), then try another model, a --system prompt or other "
        "queries",
        *(where, found.alike, found.rows, examples, found.refusals, where),
    )


def warn_of_vectors(vectors: NDArray[np.float32], where: object) -> None:
    """Says in the log if too many targets are near-identical.

    Args:
        vectors: (rows, dim), some thousand of them.
        where: the folder they are in.
    """
    if len(vectors) < 10:
        return
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -1)
    alike = int((cosine.max(axis=1) > SAME).sum())
    if alike > TOO_MANY * len(vectors):
        logger.warning(
            "%s: %d of %d targets looked at have a cosine above %s to another one, so training cannot tell their "
            "queries apart; look at the responses (foresay look), or use another teacher",
            *(where, alike, len(vectors), SAME),
        )


def reservoir(items: Iterable[T], size: int = SAMPLE, seed: int = 0) -> list[T]:
    """Items drawn evenly from a stream of unknown length (Vitter 1985, algorithm R); in order while it is short."""
    draw = random.Random(seed)
    kept: list[T] = []
    for count, item in enumerate(items):
        if count < size:
            kept.append(item)
        elif (place := draw.randrange(count + 1)) < size:
            kept[place] = item
    return kept
