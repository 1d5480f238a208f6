"""A map of vectors: points on a plane, the same ones every time.

In: sets of vectors. Out: their places on the first two principal axes of all of them together, between 0 and 1.
Be careful with distances: two axes of hundreds hold a part of the variance, which `share` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Plane:
    """Places of some sets of vectors.

    Attributes:
        points: for each set, (vectors, 2), from 0 to 1 on both axes over all sets.
        share: how much of the variance the two axes hold.
    """

    points: list[NDArray[np.float64]]
    share: float


def project(sets: Sequence[NDArray[np.float32]]) -> Plane:
    """Projects vectors of length 1, which is what cosines compare, by an exact PCA with signs that are fixed."""
    from sklearn.decomposition import PCA

    unit = [v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in sets]
    every = np.concatenate(unit).astype(np.float64)
    if len(every) < 2 or not np.ptp(every, axis=0).any():
        return Plane([np.full((len(v), 2), 0.5) for v in sets], 1.0)
    axes = PCA(n_components=min(2, *every.shape), svd_solver="full").fit(every)
    flat = axes.transform(every)
    flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    low, span = flat.min(axis=0), np.ptp(flat, axis=0)
    placed = np.where(span > 1e-9, (flat - low) / np.maximum(span, 1e-9), 0.5)
    cuts = np.cumsum([len(v) for v in sets])[:-1]
    return Plane(list(np.split(placed, cuts)), float(axes.explained_variance_ratio_.sum()))
