"""How much of a GPU training and encoding use: Qwen3 shapes of 0.6 to 8 B parameters, random weights, bf16.

    python benchmarks/gpu.py            # on a machine with a GPU: measures and writes results/gpu.{json,md}
    python benchmarks/gpu.py --dry      # anywhere: checks the arithmetic on a tiny model, prints what to expect

Utilisation is the floating-point operations that the method needs, divided by the seconds and by what the same device
does in one large product of matrices. What a reader would get wrong: operations are counted for real tokens under a
causal mask, and once. Padding, the masked half of the attention and what is computed twice count as waste.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from foresay.config import TrainConfig
from foresay.model import LOGITS_AT_ONCE, Model
from workbench import (
    RESULTS,
    SPECIAL_TOKENS,
    TINY,
    IdEncoder,
    Result,
    Shape,
    hardware,
    lengths,
    rows,
    timed,
    training,
    versions,
    write,
)

SHAPES = {
    "Qwen3-0.6B": Shape(1024, 3072, 28, 16, 8, 128, 151936),
    "Qwen3-1.7B": Shape(2048, 6144, 28, 16, 8, 128, 151936),
    "Qwen3-4B": Shape(2560, 9728, 36, 32, 8, 128, 151936),
    "Qwen3-8B": Shape(4096, 12288, 36, 32, 8, 128, 151936, tied=False),
}
MICRO_BATCHES = (8192, 4096, 2048, 1024, 512)
BUDGET = 40e9
"""Bytes that training may take; the 8 B shape has to fit."""
TRAINING_GOAL, ENCODING_GOAL = 0.45, 0.55


@dataclass(frozen=True)
class Load:
    """What is trained on and encoded: lengths in tokens."""

    name: str
    queries: tuple[int, int]
    responses: tuple[int, int]
    batch: int = 32
    texts: int = 256

    def query_lengths(self) -> list[int]:
        """Of one batch."""
        return lengths(self.batch, self.queries, seed=1)

    def response_lengths(self) -> list[int]:
        """Of one batch."""
        return lengths(self.batch, self.responses, seed=2)

    def text_lengths(self) -> list[int]:
        """Of the texts to encode."""
        return lengths(self.texts, self.responses, seed=3)


LIMIT = 512 - SPECIAL_TOKENS
LOADS = (
    Load("all at the limit", (LIMIT, LIMIT), (512, 512)),
    Load("mixed lengths", (10, LIMIT), (30, 512)),
)
TINY_LOADS = (Load("all at the limit", (24, 24), (20, 20), 4, 8), Load("mixed lengths", (4, 24), (6, 40), 4, 8))

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
    """Operations of encoding texts of these lengths, special tokens not among them."""
    weights, attention = _per_token(shape)
    maps = 2 * shape.hidden**3 + 2 * shape.hidden**2 * len(of_lengths)
    inputs = [length + SPECIAL_TOKENS for length in of_lengths]
    return maps + sum(weights * length + attention * pairs(length, 0) for length in inputs)


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
    trained = 16 * (SPECIAL_TOKENS * shape.hidden + 2 * shape.hidden * (shape.hidden + 1))  # gradient and two moments
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
    """
    shape, queries, responses = TINY, [12] * 3, [9] * 3
    model = shape.model(shape.backbone(dtype=torch.float32, attention="eager"))
    step = training(model, rows(queries, shape.vocabulary), rows(responses, shape.vocabulary), TrainConfig())
    encode = _encoding(model, rows(queries, shape.vocabulary))
    shares = {
        "training step": counted(step) / step_flops(shape, queries, responses, square),
        "encoding": counted(encode) / encode_flops(shape, queries, square),
    }
    tokens = 64
    shares["saved bytes"] = _saved(shape.model(), tokens) / (saved_bytes(shape) * tokens)
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
        loss = model.reconstruction_loss(prompt, rows([tokens - SPECIAL_TOKENS + 1], TINY.vocabulary))
    del loss
    return sum(kept.values())


# -- measuring ---------------------------------------------------------------------------------------------


def matrix_rate(device: str, size: int) -> float:
    """Operations a second of one product of square matrices in bf16: the best of several."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    _ = left @ right
    seconds = [timed(lambda: left @ right, device)["wall_seconds"] for _ in range(10)]
    return float(2 * size**3 / min(seconds))


def measure(shape: Shape, loads: tuple[Load, ...], device: str, rate: float, rounds: int) -> list[Result]:
    """Training and encoding of each load."""
    model = shape.model(shape.backbone(device))
    tokens = micro_batch(shape)
    config = TrainConfig(micro_batch_tokens=tokens)
    measured = []
    for load in loads:
        queries, responses, of_texts = load.query_lengths(), load.response_lengths(), load.text_lengths()
        step = training(model, rows(queries, shape.vocabulary), rows(responses, shape.vocabulary), config)
        texts = rows([length - SPECIAL_TOKENS for length in of_texts], shape.vocabulary)
        works: list[tuple[str, Callable[[], object], float, int]] = [
            ("training step", step, step_flops(shape, queries, responses), sum(queries) + sum(responses)),
            ("encoding", _encoding(model, texts), encode_flops(shape, [len(row) for row in texts]), sum(of_texts)),
        ]
        for task, work, flops, count in works:
            work()
            results = [timed(work, device) for _ in range(rounds)]
            seconds = median(result["wall_seconds"] for result in results)
            measured.append(
                {
                    "task": task,
                    "load": load.name,
                    "tokens": count,
                    "micro_batch_tokens": tokens,
                    "flops": flops,
                    "seconds": seconds,
                    "seconds_range": [pick(result["wall_seconds"] for result in results) for pick in (min, max)],
                    "tokens_per_second": count / seconds,
                    "utilisation": flops / seconds / rate,
                    "peak_bytes": max(result["peak_bytes"] for result in results),
                    "estimated_bytes": training_bytes(shape, tokens) if task == "training step" else None,
                }
            )
    return measured


def _encoding(model: Model, texts: list[list[int]]) -> Callable[[], object]:
    encoder = IdEncoder(model)
    return lambda: encoder.encode(texts)  # type: ignore[arg-type]


def judge(measured: dict[str, list[Result]]) -> list[Result]:
    """The claims, each by its worst case."""
    everything = [row for of_shape in measured.values() for row in of_shape]
    lowest = {
        task: min(row["utilisation"] for row in everything if row["task"] == task)
        for task in ("training step", "encoding")
    }
    largest = list(measured)[-1]
    peak = max(row["peak_bytes"] for row in measured[largest] if row["task"] == "training step")
    return [
        {"claim": f"{task}: lowest utilisation", "value": value, "goal": goal, "met": value >= goal}
        for (task, value), goal in zip(lowest.items(), (TRAINING_GOAL, ENCODING_GOAL), strict=True)
    ] + [{"claim": f"{largest} trains in, GB", "value": peak / 1e9, "goal": BUDGET / 1e9, "met": peak <= BUDGET}]


# -- writing -----------------------------------------------------------------------------------------------


def expected(shapes: dict[str, Shape], loads: tuple[Load, ...]) -> str:
    """What the arithmetic says before anything is measured."""
    lines = [
        "| shape | parameters, B | tokens in a pass | training step, estimated GB "
        + "".join(f"| step, TFLOP, {load.name} | encoding {load.texts} texts, TFLOP " for load in loads)
        + "|",
        "|---" * (4 + 2 * len(loads)) + "|",
    ]
    for name, shape in shapes.items():
        tokens = micro_batch(shape)
        cells = [f"{shape.parameters / 1e9:.3f}", str(tokens), f"{training_bytes(shape, tokens) / 1e9:.1f}"]
        for load in loads:
            of_texts = [length - SPECIAL_TOKENS for length in load.text_lengths()]
            work = (step_flops(shape, load.query_lengths(), load.response_lengths()), encode_flops(shape, of_texts))
            cells += [f"{flops / 1e12:.3g}" for flops in work]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def markdown(result: Result) -> str:
    """The tables."""
    lines = [
        "# Training and encoding on a GPU",
        "",
        "| claim | measured | goal |",
        "|---|---|---|",
        *(
            f"| {row['claim']} | **{row['value']:.2f}** | {row['goal']:g}: {'met' if row['met'] else '**missed**'} |"
            for row in result["claims"]
        ),
        "",
        "| shape | task | lengths | tokens | seconds (range) | tokens/s | utilisation | peak, GB | estimate, GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, measured in result["measured"].items():
        for row in measured:
            low, high = row["seconds_range"]
            estimate = f"{row['estimated_bytes'] / 1e9:.1f}" if row["estimated_bytes"] else ""
            cells = [name, row["task"], row["load"], str(row["tokens"]), f"{row['seconds']:.3f} ({low:.3f}–{high:.3f})"]
            cells += [f"{row['tokens_per_second']:.0f}", f"{row['utilisation']:.0%}"]
            cells += [f"{row['peak_bytes'] / 1e9:.1f}", estimate]
            lines.append(f"| {' | '.join(cells)} |")
    listed = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines += [
        "",
        f"* Hardware: {result['hardware']}; {result['rate'] / 1e12:.3g} TFLOP/s in one product of bf16 matrices.",
        f"  {listed}.",
        "* Random weights in bf16. A step is both losses, their gradient and AdamW; targets are given. Utilisation",
        "  counts the operations that real tokens need, once, under a causal mask.",
        "* Counted by PyTorch on a tiny model, as a share of the formulas: "
        + ", ".join(f"{name} {share:.3f}" for name, share in result["check"].items())
        + ".",
    ]
    return "\n".join(lines) + "\n"


@click.command(help=__doc__)
@click.option("--dry", is_flag=True, help="Check the arithmetic, and say what to expect; measures nothing.")
@click.option("--tiny", is_flag=True, help="A tiny model on the CPU, to see that the script runs.")
@click.option("--shape", "names", multiple=True, type=click.Choice(list(SHAPES)), help="Only these.  [default: all]")
@click.option("--rounds", default=5, show_default=True, help="Measurements of each.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=RESULTS, help="Where the tables go.")
def main(dry: bool, tiny: bool, names: tuple[str, ...], rounds: int, output: Path) -> None:
    """Checks, measures and writes."""
    shares = check()
    for name, share in shares.items():
        click.echo(f"{name}: PyTorch counts {share:.4f} of the formula")
    if dry:
        click.echo(expected(SHAPES, LOADS))
        return
    if not tiny and not torch.cuda.is_available():
        raise click.ClickException("no GPU here; --dry checks the arithmetic, --tiny runs on the CPU")
    device, loads = ("cpu", TINY_LOADS) if tiny else ("cuda", LOADS)
    shapes = {"tiny": TINY} if tiny else {name: SHAPES[name] for name in names or SHAPES}
    rate = matrix_rate(device, 512 if tiny else 8192)
    measured = {}
    for name, shape in shapes.items():
        measured[name] = measure(shape, loads, device, rate, rounds)
        if not tiny:
            torch.cuda.empty_cache()
    result = {
        "hardware": hardware() if tiny else torch.cuda.get_device_name(),
        "versions": versions(),
        "rate": rate,
        "check": shares,
        "shapes": {name: asdict(shape) for name, shape in shapes.items()},
        "measured": measured,
        "claims": judge(measured),
    }
    write("gpu", result, markdown(result), output)
    click.echo(markdown(result))


if __name__ == "__main__":
    main()
