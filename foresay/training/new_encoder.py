"""The encoder before it has learned anything: a model of the shape that the options ask for, drawn by the seed.

In: pairs, a backbone, the shape. Out: an `Encoder` that `fit` and `train` then teach.
Careful: targets are in the teacher's axes. Where embeddings may be shortened, a model has axes of its own, and
`Model.to_own_axes` leads from the one to the other.
"""

import copy
from pathlib import Path

import torch

from ..backbone import Backbone
from ..config import ShapeConfig
from ..data.pairs import Pairs
from ..encoder import DocumentTeacher, Encoder
from ..errors import BackboneError, CheckpointError, InputError
from ..model import Model
from ..prompts import EVALUATION
from .matryoshka import principal_axes


def new_encoder(pairs: Pairs, backbone: Backbone, config: ShapeConfig, lora_rank: int = 0) -> Encoder:
    """An encoder of the shape that is asked for.

    Args:
        pairs: whose targets set the width, and whose teacher embeds documents.
        backbone: the frozen language model.
        config: the shape.
        lora_rank: of an adapter that reads the texts too; 0 for none.

    Raises:
        InputError: if `dims` are not below the targets' width, or the teacher of the documents is not named, gone, or
            another one.
    """
    document_teacher = _document_teacher(pairs, backbone) if config.documents == "teacher" else None
    dim = pairs.targets.shape[1]
    if config.dims and config.dims[-1] >= dim:
        raise InputError(f"dims go up to {config.dims[-1]}, the targets have width {dim}; expected smaller numbers")
    model = Model(
        backbone,
        thought=config.thought,
        compression=config.compression,
        dim=dim,
        template=config.template,
        readout=config.readout,
        reconstruct=config.reconstruct,
        rotated=bool(config.dims),
        lora_rank=lora_rank,
        seed=config.seed,
    )
    if model.rotation is not None:
        model.rotation.copy_(torch.from_numpy(principal_axes(pairs.targets, pairs.split(config)[0])))
    encoder = Encoder(
        model,
        prompts={**EVALUATION, "query": config.query_prompt, "document": config.document_prompt},
        max_tokens=config.max_query_tokens,
        dims=config.dims,
        document_teacher=document_teacher,
    )
    _check_teacher(encoder)
    return encoder


def _check_teacher(encoder: Encoder) -> None:
    """Loads the teacher of the documents once and lets it go: what it lacks is said before training, not after.

    Raises:
        InputError: if it is gone, another one, or the teacher `self` of another backbone.
    """
    if encoder.document_teacher is None:
        return
    try:
        copy.copy(encoder).load_document_teacher()
    except (CheckpointError, BackboneError) as error:
        raise InputError(f"{error}; or let the checkpoint embed documents: --documents checkpoint") from error


def _document_teacher(pairs: Pairs, backbone: Backbone) -> DocumentTeacher:
    """The teacher that set the targets, by what finds it again."""
    if "teacher" not in pairs.origin:
        raise InputError(
            "documents are to be embedded by the teacher, and the pairs do not say which that is: use Pairs.load, "
            "or let the checkpoint do it: documents='checkpoint'"
        )
    teacher = DocumentTeacher(*(pairs.origin[name] for name in ("teacher", "revision", "max_tokens")))
    kind, _, name = teacher.name.partition(":")
    if kind == "self" and name != backbone.name:
        raise InputError(
            f"documents are to be embedded by the teacher {teacher.name}, which is another backbone than the one "
            f"given, {backbone.name}; train on that one: -m {name}, or let the checkpoint do it: --documents "
            "checkpoint"
        )
    place = Path(teacher.name)
    if place.is_absolute() and not place.exists():
        raise InputError(
            f"documents are to be embedded by the teacher {place}, which is gone; put it back, or let the "
            "checkpoint do it: --documents checkpoint"
        )
    return teacher
