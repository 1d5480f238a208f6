"""Checkpoints for an evaluation, with whoever embeds their documents.

In: folders or hub ids, and what is measured. Out: `Encoder`s that share one backbone where they have the same.
"""

from collections.abc import Sequence

from ..backbone import Backbone
from ..checkpoints.folder import find
from ..checkpoints.load import moved_backbone
from ..checkpoints.record import Record
from ..config import EvaluateConfig
from ..encoder import Encoder
from ..teachers.base import Teacher


def load_encoders(checkpoints: Sequence[str], config: EvaluateConfig, device: str) -> list[Encoder]:
    """Loads checkpoints on a device.

    Raises:
        ForesayError: what `Encoder.from_pretrained` raises.
    """
    backbones: dict[tuple[str, str | None], Backbone] = {}
    encoders = []
    for place in checkpoints:
        described = Record.load(find(place)).backbone
        name = described.name, described.revision
        if config.backbone and name not in backbones:
            backbones[name] = moved_backbone(place, config.backbone, device=device, dtype=config.dtype)
        encoder = Encoder.from_pretrained(place, backbone=backbones.get(name), device=device, dtype=config.dtype)
        backbones[name] = encoder.model.backbone
        encoders.append(encoder)
    return encoders


def with_documents(encoders: Sequence[Encoder], config: EvaluateConfig, teacher: Teacher | None) -> list[Encoder]:
    """The encoders, with whoever `config.documents` says embeds their documents; `teacher` is the checkpoint's."""
    if config.documents == "own":
        return list(encoders)
    by = teacher if config.documents == "teacher" else None
    return [encoder.with_document_teacher(by) for encoder in encoders]
