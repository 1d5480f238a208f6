"""Where training starts: held-out figures by step, from maps in closed form and from random ones.

    python benchmarks/starts.py quickstart --output benchmarks/results/starts.md

In: a folder that `foresay quickstart` made. Out: a Markdown table: each start and readout, mean over seeds with the
smallest and largest. A seed changes the special tokens, the order of the rows and which of them are held out.
Step 0 is the closed form alone, before any gradient; for a random start it is chance.
"""

import json
import tempfile
from pathlib import Path
from typing import get_args

import click
import numpy as np
import torch

from foresay import readouts
from foresay.backbone import NANO, Backbone
from foresay.config import Start, TrainConfig
from foresay.data.pairs import Pairs
from foresay.training.train import train

HEAD = """# Where training starts

Packaged backbone, {rows} rows of which {held} are held out, batches of 32, learning rate 1e-3 with 7 steps of warm-up,
chat template, targets half answer and half question; mean of {seeds} seeds (smallest–largest). Made with
`python benchmarks/starts.py quickstart --output benchmarks/results/starts.md`.

"""
FIGURES = {"cosine": "cosine to the own target", "retrieval@1": "own target is the nearest"}


def run(pairs: Pairs, backbone: Backbone, config: TrainConfig) -> dict[int, dict[str, float]]:
    """The held-out figures by step."""
    with tempfile.TemporaryDirectory() as folder:
        train(pairs, backbone, Path(folder) / "run", config)
        lines = (Path(folder) / "run" / "training" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["step"]: {name: row[name] for name in FIGURES} for row in rows if "cosine" in row}


def cell(values: list[float]) -> str:
    """A mean with its extremes."""
    return f"{np.mean(values):.3f} ({min(values):.3f}–{max(values):.3f})"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Markdown file to write.")
@click.option("--steps", default=45, show_default=True, help="Steps of each run.")
@click.option("--every", default=15, show_default=True, help="Steps between two columns.")
@click.option("--seeds", default=3, show_default=True, help="Runs of each kind.")
def main(folder: Path, output: Path, steps: int, every: int, seeds: int) -> None:
    """Trains on the responses and targets in FOLDER from each start."""
    torch.set_num_threads(1)
    backbone = Backbone.load(NANO, dtype="float32")
    pairs = Pairs.load(folder / "responses.jsonl", folder / "teacher")
    held = len(pairs.queries) // 10
    columns = list(range(every, steps + 1, every))
    tables = {name: [f"| start | readout | {' | '.join(f'step {step}' for step in columns)} |"] for name in FIGURES}
    for table in tables.values():
        table.append("|---|---|" + "---|" * len(columns))
    for readout in readouts.names():
        for start in get_args(Start):
            runs = []
            for seed in range(seeds):
                config = TrainConfig(
                    start=start,
                    readout=readout,
                    seed=seed,
                    steps=steps,
                    evaluate_every=every,
                    held_out=held,
                    learning_rate=1e-3,
                    warmup_steps=7,
                    dtype="float32",
                )
                runs.append(run(pairs, backbone, config))
            for name, table in tables.items():
                cells = [cell([one[step][name] for one in runs]) for step in columns]
                table.append(f"| {start} | {readout} | {' | '.join(cells)} |")
    facts = HEAD.format(rows=len(pairs.queries), held=held, seeds=seeds)
    parts = [f"{title.capitalize()}:\n\n" + "\n".join(tables[name]) + "\n" for name, title in FIGURES.items()]
    output.write_text(facts + "\n".join(parts))


if __name__ == "__main__":
    main()
