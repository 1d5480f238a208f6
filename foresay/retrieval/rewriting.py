"""An index whose vectors are all made anew, without a moment in which it cannot be searched.

In: an index, and what makes rows of its chunks. Out: the same documents in a new table, which the index then names.

    tables/rows-1   searched until the end
    tables/rows-2   filled meanwhile; a killed run goes on there
    index.json      says rows-2 when all of it is there; rows-1 is then deleted

Careful: documents may change between a killed run and the next. So each is compared by its digest, and what is gone
from the old table is deleted from the new one.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..config import IndexConfig
from ..data.queries import Progress
from ..errors import DataError
from ..files import as_json
from .chunks import Chunk
from .numbers import Known, blocks, number
from .parts import Part
from .pointer import read_pointer, write_pointer
from .states import Keeping
from .store import Store

BLOCK = 512
"""Documents in one commit: what a kill costs at most."""
JOIN_EVERY = 64
"""Commits between two times of joining small files, at least."""

Make = Callable[[list[list[Part]], pa.Table], pa.Table]
"""Rows of some documents, from their chunks and from the rows of the old table."""


class Pace:
    """When to join small files: whenever a table has grown by half.

    Joining writes the rows again. After every so many commits, a million documents made 36 GB of a table of 2.5.
    """

    def __init__(self, documents: int) -> None:
        """Begins with the documents that are there."""
        self._there, self._new = documents, 0

    def is_due(self, added: int) -> bool:
        """Whether to do it now, after so many more documents."""
        self._new += added
        if self._new < max(JOIN_EVERY * BLOCK, self._there // 2):
            return False
        self._there, self._new = self._there + self._new, 0
        return True


class Rewriting:
    """The way from one table of an index to the next; whoever uses it holds the lock.

    Attributes:
        old: the table there is.
        new: the table that is filled.
    """

    def __init__(self, path: Path, width: int, about: dict[str, Any], keeping: Keeping | None) -> None:
        """Opens the old table, and opens or makes the new one.

        Args:
            path: folder of the index.
            width: of the new vectors.
            about: what makes them; a new table that says otherwise is of another run, and is begun anew.
            keeping: how the new table keeps states.
        """
        self.path, self._current = path, str(read_pointer(path)["table"])
        self._next = next_table(self._current)
        sweep(path, self._current, {self._next})
        self.old = Store.open(path / "tables", self._current)
        there = Store.names(path / "tables")
        folder = path / "tables"
        self._done = _is_of(folder, self._current, about)
        if self._done:
            self.new = self.old
            return
        if self._next in there and not _is_of(folder, self._next, about):
            Store.drop(folder, self._next)
            there.remove(self._next)
        fresh = self._next not in there
        self.new = Store.create(folder, self._next, width, about, keeping) if fresh else Store.open(folder, self._next)

    def run(self, columns: list[str], make: Make, config: IndexConfig, progress: Progress | None) -> int:
        """Fills the new table, and lets the index name it.

        Args:
            columns: of the old table that `make` needs, besides those of every chunk.
            make: makes rows.
            config: of the new table.
            progress: told of documents done.

        Returns:
            documents that were made; those that a killed run had made are not among them.
        """
        if self._done:  # a run that was killed after the switch
            sweep(self.path, self._current, set())
            return 0
        there, seen = Known(self.new.digests()), Known()
        total, made, pace = self.old.documents(), 0, Pace(len(there))
        for count, block in enumerate(blocks(self._documents(columns), BLOCK), 1):
            for parts, _ in block:
                seen.add(parts[0].id, parts[0].digest)
            todo = [one for one in block if not there.has(one[0][0].id, one[0][0].digest)]
            for stale in (False, True):
                chosen = [one for one in todo if (one[0][0].id in there) == stale]
                if chosen:
                    rows = make([parts for parts, _ in chosen], pa.concat_tables([rows for _, rows in chosen]))
                    (self.new.replace if stale else self.new.append)(rows)
            made += len(todo)
            if pace.is_due(len(todo)):
                self.new.join()
            if progress:
                progress(min(count * BLOCK, total), total, "")
        self._delete_others(seen)
        self.new.finish(config.ann_rows)
        if self.new.documents() != total:
            raise DataError(
                f"{self.path}: {self.new.documents()} of {total} documents are in the new table; repeat the command"
            )
        write_pointer(self.path, {"kind": "own", "table": self._next})
        sweep(self.path, self._next, set())
        return made

    def _delete_others(self, seen: Known) -> None:
        gone = [name for name, _ in self.new.digests() if name not in seen]
        for block in blocks(gone, BLOCK):
            self.new.delete(block)

    def _documents(self, columns: list[str]) -> Iterator[tuple[list[Part], pa.Table]]:
        """Each document of the old table: its chunks in order, and their rows. It may lie in several places."""
        sizes = self.old.sizes()
        open_: dict[str, list[pa.Table]] = {}
        for batch in self.old.scan(columns):
            for place, name in enumerate(batch["id"].to_pylist()):
                open_.setdefault(name, []).append(batch.slice(place, 1))
                if len(open_[name]) == sizes.get(number(name), 1):
                    rows = pa.concat_tables(open_.pop(name)).sort_by("chunk")
                    yield parts_of(rows), rows
        if open_:
            raise DataError(f"{self.path} lacks chunks of {len(open_)} documents; index the documents again")


def _is_of(folder: Path, name: str, about: dict[str, Any]) -> bool:
    """Whether a table, begun by a killed run, is of the same model; a damaged one is not."""
    try:
        found = Store.open(folder, name).about()
    except DataError:
        return False
    return {**found, "states": None} == {**as_json(about), "states": None}


def parts_of(rows: pa.Table) -> list[Part]:
    """Rows of a table as chunks."""
    return [
        Part(r["id"], r["chunk"], Chunk(r["text"], r["start"], r["end"]), str(r["metadata"] or "{}"), r["digest"])
        for r in rows.select(["id", "chunk", "start", "end", "text", "metadata", "digest"]).to_pylist()
    ]


def next_table(current: str) -> str:
    """The name of the table after this one."""
    return f"rows-{int(current.partition('-')[2]) + 1}"


def sweep(path: Path, current: str, also: set[str]) -> None:
    """Deletes the tables of an index that it no longer names; whoever calls holds the lock."""
    for name in Store.names(path / "tables"):
        if name != current and name not in also:
            Store.drop(path / "tables", name)
