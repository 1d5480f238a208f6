"""The two objectives that make a teacher: what one batch adds to an adapter's gradient (arXiv 2404.05961, section 2).

In: a backbone that reads in both directions, and token ids. Out: gradients in the adapter, and the loss in nats.

    mntp     masked next-token prediction: a fifth of the tokens is blanked; the state *before* a blank says which
    simcse   each text twice through dropout; the two vectors must find each other among the batch

Careful: how a batch is cut into passes changes neither gradient, though the second ties all
texts together; only its dropout falls elsewhere.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..backbone import Backbone
from ..batching import length_batches
from ..cross_entropy import chunked_cross_entropy
from ..training.grad_cache import in_passes
from .bidirectional import Bidirectional

BLANKED = 0.2
"""Share of the tokens that stage 1 blanks."""
DROPOUT = 0.3
"""Share of the attention weights that stage 2 drops: the authors' script puts its `simcse_dropout` there
(run_simcse.py, `attention_dropout`). Dropout inside a new LoRA adapter would drop nothing, since it starts at zero."""
SCALE = 20.0
"""Cosines of stage 2 are multiplied by this before the softmax."""

Blank = tuple[int, int, int]
"""Row, place, and the token that stood there."""


# -- stage 1 ---------------------------------------------------------------------------------------------


def blank(
    rows: Sequence[Sequence[int]], token: int, random: np.random.Generator
) -> tuple[list[list[int]], list[Blank]]:
    """Puts the blank in a fifth of the places, at least one a row; never in the first, which no state precedes.

    Returns:
        the rows with blanks, and (row, place, token that stood there) of each blank.
    """
    blanked, places = [list(row) for row in rows], []
    for i, row in enumerate(blanked):
        chosen = 1 + np.flatnonzero(random.random(max(len(row) - 1, 0)) < BLANKED)
        if not len(chosen) and len(row) > 1:
            chosen = random.integers(1, len(row), size=1)
        places += [(i, int(at), row[at]) for at in chosen]
        for at in chosen:
            row[at] = token
    return blanked, places


def mntp_gradient(
    reader: Bidirectional, rows: Sequence[Sequence[int]], places: Sequence[Blank], micro_batch_tokens: int
) -> float:
    """Adds the gradient of stage 1 to the adapter.

    Args:
        reader: receives the gradient.
        rows: token ids, leading token included, with blanks.
        places: what `blank` returned.
        micro_batch_tokens: most padded tokens in a pass; the cut changes nothing.

    Returns:
        nats a blank.
    """
    backbone, total = reader.backbone, 0.0
    of_row: dict[int, list[tuple[int, int]]] = {}
    for i, at, label in places:
        of_row.setdefault(i, []).append((at, label))
    order = sorted(of_row)
    for part in length_batches([len(rows[i]) for i in order], micro_batch_tokens, _least(backbone)):
        chosen = [order[i] for i in part]
        wanted = [(new, at - 1, label) for new, i in enumerate(chosen) for at, label in of_row[i]]
        row, before, labels = torch.tensor(wanted, device=backbone.device).T
        states = reader.states([rows[i] for i in chosen])[row, before]
        loss = chunked_cross_entropy(states, labels, backbone.logits, backbone.text_config.vocab_size)
        loss = loss / len(places)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


# -- stage 2 ---------------------------------------------------------------------------------------------


def simcse_gradient(reader: Bidirectional, rows: Sequence[list[int]], seed: int, micro_batch_tokens: int) -> float:
    """Adds the gradient of stage 2 to the adapter.

    The loss ties all texts of the batch together. Where they do not fit in a pass, the vectors come first, without
    gradient; then each pass runs again, with the same dropout, and receives its vectors' gradient (GradCache,
    arXiv 2101.06983).

    Args:
        reader: in training mode; receives the gradient.
        rows: token ids of the texts alone.
        seed: of the dropout.
        micro_batch_tokens: most padded tokens in a pass.

    Returns:
        cross-entropy of finding the own other vector, in nats.
    """
    lengths = [len(row) + len(reader.backbone.leading_ids) for row in rows]
    parts = length_batches(lengths, micro_batch_tokens, _least(reader.backbone))
    passes = [(view * len(parts) + i, part) for view in range(2) for i, part in enumerate(parts)]

    def vectors(number: int, part: list[int]) -> Tensor:
        torch.manual_seed(seed + number)
        return reader.mean([rows[i] for i in part])

    def loss(both: Tensor) -> Tensor:
        return contrast(both[: len(rows)], both[len(rows) :])

    small = sum(lengths) <= micro_batch_tokens // 2
    return in_passes(passes, lambda one: vectors(*one), loss, at_once=small)


def contrast(one: Tensor, other: Tensor) -> Tensor:
    """Cross-entropy of finding row i of `other` from row i of `one` by scaled cosine; both (texts, hidden)."""
    cosine = functional.normalize(one, dim=-1) @ functional.normalize(other, dim=-1).T
    return functional.cross_entropy(SCALE * cosine, torch.arange(len(one), device=one.device))


def _least(backbone: Backbone) -> int:
    """Padded tokens from which on a pass of its own pays for less padding."""
    return 512 if backbone.device.type == "cpu" else 8192
