"""Cross-entropy through a frozen head, a chunk of tokens at a time: the logits of a batch never exist together.

In: states after the final norm, labels, and the head. Out: the summed loss in nats, and the gradient of the states.
Be careful: the head gets no gradient, so this is for frozen heads only.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LOGITS_AT_ONCE = 1 << 25
"""Entries of the logits that exist together: 128 MiB in float32."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy through a frozen head, a chunk of tokens at a time.

    The head has no gradient of its own, so the gradient of the states is complete as soon as a chunk's
    logits exist: it is computed in the forward pass and the logits of a long batch never exist together.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        states: Tensor,
        labels: Tensor,
        head: Callable[[Tensor], Tensor],
        chunk: int,
    ) -> Tensor:
        """States (tokens, hidden) and labels (tokens,) to the sum of the token losses, in nats."""
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(states) if wanted else None
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        for start in range(0, len(states), chunk):
            part = slice(start, start + chunk)
            state, label = states[part].detach().requires_grad_(wanted), labels[part, None]
            with torch.set_grad_enabled(wanted):
                logits = head(state)
            chances = functional.log_softmax(logits.detach().float(), dim=1)
            total -= chances.gather(1, label).sum()
            if gradient is not None:  # by hand and in place: of the logits, it is the chance, less 1 at the label
                slope = chances.exp_().scatter_add_(1, label, chances.new_full(label.shape, -1.0))
                (gradient[part],) = torch.autograd.grad(logits, state, slope.to(logits.dtype))
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        """The stored gradient, scaled."""
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None, None


def chunked_cross_entropy(states: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor], vocabulary: int) -> Tensor:
    """Summed cross-entropy of next tokens, in nats.

    Args:
        states: (tokens, hidden), after the final norm.
        labels: (tokens,), the token that follows each.
        head: states to logits (tokens, vocabulary); frozen.
        vocabulary: logits a token, which decide how many tokens make a chunk.
    """
    chunk = max(1, LOGITS_AT_ONCE // vocabulary)
    loss: Tensor = _ChunkedCrossEntropy.apply(states, labels, head, chunk)  # type: ignore[no-untyped-call]
    return loss
