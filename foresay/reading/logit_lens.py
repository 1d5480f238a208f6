"""The logit lens: which tokens the backbone would write next, were a state its last one.

In: states of special tokens at any layer. Out: the likeliest tokens with their probabilities (nostalgebraist 2020,
"interpreting GPT: the logit lens"). At the last layer these are the backbone's own next-token probabilities.
Be careful with the final norm: the library's last state is after it, so only the others go through it here.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn

from ..backbone import Backbone
from ..config import LensConfig
from ..cross_entropy import LOGITS_AT_ONCE
from ..encoder import Encoder
from ..errors import BackboneError
from .lenses import Found, Hit, register

CHANCES_AT_ONCE = 1 << 21
"""Probabilities computed together: what a cache holds. With 16 times as many, softmax took twice as long on a CPU."""
_FINAL_NORMS = ("norm", "final_layer_norm", "final_layernorm", "ln_f")


class LogitLens:
    """Reads states through the backbone's head."""

    score = "probability"

    def __init__(self, encoder: Encoder, config: LensConfig | None = None) -> None:
        """Needs the encoder's backbone alone."""
        self.backbone: Backbone = encoder.model.backbone
        self._norm = _final_norm(self.backbone.decoder)
        self._last = int(self.backbone.text_config.num_hidden_layers)
        self._name = lru_cache(maxsize=None)(lambda token: str(self.backbone.tokenizer.decode([token])))

    def _logits(self, states: Tensor, layer: int) -> Tensor:
        """Of states (…, hidden) of a layer: (…, vocabulary)."""
        return self.backbone.logits(states if layer == self._last else self._norm(states))

    @torch.no_grad()
    def read(self, states: Tensor, layer: int, top: int) -> Found:
        """The likeliest tokens of each state, and those of the mean distribution over a row's tokens."""
        each: list[list[list[Hit]]] = []
        merged: list[list[Hit]] = []
        size = states.shape[1] * self.backbone.text_config.vocab_size
        for some in torch.split(states, max(1, LOGITS_AT_ONCE // size)):
            for logits in torch.split(self._logits(some, layer), max(1, CHANCES_AT_ONCE // size)):
                chances = logits.softmax(dim=-1, dtype=torch.float32)
                flat = self._best(chances.flatten(0, 1), top)
                each += [flat[at : at + states.shape[1]] for at in range(0, len(flat), states.shape[1])]
                count = chances.shape[1]
                both = torch.bmm(chances.new_ones(len(chances), 1, count), chances)  # on a CPU faster than a mean
                merged += self._best(both.squeeze(1) / count, top)
        return each, merged

    def _best(self, chances: Tensor, top: int) -> list[list[Hit]]:
        """The likeliest tokens of each distribution (any, vocabulary)."""
        best = chances.topk(min(top, chances.shape[-1]), dim=-1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[Hit(self._name(i), p) for i, p in zip(ids, shares, strict=True)] for ids, shares in pairs]


def _final_norm(decoder: nn.Module) -> nn.Module:
    for name in _FINAL_NORMS:
        norm = getattr(decoder, name, None)
        if isinstance(norm, nn.Module):
            return norm
    raise BackboneError(f"{type(decoder).__name__} has none of {', '.join(_FINAL_NORMS)}; the lens needs its last norm")


register("logit", LogitLens)
