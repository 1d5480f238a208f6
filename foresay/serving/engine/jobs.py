"""What the engine is handed, and how answers find their way back.

In: payloads of a lane with their tokens. Out: a future with one result for each.
A `Ticket` belongs to one request: the client's leaving or the deadline ends all of its jobs, also those in the queue.
Be careful: `future` is completed by the engine's thread; wait for it with `asyncio.wrap_future`.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .lanes import Lane


class Gone(Exception):
    """The client of a job has left."""


class Late(Exception):
    """A job's deadline has passed."""


class Stopped(Exception):
    """The engine is going down."""


class Exhausted(Exception):
    """Not even one row fits into the memory that is left."""


class Full(Exception):
    """The queue has no room for a job.

    Attributes:
        retry_after: seconds after which there will probably be room.
    """

    def __init__(self, waiting: int, limit: int, retry_after: int) -> None:
        """Says how full the queue is."""
        super().__init__(f"{waiting} of {limit} tokens are waiting; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass
class Ticket:
    """One request's claim to be worked for.

    Attributes:
        deadline: by `time.monotonic`.
        gone: whether its client has left.
    """

    deadline: float
    gone: bool = False

    @classmethod
    def of(cls, seconds: float) -> "Ticket":
        """A ticket that is good for some seconds."""
        return cls(time.monotonic() + seconds)

    def cancel(self) -> None:
        """The client has left: nothing more is to be done for it."""
        self.gone = True

    def trouble(self) -> Exception | None:
        """Why no more work should be done for it, if so."""
        if self.gone:
            return Gone("the client has left")
        if time.monotonic() > self.deadline:
            return Late("the deadline has passed")
        return None


@dataclass(eq=False)
class Job:
    """Payloads to run through a lane.

    Attributes:
        lane: what they run through.
        payloads: one an item.
        tokens: of each item.
        ticket: whose they are.
        future: gets the results, in the order of the payloads.
        since: when the job was handed in, by `time.monotonic`.
        waited: seconds until its first batch began; None as long as it waits.
    """

    lane: "Lane"
    payloads: Sequence[Any]
    tokens: Sequence[int]
    ticket: Ticket
    future: "Future[list[Any]]" = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)
    waited: float | None = None

    def __post_init__(self) -> None:
        """Nothing is done yet."""
        self.results: list[Any] = [None] * len(self.payloads)
        self.left = len(self.payloads)
        if not self.left:
            complete(self.future, self.results)

    @property
    def done(self) -> bool:
        """Whether its future is completed, by results or by an error."""
        return self.future.done()

    def put(self, item: int, result: object) -> None:
        """Takes an item's result; the last one completes the future."""
        self.results[item] = result
        self.left -= 1
        if not self.left and not self.done:
            complete(self.future, self.results)

    def fail(self, error: Exception) -> None:
        """Completes the future with an error, unless it is completed."""
        if not self.done:
            complete(self.future, error)


def complete(future: "Future[Any]", value: object) -> None:
    """Sets a result or an exception, whoever may have cancelled the future in the meantime."""
    try:
        if isinstance(value, Exception):
            future.set_exception(value)
        else:
            future.set_result(value)
    except InvalidStateError:
        pass  # its waiter was cancelled between the look and the set; nobody wants the value
