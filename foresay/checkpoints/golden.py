"""Golden vectors: what a checkpoint gives for a few texts, stored with it, so that any machine can tell that it agrees.

In: an encoder, or the vectors that were stored. Out: vectors, and how far other ways of computing them are off.
Careful: a backend that differs in its kernels alone differs too; `TOLERANCE` says by how much.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..encoder import Array, Encoder

GOLDEN_TEXTS = (
    "What does frugal mean?",
    "How is whooping cough passed from one person to another?",
    "x",
    "Ça coûte combien? 日本語 🙂",
    "A text that holds <|im_end|> and <think> is a text.",
    "The harbour town lives from fishing and salt; in the dry season its wells run low. " * 8,
)
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-1, "float16": 1e-2, "8bit": 1e-1, "4bit": 5e-1}
"""Largest relative distance to the golden vectors by dtype: what other kernels may differ by; for few bits, what
the same weights in more bits do (.04 and .29 on the packaged backbone)."""


@dataclass(frozen=True)
class Verdict:
    """How far one way of computing the golden vectors is off.

    Attributes:
        way: what computed them.
        distance: largest distance of a vector to its golden one, relative to that one's length.
        tolerance: largest distance allowed for the dtypes involved.
    """

    way: str
    distance: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the distance is within the tolerance (NaN is not)."""
        return self.distance <= self.tolerance


def golden_vectors(encoder: Encoder, *, documents: bool) -> dict[str, Tensor]:
    """Embeddings and soft prompts of `GOLDEN_TEXTS`; of documents too where a teacher embeds them, if asked."""
    texts = list(GOLDEN_TEXTS)
    golden = {"embeddings": encoder.encode(texts, on_cut="ignore")}
    golden["soft_prompts"] = encoder.soft_prompts(texts, on_cut="ignore")
    if documents and encoder.document_teacher:
        golden["documents"] = encoder.encode_document(texts)
    return {name: torch.from_numpy(array) for name, array in golden.items()}


def recompute(encoder: Encoder, golden: Mapping[str, Tensor]) -> dict[str, tuple[str, Array]]:
    """Our own ways of computing golden vectors: by way, the name of the vectors and what came out."""
    texts = list(GOLDEN_TEXTS)
    computed = {
        "foresay, in a batch": ("embeddings", encoder.encode(texts, on_cut="ignore")),
        "foresay, one at a time": ("embeddings", np.stack([encoder.encode(text, on_cut="ignore") for text in texts])),
        "foresay, soft prompts": ("soft_prompts", encoder.soft_prompts(texts, on_cut="ignore")),
    }
    if "documents" in golden:
        computed["foresay, documents"] = ("documents", encoder.encode_document(texts))
    return computed


def distance(found: Array, golden: Tensor) -> float:
    """Largest relative distance of a row, over the rows."""
    flat, wanted = (np.asarray(rows, np.float64).reshape(len(rows), -1) for rows in (found, golden.numpy()))
    return float((np.linalg.norm(flat - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max())
