"""The reconstruction maps in closed form: soft prompts that the backbone can read, without a gradient.

In: an encoder with a reconstruction map for each token, pairs. Out: the maps, and how well responses are written from
their soft prompts. It is all the decoding that `fit` gives, and where `train` starts.

A token's map is a ridge regression of the mean input embedding of that token's share of a text, rare tokens counting
more, on the token's state. A regression shrinks what it predicts, so deviations from the mean are scaled up again. Two
things are tried, and the held-out reconstruction loss chooses:

    source   whose embeddings the soft prompt imitates: the query's, which the backbone then answers, or the response's
    frame    the last tokens are the template's own words after a query, the header of the assistant's turn

Careful: one map for all tokens cannot do this, since each token has to say something else. And a low loss is not yet a
good text: compare with `swapped`, the loss with the soft prompts of other rows, which carry no information.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backbone import Backbone
from ..batching import pad
from ..model import Model
from ..reconstruction import reconstruction_loss

PENALTIES = (0.03, 0.1, 0.3, 1.0)
"""Tried on the held-out rows; in units of a standardised state's variance."""
SCALES = (2.0, 3.0, 4.0, 6.0)
"""Tried on the held-out rows: by how much deviations from the mean soft prompt are scaled up."""
FIRST_SCALE = 4.0
"""At which layouts are compared."""
MOST_ROWS, MOST_TOKENS = 48, 32
"""Held-out rows, and first tokens of their responses, on which the choice is made."""
_CONSTANT = 1e-6
"""Least standard deviation: a state's entry that never changes must not become a division by zero."""


@dataclass(frozen=True)
class Layout:
    """What the soft prompt imitates.

    Attributes:
        source: `query` or `response`.
        frame: token ids whose embeddings are the last tokens, the same for every text; may be empty.
        content: tokens before them, each for its share of the source.
    """

    source: str
    frame: tuple[int, ...]
    content: int


@dataclass(frozen=True)
class SoftPromptFit:
    """Maps from states to soft prompts.

    Attributes:
        weight: (compression, hidden, hidden) float32.
        bias: (compression, hidden) float32.
        layout: what the soft prompts imitate.
        penalty, scale: those chosen.
        loss: nats a token of responses that were held out, read from their soft prompts.
        swapped: the same from the soft prompts of other rows.
    """

    weight: Tensor
    bias: Tensor
    layout: Layout
    penalty: float
    scale: float
    loss: float
    swapped: float


def layouts(model: Model) -> list[Layout]:
    """What a model's soft prompts may imitate: with the template's frame only where two tokens at least are left."""
    frames: list[tuple[int, ...]] = [()]
    if len(model.suffix_ids) <= model.compression - 2:
        frames.append(tuple(model.suffix_ids))
    return [
        Layout(source, frame, model.compression - len(frame))
        for frame in dict.fromkeys(frames)
        for source in ("query", "response")
    ]


class Rarity:
    """How rare each token is among some texts: what a text is about is in its rare tokens."""

    def __init__(self, backbone: Backbone) -> None:
        """No text yet: all tokens alike."""
        self.texts = 0
        self.counts = torch.zeros(backbone.embedding.num_embeddings, device=backbone.device)

    def add(self, rows: Sequence[Sequence[int]]) -> None:
        """Counts in how many of the rows each token occurs."""
        self.texts += len(rows)
        ids = [token for row in rows for token in set(row)]
        self.counts += torch.bincount(
            torch.tensor(ids, dtype=torch.long, device=self.counts.device), minlength=len(self.counts)
        )

    def of(self, ids: Tensor) -> Tensor:
        """The weight of each token: the logarithm of one over its share of the texts (Sparck Jones 1972)."""
        return torch.log((self.texts + 2) / (self.counts[ids] + 1))


def shares(backbone: Backbone, rows: Sequence[Sequence[int]], parts: int, rarity: Rarity | None = None) -> Tensor:
    """The mean input embedding of each part of each row, as the first layer receives it.

    Args:
        backbone: whose embedding.
        rows: token ids; an empty row gives zeros.
        parts: into how many parts, as even as can be; a row with fewer tokens repeats some.
        rarity: weighs the tokens of a part; None takes them alike.

    Returns:
        (rows, parts, hidden) float32.
    """
    ids, lengths = pad(rows, backbone.pad_id, left=False, device=backbone.device)
    embedded = backbone.embedding(ids).float() * backbone.embed_scale
    weights = (torch.ones_like(ids, dtype=torch.float32) if rarity is None else rarity.of(ids))[..., None]
    weighted = torch.cat([embedded * weights, weights], dim=-1).cumsum(dim=1)
    sums = torch.cat([weighted.new_zeros(len(rows), 1, weighted.shape[-1]), weighted], dim=1)
    edges = torch.arange(parts + 1, device=ids.device)[None] * lengths[:, None] // parts
    low = edges[:, :-1]
    high = torch.minimum(torch.maximum(edges[:, 1:], low + 1), lengths[:, None])
    row = torch.arange(len(rows), device=ids.device)[:, None]
    part = sums[row, high] - sums[row, low]
    return part[..., :-1] / part[..., -1:].clamp_min(_CONSTANT)


class SoftPromptMoments:
    """Sums over rows, from which the maps of every layout follow; the states themselves are not kept."""

    def __init__(self, model: Model, rarity: Mapping[str, Rarity] | None = None) -> None:
        """Starts empty.

        Args:
            model: whose maps are wanted.
            rarity: of the tokens of each source, `query` and `response`; None takes all tokens alike.
        """
        self.model, self.layouts, self.rarity = model, layouts(model), rarity or {}
        device, hidden, tokens = model.backbone.device, model.backbone.hidden_size, model.compression
        # MPS has no float64
        kind = torch.float32 if device.type == "mps" else torch.float64
        self.count = 0
        self.state = torch.zeros(tokens, hidden, dtype=kind, device=device)
        self.gram = torch.zeros(tokens, hidden, hidden, dtype=kind, device=device)
        self.wanted = [torch.zeros(one.content, hidden, dtype=kind, device=device) for one in self.layouts]
        self.cross = [torch.zeros(one.content, hidden, hidden, dtype=kind, device=device) for one in self.layouts]

    def add(self, states: Tensor, queries: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> None:
        """Adds rows: their states (rows, compression, hidden), and the token ids of both texts."""
        states = states.float().transpose(0, 1)  # (tokens, rows, hidden)
        self.count += states.shape[1]
        self.state += states.sum(dim=1)
        self.gram += states.transpose(1, 2) @ states
        for number, one in enumerate(self.layouts):
            wanted = self.targets(one, queries, responses)
            self.wanted[number] += wanted.sum(dim=1)
            self.cross[number] += states[: one.content].transpose(1, 2) @ wanted

    def targets(self, one: Layout, queries: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Tensor:
        """What the content tokens of a layout are to be: (content, rows, hidden) float32."""
        rows = queries if one.source == "query" else responses
        return shares(self.model.backbone, rows, one.content, self.rarity.get(one.source)).transpose(0, 1)

    def solve(self) -> "Solved":
        """Factorises the moments, once for all layouts and penalties."""
        mean = self.state / self.count
        covariance = self.gram / self.count - mean[:, :, None] * mean[:, None, :]
        deviation = covariance.diagonal(dim1=1, dim2=2).clamp_min(_CONSTANT**2).sqrt()
        values, vectors = torch.linalg.eigh(covariance / deviation[:, :, None] / deviation[:, None, :])
        return Solved(self, mean, deviation, values.clamp_min(0), vectors)


@dataclass(frozen=True)
class Solved:
    """The factorised moments: eigenvalues (tokens, hidden) and eigenvectors of the standardised states' covariance."""

    moments: SoftPromptMoments
    mean: Tensor
    deviation: Tensor
    values: Tensor
    vectors: Tensor

    def maps(self, number: int, penalty: float) -> tuple[Tensor, Tensor]:
        """Of a layout: weights (content, hidden, hidden), which take a state's deviation, and means of the targets."""
        one, count = self.moments.layouts[number], self.moments.count
        keep = slice(0, one.content)
        wanted = self.moments.wanted[number] / count
        cross = self.moments.cross[number] / count - self.mean[keep, :, None] * wanted[:, None, :]
        vectors, deviation = self.vectors[keep], self.deviation[keep, :, None]
        projected = vectors.transpose(1, 2) @ (cross / deviation)
        weight = (vectors @ (projected / (self.values[keep, :, None] + penalty))) / deviation
        return weight.transpose(1, 2).float(), wanted.float()

    def complete(self, number: int, penalty: float, scale: float) -> tuple[Tensor, Tensor]:
        """Weight (compression, hidden, hidden) and bias (compression, hidden) of all tokens, those of the frame too."""
        model, one = self.moments.model, self.moments.layouts[number]
        content, wanted = self.maps(number, penalty)
        hidden = content.shape[-1]
        weight = content.new_zeros(model.compression, hidden, hidden)
        bias = content.new_zeros(model.compression, hidden)
        weight[: one.content] = scale * content
        mean = self.mean[: one.content, :, None].float()
        bias[: one.content] = wanted - (weight[: one.content] @ mean)[..., 0]
        if one.frame:
            ids = torch.tensor(one.frame, device=bias.device)
            bias[one.content :] = model.backbone.embedding(ids).float() * model.backbone.embed_scale
        return weight, bias


@dataclass(frozen=True)
class Sample:
    """Rows on which the choice is made: states (rows, compression, hidden), and the token ids of both texts."""

    states: Tensor
    queries: Sequence[Sequence[int]]
    responses: Sequence[Sequence[int]]


@torch.no_grad()
def choose(moments: SoftPromptMoments, sample: Sample) -> SoftPromptFit:
    """Penalty, layout and scale that serve a sample best: the first by its error, the others by decoding."""
    solved, model = moments.solve(), moments.model
    answers = [row[:MOST_TOKENS] for row in sample.responses[:MOST_ROWS]]
    states = sample.states[:MOST_ROWS].float()

    def loss(number: int, penalty: float, scale: float, shift: int = 0) -> float:
        weight, bias = solved.complete(number, penalty, scale)
        prompts = torch.einsum("bth,tdh->btd", states, weight) + bias
        parts = [slice(start, start + 16) for start in range(0, len(answers), 16)]
        prompts = prompts.roll(shift, dims=0)
        nats = sum(float(reconstruction_loss(model.backbone, prompts[part], answers[part])) for part in parts)
        return nats / sum(map(len, answers))

    penalties = {number: _best_penalty(solved, number, sample) for number in range(len(moments.layouts))}
    number = min(penalties, key=lambda one: loss(one, penalties[one], FIRST_SCALE))
    losses = {scale: loss(number, penalties[number], scale) for scale in SCALES}
    scale = min(losses, key=lambda one: losses[one])
    weight, bias = solved.complete(number, penalties[number], scale)
    swapped = loss(number, penalties[number], scale, shift=1)
    return SoftPromptFit(weight, bias, moments.layouts[number], penalties[number], scale, losses[scale], swapped)


def _best_penalty(solved: Solved, number: int, sample: Sample) -> float:
    """The penalty with the smallest squared error on the sample."""
    one = solved.moments.layouts[number]
    wanted = solved.moments.targets(one, sample.queries, sample.responses)
    states = sample.states.float().transpose(0, 1)[: one.content] - solved.mean[: one.content, None].float()
    errors = {}
    for penalty in PENALTIES:
        weight, mean = solved.maps(number, penalty)
        errors[penalty] = float((states @ weight.transpose(1, 2) + mean[:, None] - wanted).square().sum())
    return min(errors, key=lambda penalty: errors[penalty])
