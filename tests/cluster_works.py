"""Works for the tests of the pools that need no model, and no torch where they are opened."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foresay.engines.base import Answer, Job
from foresay.engines.pooled import RespondWorker


@dataclass
class Backwards:
    """An engine that answers each query backwards.

    Attributes:
        mark: a file; the worker that comes to the text `first 7` and does not find it makes it, and dies.
        pause: seconds a query.
        limit: longer queries are refused.
    """

    mark: str = ""
    pause: float = 0.0
    limit: int = 100
    name: str = "backwards"
    window: int = 1000

    def open(self, device: str) -> RespondWorker:
        """A worker around itself."""
        return RespondWorker(self)

    def manifest(self) -> dict[str, Any]:
        """Its name."""
        return {"backbone": self.name}

    def refusals(self, texts: Sequence[str]) -> list[str | None]:
        """Long ones."""
        return ["too long" if len(text) > self.limit else None for text in texts]

    def answer(self, jobs: Sequence[Job]) -> Iterator[Answer]:
        """The last job first; `poison` kills every worker."""
        for job in reversed(jobs):
            time.sleep(self.pause)
            if job.text == "poison" or (job.text == "first 7" and self.mark and not Path(self.mark).exists()):
                Path(self.mark or os.devnull).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield Answer(job, f"{job.text[::-1]} {job.sample} {job.seed}")

    def speed(self) -> str:
        """None."""
        return ""


@dataclass(frozen=True)
class Fails:
    """A work that cannot be opened: with an error, or by its process's death."""

    dies: bool

    def open(self, device: str) -> RespondWorker:
        """Never."""
        from foresay.errors import BackboneError

        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        raise BackboneError("there is no such model here")
