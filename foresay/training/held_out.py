"""How near an encoder comes to the targets of rows that it did not learn from.

In: an encoder, pairs, row numbers. Out: the metrics of `metrics.HELD_OUT`.
Careful: retrieval@1 depends on how many rows there are to find the own target among.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.pairs import Pairs
from ..encoder import Encoder
from .metrics import Metrics


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
