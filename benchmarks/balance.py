"""What the alignment loss is measured in: what an embedding finds after training, by loss and by choice of the step.

    python benchmarks/balance.py RESPONSES TARGETS… -m nano -o benchmarks/results/balance

In: what `foresay respond` wrote to the packaged queries, and a folder of targets for each teacher. Out: BALANCE.jsonl
with a row for each run and question, and BALANCE.md: nDCG@10 of the packaged questions among the packaged passages,
which the teacher of the targets embeds, and the paired difference to the loss that is the default.
Careful: a run that was killed is continued, so delete BALANCE.jsonl after a change to the training. Intervals are over
the questions; the spread over the seeds is a column of its own.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import click
import numpy as np
import torch

from foresay.backbone import Backbone
from foresay.checkpoints.record import Record
from foresay.config import Alignment, FitConfig, TrainConfig
from foresay.data.pairs import Pairs
from foresay.encoder import Array, Encoder
from foresay.evaluation import Score, Task, ndcg
from foresay.evaluation.intervals import Comparison, Estimate
from foresay.files import Journal
from foresay.quickstart.show import EXAMPLE
from foresay.training.fit import fit
from foresay.training.metrics import held_out
from foresay.training.train import train

FIT: Final = "fit"
"""The arm without a gradient: where every training starts."""
BASE = TrainConfig()
SHELF = EXAMPLE / "shelf"
_PASSAGES: dict[str, Array] = {}
"""By the teacher that embeds them."""


@dataclass(frozen=True)
class Arm:
    """One run.

    Attributes:
        targets: name of the folder of targets.
        loss: the alignment loss, or `FIT`.
        seed: of the run.
    """

    targets: str
    loss: Alignment | Literal["fit"]
    seed: int


@dataclass(frozen=True)
class Found(Arm):
    """What one checkpoint of a run finds.

    Attributes:
        select: what chose the step.
        step: the one chosen.
        cosine: mean cosine of the held-out rows to their targets.
        scores: nDCG@10 of each question.
    """

    select: str
    step: int
    cosine: float
    scores: list[float]

    @property
    def name(self) -> str:
        """What is compared: a loss and a choice of the step."""
        return f"{self.loss}, {self.select}" if self.select else self.loss


@click.command()
@click.argument("responses", type=click.Path(path_type=Path))
@click.argument("targets", nargs=-1, type=click.Path(path_type=Path), required=True)
@click.option("-m", "--backbone", required=True, help="The language model that wrote the responses.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Files to write, less the ending.")
@click.option("--dtype", default="auto", show_default=True, help="dtype of the backbone.")
@click.option("--rows", "most", default=0, help="Learn from this many pairs, drawn at random; 0 for all.")
@click.option("--seeds", default=3, show_default=True, help="Runs of each arm.")
@click.option("--steps", default=60, show_default=True, help="Steps of each run.")
@click.option("--evaluate-every", default=20, show_default=True, help="Steps between two looks at the held-out rows.")
@click.option("--max-response-tokens", default=64, show_default=True, help="Longest response that is reconstructed.")
@click.option("--learning-rate", default=1e-3, show_default=True, help="Peak learning rate.")
def main(
    responses: Path,
    targets: tuple[Path, ...],
    backbone: str,
    output: Path,
    dtype: str,
    most: int,
    seeds: int,
    **options: Any,  # noqa: ANN401
) -> None:
    """Fits and trains on RESPONSES and each of TARGETS."""
    torch.set_num_threads(1)
    model = Backbone.load(backbone, dtype=dtype)
    sets = {folder.name: some(Pairs.load(responses, folder), most) for folder in targets}
    arms = [Arm(name, loss, seed) for name in sets for seed in range(seeds) for loss in (FIT, *get_args(Alignment))]
    options["keep"] = 99
    rows = measure(arms, sets, model, options, output.with_suffix(".jsonl"))
    config, shelf, pairs = TrainConfig(**options), Task.load(SHELF), next(iter(sets.values()))
    facts = [
        f"# What the alignment loss is measured in: {Path(model.name).name}\n",
        f"{len(pairs.queries)} pairs, of which {len(pairs.split(config)[1])} are held out; {config.steps} steps of "
        f"{config.batch_size} rows, peak learning rate {config.learning_rate:g}, reconstruction of "
        f"{config.max_response_tokens} tokens with weight {config.reconstruction_weight:g}, a look at the held-out "
        f"rows every {config.evaluate_every} steps, {seeds} seeds. nDCG@10 on {len(shelf.queries)} questions among "
        f"{len(shelf.documents)} passages with 95 % bootstrap intervals over the questions; ± is the standard "
        "deviation over the seeds. The last column is paired by question, against "
        f"`{BASE.alignment}` with the step chosen by `{BASE.select}`, the default.",
    ]
    output.with_suffix(".md").write_text("\n".join([*facts, *map(table, by_targets(rows))]) + "\n")


def some(pairs: Pairs, most: int) -> Pairs:
    """As many of the pairs, drawn at random."""
    rows = np.sort(np.random.default_rng(0).permutation(len(pairs.queries))[: most or None])
    queries, responses = ([texts[i] for i in rows] for texts in (pairs.queries, pairs.responses))
    return replace(pairs, queries=queries, responses=responses, targets=np.array(pairs.targets[rows]))


def measure(
    arms: Sequence[Arm], sets: dict[str, Pairs], model: Backbone, options: dict[str, Any], path: Path
) -> list[Found]:
    """Runs every arm that is not in the journal yet; returns all of it."""
    with Journal(path) as journal:
        rows = [Found(**row) for _, row in journal.rows()]
        known = {Arm(row.targets, row.loss, row.seed) for row in rows}
        for arm in arms:
            if arm not in known:
                made = list(run(arm, sets[arm.targets], model, options))
                journal.append(map(asdict, made))
                for row in made:
                    click.echo(f"{row.targets} {row.name} {row.seed}: step {row.step}, {np.mean(row.scores):.3f}")
                rows += made
    return rows


def run(arm: Arm, pairs: Pairs, model: Backbone, options: dict[str, Any]) -> Iterator[Found]:
    """Fits, or trains once and scores the step of each choice."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "checkpoint"
        if arm.loss == FIT:
            encoder = fit(pairs, model, folder, FitConfig(seed=arm.seed))
            cosine = Record.load(folder).training.metrics["cosine"]
            yield Found(**asdict(arm), select="", step=0, cosine=cosine, scores=found(encoder))
            return
        train(pairs, model, folder, TrainConfig(alignment=arm.loss, seed=arm.seed, **options))
        for select, look in best_looks(folder / "training" / "metrics.jsonl").items():
            state = folder / "training" / f"step-{look['step']:06d}"
            scores = found(Encoder.from_pretrained(state, backbone=model))
            yield Found(**asdict(arm), select=select, step=look["step"], cosine=look["cosine"], scores=scores)


def found(encoder: Encoder) -> list[float]:
    """nDCG@10 of each question; the teacher embeds the passages, once."""
    shelf, teacher = Task.load(SHELF), encoder.document_teacher
    name = "" if teacher is None else teacher.name
    if name not in _PASSAGES:
        _PASSAGES[name] = encoder.encode_document(shelf.documents)
    return [float(score) for score in ndcg(encoder.encode_query(shelf.queries), _PASSAGES[name], shelf)]


def best_looks(metrics: Path) -> dict[str, dict[str, Any]]:
    """The look at the held-out rows that each choice takes."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    looks = [row for row in rows if held_out("loss") in row]
    by = {"embedding": held_out("alignment"), "loss": held_out("loss")}
    return {select: min(looks, key=lambda row: row[name]) for select, name in by.items()}


def by_targets(rows: Sequence[Found]) -> list[list[Found]]:
    """The rows of each folder of targets."""
    return [[row for row in rows if row.targets == name] for name in dict.fromkeys(row.targets for row in rows)]


def table(rows: Sequence[Found]) -> str:
    """The arms of one folder of targets, compared question by question."""
    methods: dict[str, list[Found]] = {}
    for row in rows:
        methods.setdefault(row.name, []).append(row)
    scores = [
        Score("shelf", "retrieval", "ndcg_at_10", f"{row.name} {row.seed}", float(np.mean(row.scores)), "mean",
              {"score": np.asarray(row.scores)}, float("nan"), True)
        for row in rows
    ]  # fmt: skip
    comparison = Comparison(scores, {name: [f"{name} {row.seed}" for row in runs] for name, runs in methods.items()})
    default = f"{BASE.alignment}, {BASE.select}"
    lines = [
        f"\n## Targets of {rows[0].targets}\n",
        "| alignment, step chosen by | steps | held-out cosine | nDCG@10 | against the default |",
        "|---|---|---|---|---|",
    ]
    for name, runs in methods.items():
        score = comparison.score(name, comparison.columns)
        gain = "" if name == default else shown(comparison.difference(name, default, comparison.columns), "+.3f")
        steps = ", ".join(str(row.step) for row in runs)
        cosine = float(np.mean([row.cosine for row in runs]))
        seeds = f" ± {score.spread:.3f}" if score.spread is not None else ""
        lines.append(f"| {name} | {steps} | {cosine:.3f} | {shown(score, '.3f')}{seeds} | {gain} |")
    return "\n".join(lines)


def shown(estimate: Estimate, form: str) -> str:
    """A figure with its interval."""
    return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"


if __name__ == "__main__":
    main()
