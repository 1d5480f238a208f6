"""What a checkpoint is made from: queries, responses and targets, row by row; and the encoder before it has learned.

In: what `respond` and `teach` wrote, and the shape of a checkpoint. Out: `Pairs`, which of them are kept out, an
untrained encoder of that shape, and how near an encoder comes to the targets of the rows kept out.
What a reader would get wrong: targets are stored in the teacher's axes. Where embeddings may be shortened, a model has
axes of its own, and `Model.to_own_axes` stands between the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..backbone import Backbone
from ..config import ShapeConfig, TrainConfig
from ..encoder import DocumentTeacher, Encoder
from ..errors import InputError
from ..files import file_hash
from ..model import Model
from ..prompts import EVALUATION
from ..training.matryoshka import principal_axes
from .responses import read_responses
from .targets import Targets


@dataclass(frozen=True)
class Pairs:
    """What is learned from, row by row.

    Attributes:
        queries: bare texts.
        responses: what the backbone answered.
        targets: (rows, dim), the teacher's vectors of the responses; may be memory-mapped.
        origin: what the rows were made from and by, recorded in the checkpoint, compared on resume.
    """

    queries: Sequence[str]
    responses: Sequence[str]
    targets: NDArray[np.float32]
    origin: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses rows that do not belong together."""
        if not len(self.queries) == len(self.responses) == len(self.targets):
            raise InputError(
                f"{len(self.queries)} queries, {len(self.responses)} responses and {len(self.targets)} targets; "
                "expected as many of each: make the targets again with foresay teach"
            )
        if len(self.queries) < 2:
            raise InputError(f"{len(self.queries)} pairs; training needs at least 2")

    @classmethod
    def load(cls, responses: Path, targets: Path) -> "Pairs":
        """Reads what `respond` and `teach` wrote, joined by id.

        Raises:
            DataError: if a file is missing or unfinished, or the targets are of other responses.
        """
        rows, taught = read_responses(responses), Targets.load(targets, responses)
        made = taught.manifest
        kept = ("teacher", "revision", "max_tokens", "query_weight", "of", "average")
        origin = {name: getattr(made, name) for name in kept} | {"responses_sha256": file_hash(responses)}
        return cls([row.query for row in rows], [row.response for row in rows], taught.vectors, origin)

    def split(self, config: ShapeConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows to learn from, and those kept out, drawn by the seed; both in order."""
        rows = np.random.default_rng(config.seed).permutation(len(self.queries))
        held = min(config.held_out, len(rows) // 10)
        return np.sort(rows[held:]), np.sort(rows[:held])


def untrained(pairs: Pairs, backbone: Backbone, config: ShapeConfig) -> Encoder:
    """An encoder of the shape that is asked for, its weights drawn by the seed.

    Raises:
        InputError: if `dims` are not below the targets' width, or the teacher of the documents is not named or gone.
    """
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
        rotated=bool(config.dims),
        lora_rank=config.lora_rank if isinstance(config, TrainConfig) else 0,
        seed=config.seed,
    )
    if model.rotation is not None:
        model.rotation.copy_(torch.from_numpy(principal_axes(pairs.targets, pairs.split(config)[0])))
    document_teacher = None
    if config.documents == "teacher":
        if "teacher" not in pairs.origin:
            raise InputError(
                "documents are to be embedded by the teacher, and the pairs do not say which that is: use Pairs.load, "
                "or let the checkpoint do it: documents='checkpoint'"
            )
        document_teacher = DocumentTeacher(*(pairs.origin[name] for name in ("teacher", "revision", "max_tokens")))
        place = Path(document_teacher.name)
        if place.is_absolute() and not place.exists():
            raise InputError(
                f"documents are to be embedded by the teacher {place}, which is gone; put it back, or let the "
                "checkpoint do it: --documents checkpoint"
            )
    return Encoder(
        model,
        prompts={**EVALUATION, "query": config.query_prompt, "document": config.document_prompt},
        max_tokens=config.max_query_tokens,
        dims=config.dims,
        document_teacher=document_teacher,
    )


def nearness(encoder: Encoder, pairs: Pairs, rows: NDArray[np.int64]) -> dict[str, float]:
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
