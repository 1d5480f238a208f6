"""How much runs in one forward pass, and what happens when that was too much.

In: a computation that can be cut into passes of any size and gives the same result. Out: its result.
Careful: the size never grows back. What did not fit once would not fit again, and a step that is
done twice costs more than passes of half the size.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from .distributed import Processes

logger = logging.getLogger(__name__)
T = TypeVar("T")


class MicroBatch:
    """The most padded tokens in one forward pass, of all processes alike.

    Attributes:
        tokens: that number; halved each time memory runs out.
        processes: those that compute together.
    """

    def __init__(self, tokens: int, processes: Processes | None = None) -> None:
        """Starts at `tokens`."""
        self.tokens = tokens
        self.processes = processes or Processes()

    def run(self, compute: Callable[[int], T]) -> T:
        """`compute(tokens)`, from its beginning with half the tokens when memory ran out in any process.

        Args:
            compute: holds no meeting of the processes, and undoes what an earlier call of it left half done.

        Raises:
            torch.OutOfMemoryError: if it does not fit row by row either.
        """
        while True:
            result, failure = None, None
            try:
                result = compute(self.tokens)
            except torch.OutOfMemoryError as error:
                failure = str(error).strip().splitlines()[0]  # not the error: it would keep the pass alive
            if not self.processes.any(failure is not None):
                return result  # type: ignore[return-value]
            if self.tokens == 1:
                raise torch.OutOfMemoryError(failure or "another process ran out of memory, row by row")
            self._halve()

    def _halve(self) -> None:
        self.tokens = max(1, self.tokens // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logger.warning(
            "out of memory: from here on %d padded tokens a forward pass, with the same result; "
            "to start there, pass --micro-batch-tokens %d",
            self.tokens,
            self.tokens,
        )
