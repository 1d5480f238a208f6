"""The teacher of a checkpoint, and what tells one embedder from another.

In: a checkpoint, or a model that is loaded. Out: the teacher whose vectors it was trained to reach; fingerprints.
A name is not enough: a folder may hold another model than before, and vectors cached under its name would be wrong
without any sign of it. So a few numbers of every weight are part of a fingerprint.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch

from ..backbone import Backbone
from ..checkpoints.folder import find
from ..checkpoints.record import Record
from ..config import TeachConfig
from ..errors import InputError
from ..teachers.llm2vec import LLM2VecTeacher
from ..teachers.teach import SELF, SelfTeacher, SentenceTransformerTeacher, Teacher, load_teacher


def teacher_of(checkpoint: str | Path, backbone: Backbone, device: str = "auto", name: str | None = None) -> Teacher:
    """The teacher whose vectors a checkpoint was trained to reach.

    Args:
        checkpoint: folder or hub id.
        backbone: the checkpoint's; a teacher made of it shares its weights.
        device: where another model runs.
        name: where the teacher is now, if it is not where the checkpoint says.

    Raises:
        InputError: if the checkpoint does not say and `name` is not given, or the teacher there is another one.
    """
    pairs = Record.load(find(checkpoint)).training.pairs
    recorded = pairs.get("teacher")
    if name is None and recorded is None:
        raise InputError(f"{checkpoint} does not say which teacher it was trained on; name it: --teacher NAME")
    wanted = name or str(recorded)
    config = TeachConfig(max_tokens=pairs.get("max_tokens", TeachConfig().max_tokens))
    teacher = load_teacher(SELF if wanted.startswith(f"{SELF}:") else wanted, backbone, device, config)
    revision = pairs.get("revision")
    if revision is not None and teacher.revision is not None and teacher.revision != revision:
        raise InputError(
            f"the teacher {wanted} has revision {teacher.revision}, {checkpoint} was trained on {revision}; get that "
            "one, or name its place: --teacher NAME"
        )
    return teacher


def teacher_fingerprint(teacher: Teacher) -> str:
    """Tells two teachers apart, also where a folder holds another model than it did."""
    model: torch.nn.Module | None = None
    if isinstance(teacher, SentenceTransformerTeacher):
        model = teacher.model
    elif isinstance(teacher, SelfTeacher):
        model = teacher.backbone.model
    elif isinstance(teacher, LLM2VecTeacher):  # its revision stands for the adapters
        model = teacher.reader.backbone.model
    weights = "" if model is None else sample(model.parameters())
    return digest(teacher.name, str(teacher.revision), teacher.pooling, str(teacher.max_tokens), weights)


@torch.no_grad()
def sample(weights: Iterable[torch.Tensor]) -> str:
    """Three numbers of each weight, in hex."""
    picks = [weight.flatten()[[0, weight.numel() // 2, weight.numel() - 1]] for weight in weights]
    return torch.cat([pick.float().cpu() for pick in picks]).numpy().tobytes().hex()


def digest(*parts: str) -> str:
    """16 hex digits that stand for all of these."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
