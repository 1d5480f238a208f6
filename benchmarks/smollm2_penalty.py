"""Which rule should choose the penalty of `fit`: the best of the held-out rows, or the largest that is nearly as good.

    python benchmarks/smollm2_penalty.py --data ../shared/data --responses responses.jsonl --cache cache/ \\
        --output benchmarks/results/smollm2_penalty.md

In: labelled sets, the answers that the packaged checkpoint was fitted on, and the cache that `smollm2.py` fills. Out: a
table of every set for each rule, for the packaged checkpoint's trained tokens and for random ones.
Be careful: as in `fit`, the targets mix the teacher's vectors at their own lengths, and 256 rows are held out. A seed
draws those rows and nothing else, so the intervals are over the items of a set.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

from foresay.config import FitConfig
from foresay.data.responses import read_responses
from foresay.training.closed_form import PENALTIES
from smollm2_sets import Array, Items, LabelledSet, all_sets, unit
from smollm2_tables import Found, gain, table
from smollm2_targets import Trained

HELD = FitConfig().held_out
SEEDS = (0, 1, 2)
SLOW = ("banking77", "sst2", "stackoverflow")
"""Scored by fitting a model to the vectors, so with the first seed alone."""
BASE = "best"
FIXED = 0.1
Affine = Callable[[Array], Array]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Solutions:
    """One solution for each penalty, and the cosines of the held-out rows to their targets, (penalties, rows)."""

    maps: list[Affine]
    cosines: Array

    def by(self, rule: str) -> int:
        """The place of the penalty that a rule chooses."""
        return RULES[rule](self.cosines)


def best(cosines: Array) -> int:
    """The highest mean."""
    return int(cosines.mean(axis=1).argmax())


def one_standard_error(cosines: Array) -> int:
    """The last whose mean is within one standard error of the best's mean."""
    means, top = cosines.mean(axis=1), best(cosines)
    error = cosines[top].std(ddof=1) / np.sqrt(cosines.shape[1])
    return int(np.flatnonzero(means >= means[top] - error)[-1])


def paired(cosines: Array) -> int:
    """The last whose rows fall short of the best's by at most one standard error of that difference."""
    short = cosines[best(cosines)] - cosines
    errors = short.std(axis=1, ddof=1) / np.sqrt(short.shape[1])
    return int(np.flatnonzero(short.mean(axis=1) <= errors)[-1])


RULES: dict[str, Callable[[Array], int]] = {
    BASE: best,
    "one standard error": one_standard_error,
    "one standard error, paired": paired,
    f"always {FIXED:g}": lambda _: int(np.argmin(np.abs(np.array(PENALTIES) - FIXED))),
}


class Ridge:
    """Ridge regression on the rows that are not held out: one factorisation for every target and penalty."""

    def __init__(self, states: Array, held: Places) -> None:
        """Standardises and factorises."""
        self.states, self.held = states, held
        self.rest = np.setdiff1d(np.arange(len(states)), held)
        self.center, self.spread = states[self.rest].mean(axis=0), states[self.rest].std(axis=0) + 1e-6
        self.x = (states[self.rest] - self.center) / self.spread
        self.values, self.vectors = np.linalg.eigh((self.x.T @ self.x).astype(np.float64) / len(self.rest))

    def solve(self, targets: Array) -> Solutions:
        """For every penalty."""
        mean = targets[self.rest].mean(axis=0)
        projected = self.vectors.T @ (self.x.T @ (targets[self.rest] - mean) / len(self.rest))

        def solution(penalty: float) -> Affine:
            weight = (self.vectors / (np.maximum(self.values, 0) + penalty)) @ projected
            return lambda found: (((found - self.center) / self.spread) @ weight + mean).astype(np.float32)

        maps = [solution(penalty) for penalty in PENALTIES]
        cosines = [(unit(to(self.states[self.held])) * unit(targets[self.held])).sum(axis=1) for to in maps]
        return Solutions(maps, np.array(cosines))


@dataclass(frozen=True)
class Read:
    """A set's states, the teacher's vectors of its queries, and those of its documents; the last two of length 1."""

    states: Array
    asked: Array
    documents: Array

    def items(self, one: LabelledSet, to: Affine, weight: float) -> Items:
        """Of embeddings with so much of the question's own vector."""
        own = unit(to(self.states))
        return one.items(unit((1 - weight) * own + weight * self.asked), self.documents)


def measure(paths: list[Solutions], sets: list[tuple[LabelledSet, Read]], weight: float) -> Found:
    """Every rule on every set; what chose the same penalty is scored once."""
    found: Found = {rule: {} for rule in RULES}
    for seed, path in enumerate(paths):
        for one, read in sets:
            if seed and one.name in SLOW:
                continue
            known: dict[int, Items] = {}
            for rule in RULES:
                place = path.by(rule)
                if place not in known:
                    known[place] = read.items(one, path.maps[place], weight)
                found[rule].setdefault(one.name, []).append(known[place])
    return found


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--responses", required=True, type=click.Path(path_type=Path))
@click.option("--cache", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(data: Path, responses: Path, cache: Path, output: Path) -> None:
    """Writes the table after each kind of tokens."""
    torch.set_num_threads(1)
    trained, rows = Trained(cache), read_responses(responses)
    queries, answers = [row.query for row in rows], [row.response for row in rows]
    asked, answered = (trained.whitening(trained.reader.vectors(texts)) for texts in (queries, answers))
    sets = [one for one in all_sets(data) if "finds" not in one.name]
    readings: dict[str, Callable[[list[str]], Array]] = {
        "The packaged checkpoint's trained tokens": lambda texts: trained.states(texts, "states"),
        "Random tokens": lambda texts: trained.reader.states(texts),
    }
    parts = [HEAD.format(len(rows), HELD)]
    for name, states in readings.items():
        read = [
            (one, Read(states(one.queries), trained.teacher(one.queries), trained.teacher(one.documents)))
            for one in sets
        ]
        own = states(queries)
        drawn = [np.random.default_rng(seed).permutation(len(rows))[:HELD] for seed in SEEDS]
        paths = [Ridge(own, held).solve(0.5 * answered + 0.5 * asked) for held in drawn]
        parts.append(f"## {name}\n\n{chosen(paths)}")
        for weight in (0.0, trained.weight):
            found = measure(paths, read, weight)
            label = f"{weight:g} of the question's own vector" if weight else "one pass"
            parts.append(f"### {name}, {label}\n\n" + tables(found, sets))
            output.write_text("\n".join(parts))
            sys.stderr.write(f"{name}, {label}: written\n")


def chosen(paths: list[Solutions]) -> str:
    """The path of the first seed, and what each rule takes of each."""
    means = paths[0].cosines.mean(axis=1)
    lines = ["| penalty | " + " | ".join(f"{penalty:.2g}" for penalty in PENALTIES) + " |"]
    lines += ["|" + "---|" * (len(PENALTIES) + 1)]
    lines += ["| mean cosine of the held-out rows | " + " | ".join(f"{mean:.4f}" for mean in means) + " |"]
    takes = "; ".join(f"{rule}: {', '.join(f'{PENALTIES[path.by(rule)]:.2g}' for path in paths)}" for rule in RULES)
    return "\n".join(lines) + f"\n\nPenalties taken, by seed: {takes}.\n"


def tables(found: Found, sets: list[LabelledSet]) -> str:
    """Retrieval and reranking, then the rest, with the gain over the best of the held-out rows; then over all sets."""
    gains = ", ".join(f"{rule} {gain(found, rule, BASE, sets):+.1%}" for rule in RULES if rule != BASE)
    parts = [table(found, list(RULES), part, BASE) for part in (sets[:5], sets[5:])]
    return "\n".join(parts) + f"\nMean gain over all {len(sets)} sets: {gains}.\n"


HEAD = """# Which penalty `fit` should take

{} answers of 96 tokens, half of the question in the target, {} rows held out, three draws of them (one for
banking77, sst2 and stackoverflow). *best*: the highest mean cosine of the held-out rows, which `fit` takes. *one
standard error*: the largest penalty whose mean cosine is within one standard error of that; *paired*: whose rows fall
short of the best's by at most one standard error of the difference. In brackets the 95 % bootstrap interval, over the
items of a set, of the difference to *best*; the gain is over the same.
"""

if __name__ == "__main__":
    main()
