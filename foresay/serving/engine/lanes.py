"""What a batch can be run through: a checkpoint's embeddings, its soft prompts, its teacher's documents; or a call.

In: payloads, which are rows of token ids, texts for a teacher, both, or functions. Out: one result each.
Items are batched with others of the same lane only.
Be careful: `run` is for the engine's thread alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...embedded import Ask
from ...encoder import Encoder
from ...errors import ForesayError


class NotFinite(ForesayError):
    """The model gave NaN or infinity."""


@dataclass(frozen=True, eq=False)
class Lane:
    """A way to run a batch.

    Attributes:
        kind: for metrics.
        run: payloads of a batch to one result each.
        least_tokens: see `length_batches`.
        most_rows: most items in a batch.
    """

    kind: str
    run: Callable[[Sequence[Any]], Sequence[Any]]
    least_tokens: int | None = None
    most_rows: int | None = None


CALLS = Lane("call", lambda functions: [function() for function in functions], most_rows=1)
"""Functions that need the model to themselves, such as loading a checkpoint."""


def embeddings(encoder: Encoder) -> Lane:
    """Rows of token ids to embeddings (dim,) float32; of a checkpoint with a query weight, each with its bare text."""
    model = encoder.model

    def run(rows: Sequence[Any]) -> Sequence[Any]:
        out = np.empty((len(rows), model.dim), np.float32)
        model.run(rows, model.embed, [torch.from_numpy(out)], batch_tokens=1 << 40)
        return _finite(out)

    def run_both(payloads: Sequence[Any]) -> Sequence[Any]:
        rows, texts = zip(*payloads, strict=True)
        return _finite(encoder.add_query_part(np.stack(run(rows)), texts, Ask(on_cut="ignore")).vectors)

    return Lane("embeddings", run_both if encoder.query_weight else run, model.backbone.least_tokens)


def soft_prompts(encoder: Encoder) -> Lane:
    """Rows of token ids to soft prompts (compression, hidden) float32."""
    model = encoder.model

    def run(rows: Sequence[Any]) -> Sequence[Any]:
        out = np.empty((len(rows), model.compression, model.backbone.hidden_size), np.float32)
        model.run(rows, model.soft_prompt, [torch.from_numpy(out)], batch_tokens=1 << 40)
        return _finite(out)

    return Lane("soft_prompts", run, model.backbone.least_tokens)


def documents(encoder: Encoder) -> Lane:
    """Texts to the embeddings (dim,) of the teacher that embeds this checkpoint's documents."""

    def run(texts: Sequence[Any]) -> Sequence[Any]:
        return _finite(encoder.encode_document(list(texts), on_cut="ignore"))

    return Lane("documents", run, encoder.model.backbone.least_tokens)


def _finite(vectors: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    if not np.isfinite(vectors).all():
        raise NotFinite("the model gave NaN or infinity for this input; foresay verify tells whether it is damaged")
    return list(vectors)
