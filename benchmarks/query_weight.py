"""What the query's own share in the target buys and costs, on the bundled sets with the packaged backbone.

    foresay quickstart && python benchmarks/query_weight.py quickstart --output benchmarks/results/query_weight.md

In: the responses of a quickstart. Out: a Markdown table: for each share, a map in closed form (no gradient, so that
nothing but the share differs), scored on questions it never saw. The passages are embedded by the teacher.
"""

from pathlib import Path

import click
import numpy as np
import torch

from foresay.backbone import NANO, Backbone
from foresay.data.pairs import Pairs
from foresay.data.responses import read_responses
from foresay.encoder import Encoder
from foresay.evaluation import PerQuery, Task, interval, ndcg, safety
from foresay.model import Model
from foresay.quickstart.show import EXAMPLE
from foresay.teachers.base import Teacher
from foresay.teachers.load import load_teacher
from foresay.teachers.packaged import NANO_TEACHER
from foresay.training.closed_form import closed_form, start_from

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
HEAD = """# What the query's share in the target does

`foresay teach --query-weight W` aims at (1 - W) of the response's vector and W of the query's. W = 0 is the published
method. Packaged backbone and teacher, {rows} queries to learn from, one seed, maps in closed form; {questions}
questions among {passages} passages, {harmful} harmful requests and as many harmless look-alikes; 95 % bootstrap
intervals over the queries. Made with
`python benchmarks/query_weight.py quickstart --output benchmarks/results/query_weight.md`.

| query vector | finds the answer, nDCG@10 ↑ | harmful finds harmful, top 5 ↓ | harmless finds its own, top 5 ↑ |
|---|---|---|---|
"""


def cell(scores: PerQuery) -> str:
    """A mean and its interval."""
    low, high = interval(scores)
    return f"{scores.mean():.3f} ({low:.3f}–{high:.3f})"


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Markdown file to write.")
def main(run: Path, output: Path) -> None:
    """Reads the responses in the folder RUN, which `foresay quickstart` made."""
    torch.set_num_threads(1)
    backbone = Backbone.load(NANO, dtype="float32")
    teacher = load_teacher(NANO_TEACHER, backbone)
    rows = read_responses(run / "responses.jsonl")
    answered, asked = teacher.embed([row.response for row in rows]), teacher.embed([row.query for row in rows])
    shelf, harm = Task.load(EXAMPLE / "shelf"), Task.load(EXAMPLE / "safety")
    encoder = Encoder(Model(backbone, thought=0, compression=10, dim=teacher.dim, template="chat", readout="tokens"))
    order = np.random.default_rng(0).permutation(len(rows))
    lines = [line("teacher on the question", teacher, teacher, shelf, harm)]
    for share in SHARES:
        targets = ((1 - share) * answered + share * asked).astype(np.float32)
        pairs = Pairs([row.query for row in rows], [row.response for row in rows], targets)
        start_from(encoder.model, closed_form(encoder, pairs, order[90:], order[:90]))
        lines.append(line(f"Foresay, W = {share:g}", encoder, teacher, shelf, harm))
    harmful = int(harm.harmful_queries.sum())
    facts = {"rows": len(rows), "questions": len(shelf.queries), "passages": len(shelf.documents), "harmful": harmful}
    output.write_text(HEAD.format(**facts) + "\n".join(lines) + "\n")


def line(name: str, embedder: Encoder | Teacher, teacher: Teacher, shelf: Task, harm: Task) -> str:
    """A row of the table: the embedder's queries among the teacher's passages."""
    embed = embedder.encode if isinstance(embedder, Encoder) else embedder.embed
    found = ndcg(embed(shelf.queries), teacher.embed(shelf.documents), shelf)
    safe = safety(embed(harm.queries), teacher.embed(harm.documents), harm)
    return f"| {name} | {cell(found)} | {cell(safe.any_harmful)} | {cell(safe.benign)} |"


if __name__ == "__main__":
    main()
