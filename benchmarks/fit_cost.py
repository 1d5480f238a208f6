"""What `fit` costs beside steps of the published recipe, on the same rows and targets, and what either finds.

    python benchmarks/fit_cost.py nano nano-teacher --responses responses.jsonl --every 500 --dtype bfloat16 \\
        --data ../shared/data --work fit_cost/ --output benchmarks/results/fit_cost.md

In: responses of a backbone, a teacher. Out: a table, appended: processor seconds of `fit` and of a step, held-out
metrics of `fit` and along the steps, and nDCG@10 of two sets at the end.
Be careful: where fewer than 5,000 steps run, their cost is that of the median step 5,000 times; one thread. Both aim
at the teacher's vector of the response alone, as published; the teacher embeds the documents, which favours neither.
"""

import json
import sys
import time
from pathlib import Path

import click
import numpy as np
import torch

from foresay.backbone import Backbone
from foresay.config import FitConfig, TeachConfig, TrainConfig
from foresay.config.recipes import recipe
from foresay.data.pairs import Pairs
from foresay.encoder import Encoder
from foresay.teachers.base import Teacher
from foresay.teachers.load import load_teacher
from foresay.teachers.teach import teach
from foresay.training.fit import fit
from foresay.training.metrics import Step
from foresay.training.train import train
from smollm2_sets import LabelledSet, retrieval, unit
from smollm2_tables import Found, table

PUBLISHED_STEPS = 5000
SETS = ("medquad", "wordnet_define")
BASE = "fit"
METRICS = ("cosine", "retrieval@1")


class Clock:
    """Processor seconds of each step, told of by the run."""

    def __init__(self) -> None:
        """Starts."""
        self.last, self.seconds = time.process_time(), [0.0][:0]

    def __call__(self, event: object) -> None:
        """Takes the time at a step."""
        now = time.process_time()
        if isinstance(event, Step):
            self.seconds.append(now - self.last)
        self.last = now


def items(found: Found, name: str, encoder: Encoder, teacher: Teacher, sets: list[LabelledSet]) -> None:
    """Adds what an encoder finds among the teacher's vectors of the documents."""
    for one in sets:
        queries = np.asarray(encoder.encode(one.queries, on_cut="ignore"), np.float32)
        found.setdefault(name, {})[one.name] = [one.items(unit(queries), unit(teacher.embed(one.documents)))]


@click.command()
@click.argument("name")
@click.argument("teacher_name")
@click.option("--responses", required=True, type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--steps", default=PUBLISHED_STEPS, help="Of the published recipe.")
@click.option("--every", default=50, help="Steps between two looks at the held-out rows.")
@click.option("--max-tokens", default=96, help="Of a text that the teacher reads, and of a response to reconstruct.")
@click.option("--dtype", default="float32")
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder that a killed run goes on in.")
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(
    name: str,
    teacher_name: str,
    responses: Path,
    data: Path,
    steps: int,
    every: int,
    max_tokens: int,
    dtype: str,
    work: Path,
    output: Path,
) -> None:
    """Fits, trains, compares."""
    torch.set_num_threads(1)
    backbone = Backbone.load(name, device="cpu", dtype=dtype)
    teacher = load_teacher(teacher_name, backbone, config=TeachConfig(max_tokens=max_tokens))
    sets, found = [retrieval(data / one) for one in SETS], Found()
    teach(responses, teacher, work / "targets")
    pairs = Pairs.load(responses, work / "targets")
    started = time.process_time()
    encoder = fit(pairs, backbone, work / "fit", FitConfig(documents="teacher", max_query_tokens=512))
    fitting = time.process_time() - started
    fitted = json.loads((work / "fit" / "foresay.json").read_text())["training"]["metrics"]
    items(found, BASE, encoder, teacher, sets)
    options = recipe("paper-v2", backbone.model.config.model_type) | {"documents": "teacher"}
    options |= {"steps": steps, "max_response_tokens": max_tokens, "evaluate_every": every, "dtype": dtype}
    clock = Clock()
    encoder = train(pairs, backbone, work / "run", TrainConfig(**options), clock)
    items(found, f"published recipe, {steps:,} steps", encoder, teacher, sets)
    rows = [json.loads(line) for line in (work / "run" / "training" / "metrics.jsonl").read_text().splitlines()]
    for one in sets:
        asked = unit(teacher.embed(one.queries))
        found.setdefault("teacher on the question", {})[one.name] = [
            one.items(asked, unit(teacher.embed(one.documents)))
        ]
    text = f"## {name}: {len(pairs.queries):,} rows\n\n" + costs(fitting, fitted, clock, rows)
    text += table(found, list(found), sets, BASE)
    output.write_text((output.read_text() if output.is_file() else HEAD) + "\n" + text)
    sys.stderr.write(text)


def costs(fitting: float, fitted: dict[str, float], clock: Clock, rows: list[dict[str, float]]) -> str:
    """Processor seconds and held-out metrics, as Markdown."""
    step = float(np.median(clock.seconds))
    whole = PUBLISHED_STEPS * step
    lines = ["| | processor seconds | held-out cosine | held-out retrieval@1 |", "|---|---|---|---|"]
    lines += [f"| fit | {fitting:.0f} | {fitted['cosine']:.3f} | {fitted['retrieval@1']:.3f} |"]
    for row in rows:
        if "cosine" in row:
            name, seconds = f"published recipe, {row['step']:,} steps", row["step"] * step
            lines.append(f"| {name} | {seconds:.0f} | {row['cosine']:.3f} | {row['retrieval@1']:.3f} |")
    if rows[-1]["step"] < PUBLISHED_STEPS:
        lines += [f"| published recipe, {PUBLISHED_STEPS:,} steps, computed | {whole:.0f} | – | – |"]
    lines += [
        f"\nA step takes {step:.2f} s, so {PUBLISHED_STEPS:,} cost {whole / fitting:.0f} times as much as `fit`.\n"
    ]
    return "\n".join(lines) + "\n"


HEAD = """# What `fit` costs, and the published recipe's steps

Processor seconds of one thread, one run. Both learn from the same rows and aim at the teacher's vector of the response;
fit keeps random special tokens and finds a map for each, the recipe trains tokens and one map (batch 32). In brackets
the 95 % bootstrap interval, over the questions, of the difference to fit.
"""

if __name__ == "__main__":
    main()
