"""What an encoder takes from its teacher: vectors of documents, and the query's own part in its embedding.

In: a teacher, by name or loaded; a weight. Out: encoders that use them, over the same model.
Careful: these encoders are copies that share everything but what was asked for, so the first one stays as it is.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import numpy as np

from .document_teacher import DocumentSide, DocumentTeacher
from .embedded import Array, Ask, Embedded, unit
from .errors import InputError
from .model import Model

if TYPE_CHECKING:
    from .teachers.base import Teacher


class TaughtMethods:
    """Who embeds documents, and how much of that is in a query.

    Attributes:
        model: the backbone, the special tokens and the maps.
        query_weight: share of the teacher's own vector of the bare query in an embedding; see `with_query_weight`.
    """

    model: Model
    query_weight: float
    _documents: DocumentSide

    @property
    def document_teacher(self) -> DocumentTeacher | None:
        """Who embeds documents, where the checkpoint does not.

        Embeddings are in the teacher's space, so an index that the teacher made serves as it is.
        """
        return self._documents.wanted

    def with_document_teacher(self, teacher: "Teacher | None") -> Self:
        """The same encoder, with documents embedded by a loaded teacher; by the checkpoint itself without one.

        Raises:
            InputError: if its vectors have another width than the embeddings, or if there is none and the query's own
                part needs one.
        """
        if teacher is None and self.query_weight:
            raise InputError(
                f"a teacher gives the query's own part of these embeddings (a share of {self.query_weight:g}), so one "
                "is needed; take with_query_weight(0) first, or foresay reweight CHECKPOINT --inference-query-weight 0"
            )
        if teacher is not None and teacher.dim != self.model.dim:
            raise InputError(
                f"{teacher.name} gives vectors of width {teacher.dim}, the checkpoint embeds in {self.model.dim}; "
                "documents can be embedded by the teacher that set the targets, and by no other"
            )
        other = copy.copy(self)
        named = None if teacher is None else DocumentTeacher(teacher.name, teacher.revision, teacher.max_tokens)
        other._documents = DocumentSide(named, self.model, teacher)
        return other

    def with_query_weight(self, weight: float) -> Self:
        """The same encoder, whose embeddings hold the teacher's own vector of the bare query too.

        An embedding is then `(1 - weight) * e + weight * t`, where `e` is what this checkpoint gives, `t` what its
        teacher gives, and both have length 1. It costs a second pass; where the teacher is made of the same language
        model, one copy in memory serves both. A weight of 1 is the teacher itself. `foresay reweight` saves it.

        Args:
            weight: from 0, the checkpoint alone, to 1.

        Raises:
            InputError: for another weight, or if the checkpoint embeds documents itself, without a teacher.
        """
        other = copy.copy(self)
        other.query_weight = check_weight(weight, self.document_teacher)
        return other

    def share_teacher(self, other: "TaughtMethods") -> None:
        """Uses the teacher that another encoder has in memory, if it is the one that embeds documents here too."""
        self._documents.share(other._documents)

    def load_document_teacher(self) -> "Teacher":
        """The teacher that embeds documents, loaded once.

        Raises:
            InputError: if the checkpoint embeds documents itself.
            CheckpointError: if no teacher is there by that name now, or another one.
        """
        return self._documents.load()

    def add_query_part(self, vectors: Array, texts: Sequence[str], ask: Ask | None = None) -> Embedded:
        """What `with_query_weight` adds, to vectors that are made already.

        Args:
            vectors: (texts, dim), what the checkpoint itself gives, of full length.
            texts: the same texts, bare.
            ask: batches, and what to do about texts that are too long for the teacher.

        Returns:
            vectors (texts, dim); the tokens that the teacher read, and the texts that it cut.
        """
        whole = replace(ask or Ask(), truncate_dim=None, normalize=False, soft_prompts=None)
        theirs = self._documents.embed(texts, whole)
        mixed = (1 - self.query_weight) * unit(vectors) + self.query_weight * unit(theirs.vectors)
        return replace(theirs, vectors=np.asarray(mixed, np.float32))


def check_weight(weight: float, teacher: DocumentTeacher | None) -> float:
    """A weight of the query's own part, if it is one and there is a teacher to give that part."""
    if not 0 <= weight <= 1:
        raise InputError(f"the weight of the query's own part is {weight}; expected a number from 0 to 1")
    if weight and teacher is None:
        raise InputError(
            "this checkpoint embeds documents itself, so there is no teacher whose vector of the query could be "
            "added; hand one in by with_document_teacher"
        )
    return float(weight)
