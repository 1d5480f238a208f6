"""Steps to a given reconstruction loss from each start, and from one map or a map for each token.

    python benchmarks/reconstruction_starts.py RESPONSES TARGETS -m nano -o benchmarks/results/reconstruction_starts.md

In: what `foresay respond` and `foresay teach` wrote. Out: a Markdown table of the held-out reconstruction loss by step,
and the step at which each run first reaches the loss that the slowest one ends with. Step 0 is before any gradient.
Careful: one seed, one order of the rows. Time a step is not compared: the maps cost nothing beside the backbone.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from foresay.backbone import Backbone
from foresay.config import TrainConfig
from foresay.data.pairs import Pairs
from foresay.training.metrics import Event, Step, held_out
from foresay.training.train import train

STARTS: dict[str, dict[str, Any]] = {
    "one map, random": {"reconstruct": "one", "start": "random"},
    "one map, the identity": {"reconstruct": "one", "start": "closed-form"},
    "a map for each token, random": {"reconstruct": "tokens", "start": "random"},
    "a map for each token, closed form": {"reconstruct": "tokens", "start": "closed-form"},
}
LOSS = held_out("reconstruction")


@dataclass
class Seen:
    """The held-out reconstruction loss of a run by step."""

    losses: dict[int, float]

    def __call__(self, event: Event) -> None:
        """Notes a look at the held-out rows."""
        if isinstance(event, Step) and LOSS in event.metrics:
            self.losses[event.step] = event.metrics[LOSS]

    def reached(self, loss: float) -> str:
        """The first step with at most that loss."""
        return next((str(step) for step, found in sorted(self.losses.items()) if found <= loss), "–")


def run(pairs: Pairs, backbone: Backbone, config: TrainConfig) -> dict[int, float]:
    """The losses of a training by step; step 0 is a step at a learning rate of 0."""
    seen = Seen({})
    with tempfile.TemporaryDirectory() as folder:
        train(pairs, backbone, Path(folder) / "run", config, seen)
    still = Seen({})
    with tempfile.TemporaryDirectory() as folder:
        unmoved = replace(config, learning_rate=0.0, steps=1, evaluate_every=1)
        train(pairs, backbone, Path(folder) / "run", unmoved, still)
    return {0: still.losses[1], **seen.losses}


@click.command()
@click.argument("responses", type=click.Path(path_type=Path))
@click.argument("targets", type=click.Path(path_type=Path))
@click.option("-m", "--backbone", required=True, help="The language model that wrote the responses.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Markdown file to write.")
@click.option("--dtype", default="auto", show_default=True, help="dtype of the backbone.")
@click.option("--rows", default=0, help="Use so many rows; 0 for all.")
@click.option("--steps", default=60, show_default=True, help="Steps of each run.")
@click.option("--every", default=15, show_default=True, help="Steps between two columns.")
@click.option("--batch-size", default=16, show_default=True, help="Rows a step.")
@click.option("--learning-rate", default=1e-3, show_default=True, help="Peak learning rate.")
@click.option("--response-tokens", default=48, show_default=True, help="Longest response that is reconstructed.")
def main(
    responses: Path,
    targets: Path,
    backbone: str,
    output: Path,
    dtype: str,
    rows: int,
    **options: Any,  # noqa: ANN401
) -> None:
    """Trains on RESPONSES and TARGETS from each start."""
    torch.set_num_threads(1)
    steps, every = options["steps"], options["every"]
    model = Backbone.load(backbone, dtype=dtype)
    pairs = Pairs.load(responses, targets)
    if rows:
        pairs = Pairs(pairs.queries[:rows], pairs.responses[:rows], pairs.targets[:rows], pairs.origin)
    runs: dict[str, Seen] = {}
    for name, start in STARTS.items():
        config = TrainConfig(
            **start,
            documents="checkpoint",
            steps=steps,
            evaluate_every=every,
            held_out=64,
            batch_size=options["batch_size"],
            learning_rate=options["learning_rate"],
            max_response_tokens=options["response_tokens"],
        )
        runs[name] = Seen(run(pairs, model, config))
        click.echo(f"{name}: {runs[name].losses}")
    output.write_text(
        table(runs, list(range(0, steps + 1, every)), f"{model.name}, {len(pairs.queries)} rows", options)
    )


def table(runs: dict[str, Seen], columns: list[int], what: str, options: dict[str, Any]) -> str:
    """All runs as Markdown."""
    goal = max(seen.losses[columns[-1]] for seen in runs.values())
    head = " | ".join(f"step {step}" for step in columns)
    lines = [
        f"# Reconstruction loss by start: {what}\n",
        f"Nats a token of 64 held-out responses, cut at {options['response_tokens']} tokens; batches of "
        f"{options['batch_size']}, learning rate {options['learning_rate']:g}, seed 0. The last column is the first "
        f"look at which a run has the loss that the slowest one ends with, {goal:.2f}.\n",
        f"| start | {head} | step with {goal:.2f} |",
        "|---|" + "---|" * (len(columns) + 1),
    ]
    for name, seen in runs.items():
        cells = " | ".join(f"{seen.losses[step]:.2f}" for step in columns)
        lines.append(f"| {name} | {cells} | {seen.reached(goal)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
