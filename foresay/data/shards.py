"""A data set in parts for several machines: which rows are whose, and the files of the parts joined again.

In: queries, `K/N`. Out: the K-th part; and from the parts' responses one file.
Be careful: a row's part follows from its id alone, so that parts do not change when rows are added or reordered.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .queries import Query, Reject, read_queries


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count` parts, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`1/4` as the first of four; InputError for anything else."""
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        number, count = (int(part) for part in found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise InputError(f"shard is {text!r}; expected K/N with K from 1 to N, such as 1/4")
        return cls(number, count)

    def holds(self, id: str) -> bool:
        """Whether an id is in this part."""
        digest = hashlib.blake2b(id.encode(), digest_size=8).digest()
        return int.from_bytes(digest) % self.count == self.number - 1

    def name(self, path: Path) -> Path:
        """The part's own file: `r-1-of-4.jsonl` for `r.jsonl`."""
        return path.with_name(f"{path.stem}-{self.number}-of-{self.count}{path.suffix}")


class QueryFile:
    """The queries of a source, counted, to be streamed as often as one likes.

    Counting reads a file to its end, so that a broken one is found before any work; a hub data set is not counted,
    and `rows` is None. Rows that are there before, id and text, are left out, and `repeated` says how many.
    """

    def __init__(
        self, source: str | Path, *, column: str | None = None, split: str = "train", shard: Shard | None = None
    ) -> None:
        """Reads a file once.

        Raises:
            DataError: as `read_queries`.
        """
        self.source, self.column, self.split, self.shard = source, column, split, shard
        is_here = Path(source).expanduser().exists()
        self.repeated = 0
        self.rows = sum(1 for _ in self._read(self._count)) if is_here else None
        if not is_here:
            next(iter(self), None)  # what is nowhere is said now

    def __iter__(self) -> Iterator[Query | Reject]:
        """The queries of the part. Rejects belong to the first one."""
        return self._read()

    def _read(self, on_repeat: Callable[[Query], None] | None = None) -> Iterator[Query | Reject]:
        for item in read_queries(self.source, column=self.column, split=self.split, on_repeat=on_repeat):
            if self._holds(item):
                yield item

    def _holds(self, item: Query | Reject) -> bool:
        if self.shard is None:
            return True
        return self.shard.holds(item.id) if isinstance(item, Query) else self.shard.number == 1

    def _count(self, repeat: Query) -> None:
        self.repeated += self._holds(repeat)

    def __length_hint__(self) -> int:
        """The number of rows, where it is known."""
        return self.rows or 0
