"""One training step: both losses of a batch and their gradient, in as little memory as asked for.

In: token ids of queries and responses, targets. Out: the gradient on the trained weights, and the figures.
What a reader would get wrong: the loss is a function of the batch, not of how it is cut. Every sum is divided by
the whole batch's counts, so `micro_batch_tokens` changes memory and nothing else.
"""

import torch
from torch import Tensor

from .backbone import length_batches
from .config import TrainConfig
from .model import Model

Figures = dict[str, float]


def gradient(
    model: Model, queries: list[list[int]], responses: list[list[int]], targets: Tensor, config: TrainConfig
) -> Figures:
    """Adds the gradient of one batch to the trained weights, however many forward passes it takes.

    Both losses are sums divided by the whole batch's counts, so the cut into passes changes nothing. The
    queries run in groups that fit `micro_batch_tokens`. Within a group, the soft prompts of all rows are made
    first; the reconstruction then runs over passes of its own, sorted by response length, each adding to the
    gradient of the soft prompts; one backward pass through the special tokens ends it.

    Args:
        model: receives the gradients.
        queries: token ids inside the template, without special tokens.
        responses: token ids, end token included.
        targets: (batch, dim) float32.
        config: weights and limits.

    Returns:
        alignment (mean squared error), reconstruction (nats a token) and their weighted sum.
    """
    count, tokens = len(queries), sum(map(len, responses))
    least = model.backbone.least_tokens
    totals = {"alignment": 0.0, "reconstruction": 0.0}
    for group in length_batches([len(row) + model.tokens for row in queries], config.micro_batch_tokens):
        parts = length_batches([len(queries[i]) for i in group], config.micro_batch_tokens, least)
        order = [group[i] for part in parts for i in part]
        hidden = torch.cat([model.hidden_split([queries[group[i]] for i in part]) for part in parts])
        soft_prompt, embedding = model.outputs(hidden)
        alignment = model.alignment_loss(embedding, targets[order]) / count
        totals["alignment"] += float(alignment.detach())
        losses, gradients = [alignment * config.alignment_weight], [None]
        if config.reconstruction_weight:
            leaf = soft_prompt.detach().requires_grad_()
            lengths = [len(responses[i]) + model.compression for i in order]
            for part in length_batches(lengths, config.micro_batch_tokens, least):
                loss = model.reconstruction_loss(leaf[part], [responses[order[i]] for i in part]) / tokens
                (loss * config.reconstruction_weight).backward()  # type: ignore[no-untyped-call]
                totals["reconstruction"] += float(loss.detach())
            losses, gradients = [*losses, soft_prompt], [*gradients, leaf.grad]  # type: ignore[list-item]
        torch.autograd.backward(losses, gradients)
    weights = {"alignment": config.alignment_weight, "reconstruction": config.reconstruction_weight}
    return {"loss": sum(weights[name] * value for name, value in totals.items()), **totals}


@torch.no_grad()
def loss_of(
    model: Model, queries: list[list[int]], responses: list[list[int]], targets: Tensor, config: TrainConfig
) -> float:
    """The loss that `gradient` differentiates, over any number of rows, without differentiating it."""
    alignment, reconstruction = 0.0, 0.0
    prompts = torch.empty(len(queries), model.compression, model.backbone.hidden_size, device=targets.device)
    for part in length_batches([len(row) + model.tokens for row in queries], config.micro_batch_tokens):
        prompts[part], embedding = model.outputs(model.hidden([queries[i] for i in part]))
        alignment += float(model.alignment_loss(embedding, targets[part]))
    if config.reconstruction_weight:
        for part in length_batches([len(row) + model.compression for row in responses], config.micro_batch_tokens):
            reconstruction += float(model.reconstruction_loss(prompts[part], [responses[i] for i in part]))
    return config.alignment_weight * alignment / len(queries) + config.reconstruction_weight * reconstruction / sum(
        map(len, responses)
    )
