"""Losses that tie a whole batch together, in passes of any size (GradCache, arXiv 2101.06983).

In: vectors of all rows, computed without gradient, and a loss over them. Out: the gradient of each row's vector, which
a second pass over the rows, a few at a time, carries on into the weights.
Careful: the second pass has to give the very vectors of the first. Whatever is random in it has to be seeded alike.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")


def pull(vectors: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[float, Tensor]:
    """The loss of vectors (rows, dim), and its gradient (rows, dim)."""
    leaf = vectors.detach().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return float(value.detach()), gradient


def in_passes(
    parts: Sequence[Part], compute: Callable[[Part], Tensor], loss: Callable[[Tensor], Tensor], *, at_once: bool
) -> float:
    """Adds the gradient of a loss over the vectors of all parts to the weights that made them.

    Args:
        parts: what one pass computes.
        compute: a part to its vectors (rows, dim), the same each time.
        loss: of the vectors of all parts, one after another.
        at_once: whether all passes fit in memory together; then each runs only once.

    Returns:
        the loss.
    """
    if at_once:
        whole = loss(torch.cat([compute(part) for part in parts]))
        whole.backward()  # type: ignore[no-untyped-call]
        return float(whole.detach())
    with torch.no_grad():
        made = [compute(part) for part in parts]
    value, gradient = pull(torch.cat(made), loss)
    for part, upstream in zip(parts, torch.split(gradient, [len(one) for one in made]), strict=True):
        compute(part).backward(upstream)  # type: ignore[no-untyped-call]
    return value
