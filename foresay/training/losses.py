"""What an embedding is drawn to: its target, as a vector or as a direction, and away from the targets of other rows.

In: embeddings and targets, (rows, dim). Out: losses.

    alignment   mean squared error (the paper's), the same as a share of the targets' variance, or one minus the
                cosine; of each row alone
    contrast    InfoNCE (arXiv 1807.03748): among the targets of a whole batch, the embedding's own is the nearest

Where an embedding may be shortened, each loss is the mean over its lengths (Matryoshka, arXiv 2205.13147).
Careful: a language model refuses or greets in the same words over and over. A batch then holds
the same target more than once, and such a row is no negative, or the contrast would push an embedding off its target.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..config import TrainConfig

SAME = 1 - 1e-5
"""Cosine from which on two targets are taken for the same."""
_BLOCK = 4096
_LEAST_VARIANCE = 1e-12
"""Targets that are all the same have none, and must not become a division by zero."""


def in_shares(config: TrainConfig, variance: float) -> TrainConfig:
    """The config under which a squared error counts as a share of the targets' variance, whatever their scale.

    A teacher of unit length has errors of a thousandth, which a reconstruction loss of some nats would drown.
    """
    if config.alignment != "relative":
        return config
    return replace(config, alignment="mse", alignment_weight=config.alignment_weight / variance)


def variance_of(targets: NDArray[np.float32], rows: NDArray[np.int64]) -> float:
    """The variance of targets (all, dim) about their mean, over some rows, averaged over the dimensions."""
    total, squares = np.zeros(targets.shape[1]), 0.0
    for start in range(0, len(rows), _BLOCK):
        block = np.asarray(targets[rows[start : start + _BLOCK]], np.float64)
        total += block.sum(axis=0)
        squares += float(np.square(block).sum())
    mean = total / len(rows)
    variance = (squares / len(rows) - float(np.square(mean).sum())) / float(targets.shape[1])
    return float(max(variance, _LEAST_VARIANCE))


def alignment_loss(embedding: Tensor, target: Tensor, config: TrainConfig) -> Tensor:
    """Distance between embedding and target, both (rows, dim): *summed* over the rows.

    A sum, so that a batch cut into micro-batches adds up to the same loss.
    """
    lengths = _lengths(config, target.shape[1])
    return torch.stack([_distance(embedding[:, :n], target[:, :n], config.alignment) for n in lengths]).mean()


def contrast_loss(embedding: Tensor, target: Tensor, config: TrainConfig) -> Tensor:
    """Cross-entropy, in nats a row, of finding the own target among those of the batch; both (rows, dim)."""
    lengths = _lengths(config, target.shape[1])
    full = functional.normalize(target, dim=-1)
    twins = (full @ full.T > SAME).fill_diagonal_(False)
    own = torch.arange(len(target), device=target.device)
    losses = []
    for n in lengths:
        cosine = functional.normalize(embedding[:, :n], dim=-1) @ functional.normalize(target[:, :n], dim=-1).T
        scores = (cosine / config.contrast_temperature).masked_fill(twins, float("-inf"))
        losses.append(functional.cross_entropy(scores, own))
    return torch.stack(losses).mean()


def weighted(losses: dict[str, float], config: TrainConfig) -> float:
    """The loss that is minimised: the weighted sum of those that are on."""
    return float(sum(getattr(config, f"{name}_weight") * value for name, value in losses.items()))


def _distance(embedding: Tensor, target: Tensor, kind: str) -> Tensor:
    if kind == "cosine":
        return (1 - functional.cosine_similarity(embedding, target, dim=1)).sum()
    return (embedding - target).square().mean(dim=1).sum()


def _lengths(config: TrainConfig, dim: int) -> tuple[int, ...]:
    return (*config.dims, dim)
