"""What the alignment loss is measured in: what an embedding finds after training, by loss and by choice of the step.

    python benchmarks/balance.py RESPONSES TARGETS -m nano -o benchmarks/results/balance.md

In: what `foresay respond` wrote to the packaged queries, and folders of targets of different teachers. Out: a Markdown
table: nDCG@10 on the packaged passages, which the teacher of the targets embeds.
Careful: one seed; 95 % bootstrap intervals over the questions.
"""

import json
import tempfile
from pathlib import Path
from typing import Any, get_args

import click
import torch

from foresay.backbone import Backbone
from foresay.config import Alignment, TrainConfig
from foresay.data.pairs import Pairs
from foresay.encoder import Encoder
from foresay.evaluation import Task, interval, ndcg
from foresay.quickstart.show import EXAMPLE
from foresay.training.fit import fit
from foresay.training.metrics import held_out
from foresay.training.train import train


@click.command()
@click.argument("responses", type=click.Path(path_type=Path))
@click.argument("targets", nargs=-1, type=click.Path(path_type=Path), required=True)
@click.option("-m", "--backbone", required=True, help="The language model that wrote the responses.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Markdown file to write.")
@click.option("--dtype", default="auto", show_default=True, help="dtype of the backbone.")
@click.option("--steps", default=60, show_default=True, help="Steps of each run.")
@click.option("--learning-rate", default=1e-3, show_default=True, help="Peak learning rate.")
def main(
    responses: Path,
    targets: tuple[Path, ...],
    backbone: str,
    output: Path,
    dtype: str,
    **options: Any,  # noqa: ANN401
) -> None:
    """Fits and trains on RESPONSES and each of TARGETS."""
    torch.set_num_threads(1)
    model, shelf = Backbone.load(backbone, dtype=dtype), Task.load(EXAMPLE / "shelf")
    lines = [
        f"# What the alignment loss is measured in: {Path(model.name).name}\n",
        f"nDCG@10 on {len(shelf.queries)} questions, {options['steps']} steps of 32 rows, learning rate "
        f"{options['learning_rate']:g}, reconstruction of 64 tokens with weight 1, seed 0. The step is chosen of looks "
        "every 10 steps.\n",
        "| targets | alignment | step chosen by | step | nDCG@10 |",
        "|---|---|---|---|---|",
    ]
    for folder in targets:
        pairs = Pairs.load(responses, folder)
        with tempfile.TemporaryDirectory() as place:
            lines.append(f"| {folder.name} | `fit` | | 0 | {found(fit(pairs, model, Path(place) / 'c'), shelf)} |")
        for alignment in get_args(Alignment):
            config = TrainConfig(alignment=alignment, evaluate_every=10, max_response_tokens=64, keep=99, **options)
            with tempfile.TemporaryDirectory() as place:
                train(pairs, model, Path(place) / "c", config)
                for select, step in best_steps(Path(place) / "c" / "training" / "metrics.jsonl").items():
                    state = Path(place) / "c" / "training" / f"step-{step:06d}"
                    encoder = Encoder.from_pretrained(state, backbone=model)
                    lines.append(f"| {folder.name} | {alignment} | {select} | {step} | {found(encoder, shelf)} |")
                    click.echo(lines[-1])
    output.write_text("\n".join(lines) + "\n")


def found(encoder: Encoder, task: Task) -> str:
    """NDCG@10 of an encoder with its interval."""
    scores = ndcg(encoder.encode_query(task.queries), encoder.encode_document(task.documents), task)
    low, high = interval(scores)
    return f"{scores.mean():.3f} ({low:.3f}–{high:.3f})"


def best_steps(metrics: Path) -> dict[str, int]:
    """The step that each choice takes."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    looks = [row for row in rows if held_out("loss") in row]
    by = {"embedding": held_out("alignment"), "loss": held_out("loss")}
    return {select: min(looks, key=lambda row: row[name])["step"] for select, name in by.items()}


if __name__ == "__main__":
    main()
