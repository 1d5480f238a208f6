"""Which words of a pair matter: how the similarity changes when one of them is left out.

In: a query, a document, and what embeds each side. Out: the similarity, and a weight for every word of both sides: the
similarity of the whole less the similarity without that word (Li et al. 2016, arXiv 1612.08220). Above 0, the word
brings the two together. Exact: every text with a word left out is embedded, all of a side in one call.
Be careful with repeated words: each occurrence has a weight of its own, and leaving out one may change nothing.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Embed = Callable[[list[str]], NDArray[np.float32]]
"""Texts to vectors (texts, dim)."""

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]"  # scripts that put no spaces between words, by character
    r"|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+"
)


@dataclass(frozen=True)
class Word:
    """A word of a text.

    Attributes:
        text: the word with the punctuation that touches it.
        start, end: where it is, in characters.
        weight: what the similarity loses without it; negative where it gains.
    """

    text: str
    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class View:
    """How one embedder sees a pair.

    Attributes:
        name: whose view.
        similarity: cosine of the two whole texts.
        query, document: their words.
    """

    name: str
    similarity: float
    query: list[Word]
    document: list[Word]

    @property
    def strongest(self) -> float:
        """The largest weight of all words, whatever its sign; colours are relative to it."""
        return max((abs(word.weight) for word in (*self.query, *self.document)), default=0) or 1


def view(name: str, pair: tuple[str, str], query: Embed, document: Embed) -> View:
    """Embeds both sides, whole and with each word left out, in one call a side.

    Args:
        name: whose view.
        pair: a query and a document.
        query: embeds queries.
        document: embeds documents.
    """
    places = [word_places(text) for text in pair]
    sides = [
        _unit(embed([text, *without_each(text, spans)]))
        for text, spans, embed in zip(pair, places, (query, document), strict=True)
    ]
    (asked, others), (found, parts) = ((side[0], side[1:]) for side in sides)
    whole = float(asked @ found)
    weights = (whole - others @ found, whole - parts @ asked)
    words = [
        [Word(text[a:b], a, b, float(w)) for (a, b), w in zip(spans, some, strict=True)]
        for text, spans, some in zip(pair, places, weights, strict=True)
    ]
    return View(name, whole, *words)


def word_places(text: str) -> list[tuple[int, int]]:
    """Where each word of a text is."""
    return [match.span() for match in _WORD.finditer(text)]


def without_each(text: str, places: Sequence[tuple[int, int]]) -> list[str]:
    """The text without each of its words; of the spaces on both sides of a word, those before it go."""
    return [(text[:start].rstrip() + text[end:] if start else text[end:].lstrip()) for start, end in places]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    unit: NDArray[np.float64] = exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-12)
    return unit
