"""Which checkpoints are served: by name, all of one backbone, each proven by its golden vectors.

In: folders or hub ids, as `NAME=PATH` or `PATH`. Out: `Served` checkpoints with the lanes that their texts run through.
Be careful: `load` and `prove` run the model, so while the server runs they are for the engine's thread.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np
from torch import Tensor

from ..backbone import Backbone
from ..checkpoints.folder import find, read_tensors
from ..checkpoints.golden import GOLDEN_TEXTS, TOLERANCE, distance
from ..checkpoints.record import GOLDEN, Record
from ..encoder import Encoder
from ..errors import BackboneError, CheckpointError, InputError, VerifyError
from .engine import lanes
from .engine.lanes import Lane

_NAME = re.compile(r"[A-Za-z0-9_./-]{1,128}")
SIDES = ("query", "document")


@dataclass(eq=False)
class Served:
    """One checkpoint that is served.

    Attributes:
        name: what requests call it.
        encoder: the checkpoint itself.
        golden: the vectors that it has to give.
        embeddings, soft_prompts: lanes of rows of token ids; of embeddings with a query weight, each with its text.
        documents: lane of texts, where a teacher embeds the documents.
        tolerance: how far the dtype in which the golden vectors were made lets them be off.
        created: when it was loaded, in seconds since 1970.
    """

    name: str
    encoder: Encoder
    golden: dict[str, Tensor]
    embeddings: Lane
    soft_prompts: Lane
    documents: Lane | None
    tolerance: float = TOLERANCE["float32"]
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def load(cls, spec: str, backbone: Backbone | None, *, device: str = "auto", dtype: str = "auto") -> "Served":
        """Loads a checkpoint and proves it.

        Args:
            spec: `NAME=PATH`, or the path or hub id alone, whose last part is then the name.
            backbone: the one that all share; None for the first checkpoint.
            device: as for `Backbone.load`, without `backbone`.
            dtype: as for `Backbone.load`, without `backbone`.

        Raises:
            CheckpointError: if it is missing or damaged.
            BackboneError: if it belongs to another backbone.
            VerifyError: if its golden vectors do not come out.
        """
        name, path = split(spec)
        folder = find(path)
        try:
            encoder = Encoder.from_pretrained(folder, backbone=backbone, device=device, dtype=dtype)
        except BackboneError as error:
            if backbone is None:
                raise
            raise BackboneError(f"{name} cannot be served here: {error}") from None
        if encoder.document_teacher is not None:
            encoder.load_document_teacher()
        served = cls(
            name,
            encoder,
            read_tensors(folder / GOLDEN),
            lanes.embeddings(encoder),
            lanes.soft_prompts(encoder),
            lanes.documents(encoder) if encoder.document_teacher is not None else None,
            TOLERANCE[Record.load(folder).backbone.dtype],
        )
        served.prove(len(GOLDEN_TEXTS))
        return served

    def prove(self, count: int = 2) -> None:
        """Compares the first golden texts, run as a request's would be, with their golden vectors.

        Raises:
            VerifyError: if they are further off than the dtype explains.
        """
        texts, model = list(GOLDEN_TEXTS[:count]), self.encoder.model
        rows, _ = model.rows(texts, self.encoder.max_tokens)
        payloads = list(zip(rows, texts, strict=True)) if self.encoder.query_weight else rows
        found = {"embeddings": np.stack(list(self.embeddings.run(payloads)))}
        if count > 2:
            found["soft_prompts"] = np.stack(list(self.soft_prompts.run(rows)))
            if self.documents is not None and "documents" in self.golden:
                found["documents"] = np.stack(list(self.documents.run(texts)))
        allowed = max(TOLERANCE[model.backbone.dtype_name], self.tolerance)
        for what, vectors in found.items():
            off = distance(vectors, self.golden[what][:count])
            if not off <= allowed:
                raise VerifyError(
                    f"{self.name} does not give its golden {what.replace('_', ' ')} (off by {off:.2g}, allowed "
                    f"{allowed:.2g}); foresay verify tells more"
                )


class Registry:
    """The served checkpoints by name; the first one answers requests that name none.

    Attributes:
        backbone: the one that all share.
        backbone_name: what requests call it; `NAME-backbone` where a checkpoint has its name, as the packaged one has.
        created: when it was loaded, in seconds since 1970.
    """

    def __init__(self, served: Sequence[Served]) -> None:
        """Takes the first ones.

        Raises:
            InputError: for none, or two of one name.
        """
        if not served:
            raise InputError("no checkpoint to serve; foresay serve CHECKPOINT")
        self.backbone = served[0].encoder.model.backbone
        path = Path(self.backbone.name)
        name = path.name if path.is_dir() else self.backbone.name
        self.backbone_name = f"{name}-backbone" if name in {one.name for one in served} else name
        self.created = int(time.time())
        self._lock, self._served = Lock(), dict[str, Served]()
        for one in served:
            self.add(one)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._served)

    def all(self) -> list[Served]:
        """All of them."""
        with self._lock:
            return list(self._served.values())

    def add(self, served: Served) -> None:
        """Serves one more.

        Raises:
            InputError: if its name is taken.
        """
        with self._lock:
            if served.name in (*self._served, self.backbone_name):
                raise InputError(f"{served.name} is served already; give the other one a name: NAME=PATH")
            self._served[served.name] = served

    def drop(self, name: str) -> None:
        """No longer serves one; what was accepted for it is finished.

        Raises:
            InputError: for an unknown one, and for the last one.
        """
        with self._lock:
            if name not in self._served:
                raise InputError(f"{name!r} is not served; there are {', '.join(self._served)}")
            if len(self._served) == 1:
                raise InputError(f"{name} is the only checkpoint that is served; add another one first")
            del self._served[name]

    def get(self, name: str | None) -> tuple[Served | None, str | None]:
        """A checkpoint by the name of a request, and the side that the name says: `NAME:query`, `NAME:document`.

        Returns:
            None instead of the checkpoint for an unknown name.
        """
        with self._lock:
            if name is None:
                return next(iter(self._served.values())), None
            base, _, side = name.rpartition(":")
            if side in SIDES and base in self._served:
                return self._served[base], side
            return self._served.get(name), None

    def names(self) -> list[str]:
        """All names."""
        with self._lock:
            return list(self._served)


def split(spec: str) -> tuple[str, str]:
    """Name and path of a checkpoint, as the command line takes it.

    Raises:
        InputError: for a name that requests could not use.
    """
    name, equals, path = spec.partition("=")
    if not equals or Path(spec).is_dir():
        name, path = Path(spec).resolve().name if Path(spec).is_dir() else spec, spec
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot be the name of a model; give one of letters, digits and ._/-: NAME=PATH")
    if not path:
        raise CheckpointError(f"{spec!r} names no checkpoint; expected NAME=PATH")
    return name, path
