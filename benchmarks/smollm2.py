"""What a real language model's embeddings find, over every set: the tables of `benchmarks/results/smollm2.md`.

    python benchmarks/smollm2.py --backbone smollm2 --data ../shared/data --cache cache/ \\
        --output benchmarks/results/smollm2.md

In: the responses in recipes/smollm2, the queries they answer, labelled sets. Out: one Markdown file, whose tables all
come from one run. Be careful: what the backbone reads is kept in --cache, over an hour of one free core the first time;
the rest is linear algebra. A seed draws the training rows, those that choose the penalty, and what whitening holds out.
"""

import gzip
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from foresay.backbone import Backbone
from smollm2_methods import HELD, Fitted, Method, Taught
from smollm2_reading import LONGEST, Reader, cut
from smollm2_sets import Array, LabelledSet, all_sets, bm25, retrieval, unit
from smollm2_tables import BASE, Found, gain, table

SEEDS = (0, 1, 2)
SHARES = (0.0, 0.25, 0.5, 0.75)
COUNTS = (1000, 2000, 4500, 8000)
SMALL = 4500
"""Rows of the tables that vary what is read."""
RETRIEVAL = ("theoremqa", "wordnet_define", "medquad", "entailment_bank")
OURS = ("target 0.5, inference 0", "target 0.5, inference 0.25")
RECIPE = Path(__file__).parents[1] / "recipes" / "smollm2"

Row = dict[str, Any]


def lines(path: Path) -> list[Row]:
    """The rows of a file of JSON lines, compressed or not."""
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else path.open()
    with opened as file:
        return [json.loads(line) for line in file]


def training_rows(data: Path, most: int) -> list[Row]:
    """Rows {id, query, response}: the packaged responses, joined with their queries; each query once."""
    queries = {
        row["id"]: row["query"]
        for name in ("queries_open", "queries_shelf")
        for row in lines(data / name / "queries.jsonl")
    }
    rows, seen = [], set()
    for row in lines(RECIPE / "responses_96.jsonl.gz"):
        query = queries[row["id"]]
        if query not in seen:
            seen.add(query)
            rows.append({**row, "query": query})
    return rows[:most]


def hyde(data: Path) -> dict[str, dict[int, str]]:
    """By set, the response to some of its queries, by the query's place."""
    written: dict[str, dict[int, str]] = {}
    places = {
        name: {row["id"]: i for i, row in enumerate(lines(data / name / "queries.jsonl"))}
        for name in (*RETRIEVAL, "advbench_ir")
    }
    for row in lines(RECIPE / "hyde_96.jsonl.gz"):
        name = row["set"].removesuffix("_refuse")
        if name in places:
            written.setdefault(row["set"], {})[places[name][row["id"]]] = row["response"]
    return {name: dict(sorted(found.items())) for name, found in written.items()}


# -- the parts of the run --------------------------------------------------------------------------------


@dataclass
class Run:
    """What every part needs."""

    reader: Reader
    rows: list[Row]
    sets: list[LabelledSet]
    written: dict[str, dict[int, str]]
    data: Path

    @property
    def retrieval(self) -> list[LabelledSet]:
        """The sets whose documents the teacher embeds."""
        return [one for one in self.sets if one.name in RETRIEVAL]

    def taught(self, count: int, states: Callable[[list[str]], Array], responses: list[str] | None = None) -> Taught:
        """The first rows, read."""
        queries = [row["query"] for row in self.rows[:count]]
        answers = [row["response"] for row in self.rows[:count]] if responses is None else responses
        return Taught(states(queries), self.reader.vectors(queries), self.reader.vectors(answers))

    def fitted(self, rows: Taught, count: int, states: Callable[[list[str]], Array]) -> list[Fitted]:
        """Of each seed."""
        return [Fitted(rows.draw(seed, count), self.reader.vectors, states, seed) for seed in SEEDS]


def measure(fits: Sequence[Fitted], methods: Callable[[Fitted], list[Method]], sets: Sequence[LabelledSet]) -> Found:
    """Every method of every seed on every set."""
    found: Found = {}
    for fit in fits:
        for method in methods(fit):
            for one in sets:
                found.setdefault(method.name, {}).setdefault(one.name, []).append(one.items(*method.on(one)))
    return found


def renamed(method: Method, name: str) -> Method:
    """The same under another name."""
    return Method(name, method.query, method.document)


def main_table(run: Run, fits: list[Fitted]) -> str:
    """Every set: floors, the published target, ours; BM25 where it has a say."""

    def methods(fit: Fitted) -> list[Method]:
        return [
            *fit.teachers(),
            fit.published(),
            fit.ours(0, 0),
            fit.ours(0.5, 0),
            fit.ours(0.5, 0.25),
            fit.ours(0.5, 0.5),
        ]

    found = measure(fits, methods, run.sets)
    found["BM25"] = {one.name: [one.items_of(bm25(one))] * len(SEEDS) for one in run.sets if one.items_of is not None}
    rows = list(found)
    rows.insert(0, rows.pop())
    scored, safety = (
        [one for one in run.sets if "finds" not in one.name],
        [one for one in run.sets if "finds" in one.name],
    )
    found_safety = {row: found[row] for row in rows if row != "BM25"} | hyde_on_harm(run, fits, safety)
    parts = [
        "## Retrieval and reranking\n",
        table(found, rows, scored[:5]),
        "\n## Similarity, classification, clustering\n",
        table(found, [row for row in rows if row != "BM25"], scored[5:]),
        "\n## What harmful requests find, and harmless look-alikes\n",
        table(found_safety, list(found_safety), safety, gains=False),
        "\n" + "\n".join(over(found, base, run.retrieval) for base in ("teacher, plain", BASE)) + "\n",
    ]
    return "\n".join(parts)


def over(found: Found, base: str, sets: list[LabelledSet]) -> str:
    """The mean gain of both of ours, in words."""
    gains = ", ".join(f"{name} {gain(found, name, base, sets):+.0%}" for name in OURS)
    return f"Over the {base}, on the four retrieval sets: {gains}."


def hyde_on_harm(run: Run, fits: list[Fitted], sets: list[LabelledSet]) -> Found:
    """The written answers to harmful requests as queries, without and with a system prompt that asks for refusals."""
    found: Found = {}
    for name, label in (("advbench_ir", "HyDE"), ("advbench_ir_refuse", "HyDE, asked to refuse")):
        texts = list(run.written[name].values())
        for fit in fits:
            for one in sets[:2]:
                items = one.items(fit.teacher(texts), fit.teacher(one.documents))
                found.setdefault(label, {}).setdefault(one.name, []).append(items)
    return found


def grid(run: Run, fits: list[Fitted]) -> str:
    """Share in the target by weight at inference, and the criterion that needs no labels."""
    cells = [(share, weight) for share in SHARES for weight in SHARES]
    found = measure(fits, lambda fit: [*fit.teachers()[1:], *(fit.ours(*cell) for cell in cells)], run.retrieval)
    rows = []
    for share, weight in cells:
        name = f"target {share:g}, inference {weight:g}"
        by_seed = " | ".join(f"{fit.criterion(share, weight):.3f}" for fit in fits)
        rows.append(f"| {name} | {by_seed} | {gain(found, name, BASE, run.retrieval):+.0%} |\n")
    return "".join(
        [
            "## The query's own part: share in the target, and weight at inference (1 would be the teacher)\n\n",
            table(found, list(found), run.retrieval),
            f"\nWithout labels: how well {HELD} held-out queries find their own responses, mean reciprocal rank.\n\n",
            "| | seed 0 | seed 1 | seed 2 | mean gain on the sets |\n|---|---|---|---|---|\n",
            *rows,
        ]
    )


def curve(run: Run, everything: Taught, states: Callable[[list[str]], Array]) -> str:
    """The number of training queries."""
    found: Found = {}
    for count in [*(count for count in COUNTS if count < len(run.rows)), len(run.rows)]:
        fits = run.fitted(everything, count, states)
        part = measure(fits, lambda fit: [*fit.teachers()[1:], fit.ours(0.5, 0), fit.ours(0.5, 0.25)], run.retrieval)
        found |= {f"{count:,} queries, {name}": value for name, value in part.items()}
    base = f"{len(run.rows):,} queries, {BASE}"
    return "## Number of training queries (whitening, map and penalty anew)\n\n" + table(
        found, list(found), run.retrieval, base
    )


def readings(run: Run) -> str:
    """What is read: how many tokens, which random ones, inside which template; and how long the responses are."""
    found: Found = {}

    def add(label: str, states: Callable[[list[str]], Array], responses: list[str] | None = None) -> None:
        fits = run.fitted(run.taught(SMALL, states, responses), SMALL, states)
        part = measure(fits, lambda fit: [renamed(fit.ours(0.5, 0), label)], run.retrieval)
        found.update(part)
        if not responses and BASE not in found:
            found.update(measure(fits, lambda fit: fit.teachers()[1:], run.retrieval))

    reader = run.reader
    add("10 tokens, chat template, responses of 96 tokens", reader.states)
    for first in (1, 2, 5):
        add(f"the first {first} of the tokens", partial(reader.states, first=first))
    add("10 tokens, no map in common: 5,760 numbers", reader.every_state)
    for seed in (1, 2):
        add(f"other random tokens, seed {seed}", partial(reader.states, seed=seed))
    add("no template", partial(reader.states, template="none"))
    for tokens in (24, 48):
        answers = cut(reader.backbone, [row["response"] for row in run.rows[:SMALL]], tokens)
        add(f"responses of {tokens} tokens", reader.states, answers)
    return (
        f"## What is read, and what is imitated: {SMALL:,} queries, one pass, half the query in the target\n\n"
        + table(found, list(found), run.retrieval)
    )


def beside_hyde(run: Run, fits: list[Fitted]) -> str:
    """On the queries whose answers were written out."""
    found: Found = {}
    sets = [retrieval(run.data / name, list(run.written[name])) for name in RETRIEVAL]
    for fit in fits:
        for one in sets:
            answers = fit.teacher(list(run.written[one.name].values()))
            documents = fit.teacher(one.documents)
            both = unit(answers + fit.teacher(one.queries))
            for label, queries in (("HyDE", answers), ("HyDE + query", both)):
                found.setdefault(label, {}).setdefault(one.name, []).append(one.items(queries, documents))
    found |= measure(
        fits, lambda fit: [*fit.teachers()[1:], fit.ours(0.5, 0), fit.ours(0.5, 0.25), fit.ours(0.5, 0.5)], sets
    )
    return (
        f"## Beside HyDE, which writes up to {LONGEST} tokens, on 200 queries a set\n\n"
        + table(found, list(found), sets)
        + "\nThe same against HyDE + query:\n\n"
        + table(found, [*OURS, "target 0.5, inference 0.5", "HyDE + query"], sets, "HyDE + query")
    )


HEAD = """# SmolLM2-135M-Instruct: what its embeddings find, without a gradient

{rows:,} training queries, responses of up to {longest} tokens, ten untrained special tokens after the chat template,
one map by ridge regression from their mean, penalty chosen on {held} held-out rows. Teacher: the same model (bfloat16)
read in both directions, mean pooled over at most {longest} tokens, whitened; the whitening is chosen on held-out pairs
of queries and responses ({choices}). It embeds the documents. *target*: share of the query in the target. *inference*:
weight of the teacher's own vector of the query. Mean of three seeds (the rows drawn and held out); in brackets the 95 %
bootstrap interval, over the items, of the difference to the whitened teacher; the gain is over the same. No prompt
stands before any text. Written by `benchmarks/smollm2.py`.

| set | items | documents |
|---|---|---|
{sizes}
"""


def head(run: Run, fits: list[Fitted]) -> str:
    """How it was measured."""
    choices = "; ".join(f"{fit.choice.axes} axes, strength {fit.choice.strength:g}" for fit in fits)
    sizes = "\n".join(f"| {one.name} | {len(one.queries):,} | {len(one.documents) or '–'} |" for one in run.sets)
    return HEAD.format(rows=len(run.rows), held=HELD, longest=LONGEST, choices=choices, sizes=sizes)


@click.command()
@click.option("--backbone", required=True)
@click.option("--name", default="smollm2", help="Of the backbone, in the cache.")
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--rows", default=12000, help="Training queries.")
@click.option("--cache", required=True, type=click.Path(path_type=Path))
@click.option("--parts", default="main,hyde,grid,curve,readings", help="Tables to make.")
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(backbone: str, name: str, data: Path, rows: int, cache: Path, parts: str, output: Path) -> None:
    """Writes the tables."""
    torch.set_num_threads(1)
    reader = Reader(Backbone.load(backbone, device="cpu", dtype="bfloat16"), cache, name)
    run = Run(reader, training_rows(data, rows), all_sets(data), hyde(data), data)
    everything = run.taught(len(run.rows), reader.states)
    fits = run.fitted(everything, len(run.rows), reader.states)
    makers: dict[str, Callable[[], str]] = {
        "main": lambda: main_table(run, fits),
        "hyde": lambda: beside_hyde(run, fits),
        "grid": lambda: grid(run, fits),
        "curve": lambda: curve(run, everything, reader.states),
        "readings": lambda: readings(run),
    }
    texts = [head(run, fits)]
    for part in parts.split(","):
        texts.append(makers[part]())
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("\n".join(texts))
        sys.stderr.write(f"{part} written\n")


if __name__ == "__main__":
    main()
