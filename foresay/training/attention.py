"""Which attention a training step runs on a CPU in bfloat16: the plain one, where rows are short.

In: a backbone and the longest row of a batch. Out: a context in which its attention is the plain one, or as it was.
torch's fused attention (SDPA) keeps no matrix of rows by rows, and computes it again in its backward pass. On a CPU in
bfloat16 that costs more than it saves: a step on SmolLM2 is 1.3 to 1.5 times as fast with the matrix kept, and in
float32 no faster (benchmarks/results/step_attention.md).
Careful: the choice depends on the batch alone, not on how it is cut, so that a run that resumes is the same run.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..backbone import Backbone

LONGEST = 128
"""Longest row, in tokens. The matrices take heads * length numbers a token; here a quarter more than is kept anyway."""


def keeps_matrix(backbone: Backbone, longest: int) -> bool:
    """Whether a step with rows of up to so many tokens is faster with plain attention."""
    fused = getattr(backbone.model.config, "_attn_implementation", None) == "sdpa"
    return fused and backbone.device.type == "cpu" and backbone.dtype == torch.bfloat16 and longest <= LONGEST


@contextmanager
def attention_for(backbone: Backbone, longest: int) -> Iterator[None]:
    """Runs the backbone with the attention that is fastest for rows of up to `longest` tokens, and sets it back."""
    if not keeps_matrix(backbone, longest):
        yield
        return
    backbone.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        backbone.model.set_attn_implementation("sdpa")
