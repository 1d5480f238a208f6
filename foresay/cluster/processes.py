"""A process for each device of this machine, each with a model of its own.

In: a work, and devices such as `cuda:0,cuda:1` or `cpu,cpu`. Out: a `Pool`.
Be careful: a process that dies, say for want of memory, ends the run with one line; what is written stays. And the
processes end with the one that started them, however it ends.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from types import TracebackType
from typing import Any, Self

import torch

from ..errors import DataError, DeviceError, InputError
from .work import Done, Piece, Work, Worker

_AHEAD = 2
"""Pieces a process: one under way, one ready."""


def parse_devices(text: str) -> list[str]:
    """`all` as every GPU, `cuda:0,cuda:1` or `cpu,cpu` as it says.

    Raises:
        DeviceError: if there is no GPU.
        InputError: if nothing is named.
    """
    if text == "all":
        count = torch.cuda.device_count()
        if not count:
            raise DeviceError("devices is 'all', and this machine has no GPU; pass cpu,cpu for two processes")
        return [f"cuda:{number}" for number in range(count)]
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError(f"devices is {text!r}; expected all, or names such as cuda:0,cuda:1 or cpu,cpu")
    return names


class Processes:
    """A pool of one process a device."""

    def __init__(self, work: Work, devices: Sequence[str]) -> None:
        """Starts nothing yet."""
        self.wanted, self.devices = work, list(devices)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        """Starts the processes; each loads its model when its first piece comes."""
        context = multiprocessing.get_context("spawn")
        places: Queue[tuple[str, int]] = context.Queue()
        on_cpu = self.devices.count("cpu")
        for device in self.devices:
            places.put((device, max(1, (os.cpu_count() or 1) // on_cpu) if device == "cpu" else 0))
        self._pool = ProcessPoolExecutor(
            len(self.devices), mp_context=context, initializer=_begin, initargs=(self.wanted, places)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends them after the pieces under way."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def describe(self) -> dict[str, Any]:
        """What the first process to be ready says of itself."""
        with _one_line():
            found: dict[str, Any] = self._started.submit(_describe).result()
        return found

    def map(self, pieces: Iterable[Piece]) -> Iterator[Done]:
        """Every piece, as soon as it is done.

        Raises:
            DataError: if a process has died.
        """
        under_way: set[Future[Done]] = set()
        with _one_line():
            for piece in pieces:
                under_way.add(self._started.submit(_do, piece))
                while len(under_way) >= _AHEAD * len(self.devices):
                    ready, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in ready)
            while under_way:
                ready, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ready)

    @property
    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            raise RuntimeError("use the pool in a with")
        return self._pool


class _one_line:  # noqa: N801 - reads as a phrase
    """Turns the death of a process into one line."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, BrokenProcessPool):
            raise DataError(
                "a worker process has died, perhaps for want of memory; what is finished is kept: repeat the command, "
                "with fewer --devices or a smaller --shard-rows"
            ) from error


_open: Callable[[], Worker]


def _begin(work: Work, places: "Queue[tuple[str, int]]") -> None:
    """Takes a device, and sees to it that this process does not outlive the one that started it."""
    global _open
    threading.Thread(target=_end_with_parent, daemon=True).start()
    device, threads = places.get()
    if threads:
        torch.set_num_threads(threads)
    made: list[Worker] = []

    def opened() -> Worker:
        if not made:
            made.append(work.open(device))
        return made[0]

    _open = opened


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _describe() -> dict[str, Any]:
    return _open().describe()


def _do(piece: Piece) -> Done:
    return Done(piece.number, _open().work(piece.items))
