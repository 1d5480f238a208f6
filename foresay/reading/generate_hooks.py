"""What decoding adds to the library's `generate`: draws, log-probabilities, and a stop from outside.

In: the scores (rows, vocabulary) of one step. Out: the scores to choose from.
Be careful with the order: `Record` sees the backbone's own scores, so it comes before `Draw`, which changes them.
"""

import hashlib
from threading import Event
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from ..config import DecodeConfig


class Cancelled(StoppingCriteria):  # type: ignore[misc]
    """Stops every row once the event is set."""

    def __init__(self, event: Event) -> None:
        """Watches an event that another thread sets."""
        self.event = event

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:  # noqa: ANN401 - the library's
        """(rows,): whether each is to stop."""
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


class Draw(LogitsProcessor):  # type: ignore[misc]
    """Sampling as a greedy choice among noisy scores (Gumbel 1954), with a generator for each row.

    The library samples from the global generator, whose draws depend on the batch and on other threads.
    """

    def __init__(self, config: DecodeConfig, rows: range) -> None:
        """Draws for these rows of all that are decoded, whose numbers are part of their seeds."""
        self.generators = [torch.Generator().manual_seed(_mixed(config.seed, row)) for row in rows]
        warpers = [TemperatureLogitsWarper(config.temperature), TopPLogitsWarper(config.top_p)]
        self.warpers = LogitsProcessorList(warpers)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary) whose largest is the draw."""
        noise = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=one) for one in self.generators])
        noisy: Tensor = self.warpers(input_ids, scores) - noise.log().to(scores.device)
        return noisy


def _mixed(seed: int, row: int) -> int:
    """A seed for one row. The generator heeds 32 bits of what it is given, so both numbers go into those."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{row}".encode()).digest()[:4])


class Record(LogitsProcessor):  # type: ignore[misc]
    """Keeps the log-probability of each chosen token, and never more than one step's distribution."""

    def __init__(self) -> None:
        """Starts with nothing."""
        self.last: Tensor | None = None
        self.chosen: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores as they are."""
        self._choose(input_ids)
        self.last = scores.float().log_softmax(dim=-1)
        return scores

    def _choose(self, ids: Tensor) -> None:
        if self.last is not None:
            self.chosen.append(self.last.gather(1, ids[:, -1:]))

    def take(self, ids: Tensor) -> Tensor:
        """Log-probabilities (rows, tokens) of a finished batch; the next one starts afresh."""
        self._choose(ids)
        found, self.last, self.chosen = torch.cat(self.chosen, dim=1), None, []
        return found
