"""An index that knows its model: documents in, hits out.

In: an `Encoder`, documents. Out: a folder with a LanceDB table, and `Hit` values.

    index.json     which table is the current one
    tables/        LanceDB; a table's metadata says what made its vectors
    writing.lock   held by the one process that writes

Careful: vectors of two models look alike and mean nothing to each other. Every add and every query compares the
encoder's fingerprint with the table's. Where they differ, stored texts are embedded again: the same vectors are the
same model in another place, anything else is refused.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from .. import __version__
from ..backbone import check_texts
from ..checkpoints.fingerprints import encoder_fingerprint
from ..config import IndexConfig
from ..data.queries import Progress
from ..embedded import Array, unit
from ..encoder import Encoder
from ..errors import DataError, InputError
from ..files import differences, locked, read_json, write_json
from .chunks import Chunk, Chunker
from .documents import Document, Hit, checked
from .ranking import documents, fuse
from .store import Store, schema

FORMAT = 1
_LOCK = "writing.lock"
MODES = ("hybrid", "dense", "words")
T = TypeVar("T")
_BLOCK = 512
"""Documents in one commit: what a kill costs at most."""
_TIDY = 64
"""Commits between two times of joining small files."""
_DEEP = 100
"""Documents of each ranking that are fused, at least."""
_SAME = 0.995
"""Least median cosine of stored vectors to those of the same texts embedded again; dtypes differ by less."""
_SAMPLE = 8


@dataclass(frozen=True)
class Added:
    """What `Index.add` did: documents that were new, that replaced one, and that were there just so."""

    new: int = 0
    changed: int = 0
    kept: int = 0


@dataclass(frozen=True)
class Explained:
    """Why a query finds what it finds.

    Attributes:
        decoded: what the model thinks is asked, in words.
        teacher: who embedded the bare query for comparison.
        hits: what that vector finds.
    """

    decoded: str
    teacher: str
    hits: list[Hit]


class Index:
    """A searchable table of documents, and the encoder that its vectors belong to.

    Attributes:
        path: its folder.
        encoder: embeds queries, and documents that are added.
        config: how documents are cut and embedded.
    """

    def __init__(self, path: Path, store: Store, encoder: Encoder, config: IndexConfig) -> None:
        """Use `create` or `open`."""
        self.path, self.encoder, self.config = path, encoder, config
        self._store = store

    @classmethod
    def create(cls, path: str | Path, encoder: Encoder, config: IndexConfig | None = None) -> "Index":
        """A new, empty index.

        Args:
            path: folder to make.
            encoder: whose vectors it holds.
            config: how documents are cut and embedded.

        Raises:
            DataError: if there is something at `path` already.
            InputError: if the encoder cannot embed as asked.
        """
        path, config = Path(path), config or IndexConfig()
        if path.exists() and (not path.is_dir() or any(p.name != _LOCK for p in path.iterdir())):
            raise DataError(f"{path} is there already; open it, or use another place")
        Chunker(encoder, config.chunk_tokens, config.overlap)
        width = encoder.encode_query([""], truncate_dim=config.truncate_dim or None).shape[1]
        path.mkdir(parents=True, exist_ok=True)
        with locked(path / _LOCK):
            store = Store.create(path / "tables", "rows-1", width, _about(encoder, config))
            write_json(path / "index.json", {"format": "foresay-index", "format_version": FORMAT, "table": "rows-1"})
        return cls(path, store, encoder, config)

    @classmethod
    def open(cls, path: str | Path, encoder: Encoder) -> "Index":
        """An index that is there.

        Raises:
            DataError: if there is none, it is of another version, or another model made its vectors.
        """
        path = Path(path)
        store = open_store(path)
        about = store.about()
        index = cls(path, store, encoder, IndexConfig(**about["config"]))
        _check(store, about, encoder, index._embed, path)
        return index

    def __len__(self) -> int:
        """Documents."""
        return int(self._store.table.count_rows("chunk = 0"))

    # -- writing -----------------------------------------------------------------------------------------

    def add(self, items: Iterable[Document], progress: Progress | None = None) -> Added:
        """Adds documents as they come; run again after a kill, it passes over those that are there.

        Args:
            items: documents; one whose id is there and whose text or metadata differs replaces the old one.
            progress: told after each commit.

        Returns:
            how many were new, changed, and there already.

        Raises:
            DataError: for a document that cannot be indexed, a vector that is not finite, or a second writer.
        """
        chunker = Chunker(self.encoder, self.config.chunk_tokens, self.config.overlap)
        new = changed = kept = 0
        with locked(self.path / _LOCK):
            there = {_number(name): _number(digest) for name, digest in self._store.digests()}
            for number, block in enumerate(_blocks(items), 1):
                latest = {item.id: checked(item) for item in block}
                todo = [item for item in latest.values() if there.get(_number(item.id)) != _number(item.digest())]
                fresh = [item for item in todo if _number(item.id) not in there]
                stale = [item for item in todo if _number(item.id) in there]
                self._write(todo, {item.id for item in fresh}, chunker)
                there |= {_number(item.id): _number(item.digest()) for item in todo}
                new, changed, kept = new + len(fresh), changed + len(stale), kept + len(block) - len(todo)
                if number % _TIDY == 0:
                    self._store.tidy()
                if progress:
                    progress(new + changed + kept, None, "")
            self._store.tidy()
        return Added(new, changed, kept)

    def delete(self, ids: Sequence[str]) -> int:
        """Deletes documents by id, and says how many there were."""
        ids = check_texts(ids, "id")
        before = len(self)
        with locked(self.path / _LOCK):
            for block in _blocks(ids):
                self._store.delete(block)
            self._store.tidy()
        return before - len(self)

    def _write(self, items: Sequence[Document], fresh: set[str], chunker: Chunker) -> None:
        parts = [(item, number, chunk) for item in items for number, chunk in enumerate(chunker(item.text))]
        if not parts:
            return
        vectors = self._embed([chunk.text for _, _, chunk in parts])
        bad = sorted({part[0].id for part, vector in zip(parts, vectors, strict=True) if not np.isfinite(vector).all()})
        if bad:
            raise DataError(
                f"the encoder gives vectors that are not finite for {len(bad)} documents (first: {bad[0]!r}); take "
                "them out, or load it in another dtype"
            )
        about, dim = self._store.about(), vectors.shape[1]
        for write, chosen in ((self._store.append, True), (self._store.replace, False)):
            rows = [i for i, part in enumerate(parts) if (part[0].id in fresh) == chosen]
            if rows:
                write(_table([parts[i] for i in rows], vectors[rows], schema(dim, about)))

    def _embed(self, texts: Sequence[str]) -> Array:
        cut = self.config.truncate_dim or None
        return self.encoder.encode_document(list(texts), normalize_embeddings=True, truncate_dim=cut, on_cut="ignore")

    # -- searching ---------------------------------------------------------------------------------------

    def search(self, query: str, top: int = 10, *, mode: str = "hybrid", where: str | None = None) -> list[Hit]:
        """Finds documents for one query; see `search_many`."""
        return self.search_many([query], top, mode=mode, where=where)[0]

    def search_many(
        self, queries: Sequence[str], top: int = 10, *, mode: str = "hybrid", where: str | None = None
    ) -> list[list[Hit]]:
        """Finds documents for each query.

        Args:
            queries: embedded together.
            top: documents wanted.
            mode: `dense` ranks by cosine, `words` by BM25, `hybrid` fuses both by reciprocal rank.
            where: SQL over `id`, `text` and `metadata`, such as `json_get_int(metadata, 'year') > 1990`.

        Returns:
            hits of each query, best first.

        Raises:
            InputError: for a bad filter, mode or number.
        """
        if mode not in MODES:
            raise InputError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
        if top < 1:
            raise InputError(f"top is {top}; expected 1 or more")
        queries = check_texts(queries, "query")
        vectors: Sequence[Array | None] = [None] * len(queries)
        if mode != "words" and queries:
            vectors = list(unit(self.encoder.encode_query(queries, truncate_dim=self.config.truncate_dim or None)))
        total = self._store.count()
        return [self._one(text, vector, top, mode, where, total) for text, vector in zip(queries, vectors, strict=True)]

    def explain(self, query: str, top: int = 10, *, where: str | None = None) -> Explained:
        """What the model thinks is asked, and what a search for the bare query finds.

        The bare query is embedded as a document is, by the teacher where one embeds documents.
        """
        decoded = self.encoder.decode(query, max_new_tokens=64)[0] if self.encoder.decodes else "(it cannot decode)"
        vector = self._embed(check_texts(query, "query"))[0]
        hits = self._one(query, vector, top, "dense", where, self._store.count())
        teacher = self.encoder.document_teacher
        return Explained(decoded, "the checkpoint as documents" if teacher is None else teacher.name, hits)

    def _one(self, text: str, vector: Array | None, top: int, mode: str, where: str | None, total: int) -> list[Hit]:
        depth = max(top, _DEEP) if mode == "hybrid" else top
        rankings = []
        if vector is not None:
            rankings.append(documents(lambda n: self._store.nearest(vector, n, where), depth, total))
        if mode != "dense":
            rankings.append(documents(lambda n: self._store.words(text, n, where), depth, total))
        return fuse(rankings, top) if mode == "hybrid" else rankings[0]


def open_store(path: Path) -> Store:
    """The current table of an index.

    Raises:
        DataError: if there is no index, or one of another version.
    """
    if not (path / "index.json").is_file():
        raise DataError(f"there is no index at {path}; make one with: foresay index CHECKPOINT DOCUMENTS -o {path}")
    pointer = read_json(path / "index.json")
    if pointer.get("format") != "foresay-index" or pointer.get("format_version") != FORMAT:
        raise DataError(
            f"{path} is of index version {pointer.get('format_version')}, this is foresay {__version__}, which reads "
            f"{FORMAT}; make the index again"
        )
    return Store.open(path / "tables", str(pointer["table"]))


# -- whose vectors ---------------------------------------------------------------------------------------


def _about(encoder: Encoder, config: IndexConfig) -> dict[str, Any]:
    """What made the vectors: to compare, and in words."""
    model, teacher = encoder.model, encoder.document_teacher
    return {
        "fingerprint": _fingerprint(encoder),
        "config": asdict(config),
        "model": {
            "backbone": model.backbone.name,
            "readout": model.readout,
            "special tokens": model.tokens,
            "prompts": encoder.prompts,
            "documents by": "the checkpoint" if teacher is None else teacher.name,
            "width": encoder.dim,
        },
    }


def _fingerprint(encoder: Encoder) -> str:
    whole = encoder_fingerprint(encoder) + repr(sorted(encoder.prompts.items()))
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def _check(store: Store, about: dict[str, Any], encoder: Encoder, embed: Any, path: Path) -> None:  # noqa: ANN401
    """Refuses an encoder whose vectors of the stored texts are not the stored vectors."""
    if about["fingerprint"] == _fingerprint(encoder):
        return
    made = _about(encoder, IndexConfig(**about["config"]))["model"]
    words = differences(about["model"], made) or "its weights differ"
    if about["model"]["width"] == encoder.dim and store.count():
        texts, stored = store.sample(_SAMPLE)
        cosine = float(np.median((unit(stored) * unit(embed(texts))).sum(axis=1)))
        if cosine >= _SAME:
            return
        words = f"{words}; stored texts embedded again have a median cosine of {cosine:.3f} to the stored vectors"
    raise DataError(
        f"another model made the vectors of {path}: {words}; search it with the checkpoint that made it, or index "
        "again with this one"
    )


# -- small parts -----------------------------------------------------------------------------------------


def _blocks(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while block := list(islice(rest, _BLOCK)):
        yield block


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _table(parts: Sequence[tuple[Document, int, Chunk]], vectors: Array, columns: pa.Schema) -> pa.Table:
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    return pa.table(
        {
            "id": [document.id for document, _, _ in parts],
            "chunk": pa.array([number for _, number, _ in parts], pa.int32()),
            "start": [chunk.start for _, _, chunk in parts],
            "end": [chunk.end for _, _, chunk in parts],
            "text": [chunk.text for _, _, chunk in parts],
            "metadata": pa.array([json.dumps(dict(d.metadata), ensure_ascii=False) for d, _, _ in parts], pa.json_()),
            "digest": [document.digest() for document, _, _ in parts],
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        },
        schema=columns,
    )
