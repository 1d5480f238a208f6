"""The next token of each row: the most likely one, or one drawn by the row's own seed.

In: logits (rows, vocabulary), and for each row its seed and how many tokens it has. Out: token ids.
Be careful: the draw is inverse-transform sampling with one number per row and token, so it depends on nothing but the
row's probabilities and its seed, and not on the state of any generator. The batch changes the last digits of the
probabilities, which can move a draw that falls on the border between two tokens.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_AHEAD = 256
"""Random numbers drawn together for a row."""


class Sampling:
    """Temperature and nucleus; nothing of the model's own settings."""

    def __init__(self, temperature: float, top_p: float) -> None:
        """Temperature 0 takes the most likely token."""
        self.temperature, self.top_p = temperature, top_p

    def choose(self, logits: Tensor, rows: Sequence[tuple[int, int]]) -> list[int]:
        """A token a row.

        Args:
            logits: (rows, vocabulary).
            rows: seed, and number of tokens written before, of each row.
        """
        if self.temperature == 0:
            greedy: list[int] = logits.argmax(dim=-1).tolist()
            return greedy
        weights = torch.softmax(logits.float() / self.temperature, dim=-1)
        order = None
        if self.top_p < 1:
            weights, order = weights.sort(dim=-1, descending=True, stable=True)
            before = weights.cumsum(dim=-1) - weights
            weights = weights.masked_fill(before >= self.top_p, 0)  # the likeliest token has none before it
        sums = weights.double().cumsum(dim=-1)
        draws = torch.tensor([_draw(seed, step) for seed, step in rows], dtype=sums.dtype, device=sums.device)
        places = torch.searchsorted(sums, (draws * sums[:, -1])[:, None], right=True)
        places = places.clamp(max=logits.shape[-1] - 1)
        found: list[int] = (places if order is None else order.gather(1, places))[:, 0].tolist()
        return found


def _draw(seed: int, step: int) -> float:
    """The random number in [0, 1) of a row's token."""
    return _draws(seed, step // _AHEAD)[step % _AHEAD]


@lru_cache(maxsize=4096)
def _draws(seed: int, block: int) -> list[float]:
    generator = torch.Generator().manual_seed((seed + block * 0x9E3779B97F4A7C15) % (1 << 63))
    numbers: list[float] = torch.rand(_AHEAD, generator=generator, dtype=torch.float64).tolist()
    return numbers
