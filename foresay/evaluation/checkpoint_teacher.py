"""The teacher of a checkpoint: whose vectors it was trained to reach.

In: a checkpoint and its backbone. Out: the teacher, refused if it is another one than the checkpoint names.
"""

from pathlib import Path

from ..backbone import Backbone
from ..checkpoints.folder import find
from ..checkpoints.record import Record
from ..config import TeachConfig
from ..errors import InputError
from ..teachers.base import Teacher
from ..teachers.load import load_teacher
from ..teachers.pooled import SELF


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
