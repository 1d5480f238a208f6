"""An engine without a model."""

from collections.abc import Iterator, Sequence
from typing import Any

from foresay.engines.base import Answer, Job


class Echo:
    """An engine that answers at once: each query backwards, with its sample and seed; `bad` ones with a problem."""

    name, window = "echo", 5

    def __init__(self) -> None:
        """Counts what it is asked."""
        self.asked: list[Job] = []
        self.bad: set[str] = set()

    def manifest(self) -> dict[str, Any]:
        """Its name."""
        return {"backbone": "echo"}

    def refusals(self, texts: Sequence[str]) -> list[str | None]:
        """None of them."""
        return [None] * len(texts)

    def answer(self, jobs: Sequence[Job]) -> Iterator[Answer]:
        """The last job first."""
        for job in reversed(jobs):
            self.asked.append(job)
            text = f"{job.text[::-1]} {job.sample} {job.seed}"
            yield Answer(job, text, problem="it is bad" if job.text in self.bad else None)

    def speed(self) -> str:
        """None."""
        return ""
