"""An engine whose work is done by several workers: each of them holds an engine of its own.

In: a pool of `RespondWork`. Out: an `Engine`. `respond` does with it what it does with any: it resumes, rejects, copies
and writes the one file, so that file has the rows that one machine would have written.
Be careful: a worker answers a piece of jobs at a time, and the last rows of a piece are written in fewer places.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..cluster.work import Piece, Pool
from .base import Answer, Engine, EngineOptions, Job, open_engine

_FILLS, _PIECES = 8, 8
"""Jobs of a piece, in fillings of a worker's places; and pieces for each worker that `respond` hands over together."""


@dataclass(frozen=True)
class RespondWork:
    """Opens an engine by its name."""

    engine: str
    options: EngineOptions

    def open(self, device: str) -> "RespondWorker":
        """Loads the model on a device."""
        return RespondWorker(open_engine(self.engine, replace(self.options, device=device)))


@dataclass(frozen=True)
class RespondWorker:
    """An engine that is loaded."""

    engine: Engine

    def describe(self) -> dict[str, Any]:
        """Its name and manifest."""
        return {"name": self.engine.name, "manifest": self.engine.manifest()}

    def work(self, items: Sequence[Job]) -> list[Answer]:
        """An answer a job, in their order; what the engine refuses has a problem."""
        refusals = self.engine.refusals([job.text for job in items])
        answers = {job: Answer(job, "", problem=why) for job, why in zip(items, refusals, strict=True) if why}
        wanted = [job for job in items if job not in answers]
        answers.update((answer.job, answer) for answer in (self.engine.answer(wanted) if wanted else ()))
        return [answers[job] for job in items]


class PooledEngine:
    """Answers with the engines of a pool."""

    def __init__(self, pool: Pool, workers: int, batch_size: int) -> None:
        """Waits for the first worker.

        Args:
            pool: of a `RespondWork`, entered.
            workers: of the pool.
            batch_size: rows that a worker writes side by side.
        """
        self.pool, self.workers, self._most = pool, workers, _FILLS * batch_size
        about = pool.describe()
        self.name, self._manifest = str(about["name"]), dict(about["manifest"])
        self.window = workers * _PIECES * self._most
        self._rows, self._seconds = 0, 0.0

    def manifest(self) -> dict[str, Any]:
        """What the responses depend on: the same as of one engine."""
        return self._manifest

    def speed(self) -> str:
        """Rows a second of all workers together, so far."""
        return f"{self._rows / self._seconds:.1f} rows/s by {self.workers} workers" if self._seconds else ""

    def refusals(self, texts: Sequence[str]) -> list[str | None]:
        """None: the workers, which have the tokenizer, refuse."""
        return [None] * len(texts)

    def answer(self, jobs: Sequence[Job]) -> Iterator[Answer]:
        """Answers by the piece."""
        size = max(1, min(self._most, -(-len(jobs) // (2 * self.workers))))
        slices = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        start = time.perf_counter()
        for done in self.pool.map(Piece(number, part) for number, part in enumerate(slices)):
            self._rows += len(slices[done.number])
            self._seconds += time.perf_counter() - start
            yield from done.results
            yield from (Answer(slices[done.number][i], "", problem=why) for i, why in done.lost.items())
            start = time.perf_counter()
