"""Whose vectors they are: what made them, and whether an encoder makes the same.

In: an encoder, and what a table says of itself. Out: nothing, or a refusal that says what differs.
Careful: a fingerprint knows names and revisions, so the same model in another place has another one. Where two differ,
stored texts are embedded again: the same vectors are the same model, anything else is refused with the cosine found.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from ..checkpoints.fingerprints import encoder_fingerprint
from ..config import IndexConfig
from ..embedded import Array, unit
from ..encoder import Encoder
from ..errors import DataError
from ..files import differences

SAME = 0.995
"""Least median cosine of stored vectors to those of the same texts embedded again; dtypes differ by less."""

Read = Callable[[], tuple[list[str], Array]]
"""Some stored texts, and their vectors."""


def describe(encoder: Encoder, config: IndexConfig) -> dict[str, Any]:
    """What makes the vectors: to compare, and in words."""
    model, teacher = encoder.model, encoder.document_teacher
    return {
        "fingerprint": fingerprint(encoder),
        "config": asdict(config),
        "model": {
            "backbone": model.backbone.name,
            "readout": model.readout,
            "special tokens": model.tokens,
            "prompts": encoder.prompts,
            "documents by": "the checkpoint" if teacher is None else teacher.name,
            "width": encoder.dim,
        },
    }


def fingerprint(encoder: Encoder) -> str:
    """Stands for everything the vectors of queries and documents depend on."""
    whole = encoder_fingerprint(encoder) + repr(sorted(encoder.prompts.items()))
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def check(
    about: dict[str, Any], encoder: Encoder, read: Read, embed: Callable[[Sequence[str]], Array], path: Path
) -> None:
    """Refuses an encoder whose vectors of the stored texts are not the stored vectors.

    Raises:
        DataError: with what differs, and the cosine.
    """
    if about["fingerprint"] == fingerprint(encoder):
        return
    made = describe(encoder, IndexConfig(**about["config"]))["model"]
    words = differences(about["model"], made) or "its weights differ"
    if about["model"]["width"] == encoder.dim:
        texts, stored = read()
        if texts:
            cosine = float(np.median(cosines(stored, embed(texts))))
            if cosine >= SAME:
                return
            words = f"{words}; stored texts embedded again have a median cosine of {cosine:.3f} to the stored vectors"
    raise DataError(
        f"another model made the vectors of {path}: {words}; search it with the checkpoint that made it, or embed it "
        f"again with this one: foresay migrate CHECKPOINT {quote(str(path))}"
    )


def cosines(left: Array, right: Array) -> Array:
    """Cosine of each row with the row beside it; 0 where one of them is zero or not finite."""
    found = (unit(left) * unit(right)).sum(axis=1)
    return np.where(np.isfinite(found), found, 0.0)
