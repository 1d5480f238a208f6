"""The encoder one uses: texts to embeddings, texts to soft prompts, soft prompts back to text.

In: a checkpoint (folder or hub id) or a `Model` in training. Out: numpy arrays, float32.
Careful: queries and documents are embedded differently. `encode_query` and `encode_document` know how; `encode` embeds
with the checkpoint, and adds no prompt unless told. An encoder keeps no counters, so threads may share one; several
checkpoints may share one backbone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from .backbone import Backbone
from .checkpoints.load import load
from .decode_methods import DecodeMethods
from .document_teacher import DocumentSide, DocumentTeacher
from .embedded import Array, Ask, Embedded, OnCut, check_finite, finish, texts_of
from .encode_methods import EncodeMethods, is_document
from .errors import InputError
from .model import Model
from .prompts import some_names
from .taught_methods import TaughtMethods, check_weight

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


__all__ = ["Array", "DocumentTeacher", "Embedded", "Encoder", "OnCut"]


class Encoder(TaughtMethods, DecodeMethods, EncodeMethods):
    """Embeds what the backbone would answer, and decodes it.

    Attributes:
        model: the backbone, the special tokens and the maps.
        prompts: what goes before a text, by name: `query` and `document`.
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
        self.query_weight = check_weight(query_weight, document_teacher)
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
            dtype: of the backbone; `auto` is what the checkpoint was made in, or float32 on a CPU without arithmetic
                for that. Ignored with `backbone`.
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

        Raises:
            InputError: as `encode`.
            BackboneError: if a vector is not finite.
        """
        ask, checked = ask or Ask(), texts_of(texts)
        before = self._prompt(prompt, prompt_name)
        finish(np.empty((0, self.dim), np.float32), self._lengths, ask)  # a wrong length is said before the work
        if self.document_teacher is not None and is_document(prompt_name):
            if ask.soft_prompts is not None:
                raise InputError(f"documents are embedded by {self.document_teacher.name}, which has no soft prompts")
            made = self._documents.embed(checked, ask)
            return check_finite(replace(made, vectors=finish(made.vectors, self._lengths, ask)), checked)
        ids = self.model.backbone.tokenize([before + text for text in checked])
        made = self._weigh(checked, ids, ask) if self.query_weight else self._embed_rows(ids, ask)
        return check_finite(made, checked)

    def embed_ids(self, ids: Sequence[Sequence[int]], *, ask: Ask | None = None) -> Embedded:
        """`embed` for texts that are token ids of the backbone's tokenizer already, prompt included.

        Template and special tokens are put around them, and they are cut as texts are.

        Raises:
            InputError: for an id that no text can hold.
            BackboneError: if a vector is not finite.
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
        return check_finite(self._embed_rows(rows, ask or Ask()))

    def tokenize(
        self, texts: str | Sequence[str], *, prompt: str | None = None, prompt_name: str | None = None
    ) -> list[list[int]]:
        """Token ids of each text with its prompt, as `embed_ids` takes them: no template, no special tokens."""
        before = self._prompt(prompt, prompt_name)
        return self.model.backbone.tokenize([before + text for text in texts_of(texts)])

    # -- soft prompts ------------------------------------------------------------------------------------

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

    # -- what both share ---------------------------------------------------------------------------------

    @property
    def _lengths(self) -> tuple[int, ...]:
        return (*self.dims, self.dim)

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """What is put before each text."""
        if prompt is not None and prompt_name is not None:
            raise InputError("give either prompt or prompt_name, not both")
        if prompt_name is not None and prompt_name not in self.prompts:
            known = some_names(self.prompts, "encoder.prompts")
            raise InputError(f"no prompt named {prompt_name!r}; this checkpoint has {known}")
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
