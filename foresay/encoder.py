"""The encoder one uses: texts to embeddings, texts to soft prompts, soft prompts back to text.

In: a checkpoint (folder or hub id) or a `Model` in training. Out: numpy arrays, float32.
Careful: queries and documents are embedded differently. `encode_query` and `encode_document` know how; `encode` embeds
with the checkpoint, and adds no prompt unless told. An encoder keeps no counters, so threads may share one; several
checkpoints may share one backbone.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .backbone import Backbone, check_texts
from .checkpoints.load import load
from .config import DecodeConfig
from .document_teacher import DocumentSide, DocumentTeacher
from .embedded import Array, Ask, Embedded, OnCut, finish, texts_of, unit
from .encode_methods import EncodeMethods
from .errors import InputError
from .model import Model
from .reading.decode import Decoded, decode_stream, decode_texts, decode_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .teachers.base import Teacher

__all__ = ["Array", "DocumentTeacher", "Embedded", "Encoder", "OnCut"]


class Encoder(EncodeMethods):
    """Embeds what the backbone would answer, and decodes it.

    Attributes:
        model: the backbone, the special tokens and the maps.
        prompts: what stands before a text, by name: `query` and `document`.
        max_tokens: longest input; longer texts are cut, and `embed` says which.
        dims: lengths that an embedding may be shortened to.
        decodes: whether soft prompts were trained to be read.
        query_weight: share of the teacher's own vector of the bare query in an embedding; see `with_query_weight`.
    """

    def __init__(
        self,
        model: Model,
        *,
        prompts: dict[str, str] | None = None,
        max_tokens: int = 512,
        dims: Sequence[int] = (),
        decodes: bool = True,
        document_teacher: DocumentTeacher | None = None,
        query_weight: float = 0.0,
    ) -> None:
        """Wraps a model; `Encoder.from_pretrained` loads one.

        Args:
            model: a trained or training model.
            prompts: by name; names that are missing mean no prompt.
            max_tokens: longest input, template and special tokens included.
            dims: lengths that an embedding may be shortened to.
            decodes: whether soft prompts were trained to be read.
            document_teacher: loaded when the first document comes.
            query_weight: see `with_query_weight`.

        Raises:
            InputError: for a query weight that is not from 0 to 1, or that has no teacher.
        """
        self.model = model
        self.prompts = {"query": "", "document": "", **(prompts or {})}
        self.max_tokens = max_tokens
        self.dims, self.decodes = tuple(dims), decodes
        self.query_weight = _check_weight(query_weight, document_teacher)
        self._documents = DocumentSide(document_teacher, model)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        backbone: Backbone | None = None,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
    ) -> Self:
        """Loads a checkpoint.

        Args:
            path: folder, or hub id.
            backbone: an already loaded one, to share it; else the one the checkpoint names is loaded.
            device: `auto`, `cpu`, `cuda`, `mps`; ignored with `backbone`.
            dtype: of the backbone; `auto` is what the checkpoint was made in. Ignored with `backbone`.
            revision: of the checkpoint on the hub.

        Raises:
            CheckpointError: if the checkpoint is missing, incomplete or damaged.
            BackboneError: if its backbone is gone or is another model.
            DeviceError: if the device does not exist here.
        """
        loaded = load(path, backbone=backbone, device=device, dtype=dtype, revision=revision)
        record, taught = loaded.record, loaded.documents
        return cls(
            loaded.model,
            prompts=record.prompts,
            max_tokens=record.max_tokens,
            dims=record.dims,
            decodes=record.decodes,
            document_teacher=None
            if taught is None
            else DocumentTeacher(taught.name, taught.revision, taught.max_tokens, taught.turned),
            query_weight=record.query_weight,
        )

    def __repr__(self) -> str:
        """What it is, in a line."""
        taught = self.document_teacher
        documents = "the checkpoint" if taught is None else f"the teacher {taught.name}"
        weight = f", query_weight={self.query_weight:g}" if self.query_weight else ""
        return (
            f"Encoder({self.model.backbone.name!r}, dim={self.dim}, tokens={self.model.tokens}, "
            f"max_tokens={self.max_tokens}, device={str(self.device)!r}{weight}, documents by {documents})"
        )

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.model.dim

    @property
    def device(self) -> torch.device:
        """Where the backbone reads its input."""
        return self.model.backbone.device

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The backbone's; texts go through `tokenize`, which lets none of them spell a control token."""
        return self.model.backbone.tokenizer

    @property
    def max_seq_length(self) -> int:
        """`max_tokens`, by the name that sentence-transformers gives it."""
        return self.max_tokens

    @property
    def document_teacher(self) -> DocumentTeacher | None:
        """Who embeds documents, where the checkpoint does not.

        Embeddings are in the teacher's space, so an index that the teacher made serves as it is.
        """
        return self._documents.wanted

    # -- embeddings --------------------------------------------------------------------------------------

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        ask: Ask | None = None,
    ) -> Embedded:
        """`encode` with a report: the tokens of each text, and which were cut.

        Args:
            texts: one text or many.
            prompt: put before each text.
            prompt_name: or the name of one of `prompts`; the name of a document prompt embeds documents.
            ask: lengths, batches, what to do about long texts.

        Returns:
            vectors (texts, dim), one row even for a single string, and what became of each text.
        """
        ask, checked = ask or Ask(), texts_of(texts)
        before = self._prompt(prompt, prompt_name)
        finish(np.empty((0, self.dim), np.float32), self._lengths, ask)  # a wrong length is said before the work
        if self.document_teacher is not None and _is_document(prompt_name):
            if ask.soft_prompts is not None:
                raise InputError(f"documents are embedded by {self.document_teacher.name}, which has no soft prompts")
            made = self._documents.embed(checked, ask)
            return replace(made, vectors=finish(made.vectors, self._lengths, ask))
        ids = self.model.backbone.tokenize([before + text for text in checked])
        return self._weigh(checked, ids, ask) if self.query_weight else self._embed_rows(ids, ask)

    def embed_ids(self, ids: Sequence[Sequence[int]], *, ask: Ask | None = None) -> Embedded:
        """`embed` for texts that are token ids of the backbone's tokenizer already, prompt included.

        Template and special tokens are put around them, and they are cut as texts are.

        Raises:
            InputError: for an id that no text can hold.
        """
        if self.query_weight:
            raise InputError(
                f"the query's own part ({self.query_weight:g}) needs the text for the teacher, and token ids were "
                "given; give texts, or embed with with_query_weight(0)"
            )
        most = self.model.backbone.embedding.num_embeddings
        rows = [list(row) for row in ids]
        for i, row in enumerate(rows):
            wrong = [token for token in row if type(token) is not int or not 0 <= token < most]
            if wrong:
                raise InputError(
                    f"row {i} holds the token id {wrong[0]!r}; expected whole numbers from 0 to {most - 1}"
                )
        return self._embed_rows(rows, ask or Ask())

    def tokenize(
        self, texts: str | Sequence[str], *, prompt: str | None = None, prompt_name: str | None = None
    ) -> list[list[int]]:
        """Token ids of each text with its prompt, as `embed_ids` takes them: no template, no special tokens."""
        before = self._prompt(prompt, prompt_name)
        return self.model.backbone.tokenize([before + text for text in texts_of(texts)])

    def with_document_teacher(self, teacher: "Teacher | None") -> Self:
        """The same encoder, with documents embedded by a loaded teacher; by the checkpoint itself without one.

        Raises:
            InputError: if its vectors have another width than the embeddings, or if there is none and the query's own
                part needs one.
        """
        if teacher is None and self.query_weight:
            raise InputError(
                f"a teacher gives the query's own part of these embeddings (a share of {self.query_weight:g}), so one "
                "is needed; take with_query_weight(0) first, or foresay reweight CHECKPOINT --query-weight 0"
            )
        if teacher is not None and teacher.dim != self.dim:
            raise InputError(
                f"{teacher.name} gives vectors of width {teacher.dim}, the checkpoint embeds in {self.dim}; "
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
        other.query_weight = _check_weight(weight, self.document_teacher)
        return other

    def share_teacher(self, other: "Encoder") -> None:
        """Uses the teacher that another encoder has in memory, if it is the one that embeds documents here too."""
        self._documents.share(other._documents)

    def load_document_teacher(self) -> "Teacher":
        """The teacher that embeds documents, loaded once.

        Raises:
            InputError: if the checkpoint embeds documents itself.
            CheckpointError: if no teacher is there by that name now, or another one.
        """
        return self._documents.load()

    # -- soft prompts and decoding -----------------------------------------------------------------------

    def soft_prompts(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_tokens: int = 8192,
        on_cut: OnCut = "warn",
    ) -> Array:
        """What the backbone reads to write the answer; see `encode` for the arguments.

        Returns:
            (texts, compression, hidden) float32; (compression, hidden) for a single string.
        """
        before = self._prompt(prompt, prompt_name)
        ids = self.model.backbone.tokenize([before + text for text in texts_of(texts)])
        rows, _ = self._framed(ids, Ask(on_cut=on_cut))
        shape = (len(rows), self.model.compression, self.model.backbone.hidden_size)
        prompts = np.empty(shape, np.float32)
        self.model.run(rows, self.model.soft_prompt, [torch.from_numpy(prompts)], batch_tokens)
        single: Array = prompts[0] if isinstance(texts, str) else prompts
        return single

    def decode(
        self,
        texts: str | Sequence[str] | None = None,
        *,
        soft_prompts: ArrayLike | Tensor | None = None,
        max_new_tokens: int | None = None,
        config: DecodeConfig | None = None,
    ) -> list[str]:
        """Writes out what the embedding of each text stands for.

        Args:
            texts: one text or many, embedded as queries; or else
            soft_prompts: (batch, compression, hidden) from `soft_prompts`. Pooled embeddings cannot be decoded.
            max_new_tokens: longest answer, in tokens; the short way to that field of `config`.
            config: sampling, stop strings, a question, the batch size. Without it: greedy, at most 256 tokens.

        Returns:
            one answer a text, up to the model's own stop token.

        Raises:
            InputError: unless exactly one of texts and soft_prompts is given, of the right shape and dtype.
        """
        return decode_texts(self.model, self._prompts_to_read(texts, soft_prompts), _how(config, max_new_tokens))

    def decode_tokens(
        self,
        texts: str | Sequence[str] | None = None,
        *,
        soft_prompts: ArrayLike | Tensor | None = None,
        max_new_tokens: int | None = None,
        config: DecodeConfig | None = None,
    ) -> list[Decoded]:
        """`decode`, with the log-probability of every token and why each text ends."""
        return decode_tokens(self.model, self._prompts_to_read(texts, soft_prompts), _how(config, max_new_tokens))

    def decode_stream(
        self,
        text: str | None = None,
        *,
        soft_prompts: ArrayLike | Tensor | None = None,
        max_new_tokens: int | None = None,
        config: DecodeConfig | None = None,
    ) -> Iterator[str]:
        """`decode` for one text or soft prompt, a piece at a time; closing the iterator stops the backbone."""
        texts = None if text is None else check_texts(text)
        return decode_stream(self.model, self._prompts_to_read(texts, soft_prompts), _how(config, max_new_tokens))

    def _prompts_to_read(
        self, texts: str | Sequence[str] | None, prompts: ArrayLike | Tensor | None
    ) -> ArrayLike | Tensor:
        if (texts is None) == (prompts is None):
            raise InputError("decode takes either texts or soft_prompts; give exactly one of them")
        if not self.decodes:
            raise InputError(
                "this checkpoint was made without the reconstruction loss, so nothing can read its soft prompts; "
                "to decode, make one with foresay train and --reconstruction-weight above 0"
            )
        if texts is not None:
            return self.soft_prompts([texts] if isinstance(texts, str) else texts, prompt_name="query")
        return prompts  # type: ignore[return-value]  # exactly one of the two is None

    # -- what both share ---------------------------------------------------------------------------------

    @property
    def _lengths(self) -> tuple[int, ...]:
        return (*self.dims, self.dim)

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """What is put before each text."""
        if prompt is not None and prompt_name is not None:
            raise InputError("give either prompt or prompt_name, not both")
        if prompt_name is not None and prompt_name not in self.prompts:
            raise InputError(f"no prompt named {prompt_name!r}; this checkpoint has {', '.join(sorted(self.prompts))}")
        return prompt if prompt is not None else self.prompts.get(prompt_name or "", "")

    def _framed(self, ids: Sequence[Sequence[int]], ask: Ask) -> tuple[list[list[int]], list[int]]:
        """Rows inside the template, and which were cut: reported or refused, as asked."""
        rows, flags = self.model.framed(ids, self.max_tokens)
        cut = [i for i, flag in enumerate(flags) if flag]
        ask.handle_cut(cut, len(rows), self.max_tokens)
        return rows, cut

    def _check_room(self, soft_prompts: Array, texts: int) -> None:
        expected = (texts, self.model.compression, self.model.backbone.hidden_size)
        if soft_prompts.shape != expected or soft_prompts.dtype != np.float32:
            found = f"{soft_prompts.dtype} {soft_prompts.shape}"
            raise InputError(f"soft_prompts is an array of {found}; expected float32 {expected} to fill")

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

    def _weigh(self, texts: Sequence[str], ids: Sequence[Sequence[int]], ask: Ask) -> Embedded:
        """Embeds, and adds the teacher's vectors of the bare texts; cut is what either of them has cut."""
        made = self._embed_rows(ids, replace(ask, truncate_dim=None, normalize=False))
        mixed = self.add_query_part(made.vectors, texts, ask)
        return Embedded(finish(mixed.vectors, self._lengths, ask), made.tokens, sorted({*made.cut, *mixed.cut}))

    def _embed_rows(self, ids: Sequence[Sequence[int]], ask: Ask) -> Embedded:
        rows, cut = self._framed(ids, ask)
        vectors = np.empty((len(rows), self.dim), np.float32)
        take: Callable[[Tensor], Tensor | tuple[Tensor, ...]] = self.model.embed
        out = [torch.from_numpy(vectors)]
        if ask.soft_prompts is not None:
            self._check_room(ask.soft_prompts, len(rows))
            take, out = self.model.outputs, [torch.from_numpy(ask.soft_prompts), *out]
        with ask.bar(len(rows)) as done:
            self.model.run(rows, take, out, ask.batch_tokens or 8192, done, ask.batch_size)
        tokens = [len(row) + self.model.tokens for row in rows]
        return Embedded(finish(vectors, self._lengths, ask), tokens, cut)


def _check_weight(weight: float, teacher: DocumentTeacher | None) -> float:
    """A weight of the query's own part, if it is one and there is a teacher to give that part."""
    if not 0 <= weight <= 1:
        raise InputError(f"the weight of the query's own part is {weight}; expected a number from 0 to 1")
    if weight and teacher is None:
        raise InputError(
            "this checkpoint embeds documents itself, so there is no teacher whose vector of the query could be "
            "added; hand one in by with_document_teacher"
        )
    return float(weight)


def _is_document(prompt_name: str | None) -> bool:
    """Whether a prompt of this name stands before documents, as mteb names them."""
    return prompt_name is not None and (prompt_name == "document" or prompt_name.endswith("-document"))


def _how(config: DecodeConfig | None, max_new_tokens: int | None) -> DecodeConfig:
    config = config or DecodeConfig()
    return config if max_new_tokens is None else replace(config, max_new_tokens=max_new_tokens)
