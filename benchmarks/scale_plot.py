"""The picture of docs/scale.md: where writing responses stops getting faster.

    python benchmarks/scale_plot.py -o docs/pictures/scale.png

In: results/responding.json and results/workers.json. Out: a PNG.
"""

import json
from pathlib import Path
from typing import Any

import click

RESULTS = Path(__file__).parent / "results"
OURS, IDEAL = "#2563a8", "#94a3b8"


@click.command()
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option("--results", default=RESULTS, type=click.Path(path_type=Path))
def main(output: Path, results: Path) -> None:
    """Draws both curves."""
    places = json.loads((results / "responding.json").read_text())["places"]
    workers = json.loads((results / "workers.json").read_text())["workers"]
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.4, 3.1), layout="constrained")
    curve(left, [row["places"] for row in places], [row["tokens_a_second"] for row in places])
    left.set_xscale("log", base=2)
    left.set(xlabel="rows side by side", ylabel="tokens written a second", title="one core")
    counts, speeds = [row["workers"] for row in workers], [row["rows_a_second"] for row in workers]
    ideal = [speeds[0] / counts[0] * count for count in counts]
    right.plot(counts, ideal, "--", color=IDEAL)
    note = {"textcoords": "offset points", "xytext": (-22, 0), "ha": "right", "va": "center", "color": "#475569"}
    right.annotate("twice the workers, twice the rows", (counts[-1], ideal[-1]), **note)
    curve(right, counts, speeds, below=True)
    right.set(xlabel="workers of one thread", ylabel="rows a second", title="a Ray cluster on two cores")
    for axes in (left, right):
        axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
        axes.spines[["top", "right"]].set_visible(False)
    for axes, at in ((left, [row["places"] for row in places]), (right, counts)):
        axes.set_xticks(at, [str(one) for one in at])
    figure.savefig(output, dpi=150)


def curve(axes: Any, at: list[int], values: list[float], *, below: bool = False) -> None:  # noqa: ANN401
    """A line whose points say their values."""
    axes.plot(at, values, "o-", color=OURS)
    for x, y in zip(at, values, strict=True):
        axes.annotate(
            f"{y:.0f}", (x, y), textcoords="offset points", xytext=(0, -15 if below else 7), ha="center", color=OURS
        )


if __name__ == "__main__":
    main()
