"""Several processes that train as one: who computes which rows, and how what they found becomes one result.

In: the variables that `accelerate launch` or `torchrun` sets for each process. Out: `Processes`, whose every method
does nothing of note where there is only one.
Careful: every method but `share` is a meeting. All processes must come to the same ones in the
same order, or they wait for each other for ever; so nothing that one process alone can see (a signal, a file, an
error, full memory) may decide what happens next before it was told to the others.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")


class Processes:
    """This process among those that were launched together; alone, if none were.

    Attributes:
        count: how many there are.
        rank: the number of this one, from 0.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        """Joins the others.

        Args:
            device: where this process computes; None for one that stays alone whatever was launched.
        """
        self.count, self.rank = 1, 0
        if device is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            state = PartialState(cpu=device.type == "cpu")
            self.count, self.rank = state.num_processes, state.process_index
        self._device = device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def share(self, sizes: Sequence[int]) -> list[int]:
        """Indices of the rows that this process computes: dealt out by size, so that none waits long for another."""
        order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
        return sorted(order[self.rank :: self.count])

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors, which have the same shape; in place."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def sum_metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        """The sum of each metric over the processes."""
        if self.count == 1:
            return metrics
        total = self.sum(torch.tensor(list(metrics.values()), dtype=torch.float64, device=self._device))
        return dict(zip(metrics, total.tolist(), strict=True))

    def sum_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Adds up the gradients; a process that had no rows has none of its own."""
        if self.count > 1:
            for weight in weights:
                weight.grad = self.sum(torch.zeros_like(weight) if weight.grad is None else weight.grad)

    def any(self, here: bool) -> bool:
        """Whether it is so in one process at least."""
        return bool(self.sum_metrics({"": float(here)})[""])

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes; the others wait for it. An error there is raised in all of them."""
        if self.count == 1:
            return make()
        told: list[Any] = [None, None]
        if self.first:
            try:
                told[0] = make()
            except Exception as error:  # raised below, in every process
                told[1] = error
        distributed.broadcast_object_list(told, src=0, device=self._device)
        if told[1] is not None:
            raise told[1]
        return cast(T, told[0])

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites tensors with those of the first process."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), src=0)


def is_first() -> bool:
    """Whether this process is the one that speaks, or the only one; known before it has joined the others."""
    return os.environ.get("RANK", "0") == "0"


def leave() -> None:
    """Parts from the other processes, at the very end of a program; nothing where there are none."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
