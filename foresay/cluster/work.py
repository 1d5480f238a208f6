"""What several workers do side by side: the protocols of a work, its workers and a pool of them, and the pool of one.

In: pieces, each a numbered slice of a step's input. Out: what became of each, in whatever order they are done.
A pool knows nothing of files. The step gives it only what is missing and writes what comes back, so it resumes without
any state of the pool's, and its output does not depend on who did the work.
Be careful: a `Work` goes to its workers by pickle, so it holds names and options, never a model.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from numpy.typing import NDArray

Results = Sequence[Any] | NDArray[Any]
"""One an item: a list, or an array's rows."""


class Worker(Protocol):
    """A work with its model loaded."""

    def describe(self) -> dict[str, Any]:
        """What the results depend on, as JSON."""
        ...

    def work(self, items: Sequence[Any]) -> Results:
        """A result an item, in their order."""
        ...


class Work(Protocol):
    """What opens a worker, wherever it is sent."""

    def open(self, device: str) -> Worker:
        """Loads what the work needs on a device."""
        ...


@dataclass(frozen=True)
class Piece:
    """A slice of the input: its number and its items."""

    number: int
    items: Sequence[Any]


@dataclass(frozen=True)
class Done:
    """What became of a piece.

    Attributes:
        number: the piece's.
        results: one for each item that has one, in order.
        lost: the places of the items that have none, with the reason.
    """

    number: int
    results: Results
    lost: dict[int, str] = field(default_factory=dict)


class Pool(Protocol):
    """Workers that share one work. Use it in a `with`."""

    def __enter__(self) -> Self:
        """Starts the workers."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends them."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a worker says of itself; all of them say the same."""
        ...

    def map(self, pieces: Iterable[Piece]) -> Iterator[Done]:
        """Every piece, as soon as it is done; few are read ahead of those that are under way."""
        ...


class Here:
    """One worker, in this process."""

    def __init__(self, work: Work, device: str) -> None:
        """Loads nothing yet."""
        self._worker: Worker | None = None
        self._wanted, self._device = work, device

    def __enter__(self) -> Self:
        """Loads what the work needs."""
        self._worker = self._wanted.open(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Forgets it."""
        self._worker = None

    def describe(self) -> dict[str, Any]:
        """What the worker says of itself."""
        return self._open.describe()

    def map(self, pieces: Iterable[Piece]) -> Iterator[Done]:
        """One piece after another."""
        return (Done(piece.number, self._open.work(piece.items)) for piece in pieces)

    @property
    def _open(self) -> Worker:
        if self._worker is None:
            raise RuntimeError("use the pool in a with")
        return self._worker
