"""The alignment map in closed form: ridge regression from the special tokens' states to the targets.

In: a model, queries, targets. Out: the map, without any gradient, and the penalty that served the held-out rows
best. It starts the gradient training (`TrainConfig.start`).
What a reader would get wrong: the states are never kept. Their Gram matrix is summed block by block, so memory
does not grow with the rows, and one factorisation of it serves every penalty.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .backbone import length_batches
from .encoder import Array, Encoder
from .model import Model

PENALTIES = tuple(float(penalty) for penalty in 10.0 ** np.arange(-3, 2.5, 0.5))
"""Tried on the held-out rows; in units of a standardised state's variance."""
_BLOCK = 512


@dataclass(frozen=True)
class Fit:
    """A linear map from mean states to embeddings.

    Attributes:
        weight: (dim, hidden) float32.
        bias: (dim,) float32.
        penalty: the ridge penalty chosen.
        cosine: of the held-out rows with their targets; NaN where none were held out.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    cosine: float


def fit(
    encoder: Encoder,
    queries: Sequence[str],
    targets: NDArray[np.float32],
    rows: NDArray[np.int64],
    held: NDArray[np.int64],
    progress: Callable[[int], None] | None = None,
) -> Fit:
    """Fits the map on `rows` and chooses its penalty on `held`.

    Args:
        encoder: whose states are read; its special tokens stay as they are.
        queries: texts.
        targets: (queries, dim).
        rows: which of them to fit on.
        held: which of them choose the penalty; may be empty, then the path's middle one is taken.
        progress: told after each block how many rows are done.
    """
    moments = _Moments(encoder.model.backbone.hidden_size, targets.shape[1])
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        moments.add(mean_states(encoder, [queries[i] for i in block]), targets[block])
        if progress:
            progress(start + len(block))
    solutions = moments.solve(PENALTIES)
    if not len(held):
        weight, bias = solutions[len(PENALTIES) // 2]
        return _result(weight, bias, PENALTIES[len(PENALTIES) // 2], float("nan"))
    states, wanted = mean_states(encoder, [queries[i] for i in held]), targets[held]
    cosines = [_mean_cosine(states @ weight.T + bias, wanted) for weight, bias in solutions]
    best = int(np.argmax(cosines))
    return _result(*solutions[best], PENALTIES[best], cosines[best])


@torch.no_grad()
def start_from(model: Model, found: Fit) -> None:
    """Writes a fitted map into a model; the reconstruction starts as the identity, the state as its own prompt.

    Not scaled to the size of token embeddings: a map with small entries would be thrown off by Adam's first
    steps, which have the same size for every entry (held-out cosine .72 to .53 in one step on the nano backbone).
    """
    torch.nn.init.eye_(model.reconstruct.weight)
    model.reconstruct.bias.zero_()
    model.align.weight.copy_(found.weight)
    model.align.bias.copy_(found.bias)


@torch.no_grad()
def mean_states(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float64]:
    """States averaged over the compression tokens: (texts, hidden)."""
    rows, _ = encoder.model.rows(texts, encoder.max_tokens)
    states = np.empty((len(rows), encoder.model.backbone.hidden_size))
    for batch in length_batches([len(row) + encoder.model.tokens for row in rows], 8192):
        states[batch] = encoder.model.hidden([rows[i] for i in batch]).float().mean(dim=1).cpu().numpy()
    return states


class _Moments:
    """Sums over rows that ridge regression needs: of states, targets, and their products."""

    def __init__(self, width: int, dim: int) -> None:
        self.count = 0
        self.state, self.target = np.zeros(width), np.zeros(dim)
        self.gram, self.cross = np.zeros((width, width)), np.zeros((width, dim))

    def add(self, states: NDArray[np.float64], targets: NDArray[np.float32]) -> None:
        self.count += len(states)
        self.state += states.sum(axis=0)
        self.target += targets.sum(axis=0)
        self.gram += states.T @ states
        self.cross += states.T @ targets

    def solve(self, penalties: Sequence[float]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Weight (dim, width) and bias (dim,) for each penalty, on standardised states."""
        mean, target = self.state / self.count, self.target / self.count
        covariance = self.gram / self.count - np.outer(mean, mean)
        spread = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
        values, vectors = np.linalg.eigh(covariance / np.outer(spread, spread))
        projected = vectors.T @ ((self.cross / self.count - np.outer(mean, target)) / spread[:, None])
        solutions = []
        for penalty in penalties:
            weight = ((vectors / (np.maximum(values, 0) + penalty)) @ projected / spread[:, None]).T
            solutions.append((weight, target - weight @ mean))
        return solutions


def _mean_cosine(found: NDArray[np.float64], wanted: Array) -> float:
    cosine = (found * wanted).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    return float(cosine.mean())


def _result(weight: NDArray[np.float64], bias: NDArray[np.float64], penalty: float, cosine: float) -> Fit:
    return Fit(torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), penalty, cosine)
