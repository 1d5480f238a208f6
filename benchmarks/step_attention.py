"""What a training step on a CPU costs with torch's fused attention, and with plain attention that keeps its matrix.

    OMP_NUM_THREADS=1 python benchmarks/step_attention.py --output benchmarks/results/step_attention.md

In: a backbone; the rows are random tokens. Out: processor seconds of a step, best of several, taken in turns, and the
bytes that its passes keep for the backward one.
Be careful: `foresay train` chooses by itself (training/attention.py), so the choice is switched off here.
"""

import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import Tensor

from foresay.backbone import Backbone
from foresay.config import TrainConfig
from foresay.model import Model
from foresay.training import attention
from foresay.training.step import gradient

SHAPES = (("bfloat16", 8, 30, 64), ("bfloat16", 8, 30, 108), ("bfloat16", 4, 60, 192), ("float32", 8, 30, 64))
"""dtype, rows, tokens of a query, tokens of a response."""
KINDS = ("sdpa", "eager")


def measure(backbone: Backbone, rows: int, query: int, response: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Seconds and GB kept, by kind of attention."""
    model = Model(backbone, thought=0, compression=10, dim=backbone.hidden_size, template="chat", reconstruct="tokens")
    draw = torch.Generator().manual_seed(0)
    queries, responses = (torch.randint(100, 400, (rows, n), generator=draw).tolist() for n in (query, response))
    targets = torch.randn(rows, backbone.hidden_size, generator=draw)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    kept: dict[str, float] = {}
    for _ in range(repeats):
        for kind in KINDS:
            backbone.model.set_attn_implementation(kind)
            start = time.process_time()
            gradient(model, queries, responses, targets, TrainConfig())
            seconds[kind].append(time.process_time() - start)
    for kind in KINDS:
        backbone.model.set_attn_implementation(kind)
        kept[kind] = _kept(lambda: gradient(model, queries, responses, targets, TrainConfig()))
    return {kind: (min(seconds[kind]), kept[kind]) for kind in KINDS}


def _kept(step: Callable[[], object]) -> float:
    """GB of the tensors that a step saves for its backward passes, each memory once, weights left out."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and tensor.is_floating_point():
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(sizes.values()) / 1e9


@click.command()
@click.option("--backbone", default="smollm2", show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(backbone: str, repeats: int, output: Path) -> None:
    """Measures and writes the table."""
    attention.LONGEST = 0
    lines = [
        "# Attention of a training step on a CPU",
        "",
        f"`python benchmarks/step_attention.py --backbone {backbone}`: one step of `foresay train`, decoding included; "
        f"best of {repeats} in processor seconds, {torch.get_num_threads()} thread.",
        "",
        "| dtype | rows | query, response | SDPA | plain | faster | kept for the backward passes: SDPA | plain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    loaded: dict[str, Backbone] = {}
    for dtype, rows, query, response in SHAPES:
        base = loaded.setdefault(dtype, Backbone.load(backbone, device="cpu", dtype=dtype))
        found = measure(base, rows, query, response, repeats)
        (fused, less), (plain, more) = (found[kind] for kind in KINDS)
        lines.append(
            f"| {dtype} | {rows} | {query}, {response} tokens | {fused:.2f} s | {plain:.2f} s | "
            f"{fused / plain:.2f}x | {less:.2f} GB | {more:.2f} GB |"
        )
        output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
