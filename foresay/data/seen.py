"""Which ids were seen, and with what text: a lookup on disk, since ten million ids do not belong in memory.

In: ids and texts. Out: what was stored under an id first. The table is a private temporary file of SQLite's, gone
with the process: it is rebuilt from the file that it describes, which stays the only truth.
Be careful where /tmp is memory: SQLite follows TMPDIR.
"""

import hashlib
import sqlite3
from typing import Self


def content_id(text: str) -> str:
    """16 hex digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Seen:
    """A dictionary of strings to short values, on disk: 10 M entries take 500 MB there and 8 MB of memory."""

    def __init__(self) -> None:
        """An empty one."""
        self._table = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._table.execute("PRAGMA cache_size = -8000")
        self._table.execute("CREATE TABLE seen (key BLOB PRIMARY KEY, value) WITHOUT ROWID")
        self._table.execute("BEGIN")
        self._count = 0

    def __enter__(self) -> Self:
        """The table itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Deletes the table."""
        self._table.close()

    def __len__(self) -> int:
        """How many keys there are."""
        return self._count

    def __contains__(self, key: str) -> bool:
        """Whether a key is there."""
        return self.get(key) is not None

    def get(self, key: str) -> str | int | None:
        """What is stored under a key."""
        found = self._table.execute("SELECT value FROM seen WHERE key = ?", (_digest(key),)).fetchone()
        return None if found is None else found[0]

    def setdefault(self, key: str, value: str | int) -> str | int:
        """What is stored under a key, after storing `value` if nothing was."""
        row = (_digest(key), value)
        if self._table.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", row).rowcount:
            self._count += 1
            return value
        found = self.get(key)
        return value if found is None else found


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
