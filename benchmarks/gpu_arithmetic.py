"""What a training step and encoding need by arithmetic: floating-point operations, and bytes on a GPU.

In: a shape, and lengths in tokens. Out: numbers; `check` compares them with what PyTorch counts on a tiny model.
Operations are counted once, for real tokens under a causal mask. Padding, the masked half of the attention and what is
computed twice do not count, so they lower a utilisation.
"""

from collections.abc import Callable

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from foresay.config import TrainConfig
from foresay.cross_entropy import LOGITS_AT_ONCE
from foresay.model import Model
from foresay.reconstruction import reconstruction_loss
from workbench import SPECIAL_TOKENS, TINY, Shape, encoding, rows, training

MICRO_BATCHES = (8192, 4096, 2048, 1024, 512)
BUDGET = 40e9
"""Bytes that training may take; the 8 B shape has to fit."""
TOLERANCE = 0.1
"""How far from what PyTorch counts a formula may be."""

# -- floating-point operations -----------------------------------------------------------------------------

Pairs = Callable[[int, int], float]


def causal(new: int, before: int) -> float:
    """Pairs of a new token and one it sees: all `before` it, and the new ones up to itself."""
    return new * before + new * (new + 1) / 2


def square(new: int, before: int) -> float:
    """The same without a causal mask: what attention computes that does not skip the masked half."""
    return new * (before + new)


def step_flops(shape: Shape, queries: list[int], responses: list[int], pairs: Pairs = causal) -> float:
    """Operations of one training step; weights are frozen, so a backward pass through them costs one forward pass.

    Args:
        shape: of the backbone.
        queries: tokens of each, without special tokens.
        responses: tokens of each, end token included.
        pairs: how attention is counted.
    """
    weights, attention = _per_token(shape)
    total, tokens = 0.0, SPECIAL_TOKENS
    for query in queries:
        total += weights * query + attention * pairs(query, 0)  # forward only
        total += 2 * weights * tokens + 3 * attention * pairs(tokens, query)
        total += 6 * tokens * 2 * shape.hidden**2  # both maps: forward, gradient of input and of weights
    for response in responses:
        inputs = tokens + response - 1
        total += 2 * weights * inputs + 3 * attention * pairs(inputs, 0)
        total += 4 * response * shape.hidden * shape.vocabulary
    return total


def encode_flops(shape: Shape, of_lengths: list[int], pairs: Pairs = causal) -> float:
    """Operations of encoding texts of these lengths, special tokens not among them, by maps that are fused already."""
    weights, attention = _per_token(shape)
    maps = SPECIAL_TOKENS * 2 * shape.hidden**2
    inputs = [length + SPECIAL_TOKENS for length in of_lengths]
    return sum(weights * length + attention * pairs(length, 0) + maps for length in inputs)


def _per_token(shape: Shape) -> tuple[float, float]:
    """Forward operations of a token in the matrices, and of a pair of tokens in attention; all layers."""
    return 2 * shape.layers * shape.layer_weights, 4 * shape.layers * shape.heads * shape.head_dim


# -- memory ------------------------------------------------------------------------------------------------


def saved_bytes(shape: Shape) -> int:
    """What a token of the reconstruction leaves behind for the backward pass, in bytes; bf16.

    A frozen matrix needs its input not again. The norms keep theirs in float32 (the library computes them in it);
    attention keeps queries, keys, values and its output, the MLP three vectors.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 4 * (2 * shape.hidden + queries + keys)
    attention = 2 * (2 * queries + 2 * keys) + 4 * shape.heads
    return shape.layers * (norms + attention + 2 * 3 * shape.mlp) + 4 * shape.hidden


def training_bytes(shape: Shape, micro_batch_tokens: int) -> float:
    """Estimated peak of a training step on a GPU."""
    weights = 2 * shape.parameters
    maps = shape.hidden * (shape.hidden + 1) + shape.hidden * (SPECIAL_TOKENS * shape.hidden + 1)
    trained = 16 * (SPECIAL_TOKENS * shape.hidden + maps)  # gradient and two moments
    cache = 4 * shape.kv_heads * shape.head_dim * shape.layers * micro_batch_tokens
    passing = 2 * 4 * shape.mlp * micro_batch_tokens  # what a layer needs and does not keep
    logits = 14 * LOGITS_AT_ONCE  # in bf16, float32, their logarithms, and the slope
    return weights + trained + cache + passing + logits + saved_bytes(shape) * micro_batch_tokens


def micro_batch(shape: Shape, budget: float = BUDGET) -> int:
    """The most tokens in a pass that should fit.

    Raises:
        click.ClickException: if not even the fewest do.
    """
    for tokens in MICRO_BATCHES:
        if training_bytes(shape, tokens) <= budget:
            return tokens
    raise click.ClickException(f"{shape.parameters / 1e9:.1f} B parameters do not train in {budget / 1e9:.0f} GB")


# -- the check ---------------------------------------------------------------------------------------------


def check() -> dict[str, float]:
    """Counted by PyTorch on a tiny model, as a share of what is computed here: operations of both tasks, saved bytes.

    Rows of one length, so that nothing is padding; attention in the plain form, of which every product is counted.

    Raises:
        click.ClickException: if a formula is off by more than `TOLERANCE`.
    """
    shape, queries, responses = TINY, [12] * 3, [9] * 3
    model = shape.model(shape.backbone(dtype=torch.float32, attention="eager"))
    step = training(model, rows(queries, shape.vocabulary), rows(responses, shape.vocabulary), TrainConfig())
    encode = encoding(model, rows(queries, shape.vocabulary))
    encode()  # fuses the maps, once for as long as they stay as they are
    encoded = counted(encode) / encode_flops(shape, queries, square)
    shares = {"training step": counted(step) / step_flops(shape, queries, responses, square), "encoding": encoded}
    tokens = 64
    shares["saved bytes"] = _saved(shape.model(), tokens) / (saved_bytes(shape) * tokens)
    wrong = [f"{name} ({share:.3f})" for name, share in shares.items() if abs(share - 1) > TOLERANCE]
    if wrong:
        raise click.ClickException(f"PyTorch counts another number than the formula: {', '.join(wrong)} of it")
    return shares


def counted(work: Callable[[], object]) -> int:
    """Operations that PyTorch counts."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Untracked()  # type: ignore[assignment]
    with counter:
        work()
    return counter.get_total_flops()


class _Untracked:
    """Stands for the counter's view of the modules, whose hooks fail on a gradient taken inside a forward pass."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        """Nothing to begin."""

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""


def _saved(model: Model, tokens: int) -> int:
    """Bytes that a reconstruction of one row of so many tokens keeps for its backward pass."""
    frozen = {weight.untyped_storage().data_ptr() for weight in model.backbone.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in frozen:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    prompt = torch.zeros(1, SPECIAL_TOKENS, model.backbone.hidden_size, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = reconstruction_loss(model.backbone, prompt, rows([tokens - SPECIAL_TOKENS + 1], TINY.vocabulary))
    del loss
    return sum(kept.values())
