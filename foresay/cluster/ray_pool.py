"""A pool of workers on a Ray cluster: one model a worker, on whichever machines there is room.

In: a work, and the cluster's address. Out: a `Pool`. Workers get pieces and give results; all files are written by the
process that holds the pool, so the machines share no disk but need to find the same models.
A worker or a machine that dies costs its pieces a second try. A piece that kills its second worker too is halved until
the item that does it is alone; that one is given up after its third try, and the others have their results.
Be careful: Ray's own retries are off. They would repeat such a piece for ever, and know nothing of its items.
"""

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from .. import __version__
from ..config import ClusterConfig
from ..errors import DataError, DeviceError, InputError
from .work import Done, Piece, Results, Work, Worker

TRIES = 3
"""Workers that an item may kill, and loads of a model that may fail in a row."""
PATIENCE = 600.0
"""Seconds without any worker after which the run ends."""
_LOST = f"its worker died each of the {TRIES} times it was tried"


class RayPool:
    """Actors that hold one worker each."""

    def __init__(self, work: Work, config: ClusterConfig, device: str = "auto") -> None:
        """Connects to nothing yet.

        Raises:
            InputError: if Ray is not installed.
        """
        try:
            import ray
        except ImportError as error:
            raise InputError("--cluster needs Ray: pip install 'foresay[cluster]'") from error
        self.wanted, self.config, self.device = work, config, device
        self.workers = 0
        self._ray: Any = ray
        self._connected = False
        self._starting: dict[Any, Any] = {}  # what an actor's `ready` will give, and the actor
        self._free: list[Any] = []
        self._under_way: dict[Any, tuple[Any, _Part]] = {}
        self._failed = 0
        self._about: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Connects, and asks for the workers.

        Raises:
            DeviceError: if the cluster cannot be reached, or has no room for a worker.
        """
        if not self._ray.is_initialized():
            address = None if self.config.cluster == "auto" else self.config.cluster
            try:
                self._ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = str(error).strip().splitlines()[0]
                raise DeviceError(f"there is no Ray cluster at {address or 'this machine'}: {reason}") from error
            self._connected = True
        self.workers = self.config.workers or self._room()
        for _ in range(self.workers):
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the workers, whatever they are doing."""
        for actor in (*self._starting.values(), *self._free, *(actor for actor, _ in self._under_way.values())):
            self._ray.kill(actor)
        self._starting, self._free, self._under_way = {}, [], {}
        if self._connected:
            self._ray.shutdown()
            self._connected = False

    def describe(self) -> dict[str, Any]:
        """What the first worker that is ready says of itself."""
        while not self._about:
            self._wait()
        return self._about

    def map(self, pieces: Iterable[Piece]) -> Iterator[Done]:
        """Every piece, as soon as it is done.

        Raises:
            DataError: if no worker can be had.
        """
        waiting, todo = iter(pieces), deque[_Part]()
        open_pieces: dict[int, _Gathered] = {}
        while True:
            while self._free:
                if not todo:
                    piece = next(waiting, None)
                    if piece is None:
                        break
                    open_pieces[piece.number] = _Gathered(len(piece.items))
                    todo.append(_Part(piece.number, range(len(piece.items)), piece.items))
                self._give(todo.popleft())
            if self._free and not open_pieces:  # a free worker, and nothing to give it
                return
            for part, results in self._wait():
                gathered = open_pieces[part.number]
                gathered.take(part, results)
                if results is None:
                    todo.extendleft(reversed(part.again()))
                if gathered.complete:
                    yield open_pieces.pop(part.number).done(part.number)

    def _room(self) -> int:
        """Workers that fit the cluster now."""
        there, config = self._ray.cluster_resources(), self.config
        wanted = {"CPU": config.worker_cpus, "GPU": config.worker_gpus}
        room = min(int(there.get(name, 0) / amount + 1e-9) for name, amount in wanted.items() if amount)
        if not room:
            has = ", ".join(f"{there.get(name, 0):g} {name}s" for name in wanted)
            raise DeviceError(
                f"the cluster has {has}, too few for a worker of {config.worker_cpus:g} CPUs and "
                f"{config.worker_gpus:g} GPUs; lower --worker-cpus or --worker-gpus, or add machines"
            )
        return room

    def _start(self) -> None:
        """Asks for a worker; Ray starts it where there is room, at once or when a machine comes back."""
        config = self.config
        options = {"num_cpus": config.worker_cpus, "num_gpus": config.worker_gpus}
        actor = self._ray.remote(_Actor).options(max_restarts=0, max_task_retries=0, **options)
        made = actor.remote(self.wanted, self.device, max(1, int(config.worker_cpus)))
        self._starting[made.ready.remote()] = made

    def _give(self, part: "_Part") -> None:
        actor = self._free.pop()
        self._under_way[actor.work.remote(part.items)] = (actor, part)

    def _wait(self) -> list[tuple["_Part", Results | None]]:
        """Waits for a worker to be ready or to be done: parts with their results, or None where the worker died."""
        refs = [*self._under_way, *self._starting]
        ready, _ = self._ray.wait(refs, num_returns=1, timeout=None if self._under_way else PATIENCE)
        if not ready:
            raise DataError(
                f"no worker has started for {PATIENCE:.0f} seconds; the cluster has {self._ray.available_resources()} "
                "free: wait for it, or ask for less with --worker-cpus and --worker-gpus, then repeat the command"
            )
        return [found for ref in ready if (found := self._take(ref)) is not None]

    def _take(self, ref: Any) -> "tuple[_Part, Results | None] | None":  # noqa: ANN401 - Ray's own type
        exceptions = self._ray.exceptions
        actor, part = self._under_way.pop(ref, None) or (self._starting.pop(ref), None)
        try:
            found = self._ray.get(ref)
        except exceptions.RayTaskError as error:  # the work's own error: it ends the run, as it would here
            self._free.append(actor)
            raise error.cause from None
        except (exceptions.RayActorError, exceptions.ObjectLostError, exceptions.WorkerCrashedError):
            self._replace(part)
            return None if part is None else (part, None)
        self._free.append(actor)
        self._failed = 0
        if part is not None:
            return part, found
        self._check(found)
        return None

    def _check(self, about: dict[str, Any]) -> None:
        """Takes what a worker says of itself; all have to say the same."""
        if about.pop("version") != __version__:
            raise DataError(f"a worker has another version of Foresay than {__version__}; install the same everywhere")
        if self._about and about != self._about:
            raise DataError(
                f"the workers differ: one says {about}, another {self._about}; install the same models on all machines"
            )
        self._about = about

    def _replace(self, part: "_Part | None") -> None:
        self._failed += part is None
        if self._failed >= TRIES:
            raise DataError(
                f"{self._failed} workers in a row died while they loaded their model, perhaps for want of memory; give "
                "each more of the machine (--worker-cpus, --worker-gpus), or take a smaller model"
            )
        time.sleep(0.1)  # a machine that dies takes a moment to leave the books
        self._start()


class _Actor:
    """A worker as Ray holds it."""

    def __init__(self, work: Work, device: str, threads: int) -> None:
        self._work, self._device, self._threads = work, device, threads
        self._worker: Worker | None = None

    def ready(self) -> dict[str, Any]:
        """Loads the model; says what the results depend on."""
        self._worker = self._work.open(self._device)
        if "torch" in sys.modules:  # a work without a model does not wait for it
            sys.modules["torch"].set_num_threads(self._threads)
        return {**self._worker.describe(), "version": __version__}

    def work(self, items: Sequence[Any]) -> Results:
        """The worker's results."""
        assert self._worker is not None
        return self._worker.work(items)


@dataclass
class _Part:
    """Some items of a piece, their places in it, and how many workers they have cost."""

    number: int
    places: Sequence[int]
    items: Sequence[Any]
    tries: int = 0

    def again(self) -> list["_Part"]:
        """What to try after a worker has died of it: the same, two halves, or nothing."""
        tries = self.tries + 1
        if len(self.items) == 1:
            return [] if tries >= TRIES else [_Part(self.number, self.places, self.items, tries)]
        if tries < TRIES - 1:
            return [_Part(self.number, self.places, self.items, tries)]
        middle = len(self.items) // 2
        halves = (slice(None, middle), slice(middle, None))
        return [_Part(self.number, self.places[half], self.items[half], TRIES - 2) for half in halves]

    def given_up(self) -> Sequence[int]:
        """The places that are not tried again."""
        return self.places if not self.again() else ()


@dataclass
class _Gathered:
    """What has come of a piece so far."""

    size: int
    whole: Results | None = None
    found: dict[int, Any] = field(default_factory=dict)
    lost: dict[int, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every item has a result, or none for good."""
        return self.whole is not None or len(self.found) + len(self.lost) == self.size

    def take(self, part: _Part, results: Results | None) -> None:
        """Results of a part; None where its worker died."""
        if results is None:
            self.lost.update({place: _LOST for place in part.given_up()})
        elif len(part.items) == self.size:
            self.whole = results
        else:
            self.found.update(zip(part.places, results, strict=True))

    def done(self, number: int) -> Done:
        """The piece, its results in order."""
        results = self.whole if self.whole is not None else [self.found[place] for place in sorted(self.found)]
        return Done(number, results, self.lost)
