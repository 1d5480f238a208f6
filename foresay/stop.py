"""Stopping a long run politely: Ctrl-C and SIGTERM end the step at hand, and the run saves its state.

What a reader would get wrong: only a second signal interrupts. A step that is torn in the middle would be lost;
one that is finished and saved is not.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):
    """The run was asked to stop, saved its state, and resumes when the same command runs again."""


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Lets Ctrl-C and SIGTERM end the current step instead of tearing it; a second one tears it."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are somebody else's
        before = {}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
