"""The bounded queue: who is let in, and which items make up the next batch.

In: jobs. Out: batches of items of one lane, of similar length, that always hold the item which has waited longest.
Admission counts tokens: a job is refused as a whole when the queue would pass its limit, with the seconds after which
there will probably be room, by the speed of late.
Be careful: `admit` is called from the event loop and `take` from the engine's thread; one lock guards both.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock

from ...batching import length_batches
from .jobs import Full, Job

WINDOW = 8
"""Batches' worth of items among which a batch of similar lengths is looked for."""


@dataclass(frozen=True)
class Item:
    """One payload of a job."""

    job: Job
    index: int

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return self.job.tokens[self.index]


class Speed:
    """Tokens a second, of late: an exponential mean over the seconds of work."""

    def __init__(self) -> None:
        """Starts without a notion."""
        self.value = 0.0

    def note(self, tokens: int, seconds: float) -> None:
        """Takes in one batch; a second of work counts for a tenth."""
        if seconds <= 0:
            return
        weight = 1 - math.exp(-seconds / 10) if self.value else 1.0
        self.value += weight * (tokens / seconds - self.value)

    def seconds(self, tokens: int) -> int:
        """Whole seconds for some tokens, 1 to 60."""
        return min(60, max(1, math.ceil(tokens / self.value))) if self.value else 1


class Queue:
    """Items that wait to be run, oldest job first."""

    def __init__(self, limit: int) -> None:
        """Holds at most `limit` tokens."""
        self.limit, self.waiting, self.speed = limit, 0, Speed()
        self._items: deque[Item] = deque()
        self._lock = Lock()

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._items)

    def admit(self, job: Job) -> None:
        """Puts a job's items at the end.

        Raises:
            Full: if they do not fit.
        """
        tokens = sum(job.tokens)
        with self._lock:
            self.check(tokens)
            self.waiting += tokens
            self._items.extend(Item(job, i) for i in range(len(job.payloads)))

    def check(self, tokens: int) -> None:
        """Refuses what would not fit.

        Raises:
            Full: if so.
        """
        if self.waiting + tokens > self.limit:
            over = self.waiting + tokens - self.limit
            raise Full(self.waiting, self.limit, self.speed.seconds(over))

    def hold(self, tokens: int) -> None:
        """Counts tokens that wait elsewhere, as prompts of texts to be written do.

        Raises:
            Full: if they do not fit.
        """
        with self._lock:
            self.check(tokens)
            self.waiting += tokens

    def release(self, tokens: int) -> None:
        """No longer counts them."""
        with self._lock:
            self.waiting -= tokens

    def sweep(self) -> list[Job]:
        """Drops the items of jobs that nobody waits for; those jobs, each failed with the reason."""
        with self._lock:
            kept: deque[Item] = deque()
            dropped: dict[int, Job] = {}
            for item in self._items:
                trouble = item.job.ticket.trouble()
                if trouble is None and not item.job.done:
                    kept.append(item)
                    continue
                self.waiting -= item.tokens
                if trouble is not None:
                    item.job.fail(trouble)
                    dropped[id(item.job)] = item.job
            self._items = kept
        return list(dropped.values())

    def take(self, batch_tokens: int) -> list[Item]:
        """The next batch: of the lane of the oldest item, with that item in it."""
        with self._lock:
            if not self._items:
                return []
            window = list(self._window(batch_tokens * WINDOW))
            lane = window[0].job.lane
            extra = [item.tokens for item in window]
            batches = length_batches(extra, batch_tokens, lane.least_tokens, lane.most_rows)
            batch = [window[i] for i in next(found for found in batches if 0 in found)]
            taken = {(id(item.job), item.index) for item in batch}
            self._items = deque(item for item in self._items if (id(item.job), item.index) not in taken)
            self.waiting -= sum(item.tokens for item in batch)
        return batch

    def _window(self, tokens: int) -> Iterator[Item]:
        lane, seen = self._items[0].job.lane, 0
        for item in self._items:
            if item.job.lane is lane:
                yield item
                seen += item.tokens
                if seen >= tokens:
                    return

    def clear(self, error: Exception) -> None:
        """Fails everything that waits."""
        with self._lock:
            for item in self._items:
                item.job.fail(error)
                self.waiting -= item.tokens
            self._items.clear()
