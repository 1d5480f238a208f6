"""The thread that owns the model: it runs one batch of texts or one step of writing after the other.

In: jobs and texts to write, from the event loop. Out: their results.
Whose turn it is follows from time: while both kinds of work wait, each gets its share of it, so neither starves.
Out of memory halves the batch and repeats it; any other error halves it too, until only the item that causes it fails.
Be careful: an error of one batch never ends the thread. If the thread ends all the same, `alive` says so.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Thread
from typing import Any

import torch

from ..metrics import Metrics
from .desk import Desk
from .jobs import Exhausted, Job, Stopped, Ticket
from .lanes import CALLS
from .queue import Item, Queue
from .writing import Writing

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 0.02
"""Seconds between two looks for texts that nobody waits for; before a batch is run, there is always one."""
LEAST_BATCH = 256
"""Tokens below which a batch is not halved for the future, only for now."""


class Engine:
    """The one thread that may touch the model.

    Attributes:
        queue: texts that wait to be embedded.
        desk: texts being written.
        batch_tokens: most padded tokens in one forward pass; smaller after a batch that memory could not hold.
    """

    def __init__(self, desk: Desk, metrics: Metrics, *, queue_tokens: int, batch_tokens: int, share: float) -> None:
        """Makes an engine; `start` starts it.

        Args:
            desk: where texts are written.
            metrics: what it counts.
            queue_tokens: most tokens that wait.
            batch_tokens: most padded tokens in one forward pass.
            share: of the time for writing, while embeddings wait too.
        """
        self.queue, self.desk, self.metrics = Queue(queue_tokens), desk, metrics
        self.batch_tokens, self.share = batch_tokens, share
        self._urgent: deque[Job] = deque()
        self._arriving: deque[Writing] = deque()
        self._wake = Condition()
        self._stopping = False
        self._owed = self._swept = 0.0
        self._thread = Thread(target=self._work, name="foresay-engine", daemon=True)

    # -- from the event loop's side ----------------------------------------------------------------------

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Lets a job wait for its turn.

        Raises:
            Full: if the queue has no room for it.
            Stopped: if the engine is going down.
        """
        with self._wake:
            self._check()
            self.queue.admit(job)
            self._wake.notify()

    def write(self, texts: Sequence[Writing]) -> None:
        """Lets texts be written, all or none.

        Raises:
            Full: if the queue has no room for their prompts.
            Stopped: if the engine is going down.
        """
        with self._wake:
            self._check()
            self.queue.hold(sum(one.prompt.length for one in texts))
            self._arriving.extend(texts)
            self._wake.notify()

    def call(self, function: Callable[[], Any], ticket: Ticket) -> Job:
        """Runs a function before everything that waits.

        Raises:
            Stopped: if the engine is going down.
        """
        job = Job(CALLS, [function], [0], ticket)
        with self._wake:
            self._check()
            self._urgent.append(job)
            self._wake.notify()
        return job

    def stop(self) -> None:
        """Fails what is left and ends the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self.alive:
            self._thread.join(timeout=10)

    def _check(self) -> None:
        if self._stopping or not self.alive:
            raise Stopped("the server is shutting down" if self._stopping else "the engine has died")

    # -- the thread --------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._wait():
                self._turn()
        except BaseException as error:
            logger.critical("the engine has died of %s", type(error).__name__, exc_info=True)
        finally:
            self._stopping = True
            self._fail_all(Stopped("the server is shutting down"))

    def _wait(self) -> bool:
        with self._wake:
            while not (self._stopping or self._urgent or self._arriving or len(self.queue) or len(self.desk)):
                self._owed = 0.0
                self._wake.wait()
            while self._arriving:
                self.desk.waiting.append(self._arriving.popleft())
        return not self._stopping

    def _turn(self) -> None:
        while self._urgent:
            job = self._urgent.popleft()
            if (trouble := job.ticket.trouble()) is None:
                self._run([Item(job, 0)])
            else:
                job.fail(trouble)
        if len(self.queue) or time.monotonic() > self._swept + SWEEP_SECONDS:
            self._sweep()
        reading, writing = len(self.queue) > 0, len(self.desk) > 0
        if not (reading and writing):
            self._owed = 0.0
        start = time.perf_counter()
        if writing and (not reading or self._owed >= 0):
            self._step()
            self._owed -= (time.perf_counter() - start) / self.share
        elif reading:
            self._batch()
            self._owed += (time.perf_counter() - start) / (1 - self.share)
        self._observe()

    def _sweep(self) -> None:
        """Drops what nobody waits for."""
        self._swept = time.monotonic()
        dropped = self.queue.sweep()
        waiting = set(map(id, self.desk.waiting))
        texts = self.desk.sweep()
        self.queue.release(sum(one.prompt.length for one in texts if id(one) in waiting and not one.written))
        for ticket in [one.ticket for one in dropped] + [one.ticket for one in texts]:
            self.metrics.dropped.labels("left" if ticket.gone else "late").inc()

    def _batch(self) -> None:
        batch = self.queue.take(self.batch_tokens)
        if not batch:
            return
        for item in batch:
            if item.job.waited is None:
                item.job.waited = time.monotonic() - item.job.since
                self.metrics.queued.observe(item.job.waited)
        kind, tokens = batch[0].job.lane.kind, sum(item.tokens for item in batch)
        start = time.perf_counter()
        self._run(batch)
        seconds = time.perf_counter() - start
        self.queue.speed.note(tokens, seconds)
        self.metrics.run.labels(kind).observe(seconds)
        self.metrics.tokens.labels("read").inc(tokens)
        self.metrics.batch_fill.observe(tokens / (len(batch) * max(item.tokens for item in batch)))
        self.metrics.batch_items.observe(len(batch))

    def _run(self, batch: list[Item]) -> None:
        """Runs a batch; one that fails is halved, until what fails is a single item."""
        error: Exception | None = None
        try:
            found = batch[0].job.lane.run([item.job.payloads[item.index] for item in batch])
            for item, result in zip(batch, found, strict=True):
                item.job.put(item.index, result)
            return
        except Exception as caught:
            error = caught.with_traceback(None)  # whose frames keep the tensors of the failed batch alive
        memory = out_of_memory(error)
        if memory:
            self._shrink(sum(item.tokens for item in batch))
        if len(batch) == 1:
            batch[0].job.fail(Exhausted("there is not enough memory for this input") if memory else error)
            return
        half = len(batch) // 2
        self._run(batch[:half])
        self._run(batch[half:])

    def _shrink(self, tokens: int) -> None:
        free_memory()
        self.metrics.out_of_memory.inc()
        smaller = max(LEAST_BATCH, min(self.batch_tokens, tokens) // 2)
        if smaller < self.batch_tokens:
            logger.warning("out of memory with %d tokens; batches have at most %d from now on", tokens, smaller)
            self.batch_tokens = smaller

    def _step(self) -> None:
        before = {id(one): one for one in self.desk.waiting if not one.written}
        start = time.perf_counter()
        error: Exception | None = None
        try:
            written = self.desk.step()
        except Exception as caught:
            error, written = caught.with_traceback(None), 0
        if error is not None:
            self._mend(error)
        still = set(map(id, self.desk.waiting))
        self.queue.release(sum(one.prompt.length for key, one in before.items() if key not in still))
        self.metrics.tokens.labels("written").inc(written)
        self.metrics.run.labels("writing").observe(time.perf_counter() - start)

    def _mend(self, error: Exception) -> None:
        """After a step that failed: fewer texts at a time if memory ran out, else the texts that took part fail."""
        memory = out_of_memory(error)
        if memory:
            free_memory()
            self.metrics.out_of_memory.inc()
        logger.error("a step of writing failed: %s", type(error).__name__)
        self.desk.after_error(error, memory=memory)

    def _observe(self) -> None:
        self.metrics.waiting_tokens.set(self.queue.waiting)
        self.metrics.waiting_items.set(len(self.queue))
        self.metrics.writing.set(len(self.desk.active))

    def _fail_all(self, error: Exception) -> None:
        with self._wake:
            self.queue.clear(error)
            self.desk.clear(error)
            for job in self._urgent:
                job.fail(error)
            for one in self._arriving:
                one.outlet.fail(error)
            self._urgent.clear()
            self._arriving.clear()


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)


def free_memory() -> None:
    """Gives back what the allocator keeps."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
