"""The encoder one uses: texts to embeddings, texts to soft prompts, soft prompts back to text.

In: a checkpoint (folder or hub id) or a `Model` in training. Out: numpy arrays, float32.
What a reader would get wrong: queries and documents get different prompts. `encode_query` and
`encode_document` know them; `encode` adds none unless told.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from rich.progress import Progress
from torch import Tensor

from .backbone import Backbone, check_texts
from .checkpoints.load import load
from .config import DecodeConfig, TeachConfig
from .errors import CheckpointError, InputError
from .model import Model
from .reading.decode import Decoded, decode_stream, decode_texts, decode_tokens

if TYPE_CHECKING:
    from .teachers.teach import Teacher

logger = logging.getLogger(__name__)

Array = NDArray[np.float32]
OnCut = Literal["warn", "error", "ignore"]


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


class Encoder:
    """Embeds what the backbone would answer, and decodes it.

    Attributes:
        model: the backbone, the special tokens and the maps.
        prompts: what stands before a text, by name: `query` and `document`.
        max_tokens: longest input; longer texts are cut, and `cut` counts them.
        cut: texts cut so far.
        dims: lengths that an embedding may be shortened to.
        decodes: whether soft prompts were trained to be read.
        document_teacher: who embeds documents, where the checkpoint does not. Embeddings live in the teacher's space,
            so an index that the teacher made serves as it is.
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
    ) -> None:
        """Wraps a model; `Encoder.from_pretrained` loads one.

        Args:
            model: a trained or training model.
            prompts: by name; names that are missing mean no prompt.
            max_tokens: longest input, template and special tokens included.
            dims: lengths that an embedding may be shortened to.
            decodes: whether soft prompts were trained to be read.
            document_teacher: loaded when the first document comes.
        """
        self.model = model
        self.prompts = {"query": "", "document": "", **(prompts or {})}
        self.max_tokens = max_tokens
        self.cut = 0
        self.dims, self.decodes = tuple(dims), decodes
        self.document_teacher = document_teacher
        self._teacher: Teacher | None = None

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
        )

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.model.dim

    # -- embeddings --------------------------------------------------------------------------------------

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        batch_tokens: int = 8192,
        on_cut: OnCut = "warn",
        show_progress_bar: bool = False,
        soft_prompts: Array | None = None,
    ) -> Array:
        """Embeds texts, one forward pass each.

        Args:
            texts: one text or many.
            prompt: put before each text.
            prompt_name: or the name of one of `prompts`.
            normalize_embeddings: scale each embedding to length 1.
            truncate_dim: keep this many numbers of each, one of `dims`.
            batch_tokens: most padded tokens in one forward pass.
            on_cut: what to do about texts longer than `max_tokens`; they keep their beginning.
            show_progress_bar: show one.
            soft_prompts: an array (texts, compression, hidden) to fill with the soft prompts of the same pass, for
                instance one that is mapped into memory (`reading.stored`).

        Returns:
            (texts, dim) float32; (dim,) for a single string.

        Raises:
            InputError: for texts that are not strings, unknown prompts, other lengths, and cut texts on request.
        """
        rows = self._rows(texts, prompt, prompt_name, on_cut)
        embeddings = np.empty((len(rows), self.dim), np.float32)
        take, out = self.model.embed, [torch.from_numpy(embeddings)]
        if soft_prompts is not None:
            self._check_room(soft_prompts, len(rows))
            take, out = self.model.outputs, [torch.from_numpy(soft_prompts), *out]  # type: ignore[assignment]
        with Progress(transient=True, disable=not show_progress_bar) as bar:
            task = bar.add_task("encoding", total=len(rows))
            self.model.run(rows, take, out, batch_tokens, partial(bar.advance, task))
        embeddings = self._finish(embeddings, truncate_dim, normalize_embeddings)
        single: Array = embeddings[0] if isinstance(texts, str) else embeddings
        return single

    def _check_room(self, soft_prompts: Array, texts: int) -> None:
        expected = (texts, self.model.compression, self.model.backbone.hidden_size)
        if soft_prompts.shape != expected or soft_prompts.dtype != np.float32:
            found = f"{soft_prompts.dtype} {soft_prompts.shape}"
            raise InputError(f"soft_prompts is an array of {found}; expected float32 {expected} to fill")

    def encode_query(self, texts: str | Sequence[str], **options: object) -> Array:
        """`encode` with the checkpoint's query prompt."""
        return self.encode(texts, prompt_name="query", **options)  # type: ignore[arg-type]

    def encode_document(self, texts: str | Sequence[str], **options: object) -> Array:
        """`encode` with the checkpoint's document prompt; or the teacher's vectors of the bare texts.

        Of the options, a teacher heeds `normalize_embeddings` and `truncate_dim`.
        """
        if self.document_teacher is None:
            return self.encode(texts, prompt_name="document", **options)  # type: ignore[arg-type]
        vectors = self.load_document_teacher().embed(check_texts(texts))
        rotation = self.model.rotation
        if rotation is not None and not self.document_teacher.turned:
            vectors = vectors @ rotation.cpu().numpy()
        length, normalize = options.get("truncate_dim"), bool(options.get("normalize_embeddings"))
        vectors = self._finish(vectors, length, normalize)  # type: ignore[arg-type]
        single: Array = vectors[0] if isinstance(texts, str) else vectors
        return single

    def with_document_teacher(self, teacher: "Teacher | None") -> Self:
        """The same encoder, with documents embedded by a loaded teacher; by the checkpoint itself without one.

        Raises:
            InputError: if its vectors have another width than the embeddings.
        """
        if teacher is not None and teacher.dim != self.dim:
            raise InputError(
                f"{teacher.name} gives vectors of width {teacher.dim}, the checkpoint embeds in {self.dim}; "
                "documents can be embedded by the teacher that set the targets, and by no other"
            )
        other = copy.copy(self)
        named = None if teacher is None else DocumentTeacher(teacher.name, teacher.revision, teacher.max_tokens)
        other.document_teacher, other._teacher = named, teacher
        return other

    def share_teacher(self, other: "Encoder") -> None:
        """Uses the teacher that another encoder has in memory, if it is the one that embeds documents here too."""
        if self.document_teacher == other.document_teacher:
            self._teacher = other._teacher

    def load_document_teacher(self) -> "Teacher":
        """The teacher that embeds documents, loaded once.

        Raises:
            InputError: if the checkpoint embeds documents itself.
            CheckpointError: if no teacher is there by that name now, or another one.
        """
        if self._teacher is not None:
            return self._teacher
        from .teachers.teach import load_teacher  # brings in what only a teacher needs

        wanted, backbone = self.document_teacher, self.model.backbone
        if wanted is None:
            raise InputError("this checkpoint embeds documents itself; with_document_teacher makes a teacher do it")
        config = TeachConfig(max_tokens=wanted.max_tokens)
        try:
            teacher = load_teacher(wanted.name, backbone, str(backbone.device), config)
        except InputError as error:
            raise CheckpointError(
                f"documents of this checkpoint are embedded by its teacher: {error}; put it back, or hand one in by "
                "with_document_teacher"
            ) from error
        if teacher.revision != wanted.revision:
            raise CheckpointError(
                f"{wanted.name} is there as {teacher.revision}, the targets of this checkpoint are of "
                f"{wanted.revision}; put that one in its place"
            )
        self._teacher = teacher
        return teacher

    def _finish(self, vectors: Array, truncate_dim: int | None, normalize: bool) -> Array:
        """Shortens vectors (texts, dim) and scales them, where asked."""
        if truncate_dim is not None and truncate_dim not in (*self.dims, self.dim):
            known = ", ".join(map(str, (*self.dims, self.dim)))
            raise InputError(
                f"embeddings of this checkpoint can have the lengths {known}, not {truncate_dim}; "
                "others are made by training with --dims"
            )
        vectors = vectors[:, :truncate_dim]
        if normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return np.ascontiguousarray(vectors, dtype=np.float32)

    @staticmethod
    def similarity(left: Array, right: Array) -> Array:
        """Cosine of each left embedding (left, dim) with each right one (right, dim): (left, right)."""
        a, b = (np.atleast_2d(np.asarray(side, np.float32)) for side in (left, right))
        a, b = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in (a, b))
        return np.asarray(a @ b.T)

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
        rows = self._rows(texts, prompt, prompt_name, on_cut)
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

    def _rows(
        self, texts: str | Sequence[str], prompt: str | None, prompt_name: str | None, on_cut: OnCut
    ) -> list[list[int]]:
        if prompt is not None and prompt_name is not None:
            raise InputError("give either prompt or prompt_name, not both")
        if prompt_name is not None and prompt_name not in self.prompts:
            raise InputError(f"no prompt named {prompt_name!r}; this checkpoint has {', '.join(sorted(self.prompts))}")
        before = prompt if prompt is not None else self.prompts.get(prompt_name or "", "")
        checked = check_texts(texts)
        rows, cut = self.model.rows([before + text for text in checked], self.max_tokens)
        if any(cut):
            self.cut += sum(cut)
            message = f"{sum(cut)} of {len(cut)} texts are longer than {self.max_tokens} tokens"
            if on_cut == "error":
                raise InputError(f"{message}, first number {cut.index(True)}; shorten them, or pass on_cut='warn'")
            if on_cut == "warn":
                logger.warning("%s and were cut; pass on_cut='error' to refuse them", message)
        return rows


def _how(config: DecodeConfig | None, max_new_tokens: int | None) -> DecodeConfig:
    config = config or DecodeConfig()
    return config if max_new_tokens is None else replace(config, max_new_tokens=max_new_tokens)
