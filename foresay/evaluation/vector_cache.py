"""Vectors on disk, by what was embedded: a killed evaluation goes on, and a second one embeds nothing twice.

In: keys of 16 bytes and vectors. Out: the same vectors, bit by bit, in any later process.
One SQLite file instead of an array, because SQLite already does what an array file needs code for: it appends blocks
whole or not at all, looks up keys without holding them in memory, and serves two processes at once.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..outputs import writing

Vectors = NDArray[np.float32]
_AT_ONCE = 10_000
"""Keys in one look-up; SQLite takes 32,766."""


def key(*parts: str) -> bytes:
    """16 bytes that stand for these texts, in this order."""
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Store:
    """Vectors of one embedder by key, each with whether its text was cut."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file.

        Raises:
            DataError: here and below, if it cannot be written, as on a full disk, or is damaged.
        """
        self.path = Path(path)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as file:
            file.execute("PRAGMA journal_mode=WAL")
            file.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, cut INTEGER, vector BLOB)")

    def __len__(self) -> int:
        """Vectors in it."""
        with self._open() as file:
            return int(file.execute("SELECT count(*) FROM vectors").fetchone()[0])

    def missing(self, keys: Iterable[bytes]) -> set[bytes]:
        """Those of the keys that have no vector yet."""
        wanted = set(keys)
        with self._open() as file:
            for some in _blocks(list(wanted)):
                wanted -= {row[0] for row in _select(file, "key", some)}
        return wanted

    def add(self, keys: Sequence[bytes], vectors: Vectors, cut: Sequence[bool]) -> None:
        """Adds vectors (keys, dim), all of them or, if killed, none."""
        rows = zip(keys, map(int, cut), (row.tobytes() for row in np.asarray(vectors, np.float32)), strict=True)
        with self._open() as file:
            file.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)

    def read(self, keys: Sequence[bytes]) -> tuple[Vectors, int]:
        """Vectors (keys, dim) in the order of the keys, which may repeat; and how many of the keys were cut.

        Raises:
            KeyError: if one is not there.
        """
        places: dict[bytes, list[int]] = {}
        for place, name in enumerate(keys):
            places.setdefault(name, []).append(place)
        vectors, cuts, found = np.empty((len(keys), 0), np.float32), 0, 0
        with self._open() as file:
            for some in _blocks(list(places)):
                for name, cut, vector in _select(file, "key, cut, vector", some):
                    row = np.frombuffer(vector, np.float32)
                    if not vectors.shape[1]:
                        vectors = np.empty((len(keys), len(row)), np.float32)
                    vectors[places[name]] = row
                    cuts += cut * len(places[name])
                    found += 1
        if found < len(places):
            raise KeyError(f"{len(places) - found} of {len(places)} vectors are not in {self.path}")
        return vectors, cuts

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with writing(self.path), closing(sqlite3.connect(self.path, timeout=60)) as file, file:
                yield file
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{self.path} is damaged ({error}); delete it, and the same command embeds again what it held"
            ) from error


def _blocks(keys: list[bytes]) -> Iterator[list[bytes]]:
    return (keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE))


def _select(file: sqlite3.Connection, columns: str, keys: Sequence[bytes]) -> sqlite3.Cursor:
    marks = ",".join("?" * len(keys))
    return file.execute(f"SELECT {columns} FROM vectors WHERE key IN ({marks})", keys)
