"""`encode`, `encode_query`, `encode_document` and `similarity`, with the keywords that sentence-transformers has.

In: texts and keywords. Out: numpy arrays, float32.
Careful: the keywords are written out once, and all three have them: a type checker, `help` and an editor see them, and
a wrong one is a TypeError. All three end in the one `embed`.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

from .document_teacher import DocumentTeacher
from .embedded import Array, Ask, Embedded, OnCut, refuse_keywords, unit
from .errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


def _with_keywords_of(method: Callable[P, R]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Gives a method, which hands its other keywords on to `method`, that one's whole signature."""

    def give(other: Callable[..., R]) -> Callable[P, R]:
        other.__signature__ = signature(method)  # type: ignore[attr-defined]
        other.__annotations__ = method.__annotations__
        return other

    return give


def is_document(prompt_name: str | None) -> bool:
    """Whether a prompt of this name goes before documents, as mteb names them."""
    return prompt_name is not None and (prompt_name == "document" or prompt_name.endswith("-document"))


def _as_rows(embeddings: Any) -> Array:  # noqa: ANN401
    """Embeddings (rows, dim), whatever array or tensor they are; one vector is a row.

    Raises:
        InputError: if they are not numbers.
    """
    if isinstance(embeddings, torch.Tensor):
        embeddings = embeddings.detach().float().cpu()
    try:
        return np.atleast_2d(np.asarray(embeddings, np.float32))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"embeddings of {type(embeddings).__name__} are no table of numbers; encode texts first"
        ) from error


class EncodeMethods:
    """What users of sentence-transformers expect, on top of one `embed`."""

    @abstractmethod
    def embed(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        ask: Ask | None = None,
    ) -> Embedded:
        """Vectors (texts, dim), and what became of each text."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where texts are embedded."""

    @property
    @abstractmethod
    def document_teacher(self) -> DocumentTeacher | None:
        """Who embeds documents, if a teacher does."""

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = False,
        output_value: str = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
        normalize_embeddings: bool | None = False,
        truncate_dim: int | None = None,
        batch_tokens: int | None = None,
        on_cut: OnCut = "warn",
        soft_prompts: Array | None = None,
    ) -> Array:
        """Embeds texts, one forward pass each.

        Args:
            texts: one text or many.
            prompt: put before each text.
            prompt_name: or the name of one of `prompts`; the name of a document prompt embeds documents.
            batch_size: most texts in one forward pass; by default `batch_tokens` alone decides.
            show_progress_bar: show one on stderr.
            output_value: `sentence_embedding`; others are refused.
            precision: `float32`; others are refused.
            convert_to_numpy: must be true.
            convert_to_tensor: must be false; `torch.from_numpy` makes a tensor of the same memory.
            device: the backbone's own; others are refused.
            normalize_embeddings: scale each embedding to length 1.
            truncate_dim: keep this many numbers of each, one of `dims`.
            batch_tokens: most padded tokens in one forward pass, 8192 by default.
            on_cut: what to do about texts longer than `max_tokens`; they keep their beginning.
            soft_prompts: an array (texts, compression, hidden) to fill with the soft prompts of the same pass, for
                instance one that is mapped into memory (`reading.stored`).

        Returns:
            (texts, dim) float32; (dim,) for a single string.

        Raises:
            InputError: for texts that are not strings, unknown prompts, other lengths, keywords that cannot be
                honoured, and cut texts on request.
            BackboneError: if a vector is not finite, as where a model overflows float16.
        """
        refuse_keywords(
            device,
            own_device=self.device,
            output_value=output_value,
            precision=precision,
            to_numpy=convert_to_numpy,
            to_tensor=convert_to_tensor,
        )
        ask = Ask(
            normalize=bool(normalize_embeddings),
            truncate_dim=truncate_dim,
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            on_cut=on_cut,
            soft_prompts=soft_prompts,
            progress=bool(show_progress_bar),
        )
        vectors = self.embed(texts, prompt=prompt, prompt_name=prompt_name, ask=ask).vectors
        single: Array = vectors[0] if isinstance(texts, str) else vectors
        return single

    @_with_keywords_of(encode)
    def encode_query(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        **keywords: Any,  # noqa: ANN401
    ) -> Array:
        """`encode` with the checkpoint's query prompt, unless another one is given; with the same keywords."""
        if self.document_teacher is not None and is_document(prompt_name):
            raise InputError(f"prompt_name={prompt_name!r} is for documents, which encode_document embeds")
        name = "query" if prompt is None and prompt_name is None else prompt_name
        return self.encode(texts, prompt=prompt, prompt_name=name, **keywords)

    @_with_keywords_of(encode)
    def encode_document(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        **keywords: Any,  # noqa: ANN401
    ) -> Array:
        """`encode` with the checkpoint's document prompt; or, where a teacher embeds documents, its vectors.

        The teacher reads bare texts: a prompt is refused. Its own longest input counts for `on_cut`. Keywords are those
        of `encode`.
        """
        if self.document_teacher is not None and prompt:
            raise InputError(
                f"documents are embedded by {self.document_teacher.name}, which reads bare texts: leave out the "
                "prompt, or take with_document_teacher(None)"
            )
        if self.document_teacher is not None and prompt_name is not None and not is_document(prompt_name):
            raise InputError(
                f"prompt_name={prompt_name!r} is for queries; documents are embedded by {self.document_teacher.name}, "
                "which reads bare texts: leave it out"
            )
        given = None if self.document_teacher is not None else prompt
        name = "document" if not prompt and prompt_name is None else prompt_name
        return self.encode(texts, prompt=given, prompt_name=name, **keywords)

    @staticmethod
    def similarity(left: Array, right: Array) -> Array:
        """Cosine of each left embedding (left, dim) with each right one (right, dim): (left, right).

        Raises:
            InputError: if their widths differ, or they are not numbers.
        """
        a, b = (unit(_as_rows(side)) for side in (left, right))
        if a.shape[-1] != b.shape[-1]:
            raise InputError(f"embeddings of widths {a.shape[-1]} and {b.shape[-1]}; expected vectors of one space")
        return np.asarray(a @ b.T)

    @staticmethod
    def similarity_pairwise(left: Array, right: Array) -> Array:
        """Cosine of each left embedding (rows, dim) with the right one in its row: (rows,).

        Raises:
            InputError: if there are not as many on both sides, or they are not numbers.
        """
        a, b = (unit(_as_rows(side)) for side in (left, right))
        if a.shape != b.shape:
            raise InputError(f"embeddings of shapes {a.shape} and {b.shape}; expected as many on both sides")
        return np.asarray((a * b).sum(axis=1))
