"""The teacher that embeds documents in place of a checkpoint: what finds it, and the one that is loaded.

In: what a checkpoint records, and its model. Out: vectors of bare documents, in the embedding's own axes.
Careful: it is loaded when the first document comes. Several threads may ask at once, and a teacher of another library
is not safe to share, so one thread embeds at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from .batching import length_batches
from .config import TeachConfig
from .embedded import Ask, Embedded
from .errors import CheckpointError, InputError
from .model import Model

if TYPE_CHECKING:
    from .teachers.base import Teacher

_BLOCK = 1024
_NONE = "this checkpoint embeds documents itself; with_document_teacher makes a teacher do it"


@dataclass(frozen=True)
class DocumentTeacher:
    """The teacher that embeds documents in place of the checkpoint, by what finds it again.

    Attributes:
        name: as `load_teacher` takes it.
        revision: which it has to have.
        max_tokens: longer documents are cut to this many tokens.
        turned: whether its vectors are in the embedding's own axes already, as those of a bundle's teacher are.
    """

    name: str
    revision: str | None
    max_tokens: int
    turned: bool = False


class DocumentSide:
    """A document teacher, loaded once.

    Attributes:
        wanted: which one; None where the checkpoint embeds documents itself.
        model: the checkpoint's, whose axes and backbone it shares.
    """

    def __init__(self, wanted: DocumentTeacher | None, model: Model, teacher: "Teacher | None" = None) -> None:
        """Loads nothing yet; `teacher` is one that is loaded already."""
        self.wanted, self.model = wanted, model
        self._teacher, self._lock = teacher, RLock()

    def __getstate__(self) -> dict[str, Any]:
        """Without the lock, which cannot be copied or sent to another process."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """With a lock of its own."""
        self.__dict__.update(state, _lock=RLock())

    def share(self, other: "DocumentSide") -> None:
        """Takes the teacher that another side has in memory, if it is the same one."""
        if self.wanted == other.wanted:
            self._teacher = other._teacher

    def load(self) -> "Teacher":
        """The teacher.

        Raises:
            InputError: if the checkpoint embeds documents itself.
            CheckpointError: if no teacher is there by that name now, or another one.
        """
        with self._lock:
            if self._teacher is None:
                self._teacher = self._find()
            return self._teacher

    def embed(self, texts: Sequence[str], ask: Ask) -> Embedded:
        """Vectors (texts, dim) of bare texts; too long ones keep their beginning, and are reported or refused."""
        teacher = self.load()
        with self._lock:
            counts = teacher.count_tokens(texts)
            cut = [i for i, count in enumerate(counts) if count > teacher.max_tokens]
            ask.handle_cut(cut, len(texts), teacher.max_tokens)
            vectors = np.empty((len(texts), teacher.dim), np.float32)
            with ask.bar(len(texts)) as done:
                for batch in _batches([min(count, teacher.max_tokens) for count in counts], ask):
                    vectors[batch] = teacher.embed([texts[i] for i in batch])
                    done(len(batch))
        rotation = self.model.rotation
        if rotation is not None and self.wanted is not None and not self.wanted.turned:
            vectors = vectors @ rotation.cpu().numpy()
        return Embedded(vectors, [min(count, teacher.max_tokens) for count in counts], cut)

    def _find(self) -> "Teacher":
        from .teachers.load import load_teacher  # brings in what only a teacher needs

        wanted, backbone = self.wanted, self.model.backbone
        if wanted is None:
            raise InputError(_NONE)
        config = TeachConfig(max_tokens=wanted.max_tokens)
        try:
            teacher = load_teacher(wanted.name, backbone, str(backbone.device), config)
        except InputError as error:
            raise CheckpointError(
                f"documents of this checkpoint are embedded by its teacher: {error}; put it back, or hand one in by "
                "with_document_teacher"
            ) from error
        is_unknown = wanted.revision is None and getattr(teacher, "commit", "") is None  # a folder, by older versions
        if teacher.revision != wanted.revision and not is_unknown:
            raise CheckpointError(
                f"{wanted.name} is there as {teacher.revision}, the targets of this checkpoint are of "
                f"{wanted.revision}; put that one in its place"
            )
        return teacher


def _batches(lengths: Sequence[int], ask: Ask) -> list[list[int]]:
    """Texts that the teacher gets together: as it was asked for, else many, which it sorts and cuts as it likes."""
    if ask.batch_size is None and ask.batch_tokens is None:
        return [list(range(start, min(start + _BLOCK, len(lengths)))) for start in range(0, len(lengths), _BLOCK)]
    return length_batches(lengths, ask.batch_tokens or 1 << 62, most_rows=ask.batch_size)
