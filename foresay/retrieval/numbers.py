"""Small parts of whoever writes a table: blocks of items, and numbers that stand for ids.

In: items, texts. Out: lists, 64-bit numbers.
Careful: two of four billion ids share a number with probability one half; an index of a million is safe by far.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of so many items; the last may be shorter."""
    rest = iter(items)
    while block := list(islice(rest, size)):
        yield block


def number(text: str) -> int:
    """64 bits that stand for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
