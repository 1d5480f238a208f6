"""Rows of token ids through a model: batches of similar length, the longest first, results back in order.

In: rows of token ids, and what a pass does with a batch of them. Out: filled tensors, row i for row i.
Every place that runs many texts uses the one loop here, `run_by_length`; where a `Model` reads them,
`Model.run`, which also runs what all rows begin with only once.
Be careful with results that depend on the batch: the loop decides who is padded beside whom.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Row = Sequence[int]
Progress = Callable[[int], None]
"""Told how many rows a finished batch held."""

SHORTEST_SHARED_PREFIX = 6
"""Shorter common beginnings are not worth the mask that a cache brings with it."""


@dataclass(frozen=True)
class Budget:
    """How rows are cut into batches.

    Attributes:
        most_tokens: most padded tokens in a batch; a single longer row is a batch of its own.
        least_tokens: see `length_batches`.
        most_rows: most rows in a batch.
        extra: tokens that each row gets in the pass, such as special tokens.
    """

    most_tokens: int
    least_tokens: int | None = None
    most_rows: int | None = None
    extra: int = 0


def run_by_length(
    rows: Sequence[Row],
    run: Callable[[list[Row]], Tensor | tuple[Tensor, ...]],
    out: Sequence[Tensor],
    budget: Budget,
    progress: Progress | None = None,
) -> None:
    """Runs rows in batches of similar length, the longest first, and puts the results where their rows are.

    Args:
        rows: token ids.
        run: a batch of rows to one tensor for each of `out`, (rows of the batch, …).
        out: what to fill, each (rows, …); results take its device and dtype. For a numpy array,
            `torch.from_numpy(array)`, which shares its memory.
        budget: how to cut.
        progress: told after each batch.
    """
    lengths = [len(row) + budget.extra for row in rows]
    for batch in length_batches(lengths, budget.most_tokens, budget.least_tokens, budget.most_rows):
        found = run([rows[i] for i in batch])
        for whole, part in zip(out, (found,) if isinstance(found, Tensor) else found, strict=True):
            whole[batch] = part.to(whole.device, whole.dtype)
        if progress:
            progress(len(batch))


def length_batches(
    lengths: Sequence[int], most_tokens: int, least_tokens: int | None = None, most_rows: int | None = None
) -> list[list[int]]:
    """Cuts rows into batches of similar length, the longest first: what does not fit in memory fails at once.

    Args:
        lengths: tokens of each row.
        most_tokens: most padded tokens in a batch; a single longer row is a batch of its own.
        least_tokens: a batch with this many tokens is closed as soon as a row would be more than a fifth
            padding; smaller batches are not worth a pass of their own.
        most_rows: most rows in a batch.

    Returns:
        the indices of each batch's rows.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        count = len(batches[-1]) if batches else 0
        size = count * longest
        full = size + longest > most_tokens or count == most_rows
        uneven = least_tokens is not None and size >= least_tokens and lengths[index] < 0.8 * longest
        if not batches or full or uneven:
            batches.append([])
            longest = max(lengths[index], 1)
        batches[-1].append(index)
    return batches


def pad(rows: Sequence[Row], value: int, *, left: bool, device: torch.device, least: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids of different lengths as one tensor.

    Args:
        rows: token ids.
        value: of padding.
        left: pad on the left.
        device: of the tensors.
        least: columns at least; a model that gets the rows alone cannot run on none, which empty texts would be.

    Returns:
        ids (rows, longest) and lengths (rows,), both int64.
    """
    lengths = [len(row) for row in rows]
    longest = max([least, *lengths])
    padded = [
        [value] * (longest - len(row)) + list(row) if left else list(row) + [value] * (longest - len(row))
        for row in rows
    ]
    ids = torch.tensor(padded, dtype=torch.long, device=device).reshape(len(rows), longest)
    return ids, torch.tensor(lengths, dtype=torch.long, device=device)


def shared_prefix(rows: Sequence[Row]) -> int:
    """How many tokens all rows begin with, where that is worth running them once; else 0."""
    if len(rows) < 2:
        return 0
    first, last = list(min(rows, key=list)), list(max(rows, key=list))  # what these two share, all in between do
    length = len(os.path.commonprefix([first, last]))
    return length if length >= SHORTEST_SHARED_PREFIX else 0
