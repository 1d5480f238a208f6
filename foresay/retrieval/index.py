"""An index that knows its model: documents in, hits out.

In: an `Encoder`, documents. Out: a folder with a LanceDB table, and `Hit` values.

    index.json     which table is the current one
    tables/        LanceDB; a table's metadata says what made its vectors
    writing.lock   held by the one process that writes

Careful: vectors of two models look alike and mean nothing to each other. Every add and every query compares the
encoder's fingerprint with the table's. Where they differ, stored texts are embedded again: the same vectors are the
same model in another place, anything else is refused.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backbone import check_texts
from ..config import IndexConfig
from ..data.queries import Progress
from ..embedded import Array, unit
from ..encoder import Encoder
from ..errors import DataError, InputError
from ..files import locked
from .chunks import Chunker
from .documents import Document, Hit, checked
from .numbers import Known, blocks
from .parts import Maker, Part, keeping_in
from .pointer import LOCK, check_free, clear, read_pointer, write_pointer
from .rewriting import BLOCK, Pace, next_table, sweep
from .searching import Searcher
from .space import check, cosines, describe
from .states import embed_states, soft_prompts
from .store import Store

_SAMPLE = 8
_MEASURED = 64
"""Rows by which the loss of kept states, and queries by which the recall of a vector index is measured."""


@dataclass(frozen=True)
class Added:
    """What `Index.add` did: documents that were new, that replaced one, and that were there just so."""

    new: int = 0
    changed: int = 0
    kept: int = 0


class Index(Searcher):
    """A searchable table of documents, and the encoder that its vectors belong to.

    Attributes:
        path: its folder.
        encoder: embeds queries, and documents that are added.
        config: how documents are cut and embedded.
        mode: how it ranks unless asked otherwise.
        exact: whether searches pass over the vector index, where there is one.
    """

    def __init__(self, path: Path, store: Store, encoder: Encoder, config: IndexConfig) -> None:
        """Use `create` or `open`."""
        self.path, self.encoder, self.config, self.mode = path, encoder, config, "hybrid"
        self.exact = False
        self._store, self._maker = store, Maker(encoder, config)

    @classmethod
    def create(cls, path: str | Path, encoder: Encoder, config: IndexConfig | None = None) -> "Index":
        """A new, empty index.

        Args:
            path: folder to make.
            encoder: whose vectors it holds.
            config: how documents are cut and embedded.

        Raises:
            DataError: if there is something at `path` already; what a killed `create` left is no matter.
            InputError: if the encoder cannot embed as asked.
        """
        path, config = Path(path), config or IndexConfig()
        check_free(path)
        Chunker(encoder, config.chunk_tokens, config.overlap)
        maker = Maker(encoder, config)
        width = encoder.encode_query(["x"], truncate_dim=config.truncate_dim or None).shape[1]
        path.mkdir(parents=True, exist_ok=True)
        with locked(path / LOCK):
            check_free(path)
            clear(path)
            store = Store.create(path / "tables", "rows-1", width, describe(encoder, config), maker.keeping)
            write_pointer(path, {"kind": "own", "table": "rows-1"})
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
        config = IndexConfig(**about["config"])
        check(about, encoder, lambda: store.sample(_SAMPLE), Maker(encoder, config).embed, path)
        return cls(path, store, encoder, config)

    def __len__(self) -> int:
        """Documents."""
        return self._current().documents()

    # -- writing -----------------------------------------------------------------------------------------

    def add(self, items: Document | Iterable[Document], progress: Progress | None = None) -> Added:
        """Adds documents as they come; run again after a kill, it passes over those that are there.

        Args:
            items: documents, or one; one whose id is there and whose text or metadata differs replaces the old one.
            progress: told after each commit.

        Returns:
            how many were new, changed, and there already.

        Raises:
            DataError: for a document that cannot be indexed, a vector that is not finite, or a second writer.
        """
        chunker = Chunker(self.encoder, self.config.chunk_tokens, self.config.overlap)
        items = [items] if isinstance(items, Document) else items
        new = changed = kept = 0
        with locked(self.path / LOCK):
            store = self._sole()
            there = Known(store.digests())
            pace = Pace(len(there))
            for block in blocks(items, BLOCK):
                latest = {item.id: item for item in map(checked, block)}
                todo = [item for item in latest.values() if not there.has(item.id, item.digest())]
                fresh = [item for item in todo if item.id not in there]
                stale = [item for item in todo if item.id in there]
                for write, chosen in ((store.append, fresh), (store.replace, stale)):
                    if chosen:
                        write(self._maker.rows(_parts(chosen, chunker), store.about()))
                for item in todo:
                    there.add(item.id, item.digest())
                new, changed, kept = new + len(fresh), changed + len(stale), kept + len(block) - len(todo)
                if pace.is_due(len(todo)):
                    store.join()
                if progress:
                    progress(new + changed + kept, None, "")
            store.finish(self.config.ann_rows)
        return Added(new, changed, kept)

    def delete(self, ids: Sequence[str]) -> int:
        """Deletes documents by id, and says how many there were."""
        ids = check_texts(ids, "id")
        before = len(self)
        with locked(self.path / LOCK):
            store = self._sole()
            for block in blocks(ids, BLOCK):
                store.delete(block)
            store.finish(self.config.ann_rows)
        return before - len(self)

    def _sole(self) -> Store:
        """The table, for the one who holds the lock; what a killed migration left after the switch is deleted."""
        store, current = self._current(), str(read_pointer(self.path)["table"])
        sweep(self.path, current, {next_table(current)})
        return store

    def about(self) -> dict[str, Any]:
        """What the table says of itself: what made its vectors, and how states are kept."""
        return self._store.about()

    def holds(self, ids: Sequence[str]) -> set[str]:
        """Those of some ids that are there."""
        wanted = set(check_texts(ids, "id"))
        return {name for name, _ in self._current().digests() if name in wanted}

    def beginnings(self, ids: Sequence[str]) -> dict[str, str]:
        """The first chunk of each of some documents that are there."""
        rows = self._current().of_documents(ids, ["id", "chunk", "text"]).to_pylist()
        return {row["id"]: row["text"] for row in rows if row["chunk"] == 0}

    # -- reading -----------------------------------------------------------------------------------------

    def read(self, hits: Sequence[Hit], max_new_tokens: int = 48) -> list[str]:
        """What the vector of each hit's chunk stands for, decoded from its kept state; the text is not read.

        Raises:
            InputError: if the index keeps no states, or the checkpoint cannot decode.
        """
        keeping = keeping_in(self._store.about())
        if keeping is None:
            raise InputError(f"{self.path} keeps no states to decode; make it with --states float16")
        if not hits:
            return []
        names = [field.name for field in keeping.fields()]
        rows = self._current().of_documents([hit.id for hit in hits], ["id", "start", *names])
        places = {
            place: i for i, place in enumerate(zip(rows["id"].to_pylist(), rows["start"].to_pylist(), strict=True))
        }
        picked = rows.take([places[hit.id, hit.start] for hit in hits])
        prompts = soft_prompts(self.encoder, keeping.unpack(picked))
        return self.encoder.decode(soft_prompts=prompts, max_new_tokens=max_new_tokens)

    def states_cosine(self) -> float | None:
        """Least cosine of vectors made from kept states to those made from the text; None if there are none."""
        keeping = keeping_in(self._store.about())
        if keeping is None or not len(self):
            return None
        rows = self._current().head(["vector", *(field.name for field in keeping.fields())], _MEASURED)
        stored = np.stack(rows["vector"].to_pylist()).astype(np.float32)
        made = self._maker.finish(embed_states(self.encoder, keeping.unpack(rows)))
        return float(cosines(stored, made).min())

    def recall(self, queries: Sequence[str] = (), top: int = 10) -> float | None:
        """Share of the exact nearest chunks that the vector index finds; None if the search is exact.

        Args:
            queries: what is searched for; without any, the chunks themselves, which a vector index finds more easily
                than what people ask.
            top: chunks a query.
        """
        store = self._current()
        if not store.is_approximate():
            return None
        vectors = unit(self._queries(queries)) if queries else store.sample(_MEASURED)[1]
        found = wanted = 0
        for vector in vectors:
            best = {(row.id, row.start) for row in store.exactly().nearest(vector, top, None)}
            found += len(best & {(row.id, row.start) for row in store.nearest(vector, top, None)})
            wanted += len(best)
        return found / wanted

    # -- what searching needs ----------------------------------------------------------------------------

    def _current(self) -> Store:
        """The table.

        Raises:
            DataError: if the index names another one by now.
        """
        if read_pointer(self.path).get("table") != self._store.table.name:
            raise DataError(f"{self.path} has been migrated to other vectors since it was opened; open it again")
        return self._store

    def _table(self) -> Store:
        store = self._current()
        return store.exactly() if self.exact else store

    def _queries(self, texts: Sequence[str]) -> Array:
        return self.encoder.encode_query(list(texts), truncate_dim=self.config.truncate_dim or None)

    def _documents(self, texts: Sequence[str]) -> Array:
        return self._maker.embed(texts)


def open_store(path: Path) -> Store:
    """The current table of an index.

    Raises:
        DataError: if there is no index, one of another version, or one that holds no table of its own.
    """
    pointer = read_pointer(path)
    if "table" not in pointer:
        raise DataError(f"{path} is an adopted index, whose rows are elsewhere; foresay search searches it")
    return Store.open(path / "tables", str(pointer["table"]))


def _parts(items: Sequence[Document], chunker: Chunker) -> list[Part]:
    """Documents as chunks."""
    made = []
    for item in items:
        metadata, digest = json.dumps(dict(item.metadata), ensure_ascii=False), item.digest()
        made += [Part(item.id, i, chunk, metadata, digest) for i, chunk in enumerate(chunker(item.text))]
    return made
