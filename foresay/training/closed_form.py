"""The maps in closed form: ridge regression from the special tokens' states to targets, and to soft prompts.

In: an encoder, pairs. Out: the maps, without any gradient, and the penalties that served the held-out rows best. It is
all there is to `fit`, and where `train` starts (`TrainConfig.start`). Of an encoder that decodes already, the alignment
map alone.
Careful: the states are never kept. Their Gram matrix is summed block by block, so memory does
not grow with the rows, and one factorisation of it serves every penalty. Nor does it grow without bound with the parts
that are read, tokens or layers: beyond `MOST_FEATURES` numbers, each is first reduced to its principal components.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..data.pairs import Pairs
from ..encoder import Encoder
from ..errors import InputError
from ..model import Model
from ..readouts import gather
from .metrics import Read, Report
from .reconstruction_start import Rarity, Sample, SoftPromptFit, SoftPromptMoments, choose

PENALTIES = tuple(float(penalty) for penalty in 10.0 ** np.arange(-4, 2.5, 0.5))
"""Tried on the held-out rows; in units of a standardised state's variance."""
MOST_FEATURES = 8192
"""Widest Gram matrix: 512 MiB in float64, and minutes to factorise on two cores."""
_BLOCK = 512
_CONSTANT = 1e-6
"""Least standard deviation: a state's entry that never changes must not become a division by zero."""


@dataclass(frozen=True)
class Fit:
    """A linear map from standardised states to embeddings.

    Attributes:
        weight: (dim, width) float32.
        bias: (dim,) float32.
        center: (width,) float32, to subtract from the states first.
        scale: (width,) float32, to divide them by then.
        path: each penalty with the mean cosine of the held-out rows to their targets; empty where none were held out.
        penalty: the one chosen.
    """

    weight: Tensor
    bias: Tensor
    center: Tensor
    scale: Tensor
    path: dict[float, float]
    penalty: float

    @property
    def cosine(self) -> float:
        """Mean cosine of the held-out rows to their targets; NaN where none were held out."""
        return self.path.get(self.penalty, float("nan"))


@dataclass(frozen=True)
class ClosedForm:
    """Both maps: to the embedding, and to the soft prompt where each token has one of its own."""

    alignment: Fit
    soft_prompt: SoftPromptFit | None


@torch.no_grad()
def closed_form(
    encoder: Encoder,
    pairs: Pairs,
    rows: NDArray[np.int64],
    held: NDArray[np.int64],
    report: Report | None = None,
    *,
    keep_reconstruct: bool = False,
) -> ClosedForm:
    """Fits the maps on `rows` in one pass over their queries, and chooses their penalties on `held`.

    Args:
        encoder: whose states are read; its special tokens stay as they are.
        pairs: queries, responses and targets, these in the teacher's axes; the map leads to the model's.
        rows: which of them to fit on.
        held: which of them choose; may be empty, then the path's middle penalty is taken, and rows of the fit choose
            the soft prompts.
        report: told after each block how many rows have been read.
        keep_reconstruct: leave the reconstruction map as it is, and fit the alignment map alone.
    """
    model, total = encoder.model, len(rows) + len(held)
    moments: _Moments | None = None
    both = model.by_token and encoder.decodes and not keep_reconstruct
    prompts = SoftPromptMoments(model, _rarity(model, pairs, rows)) if both else None
    features_of = _align_features(model) if keep_reconstruct else model.features
    for start in range(0, len(rows), _BLOCK):
        block = _read(encoder, pairs, rows[start : start + _BLOCK], features_of)
        if moments is None:
            features = _Features(block.features.reshape(len(block.features), model.parts, -1))
            moments = _Moments(features.width, block.wanted.shape[1], block.features.device)
        moments.add(features(block.features), block.wanted)
        if prompts:
            prompts.add(block.sample.states, block.sample.queries, block.sample.responses)
        if report:
            report(Read(min(start + _BLOCK, len(rows)), total))
    if moments is None:
        raise ValueError("there are no rows to fit on")
    solve, path = moments.solver(standardise=features.basis is None), {}
    if len(held):
        block = _read(encoder, pairs, held, features_of)
        path = {one: _mean_cosine(block.features, features.unfold(*solve(one)), block.wanted) for one in PENALTIES}
        if report:
            report(Read(total, total))
    penalty = max(path, key=lambda one: path[one]) if path else PENALTIES[len(PENALTIES) // 2]
    weight, bias, center, scale = (tensor.float() for tensor in features.unfold(*solve(penalty)))
    found = Fit(weight, bias, center, scale, path, penalty)
    return ClosedForm(found, choose(prompts, block.sample) if prompts else None)


def _rarity(model: Model, pairs: Pairs, rows: NDArray[np.int64]) -> dict[str, Rarity]:
    """How rare tokens are in the queries and in the responses."""
    found = {"query": Rarity(model.backbone), "response": Rarity(model.backbone)}
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        found["query"].add(model.backbone.tokenize([pairs.queries[i] for i in block]))
        found["response"].add(model.backbone.tokenize([pairs.responses[i] for i in block]))
    return found


@dataclass(frozen=True)
class _Block:
    """Some rows, read: features (rows, width) and targets (rows, dim) float32, and what the soft prompts need."""

    features: Tensor
    wanted: Tensor
    sample: Sample


def _align_features(model: Model) -> Callable[[Tensor], Tensor]:
    """What the alignment map reads of states: the soft prompts, where a single reconstruction map comes before it."""
    if model.every_layer or model.by_token:
        return model.features
    return lambda hidden: gather(model.soft_prompt(hidden), model.mixing)


def _read(encoder: Encoder, pairs: Pairs, chosen: NDArray[np.int64], features_of: Callable[[Tensor], Tensor]) -> _Block:
    model, backbone = encoder.model, encoder.model.backbone
    texts = [pairs.queries[i] for i in chosen]
    rows, _ = model.rows(texts, encoder.max_tokens)
    features = torch.empty(len(rows), model.width, device=backbone.device)
    shape = (len(rows), model.compression, backbone.hidden_size) if model.by_token else (len(rows), 0)
    states = torch.empty(*shape, dtype=backbone.dtype, device=backbone.device)

    def take(hidden: Tensor) -> tuple[Tensor, Tensor]:
        return features_of(hidden), model.last(hidden) if model.by_token else hidden.new_empty(len(hidden), 0)

    model.run(rows, take, [features, states])
    wanted = torch.from_numpy(np.array(pairs.targets[chosen], np.float32)).to(backbone.device)
    _check_finite(features, f"states of {backbone.name}", "take --dtype bfloat16 or float32 (float16 overflows first)")
    _check_finite(wanted, "targets", "make them again with foresay teach")
    answers = [[*ids, backbone.end_id] for ids in backbone.tokenize([pairs.responses[i] for i in chosen])]
    return _Block(features, model.to_own_axes(wanted), Sample(states, backbone.tokenize(texts), answers))


def _check_finite(rows: Tensor, what: str, repair: str) -> None:
    """InputError for NaN and the like, which would go into every number of the maps."""
    bad = int((~rows.isfinite().all(dim=1)).sum())
    if bad:
        raise InputError(f"the {what} are not finite for {bad} of {len(rows)} rows; {repair}")


@torch.no_grad()
def start_from(model: Model, found: ClosedForm) -> None:
    """Writes fitted maps into a model.

    A single reconstruction map starts as the identity, the state as its own prompt. It is not scaled to the size of
    token embeddings: a map with small entries would be thrown off by Adam's first steps, which have the same size for
    every entry (held-out cosine .72 to .53 in one step on the nano backbone).
    """
    soft_prompt = found.soft_prompt
    if soft_prompt:
        model.reconstruct.weight.copy_(soft_prompt.weight)
        model.reconstruct.bias.copy_(soft_prompt.bias)
    else:
        identity = torch.eye(model.backbone.hidden_size, device=model.backbone.device)
        model.reconstruct.weight.copy_(identity.expand_as(model.reconstruct.weight))
        model.reconstruct.bias.zero_()
    align_by(model, found.alignment)


@torch.no_grad()
def align_by(model: Model, alignment: Fit) -> None:
    """Writes a fitted alignment map into a model, and leaves the reconstruction map."""
    if model.every_layer:
        standardise(model, alignment)
        model.align.weight.copy_(alignment.weight)
        model.align.bias.copy_(alignment.bias)
        return
    weight = alignment.weight / alignment.scale
    model.align.weight.copy_(weight)
    model.align.bias.copy_(alignment.bias - weight @ alignment.center)


def standardise(model: Model, found: Fit) -> None:
    """Lets a model that reads every layer see its states as they were standardised for the fit."""
    model.center.copy_(found.center.view_as(model.center))
    model.spread.copy_(found.scale.view_as(model.spread))


@torch.no_grad()
def features_of(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """What `Model.features` gives of texts: (texts, width) float32."""
    model = encoder.model
    rows, _ = model.rows(texts, encoder.max_tokens)
    states = torch.empty(len(rows), model.width, device=model.backbone.device)
    model.run(rows, model.features, [states])
    return states


class _Features:
    """What is regressed on: states roughly standardised by a first block, and reduced where they are too many."""

    def __init__(self, block: Tensor) -> None:
        """Looks at (texts, parts, hidden)."""
        flat = block.flatten(1)
        self.center = flat.mean(dim=0)
        self.scale = flat.std(dim=0, correction=0).clamp_min(_CONSTANT)
        self.basis: Tensor | None = None  # (parts, hidden, components)
        self.width = flat.shape[1]
        _, parts, hidden = block.shape
        if self.width > MOST_FEATURES:
            components = min(MOST_FEATURES // parts, hidden, len(block))
            standard = ((flat - self.center) / self.scale).view_as(block).transpose(0, 1)
            self.basis = torch.linalg.svd(standard, full_matrices=False).Vh[:, :components].transpose(1, 2)
            self.width = parts * components

    def __call__(self, states: Tensor) -> Tensor:
        """(texts, parts * hidden) to (texts, width)."""
        standard = (states - self.center) / self.scale
        if self.basis is None:
            return standard
        parts, hidden, _ = self.basis.shape
        by_part = standard.view(-1, parts, hidden).transpose(0, 1) @ self.basis
        return by_part.transpose(0, 1).flatten(1)

    def unfold(self, weight: Tensor, bias: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, ...]:
        """A map of standardised features (dim, width) as one of standardised states: weight, bias, center, scale."""
        if self.basis is None:
            center, scale = self.center.to(mean), self.scale.to(mean)
            return weight, bias, center + scale * mean, scale * deviation
        bias = bias - weight @ mean
        by_part = weight.view(len(weight), len(self.basis), -1).transpose(0, 1)
        unfolded = by_part @ self.basis.transpose(1, 2).to(weight)
        return unfolded.transpose(0, 1).flatten(1), bias, self.center, self.scale


class _Moments:
    """Sums over rows that ridge regression needs: of features, targets, and their products, in float64."""

    def __init__(self, width: int, dim: int, device: torch.device) -> None:
        # MPS has no float64; there the sums are kept on the CPU
        self.home = torch.device("cpu") if device.type == "mps" else device
        self.count = 0
        self.feature, self.target = self._zeros(width), self._zeros(dim)
        self.gram, self.cross = self._zeros(width, width), self._zeros(width, dim)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=self.home)

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Products of a block in float32, which roughly standardised features bear; their sum in float64."""
        self.count += len(features)
        self.feature += features.sum(dim=0).to(self.home)
        self.target += targets.sum(dim=0).to(self.home)
        self.gram += (features.T @ features).to(self.home)
        self.cross += (features.T @ targets).to(self.home)

    def solver(self, *, standardise: bool) -> Callable[[float], tuple[Tensor, Tensor, Tensor, Tensor]]:
        """What gives, for a penalty, weight (dim, width), bias (dim,), mean and deviation of the features (width,)."""
        mean, target = self.feature / self.count, self.target / self.count
        covariance = self.gram / self.count - torch.outer(mean, mean)
        deviation = covariance.diagonal().clamp_min(_CONSTANT**2).sqrt() if standardise else torch.ones_like(mean)
        values, vectors = torch.linalg.eigh(covariance / torch.outer(deviation, deviation))
        projected = vectors.T @ ((self.cross / self.count - torch.outer(mean, target)) / deviation[:, None])

        def solve(penalty: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            return ((vectors / (values.clamp_min(0) + penalty)) @ projected).T, target, mean, deviation

        return solve


def _mean_cosine(states: Tensor, solution: tuple[Tensor, ...], wanted: Tensor) -> float:
    weight, bias, center, scale = (tensor.float().to(states.device) for tensor in solution)
    found = (states - center) / scale @ weight.T + bias
    return float(functional.cosine_similarity(found, wanted, dim=1).mean())
