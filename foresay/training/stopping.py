"""Stopping a long run politely: Ctrl-C and SIGTERM end the step at hand, and the run saves its state.

In: nothing. Out: a function that says whether a signal came.
Careful: only a second signal interrupts, since a step that is torn in the middle would be lost. A launcher of several
processes passes on the Ctrl-C that they got already, so signals in quick succession count as one.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SAME = 1.0
"""Seconds within which two signals count as one."""


class Stopped(Exception):
    """The run was asked to stop, saved its state, and resumes when the same command runs again."""


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Lets Ctrl-C and SIGTERM end the current step instead of tearing it; a second one tears it."""
    caught: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught and time.monotonic() > caught[0] + _SAME:
            raise KeyboardInterrupt
        caught.append(time.monotonic())

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are somebody else's
        before = {}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
