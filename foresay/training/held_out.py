"""How near an encoder comes to the targets of rows that it did not learn from.

In: an encoder, pairs, row numbers. Out: the metrics of `metrics.HELD_OUT`.
Careful: retrieval@1 depends on how many rows there are to find the own target among.
"""

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.pairs import Pairs
from ..embedded import unit
from ..encoder import Encoder
from .metrics import Metrics

logger = logging.getLogger(__name__)

_SAMPLE = 4096
"""Rows whose targets' mean an encoder is compared with."""


def target_metrics(encoder: Encoder, pairs: Pairs, rows: NDArray[np.int64]) -> Metrics:
    """The mean cosine of embeddings to their own targets, and how often the own target is the nearest of all rows'.

    Nothing where there are no rows.
    """
    if not len(rows):
        return {}
    model = encoder.model
    targets = torch.from_numpy(np.array(pairs.targets[rows], np.float32)).to(model.backbone.device)
    embeddings = encoder.encode([pairs.queries[i] for i in rows], on_cut="ignore")
    cosine = Encoder.similarity(embeddings, model.to_own_axes(targets).cpu().numpy())
    nearest = cosine.argmax(axis=1) == np.arange(len(rows))
    return {"cosine": float(np.diag(cosine).mean()), "retrieval@1": float(nearest.mean())}


def warn_of_nothing_learnt(
    metrics: Metrics, pairs: Pairs, rows: NDArray[np.int64], held: NDArray[np.int64], learning_rate: float
) -> None:
    """Warns where the embeddings of held-out rows are no nearer to their targets than one vector for all would be.

    Args:
        metrics: of the step that is kept.
        pairs: with the targets.
        rows: those that were learnt from; the mean of their targets is the one vector.
        held: the held-out rows.
        learning_rate: its peak, to name it.
    """
    cosine = metrics.get("cosine")
    if cosine is None:
        return
    mean = np.asarray(pairs.targets[rows[:_SAMPLE]], np.float32).mean(axis=0)
    least = float((unit(np.asarray(pairs.targets[held], np.float32)) @ unit(mean)).mean())
    if cosine <= least:
        logger.warning(
            "nothing was learnt: held-out embeddings have a cosine of %.3f to their targets, where the mean of all "
            "targets has %.3f; more steps may help, or another learning rate than %g, or --start closed-form",
            *(cosine, least, learning_rate),
        )
