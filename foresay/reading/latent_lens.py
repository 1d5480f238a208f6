"""The latent lens: the words of a corpus whose states, in their sentences, are nearest to a special token's.

In: states of special tokens at any layer, and an index of a corpus. Out: words with their sentences and cosines (Krojer
et al. 2026, arXiv 2602.00462). Where the logit lens names what would be written next, this one names what is alike.
Be careful with the index: it is of one backbone, and only its layers are searched.
"""

from pathlib import Path

from torch import Tensor

from ..config import LensConfig
from ..encoder import Encoder
from ..errors import InputError
from .latent_index import LatentIndex
from .lenses import Found, Hit, register


class LatentLens:
    """Reads states by their neighbours."""

    score = "cosine"

    def __init__(self, encoder: Encoder, config: LensConfig) -> None:
        """Opens the index.

        Raises:
            InputError: if none is named, or it is of another backbone.
            DataError: if it is missing, unfinished or damaged.
        """
        if not config.latent_index:
            raise InputError(
                "the latent lens needs an index of a corpus: --latent-index FOLDER (made by foresay latent-index)"
            )
        self.index = LatentIndex(Path(config.latent_index), encoder.model.backbone)
        self._same_layer = config.same_layer

    def read(self, states: Tensor, layer: int, top: int) -> Found:
        """The nearest words of each state, and the nearest to any of a row's tokens."""
        rows, tokens, hidden = states.shape
        hits = self.index.search(states.reshape(-1, hidden), top, [layer] if self._same_layer else None)
        each = [hits[row * tokens : (row + 1) * tokens] for row in range(rows)]
        return each, [_merge(of_row, top) for of_row in each]


def _merge(of_tokens: list[list[Hit]], top: int) -> list[Hit]:
    """The best hits over all tokens, each place of the corpus once."""
    kept: dict[tuple[str, int], Hit] = {}
    for hit in sorted((hit for hits in of_tokens for hit in hits), key=lambda hit: -hit.score):
        kept.setdefault((hit.sentence, hit.start), hit)
    return list(kept.values())[:top]


register("latent", LatentLens)
