"""Scores to tokens: greedy, or drawn with a generator of the text's own.

In: the backbone's scores (rows, vocabulary) and the texts being written. Out: one token a text, with log-probabilities
where they are wanted. Drawing is a greedy choice among noisy scores (Gumbel 1954), so that a text and its seed give
the same tokens whoever is written beside it.
Be careful: log-probabilities are the backbone's own, before penalties, temperature and nucleus.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from ...config.options import settled

LEAST = -9999.0
"""Stands for the logarithm of 0."""


@dataclass(frozen=True)
class Sampling:
    """How a text is written.

    Attributes:
        max_tokens: longest text.
        temperature: 0 takes the likeliest token each time.
        top_p: draw from the smallest set of tokens with this much probability.
        seed: of the draws.
        stop: the text ends before any of these.
        presence_penalty: taken off the score of each token that has been written.
        frequency_penalty: taken off for each time that it has been written.
        logit_bias: added to the scores of tokens.
        log_probs: None for none; else how many likeliest tokens to tell besides the one written.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    log_probs: int | None = None

    def __post_init__(self) -> None:
        """Takes a temperature that is all but 0 for 0."""
        object.__setattr__(self, "temperature", settled(self.temperature))

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is taken as it is."""
        return not (self.temperature or self.presence_penalty or self.frequency_penalty or self.logit_bias)


@dataclass(frozen=True)
class Chosen:
    """A token, and what is known of it.

    Attributes:
        id: the token.
        log_prob: natural logarithm of its probability; None if not asked for.
        top: the likeliest tokens with theirs.
    """

    id: int
    log_prob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one text."""

    def __init__(self, sampling: Sampling) -> None:
        """Seeds the generator."""
        self.sampling = sampling
        self.generator = torch.Generator().manual_seed(sampling.seed)
        self.counts: dict[int, int] = {}
        self._temperature = TemperatureLogitsWarper(sampling.temperature) if sampling.temperature else None
        self._nucleus = TopPLogitsWarper(sampling.top_p) if sampling.temperature and sampling.top_p < 1 else None

    def choose(self, scores: Tensor, likeliest: int) -> Chosen:
        """The next token.

        Args:
            scores: (vocabulary,) float32, as the backbone gives them.
            likeliest: their largest.
        """
        token = likeliest if self.sampling.plain else self._draw(scores)
        self.counts[token] = self.counts.get(token, 0) + 1
        if self.sampling.log_probs is None:
            return Chosen(token)
        log_probs = scores.log_softmax(dim=-1).clamp(min=LEAST)  # JSON has no infinity
        best = log_probs.topk(self.sampling.log_probs) if self.sampling.log_probs else None
        top = () if best is None else tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return Chosen(token, float(log_probs[token]), top)

    def _draw(self, scores: Tensor) -> int:
        scores = scores.cpu().clone()
        how = self.sampling
        for token, bias in how.logit_bias.items():
            scores[token] += bias
        for token, count in self.counts.items():
            scores[token] -= how.presence_penalty + how.frequency_penalty * count
        if self._temperature is None:
            return int(scores.argmax())
        warped = self._temperature(None, scores[None])
        if self._nucleus is not None:
            warped = self._nucleus(None, warped)
        noise = torch.empty(len(scores)).exponential_(generator=self.generator)
        return int((warped[0] - noise.log()).argmax())


def choose(scores: Tensor, samplers: list[Sampler]) -> list[Chosen]:
    """The next token of each text, given scores (texts, vocabulary)."""
    scores = scores.float()
    likeliest = scores.argmax(dim=-1).tolist()
    return [sampler.choose(row, best) for sampler, row, best in zip(samplers, scores, likeliest, strict=True)]
