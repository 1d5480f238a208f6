"""Small parts of whoever writes a table: blocks of items, numbers that stand for ids, and what is there by number.

In: items, texts. Out: lists, 64-bit numbers, `Known`.
Careful: two of four billion ids share a number with probability one half; an index of a million is safe by far.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np

_RECENT = 65_536
"""Documents that are kept as Python numbers before they join the others."""
T = TypeVar("T")


def blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of so many items; the last may be shorter."""
    rest = iter(items)
    while block := list(islice(rest, size)):
        yield block


def number(text: str) -> int:
    """64 bits that stand for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


class Known:
    """The documents that are there, each by the numbers of its id and its digest: 16 bytes, a tenth of a dict's."""

    def __init__(self, digests: Iterable[tuple[str, str]] = ()) -> None:
        """Takes pairs of id and digest."""
        self._ids, self._digests = np.empty(0, np.uint64), np.empty(0, np.uint64)
        self._recent: dict[int, int] = {}
        for name, digest in digests:
            self.add(name, digest)

    def __len__(self) -> int:
        """Documents."""
        self._join()
        return len(self._ids)

    def __contains__(self, name: str) -> bool:
        """Whether there is a document of this id."""
        return self._digest(name) is not None

    def has(self, name: str, digest: str) -> bool:
        """Whether the document of this id is there with this digest."""
        return self._digest(name) == number(digest)

    def add(self, name: str, digest: str) -> None:
        """Notes a document; its last digest counts."""
        self._recent[number(name)] = number(digest)
        if len(self._recent) >= _RECENT:
            self._join()

    def _digest(self, name: str) -> int | None:
        key = number(name)
        if key in self._recent:
            return self._recent[key]
        place = int(np.searchsorted(self._ids, np.uint64(key)))
        there = place < len(self._ids) and int(self._ids[place]) == key
        return int(self._digests[place]) if there else None

    def _join(self) -> None:
        """Sorts the recent ones in, ahead of older ones with the same id."""
        ids = np.concatenate([np.fromiter(self._recent, np.uint64, len(self._recent)), self._ids])
        digests = np.concatenate([np.fromiter(self._recent.values(), np.uint64, len(self._recent)), self._digests])
        self._ids, first = np.unique(ids, return_index=True)
        self._digests, self._recent = digests[first], {}
