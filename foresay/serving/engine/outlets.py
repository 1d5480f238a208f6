"""Where the pieces of a text go that is being written: to one answer, or to a stream.

In: pieces, from the engine's thread. Out: a future with the whole, or an asynchronous iterator.
Be careful: `put` and `fail` are called by the engine's thread, everything else by the event loop's.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, Protocol

from .jobs import complete
from .sampling import Chosen

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """What one step adds to a text.

    Attributes:
        text: what is certain by now; empty while a character or a stop string is incomplete.
        token: the token written; None where a stop token ended the text.
        finish: why the text ends with this piece, if it does.
    """

    text: str
    token: Chosen | None
    finish: Finish | None = None


@dataclass(frozen=True)
class Written:
    """A whole text.

    Attributes:
        text: without control tokens and stop string.
        tokens: all tokens written, the stop token not among them.
        finish: `stop`, or `length` where the longest length cut it.
    """

    text: str
    tokens: list[Chosen]
    finish: Finish


class Outlet(Protocol):
    """Takes the pieces of one text."""

    def put(self, piece: Piece) -> None:
        """Takes the next piece."""

    def fail(self, error: Exception) -> None:
        """Learns that there will be no more."""


class Collected:
    """Puts the pieces together.

    Attributes:
        future: gets the `Written`.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self.future: Future[Written] = Future()
        self._texts: list[str] = []
        self._tokens: list[Chosen] = []

    def put(self, piece: Piece) -> None:
        """Takes the next piece."""
        self._texts.append(piece.text)
        if piece.token is not None:
            self._tokens.append(piece.token)
        if piece.finish is not None:
            complete(self.future, Written("".join(self._texts), self._tokens, piece.finish))

    def fail(self, error: Exception) -> None:
        """Completes the future with an error."""
        complete(self.future, error)


class Stream:
    """Hands the pieces of several texts over as they come; iterate in the event loop in which it was made.

    Attributes:
        outlets: one a text.
    """

    def __init__(self, count: int) -> None:
        """Starts `count` empty texts."""
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()
        self.outlets = [_StreamOutlet(self, i) for i in range(count)]

    def hand_over(self, index: int, event: Piece | Exception) -> None:
        """Takes what a text's outlet was given, in the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, event))
        except RuntimeError:
            pass  # the loop is closed, so the server is gone and with it the reader

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
        """Which text, and its next piece; until the last piece of every text.

        Raises:
            Exception: what ended one of the texts before its time.
        """
        left = len(self.outlets)
        while left:
            index, event = await self._queue.get()
            if isinstance(event, Exception):
                raise event
            left -= event.finish is not None
            yield index, event


class _StreamOutlet:
    """The outlet of one text of a stream."""

    def __init__(self, stream: Stream, index: int) -> None:
        self._stream, self._index = stream, index

    def put(self, piece: Piece) -> None:
        """Takes the next piece."""
        self._stream.hand_over(self._index, piece)

    def fail(self, error: Exception) -> None:
        """Raises the error at the reader's side."""
        self._stream.hand_over(self._index, error)
