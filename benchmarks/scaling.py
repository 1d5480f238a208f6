"""How the cost grows: seconds against tokens, length and number of texts; memory against rows. Near-straight lines.

    python benchmarks/scaling.py

Out: `results/scaling.{json,md,png}`, for each line its slope and R². Each point is the median of some rounds, which go
through all points in turn, so that a busy minute of the machine does not bend a line. Memory is the
peak of a process, so each of its points is a process of its own that does nothing else.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

from foresay.config import TrainConfig
from timing import Result, hardware, timed
from workbench import (
    RESULTS,
    SPECIAL_TOKENS,
    TINY,
    Line,
    Shape,
    encoding,
    lengths,
    rows,
    training,
    versions,
    write,
)

NANO = Shape(256, 704, 8, 4, 4, 64, 8192)
SHAPES = {"nano": NANO, "tiny": TINY}


@dataclass(frozen=True)
class Curve:
    """One picture: what is on its axes, its points, and what does the work of a point."""

    name: str
    title: str
    x: str
    y: str
    points: tuple[int, ...]
    seconds: bool = True


@dataclass(frozen=True)
class Size:
    """How far the points reach."""

    batches: tuple[int, ...]
    text_lengths: tuple[int, ...]
    lists: tuple[int, ...]
    encoded_rows: tuple[int, ...]
    trained_rows: tuple[int, ...]
    texts: int
    rounds: int

    def curves(self) -> list[Curve]:
        """All pictures."""
        seconds, memory = "processor seconds", "peak memory, MB"
        return [
            Curve("step", "Training step", "tokens in the batch", seconds, self.batches),
            Curve("length", f"Encoding {self.texts} texts", "tokens of each text", seconds, self.text_lengths),
            Curve("list", "Encoding a list of mixed lengths", "texts", seconds, self.lists),
            Curve("encode_memory", "Encoding", "texts", memory, self.encoded_rows, seconds=False),
            Curve("train_memory", "Training step", "rows in the batch", memory, self.trained_rows, seconds=False),
        ]


SIZES = {
    "full": Size(
        (8, 16, 32, 64, 128),
        (32, 64, 128, 192, 256, 384, 502),
        (64, 128, 256, 512, 1024),
        (512, 1024, 2048, 4096, 8192),
        (8, 16, 32, 64, 128),
        texts=32,
        rounds=3,
    ),
    "tiny": Size((2, 4), (4, 8, 16), (4, 8), (8, 64), (2, 4), texts=4, rounds=1),
}
QUERY, RESPONSE, TEXT, SHORT = (10, 200), (30, 500), (10, 300), (5, 40)


# -- the work of a point -----------------------------------------------------------------------------------


def batch(shape: Shape, count: int) -> tuple[list[list[int]], list[list[int]]]:
    """Queries and responses of one batch."""
    queries, responses = (lengths(count, bounds, seed) for seed, bounds in enumerate((QUERY, RESPONSE)))
    return rows(queries, shape.vocabulary), rows(responses, shape.vocabulary)


def work_of(curve: str, shape: Shape, texts: int) -> Callable[[int], tuple[int, Callable[[], Any]]]:
    """For a point: its place on the x axis, and the work to measure."""
    model = shape.model()

    def encode(of_lengths: Sequence[int]) -> Callable[[], Any]:
        return encoding(model, rows(of_lengths, shape.vocabulary))

    def step(count: int) -> tuple[int, Callable[[], Any]]:
        queries, responses = batch(shape, count)
        work = training(model, queries, responses, TrainConfig())
        return sum(map(len, queries)) + sum(map(len, responses)), work

    works: dict[str, Callable[[int], tuple[int, Callable[[], Any]]]] = {
        "step": step,
        "train_memory": lambda count: (count, step(count)[1]),
        "length": lambda length: (length + SPECIAL_TOKENS, encode([length] * texts)),
        "list": lambda count: (count, encode(lengths(count, TEXT))),
        "encode_memory": lambda count: (count, encode(lengths(count, SHORT))),
    }
    return works[curve]


def measure_seconds(curve: Curve, shape: Shape, size: Size) -> tuple[list[int], list[list[float]]]:
    """Places and, for each, the seconds of all rounds."""
    make = work_of(curve.name, shape, size.texts)
    made = [make(point) for point in curve.points]
    for _, work in (made[0], made[-1]):
        work()
    rounds = [[timed(work)["seconds"] for _, work in made] for _ in range(size.rounds)]
    return [place for place, _ in made], [list(column) for column in zip(*rounds, strict=True)]


def measure_memory(curve: Curve, shape_name: str, size: Size) -> tuple[list[int], list[list[float]]]:
    """Places and, for each, the peak of a process of its own, in MB."""
    peaks = []
    for point in curve.points:
        command = [sys.executable, __file__, "--shape", shape_name, "--point", curve.name, str(point)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append([json.loads(done.stdout.splitlines()[-1])["peak_bytes"] / 1e6])
    return list(curve.points), peaks


def measure(curve: Curve, shape_name: str, size: Size) -> Result:
    """One curve with its line."""
    if curve.seconds:
        x, values = measure_seconds(curve, SHAPES[shape_name], size)
    else:
        x, values = measure_memory(curve, shape_name, size)
    y = [median(column) for column in values]
    bounds = [[min(column), max(column)] for column in values]
    return {**asdict(curve), "at": x, "values": y, "ranges": bounds, "line": asdict(Line.through(x, y))}


# -- writing -----------------------------------------------------------------------------------------------


def markdown(result: Result) -> str:
    """The table of lines, and the points."""
    lines = [
        "# How the cost grows",
        "",
        "![Cost against size, and the lines](scaling.png)",
        "",
        "| cost | against | line | R² | size, largest point / smallest | cost, the same |",
        "|---|---|---|---|---|---|",
    ]
    for curve in result["curves"]:
        line, x, y = curve["line"], curve["at"], curve["values"]
        formula = f"{line['start']:.3g} + {line['slope']:.3g} · {curve['x']}"
        growth = f"× {x[-1] / x[0]:.1f} | × {y[-1] / y[0]:.1f}"
        cells = (f"{curve['title']}: {curve['y']}", curve["x"], formula, f"{line['r2']:.4f}", growth)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| cost | points: size → cost (range) |", "|---|---|"]
    for curve in result["curves"]:
        points = zip(curve["at"], curve["values"], curve["ranges"], strict=True)
        listed = "; ".join(f"{x} → {_number(y)}" + _range(bounds) for x, y, bounds in points)
        lines.append(f"| {curve['title']}: {curve['y']} | {listed} |")
    listed = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines += [
        "",
        f"* Hardware: {result['hardware']}. {listed}.",
        f"* Random weights shaped as Qwen3, {result['parameters'] / 1e6:.1f} M parameters, bf16.",
        "* Batches and lists hold rows of mixed lengths, log-uniform between",
        f"  {_span(QUERY)} tokens for queries, {_span(RESPONSE)} for responses, {_span(TEXT)} for texts; the texts of",
        f"  the memory curve have {_span(SHORT)}.",
        "* Attention grows with the square of a text's length; within 512 tokens it is a small part of the whole.",
        "* Memory is the peak of the whole process, about 0.5 GB of which are the libraries. What grows in encoding",
        "  are the texts and their vectors, so little that a line explains little of it; a batch in training is cut",
        "  into passes of at most 8,192 padded tokens.",
    ]
    return "\n".join(lines) + "\n"


def _span(bounds: tuple[int, int]) -> str:
    return f"{bounds[0]}–{bounds[1]}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _range(bounds: list[float]) -> str:
    """Memory is measured once, so it has none."""
    low, high = map(_number, bounds)
    return "" if low == high else f" ({low}–{high})"


def draw(result: Result, path: Path) -> None:
    """A panel a curve: points with their ranges, and the line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = result["curves"]
    figure = pyplot.figure(figsize=(10.2, 6.4), layout="constrained")
    for place, curve in enumerate(curves, start=1):
        axes = figure.add_subplot(2, 3, place)
        x, y, line = curve["at"], curve["values"], curve["line"]
        errors = [[value - low for value, (low, _) in zip(y, curve["ranges"], strict=True)]]
        errors.append([high - value for value, (_, high) in zip(y, curve["ranges"], strict=True)])
        ends = [0, 1.05 * max(x)]
        heights = [line["start"] + line["slope"] * end for end in ends]
        axes.plot(ends, heights, color="#c9733c", linewidth=1.5, label=f"R² = {line['r2']:.4f}")
        axes.errorbar(x, y, yerr=errors, fmt="o", color="#2f6f8f", markersize=5, capsize=3)
        axes.set(xlabel=curve["x"], ylabel=curve["y"], xlim=(0, None), ylim=(0, 1.15 * max(y)))
        axes.set_title(curve["title"], loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


@click.command(help=__doc__)
@click.option("--size", "size_name", type=click.Choice(sorted(SIZES)), default="full", show_default=True)
@click.option("--shape", type=click.Choice(sorted(SHAPES)), default="nano", show_default=True, help="The model.")
@click.option("--point", type=(str, int), help="Only this point of a curve, as JSON: for its own process.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=RESULTS, help="Where results go.")
def main(size_name: str, shape: str, point: tuple[str, int] | None, output: Path) -> None:
    """Measures and writes."""
    size = SIZES[size_name]
    if point:
        _, work = work_of(point[0], SHAPES[shape], size.texts)(point[1])
        click.echo(json.dumps(timed(work)))
        return
    curves = []
    for curve in size.curves():
        curves.append(measure(curve, shape, size))
        click.echo(f"{curve.title}, {curve.y} against {curve.x}: R² {curves[-1]['line']['r2']:.4f}")
    result = {
        "hardware": hardware(),
        "versions": versions(),
        "shape": asdict(SHAPES[shape]),
        "parameters": SHAPES[shape].parameters,
        "curves": curves,
    }
    write("scaling", result, markdown(result), output)
    draw(result, output / "scaling.png")


if __name__ == "__main__":
    main()
