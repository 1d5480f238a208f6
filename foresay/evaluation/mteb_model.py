"""Any embedder as an mteb model: right prompt, nothing embedded twice, memory that does not grow with the corpus.

In: an `Encoder`, or any object with `encode_query` and `encode_document`. Out: what mteb asks a model for.
mteb gives texts a role: query, document, or none (similarity, classification, clustering). Only a checkpoint gets a
prompt, chosen as mteb chooses it for plain sentence-transformers. Other models bring their own prompts, and teachers
read the bare text.
"""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from mteb.abstasks import AbsTask, AbsTaskRetrieval
from mteb.models import ModelMeta, SearchEncoderWrapper
from mteb.models.abs_encoder import AbsEncoder, get_prompt_name
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType

from ..checkpoints.fingerprints import encoder_fingerprint
from ..embedded import Ask
from ..encoder import Array, Encoder
from ..prompts import EVALUATION
from ..teachers.base import digest
from .folder_tasks import FolderMetadata
from .remote import RemoteEncoder
from .vector_cache import Store, key

_BLOCK = 1024
"""Texts embedded between two writes: what a kill costs at most."""
_SCORES_AT_ONCE = 1 << 26
"""Similarities that exist together: 256 MiB in float32."""
_Block = tuple[int, Array, list[bool]]


@runtime_checkable
class Embedder(Protocol):
    """What can be evaluated.

    May also have `encode` for texts that are neither query nor document (else they are embedded as queries), a
    `fingerprint`, without which its vectors are not kept, a `document_fingerprint`, where others embed documents just
    so, and `seconds_per_query`, where it knows better than a clock.
    """

    def encode_query(self, texts: Sequence[str], /) -> Array:
        """(texts, dim)."""
        ...

    def encode_document(self, texts: Sequence[str], /) -> Array:
        """(texts, dim)."""
        ...


def fingerprint(embedder: object) -> str | None:
    """What tells one embedder from another: of a checkpoint a hash of everything that its vectors depend on."""
    if not isinstance(embedder, Encoder):
        given = getattr(embedder, "fingerprint", None)
        return None if given is None else str(given)
    return encoder_fingerprint(embedder)


def _document_fingerprint(embedder: object) -> str | None:
    """Of who embeds the documents: a teacher that does it for many embeds them once for all."""
    if not isinstance(embedder, Encoder) or embedder.document_teacher is None:
        given = getattr(embedder, "document_fingerprint", None)
        return fingerprint(embedder) if given is None else str(given)
    teacher, rotation = embedder.load_document_teacher().fingerprint(), embedder.model.rotation
    return teacher if rotation is None else digest(teacher, rotation.cpu().numpy().tobytes().hex())


def _store(folder: Path | None, name: str | None) -> Store | None:
    return Store(folder / f"{name}.sqlite") if folder and name else None


class MtebModel(AbsEncoder):  # type: ignore[misc]  # mteb is not type-checked here
    """An embedder between mteb and its vectors on disk.

    Attributes:
        name: row of the table.
        embedder: who embeds.
        remote: the same with a pool's workers, which then embed in its place.
        fingerprint: None means that vectors are not kept.
        prompts: of a checkpoint, by mteb's names; its own precede ours. None for any other embedder.
        task_prompts: whether tasks may have prompts; if not, the checkpoint's own are all, as in service.
        cut: of the texts seen since `start`, those that were too long, by role.
        seconds: spent on embedding queries since `start`.
        embedded: queries they were spent on.
    """

    def __init__(
        self,
        name: str,
        embedder: Embedder | RemoteEncoder,
        vectors: Path | None = None,
        *,
        task_prompts: bool = True,
    ) -> None:
        """Wraps an embedder.

        Args:
            name: row of the table.
            embedder: a checkpoint's `Encoder`, here or with a pool's workers, or anything that embeds.
            vectors: folder to keep vectors in.
            task_prompts: whether tasks may have prompts of their own.
        """
        self.remote: RemoteEncoder | None = None
        if isinstance(embedder, RemoteEncoder):
            self.remote, embedder = embedder, embedder.encoder
        self.name, self.embedder, self.task_prompts = name, embedder, task_prompts
        self.fingerprint = fingerprint(embedder)
        self.store = _store(vectors, self.fingerprint)
        self.document_store = _store(vectors, _document_fingerprint(embedder))
        self.prompts = self._prompts()
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": f"foresay/{name}",
                "revision": self.fingerprint or "unknown",
                "similarity_fn_name": ScoringFunction.COSINE,
            }
        )
        self.start()

    def start(self) -> None:
        """Sets the counters to zero: a task begins."""
        self.cut: dict[str, int] = {}
        self.seconds, self.embedded = 0.0, 0

    @property
    def seconds_per_query(self) -> float:
        """Since `start`; NaN if every vector came from the disk. An embedder that knows better says so itself."""
        own = getattr(self.embedder, "seconds_per_query", None)
        if own is not None:
            return float(own)
        return self.seconds / self.embedded if self.embedded else math.nan

    def encode(
        self,
        inputs: Any,  # noqa: ANN401  # mteb's DataLoader
        *,
        task_metadata: Any,  # noqa: ANN401
        prompt_type: PromptType | None = None,
        **_: object,
    ) -> Array:
        """What mteb calls: embeddings (texts, dim) of the texts of a loader."""
        texts = [text for batch in inputs for text in batch["text"]]
        return self.embed(texts, prompt_type and prompt_type.value, self.prompt(task_metadata, prompt_type))

    def _prompts(self) -> dict[str, str] | None:
        if not isinstance(self.embedder, Encoder):
            return None
        own = self.embedder.prompts
        if self.task_prompts:
            return {**EVALUATION, **own}
        return {role: own[role] for role in ("query", "document") if role in own}

    def prompt(self, metadata: Any, role: PromptType | None) -> str:  # noqa: ANN401
        """What goes before a text: what a folder of one's own says, else what the checkpoint says for the task."""
        if self.prompts is None:
            return ""
        if self.task_prompts and isinstance(metadata, FolderMetadata) and metadata.prompt is not None:
            own = (
                metadata.prompt if role is None or isinstance(metadata.prompt, str) else metadata.prompt.get(role.value)
            )
            if isinstance(own, str):
                return own
        name = get_prompt_name(self.prompts, metadata, role)
        return self.prompts[name] if name else ""

    def prompt_words(self, task: AbsTask) -> str:
        """What goes before the texts of a task, for a reader of the results."""
        asymmetric = isinstance(task, AbsTaskRetrieval)
        roles: list[PromptType | None] = [PromptType.query, PromptType.document] if asymmetric else [None]
        found = {role: self.prompt(task.metadata, role) for role in roles}
        if self._by_teacher("document"):
            found.pop(PromptType.document, None)
        named = [f"{prompt!r} before a {role.value if role else 'text'}" for role, prompt in found.items() if prompt]
        return ", ".join(named) or "none"

    def embed(self, texts: Sequence[str], role: str | None, prompt: str = "") -> Array:
        """Embeddings (texts, dim), from the disk where they are there; `role` is query, document or None."""
        store = self.document_store if role == "document" else self.store
        if store is None:
            [(_, vectors, cut)] = self._in_blocks([texts], role, prompt)
            self._count(role, sum(cut))
            return vectors
        if self._by_teacher(role):
            prompt = ""  # it reads the bare text
        keys = [key(role or "", prompt, text) for text in texts]
        missing = store.missing(keys)
        todo = {name: text for name, text in zip(keys, texts, strict=True) if name in missing}
        order = sorted(todo, key=lambda name: len(todo[name]), reverse=True)  # blocks of like length pad little
        blocks = [order[start : start + _BLOCK] for start in range(0, len(order), _BLOCK)]
        for place, vectors, cut in self._in_blocks([[todo[name] for name in block] for block in blocks], role, prompt):
            store.add(blocks[place], vectors, cut)
        vectors, cuts = store.read(keys)
        self._count(role, cuts)
        return vectors

    def _in_blocks(self, blocks: Sequence[Sequence[str]], role: str | None, prompt: str) -> Iterator[_Block]:
        """Each block with its place and which of its texts were cut: one after the other, or a pool's as they come."""
        began = time.perf_counter()
        for place, vectors, cut in self._each(blocks, role, prompt):
            if role != "document":
                self.seconds += time.perf_counter() - began
                self.embedded += len(blocks[place])
            yield place, vectors, cut
            began = time.perf_counter()

    def _each(self, blocks: Sequence[Sequence[str]], role: str | None, prompt: str) -> Iterator[_Block]:
        embedder = self.embedder
        if not isinstance(embedder, Encoder):
            yield from ((place, *_by_others(embedder, texts, role)) for place, texts in enumerate(blocks))
            return
        before = {"prompt_name": "document"} if self._by_teacher(role) else {"prompt": prompt}
        made = enumerate(embedder.embed(texts, **before, ask=Ask(on_cut="ignore")) for texts in blocks)
        for place, block in self.remote.embed_blocks(blocks, before) if self.remote else made:
            cut = set(block.cut)
            yield place, block.vectors, [i in cut for i in range(len(block.vectors))]

    def _by_teacher(self, role: str | None) -> bool:
        return role == "document" and isinstance(self.embedder, Encoder) and self.embedder.document_teacher is not None

    def _count(self, role: str | None, cut: int) -> None:
        name = role or "text"
        self.cut[name] = self.cut.get(name, 0) + cut


def _by_others(embedder: Embedder, texts: Sequence[str], role: str | None) -> tuple[Array, list[bool]]:
    """What is not a checkpoint reads texts without a prompt, and says nothing of cuts."""
    if role == "document":
        vectors = embedder.encode_document(texts)
    elif role is None and hasattr(embedder, "encode"):
        vectors = embedder.encode(texts)
    else:
        vectors = embedder.encode_query(texts)
    return np.asarray(vectors, np.float32), [False] * len(texts)


class Search(SearchEncoderWrapper):  # type: ignore[misc]
    """mteb's exact search, the documents in blocks such that all similarities of a block fit into memory."""

    def search(self, queries: Any, **options: Any) -> Any:  # noqa: ANN401
        """Top documents of each query; see mteb's SearchProtocol."""
        self.corpus_chunk_size = max(1, min(50_000, _SCORES_AT_ONCE // max(1, len(queries))))
        return super().search(queries, **options)
