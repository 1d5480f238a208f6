"""Whitening: one linear map after which no direction of a teacher's vectors outweighs the others.

In: vectors of pairs of texts that belong together. Out: a `Whitening`: mean, axes, and how far each was scaled.
A language model's mean states lie in a narrow cone: a few axes hold most of the variance and say little about the
subject. How many axes to keep, and how far to scale them, is chosen without labels: after the map, one text of a
held-out pair must find the other among all (arXiv 2103.15316 whitens sentence embeddings, without the choice).
Careful: a rare axis is scaled the most and estimated the worst, so each variance gets a share of the largest one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..errors import InputError
from .base import LinearMap, Vectors

FILE = "whitening.safetensors"
FLOOR = 1e-3
"""Share of the largest variance that is added to each."""
SHARES_OF_AXES = (0.125, 0.25, 0.5, 0.75, 1.0)
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Powers of an axis's standard deviation to divide by: 0 turns and centres, 1 whitens."""
_HELD_OUT = 0.3
_TIE = 1e-6
"""Cosines that differ by less are the same: products of a block are not summed in the order of a single one."""
_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class Whitening:
    """Subtracts a mean and multiplies by a matrix.

    Attributes:
        mean: (dim,) float32.
        matrix: (dim, axes) float32: principal axes, the one with the most variance first, each scaled.
    """

    mean: Vectors
    matrix: Vectors

    def __call__(self, vectors: Vectors) -> Vectors:
        """(texts, dim) to (texts, axes). The mean goes first: it is far larger than what tells texts apart."""
        return ((vectors - self.mean) @ self.matrix).astype(np.float32)

    def as_map(self) -> LinearMap:
        """The same as weight and bias."""
        weight = np.ascontiguousarray(self.matrix.T)
        return LinearMap(weight, (-(self.mean.astype(np.float64) @ self.matrix)).astype(np.float32))

    def fingerprint(self) -> str:
        """16 hex digits that stand for its numbers."""
        return hashlib.sha256(self.mean.tobytes() + self.matrix.tobytes()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Writes `whitening.safetensors`."""
        save_file({"mean": self.mean, "matrix": np.ascontiguousarray(self.matrix)}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "Whitening":
        """Reads `whitening.safetensors`; InputError if it is damaged."""
        path = folder / FILE
        try:
            found = load_file(path)
            mean, matrix = found["mean"].astype(np.float32), found["matrix"].astype(np.float32)
            if mean.ndim != 1 or matrix.ndim != 2 or len(mean) != len(matrix):
                raise KeyError(f"a mean {mean.shape} and a matrix {matrix.shape}")
        except (OSError, KeyError, SafetensorError) as error:
            raise InputError(f"{path} is damaged ({error}); make the teacher again with foresay whiten") from error
        return cls(mean, matrix)


@dataclass(frozen=True)
class Choice:
    """What was chosen, and what it was chosen by.

    Attributes:
        axes: that are kept.
        strength: power of the standard deviation that each is divided by.
        found: how well held-out texts find their partners after the map: mean reciprocal rank,
        before: and without it.
        pairs: that the map was estimated from, the held-out ones included.
    """

    axes: int
    strength: float
    found: float
    before: float
    pairs: int


class Spectrum:
    """Mean, principal axes and variances of vectors (texts, dim); every whitening of them is cut from it."""

    def __init__(self, vectors: Vectors) -> None:
        """One eigendecomposition, in float64."""
        self.mean = vectors.mean(axis=0, dtype=np.float64)
        centred = vectors - self.mean
        values, axes = np.linalg.eigh(centred.T @ centred / len(vectors))
        self.variances: NDArray[np.float64] = np.maximum(values[::-1], 0)
        self.axes: NDArray[np.float64] = axes[:, ::-1]
        self.rank = min(len(vectors) - 1, vectors.shape[1])

    def whitening(self, axes: int, strength: float) -> Whitening:
        """The first `axes` axes, each divided by a power of its standard deviation."""
        scale = (self.variances[:axes] + FLOOR * self.variances[0]) ** (-strength / 2)
        return Whitening(self.mean.astype(np.float32), (self.axes[:, :axes] * scale).astype(np.float32))


def choose_whitening(
    left: Vectors, right: Vectors, *, axes: int | None = None, strength: float | None = None, seed: int = 0
) -> tuple[Whitening, Choice]:
    """Whitens by what lets held-out texts find their partners, then estimates the map anew from all.

    Args:
        left: (pairs, dim), vectors of the texts that look, such as queries.
        right: (pairs, dim), vectors of what they are to find, such as responses.
        axes: how many to keep; chosen if left out.
        strength: how far to scale; chosen if left out.
        seed: of which pairs are held out.

    Raises:
        InputError: if there are too few pairs, or more axes than the vectors have.
    """
    pairs, dim = left.shape
    if pairs < 10:
        raise InputError(f"{pairs} pairs of texts; whitening needs at least 10, and a few thousand to be good")
    order = np.random.default_rng(seed).permutation(pairs)
    held, rest = order[: int(_HELD_OUT * pairs)], order[int(_HELD_OUT * pairs) :]
    spectrum = Spectrum(np.concatenate([left[rest], right[rest]]))
    if axes is not None and not 1 <= axes <= spectrum.rank:
        raise InputError(f"{axes} axes of vectors that have {spectrum.rank}; give 1 to {spectrum.rank}, or more texts")
    widths = sorted({max(1, min(round(share * dim), spectrum.rank)) for share in SHARES_OF_AXES})
    before, best = finds_partner(left[held], right[held]), (-1.0, 0, 0.0)
    for width in [axes] if axes else widths:
        for power in STRENGTHS if strength is None else [strength]:
            whitened = spectrum.whitening(width, power)
            best = max(best, (finds_partner(whitened(left[held]), whitened(right[held])), width, power))
    found, width, power = best
    whitening = Spectrum(np.concatenate([left, right])).whitening(width, power)
    return whitening, Choice(width, power, found, before, pairs)


def finds_partner(left: Vectors, right: Vectors) -> float:
    """Mean reciprocal rank of each left vector's own right one among all right ones, by cosine.

    Ranks of a tie are their mean, so that vectors that are all alike find nothing.
    """
    a, b = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in (left, right))
    own = (a * b).sum(axis=1)
    ranks = []
    for at in range(0, len(a), _AT_ONCE):
        ahead = a[at : at + _AT_ONCE] @ b.T - own[at : at + _AT_ONCE, None]
        ties = (np.abs(ahead) <= _TIE).sum(axis=1) - 1  # itself is one
        ranks.append(1 + (ahead > _TIE).sum(axis=1) + ties / 2)
    return float((1 / np.concatenate(ranks)).mean())


def halves(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Each text cut in the middle, between two words: pairs where there are no others. One word is left out."""
    pairs = []
    for text in texts:
        words = text.split()
        if len(words) > 1:
            pairs.append((" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])))
    return pairs
