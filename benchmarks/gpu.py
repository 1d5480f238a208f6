"""How much of a GPU training and encoding use: Qwen3 shapes of 0.6 to 8 B parameters, random weights, bf16.

    python benchmarks/gpu.py            # on a machine with a GPU: measures and writes results/gpu.{json,md}
    python benchmarks/gpu.py --dry      # anywhere: checks the arithmetic, writes what to expect: results/gpu_dry.md

Utilisation is the floating-point operations that the method needs, divided by the seconds and by what the same device
does in one large product of matrices. Operations are counted once, for real tokens under
a causal mask. Padding, the masked half of the attention and what is computed twice count as waste.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import click
import torch

from foresay.config import TrainConfig
from gpu_arithmetic import BUDGET, check, encode_flops, micro_batch, step_flops, training_bytes
from timing import Result, hardware, timed
from workbench import (
    RESULTS,
    SPECIAL_TOKENS,
    TINY,
    Shape,
    encoding,
    lengths,
    rows,
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
            ("encoding", encoding(model, texts), encode_flops(shape, [len(row) for row in texts]), sum(of_texts)),
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


def expected(shares: dict[str, float]) -> str:
    """What the arithmetic says before anything is measured."""
    lines = [
        "# What training and encoding should need on a GPU",
        "",
        "Arithmetic alone; nothing here is measured. Qwen3 shapes in bf16, a batch of 32 in training, 256 texts in",
        f"encoding; {_listed(LOADS)}.",
        "",
        f"| shape | parameters, B | tokens in a pass that fit {BUDGET / 1e9:.0f} GB | training step, GB "
        + "".join(f"| step, TFLOP: {load.name} | encoding, TFLOP: {load.name} " for load in LOADS)
        + "|",
        "|---" * (4 + 2 * len(LOADS)) + "|",
    ]
    for name, shape in SHAPES.items():
        tokens = micro_batch(shape)
        cells = [f"{shape.parameters / 1e9:.2f}", str(tokens), f"{training_bytes(shape, tokens) / 1e9:.1f}"]
        for load in LOADS:
            of_texts = [length - SPECIAL_TOKENS for length in load.text_lengths()]
            work = (step_flops(shape, load.query_lengths(), load.response_lengths()), encode_flops(shape, of_texts))
            cells += [f"{flops / 1e12:.0f}" for flops in work]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_counting(shares)]) + "\n"


def _listed(loads: Sequence[Load]) -> str:
    return "; ".join(
        f"{load.name}: queries of {_span(load.queries)} tokens, responses and texts of {_span(load.responses)}"
        for load in loads
    )


def _span(bounds: tuple[int, int]) -> str:
    return str(bounds[0]) if bounds[0] == bounds[1] else f"{bounds[0]}–{bounds[1]}"


def _counting(shares: dict[str, float]) -> list[str]:
    counted = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
    return [
        "* A step is both losses, their gradient and AdamW; targets are given. Operations are those that real tokens",
        "  need, once, under a causal mask.",
        f"* Counted by PyTorch on a tiny model, as a share of the formulas: {counted}.",
    ]


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
        "* Random weights in bf16. Utilisation is the operations, divided by the seconds and by that rate.",
        f"* {result['lengths']}.",
        *_counting(result["check"]),
    ]
    return "\n".join(lines) + "\n"


@click.command(help=__doc__)
@click.option("--dry", is_flag=True, help="Check the arithmetic, and write what to expect; measures nothing.")
@click.option("--tiny", is_flag=True, help="A tiny model on the CPU, to see that the script runs.")
@click.option("--shape", "names", multiple=True, type=click.Choice(list(SHAPES)), help="Only these.  [default: all]")
@click.option("--rounds", default=5, show_default=True, help="Measurements of each.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=RESULTS, help="Where the tables go.")
def main(dry: bool, tiny: bool, names: tuple[str, ...], rounds: int, output: Path) -> None:
    """Checks, measures and writes."""
    shares = check()
    if dry:
        output.mkdir(parents=True, exist_ok=True)
        (output / "gpu_dry.md").write_text(expected(shares))
        click.echo(expected(shares))
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
        "lengths": _listed(loads),
        "shapes": {name: asdict(shape) for name, shape in shapes.items()},
        "measured": measured,
        "claims": judge(measured),
    }
    write("gpu", result, markdown(result), output)
    click.echo(markdown(result))


if __name__ == "__main__":
    main()
