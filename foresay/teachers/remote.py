"""A teacher whose work is done by several workers: each of them holds the teacher itself.

In: a pool of `TeachWork`. Out: a `Teacher`. It is given many blocks at once and sends one to each worker, so a text is
embedded beside the same texts as on one machine, and its vector is the same.
Be careful: a text that kills its workers ends the run with its place, since a target is wanted for every response.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backbone import Backbone
from ..cluster.work import Piece, Pool
from ..config import TeachConfig
from ..errors import DataError
from .base import Teacher, Vectors
from .load import load_teacher
from .teach import BLOCK


@dataclass(frozen=True)
class TeachWork:
    """Opens a teacher by its name."""

    teacher: str
    backbone: str | None
    dtype: str
    config: TeachConfig

    def open(self, device: str) -> "TeachWorker":
        """Loads the teacher on a device."""
        model = Backbone.load(self.backbone, device=device, dtype=self.dtype) if self.backbone else None
        return TeachWorker(load_teacher(self.teacher, model, device, self.config))


@dataclass(frozen=True)
class TeachWorker:
    """A teacher that is loaded."""

    teacher: Teacher

    def describe(self) -> dict[str, Any]:
        """What its vectors depend on."""
        names = ("name", "revision", "pooling", "dim", "max_tokens", "dtype")
        return {name: getattr(self.teacher, name) for name in names}

    def work(self, items: Sequence[str]) -> Vectors:
        """Vectors (texts, dim)."""
        return self.teacher.embed(list(items))


class RemoteTeacher(Teacher):
    """Embeds with the teachers of a pool."""

    def __init__(self, pool: Pool, workers: int) -> None:
        """Waits for the first worker."""
        self._pool, about = pool, pool.describe()
        self.name, self.revision, self.pooling = about["name"], about["revision"], about["pooling"]
        self.dim, self.max_tokens, self.dtype = int(about["dim"]), int(about["max_tokens"]), about["dtype"]
        self.blocks = 4 * workers

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (texts, dim), a block a worker.

        Raises:
            DataError: if a text has killed its workers.
        """
        vectors = np.empty((len(texts), self.dim), np.float32)
        for done in self._pool.map(self._pieces(texts)):
            if done.lost:
                place, reason = next(iter(done.lost.items()))
                text = texts[done.number * BLOCK + place]
                raise DataError(
                    f"the text {text[:60]!r} has no vector: {reason}; take its row out, and repeat the command"
                )
            start = done.number * BLOCK
            vectors[start : start + len(done.results)] = done.results
        return vectors

    def _pieces(self, texts: Sequence[str]) -> Iterator[Piece]:
        for number, start in enumerate(range(0, len(texts), BLOCK)):
            yield Piece(number, list(texts[start : start + BLOCK]))
