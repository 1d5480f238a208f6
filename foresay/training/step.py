"""One training step: the losses of a batch and their gradient, in as little memory as asked for.

In: token ids of queries and responses, targets. Out: the gradient on the trained weights, and the losses.
Careful: the loss is a function of the batch, not of how it is cut. Every sum is divided by
the whole batch's counts, so neither `micro_batch_tokens` nor the number of processes changes anything but time and
memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batching import length_batches
from ..config import TrainConfig
from ..model import Model
from ..reconstruction import reconstruction_loss
from .attention import attention_for
from .grad_cache import pull
from .losses import alignment_loss, contrast_loss, weighted
from .metrics import Metrics
from .micro_batch import MicroBatch

Rows = Sequence[list[int]]


@dataclass(frozen=True)
class _Share:
    """The rows of a batch that this process computes.

    Attributes:
        queries: token ids inside the template, without special tokens.
        responses: token ids, end token included.
        targets: (rows, dim).
        rows, tokens: queries and response tokens of the whole batch, by which sums are divided.
        longest: longest row of the whole batch, in tokens, special tokens included.
        upstream: (rows, dim), the gradient of their embeddings by a loss that ties the batch together; or None.
    """

    queries: Rows
    responses: Rows
    targets: Tensor
    rows: int
    tokens: int
    longest: int = 0
    upstream: Tensor | None = None


def gradient(
    model: Model, queries: Rows, responses: Rows, targets: Tensor, config: TrainConfig, limit: MicroBatch | None = None
) -> Metrics:
    """Puts the gradient of one batch into the trained weights, however many forward passes and processes it takes.

    Every process gets the whole batch, computes its share, and ends with the gradient of the whole. The contrast ties
    the batch together, so all embeddings come first, without gradient; each row then receives its embedding's
    gradient from outside (GradCache, arXiv 2101.06983).

    Args:
        model: receives the gradient; what it had is gone.
        queries: token ids inside the template, without special tokens.
        responses: token ids, end token included.
        targets: (batch, dim) float32, in the model's axes.
        config: losses and their weights.
        limit: most tokens in a pass, and the processes; else what `config` says, and this process alone.

    Returns:
        alignment, reconstruction (nats a token) and contrast (nats a row), those that are on, and their weighted sum.
    """
    limit = limit or MicroBatch(config.micro_batch_tokens)
    at = limit.processes.share([len(query) + len(response) for query, response in zip(queries, responses, strict=True)])
    mine = [queries[i] for i in at]
    upstream, contrast = None, {}
    if config.contrast_weight:
        embeddings = torch.zeros_like(targets)
        embeddings[at] = limit.run(lambda most: _outputs(model, mine, most)[1])
        contrast["contrast"], slope = pull(limit.processes.sum(embeddings), lambda e: contrast_loss(e, targets, config))
        upstream = config.contrast_weight * slope[at]
    tokens = sum(map(len, responses))
    longest = max(map(len, [*queries, *responses])) + model.tokens
    share = _Share(mine, [responses[i] for i in at], targets[at], len(queries), tokens, longest, upstream)
    metrics = limit.processes.sum_metrics(limit.run(lambda most: _gradient(model, share, config, most))) | contrast
    limit.processes.sum_gradients(model.parameters())
    return {"loss": weighted(metrics, config), **metrics}


def _gradient(model: Model, share: _Share, config: TrainConfig, most: int) -> Metrics:
    """The gradient and the metrics of a share.

    The queries run in groups that fit `most`. Within a group, the soft prompts of all rows are made first; the
    reconstruction then runs over passes of its own, sorted by response length, each adding to the gradient of the
    soft prompts; one backward pass through the special tokens ends it.
    """
    model.zero_grad()
    with attention_for(model.backbone, share.longest):
        return _summed_gradient(model, share, config, most)


def _summed_gradient(model: Model, share: _Share, config: TrainConfig, most: int) -> Metrics:
    queries, responses = share.queries, share.responses
    least = model.backbone.least_tokens
    totals = {"alignment": 0.0} | ({"reconstruction": 0.0} if config.reconstruction_weight else {})
    for group in length_batches([len(row) + model.tokens for row in queries], most):
        parts = length_batches([len(queries[i]) for i in group], most, least)
        order = [group[i] for part in parts for i in part]
        hidden = torch.cat([model.hidden_split([queries[group[i]] for i in part]) for part in parts])
        soft_prompt, embedding = model.outputs(hidden)
        alignment = alignment_loss(embedding, share.targets[order], config) / share.rows
        totals["alignment"] += float(alignment.detach())
        tensors: list[Tensor] = [alignment * config.alignment_weight]
        gradients: list[Tensor | None] = [None]
        if share.upstream is not None:
            tensors, gradients = [*tensors, embedding], [*gradients, share.upstream[order]]
        if config.reconstruction_weight:
            leaf = soft_prompt.detach().requires_grad_()
            lengths = [len(responses[i]) + model.compression for i in order]
            for part in length_batches(lengths, most, least):
                answers = [responses[order[i]] for i in part]
                loss = reconstruction_loss(model.backbone, leaf[part], answers) / share.tokens
                (loss * config.reconstruction_weight).backward()  # type: ignore[no-untyped-call]
                totals["reconstruction"] += float(loss.detach())
            tensors, gradients = [*tensors, soft_prompt], [*gradients, leaf.grad]
        torch.autograd.backward(tensors, gradients)
    return totals


@torch.no_grad()
def losses_of(
    model: Model, queries: Rows, responses: Rows, targets: Tensor, config: TrainConfig, limit: MicroBatch | None = None
) -> Metrics:
    """The losses that `gradient` differentiates, over any number of rows, without differentiating them."""
    limit = limit or MicroBatch(config.micro_batch_tokens)
    at = limit.processes.share([len(query) + len(response) for query, response in zip(queries, responses, strict=True)])
    mine = [queries[i] for i in at], [responses[i] for i in at]
    share = _Share(*mine, targets[at], len(queries), sum(map(len, responses)))
    sums, own = limit.run(lambda most: _losses(model, share, config, most))
    metrics = limit.processes.sum_metrics(sums)
    if config.contrast_weight:
        embeddings = torch.zeros_like(targets)
        embeddings[at] = own
        metrics["contrast"] = float(contrast_loss(limit.processes.sum(embeddings), targets, config))
    return {"loss": weighted(metrics, config), **metrics}


def _losses(model: Model, share: _Share, config: TrainConfig, most: int) -> tuple[Metrics, Tensor]:
    """The losses of a share, and its embeddings (rows, dim)."""
    prompts, embeddings = _outputs(model, share.queries, most)
    metrics = {"alignment": float(alignment_loss(embeddings, share.targets, config)) / share.rows}
    if config.reconstruction_weight:
        lengths = [len(row) + model.compression for row in share.responses]
        parts = length_batches(lengths, most)
        base, responses = model.backbone, share.responses
        nats = [reconstruction_loss(base, prompts[part], [responses[i] for i in part]) for part in parts]
        metrics["reconstruction"] = float(sum(nats)) / share.tokens
    return metrics, embeddings


@torch.no_grad()
def _outputs(model: Model, queries: Rows, most: int) -> tuple[Tensor, Tensor]:
    """Soft prompts (rows, compression, hidden) and embeddings (rows, dim) without gradient."""
    device = model.backbone.device
    prompts = torch.empty(len(queries), model.compression, model.backbone.hidden_size, device=device)
    embeddings = torch.empty(len(queries), model.dim, device=device)
    model.run(queries, model.outputs, [prompts, embeddings], most)
    return prompts, embeddings
