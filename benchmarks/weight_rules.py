"""Rules that choose the question's share in the target, and its weight at inference, without a label.

    python benchmarks/weight_rules.py smollm2 --data ../shared/data --responses responses.jsonl --cache cache/ \\
        --output benchmarks/results/weight_rules.md

In: labelled sets, responses of the backbone, the cache that `smollm2.py` fills. Out: a table of every set for each
rule, beside constants and beside the best choice for each set, which only labels can tell; appended to the output.
Be careful: a seed draws the 500 rows that are held out, and nothing else.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click
import numpy as np
import torch

from foresay.data.responses import read_responses
from smollm2_penalty import SEEDS, SLOW, Affine, Ridge
from smollm2_sets import Array, LabelledSet, all_sets, unit
from smollm2_tables import Found, gain, score, table
from weight_sources import SOURCES, Source

HELD = 500
SHARES = (0.0, 0.25, 0.5, 0.75)
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
CELLS = [(share, weight) for share in SHARES for weight in WEIGHTS]
SHOWN = ((0.0, 1.0), (0.0, 0.0), (0.5, 0.0), (0.25, 0.25), (0.5, 0.25), (0.5, 0.5))
"""Constants with a row of their own."""
LIKELIHOOD = "share by likelihood of the response, 0.25"
ORACLE = "the best for each set, by its labels"
BASE = "always 0.5 in the target, 0.25 at inference"
BINS = 4
Cell = tuple[float, float]


@dataclass
class Fit:
    """The maps of one seed: for each share of the question in the target, or for shares that rows have of their own."""

    source: Source
    seed: int

    def __post_init__(self) -> None:
        """Reads the training rows and draws those that are held out."""
        self.rows = self.source.states(self.source.queries)
        self.asked, self.answered = (self.source.teacher(texts) for texts in (self.source.queries, self.source.answers))
        self.held = np.random.default_rng(self.seed).permutation(len(self.rows))[:HELD]
        self.ridge = Ridge(self.rows, self.held)
        self._maps: dict[str, Affine] = {}

    def map(self, share: float | Array) -> Affine:
        """The penalty is the held-out rows' best."""
        name = repr(share) if isinstance(share, float) else str(hash(share.tobytes()))
        if name not in self._maps:
            solved = self.ridge.solve((1 - share) * self.answered + share * self.asked)
            self._maps[name] = solved.maps[solved.by("best")]
        return self._maps[name]

    def found(self, share: float | Array, weight: float) -> Array:
        """What the held-out questions are embedded as."""
        own = unit(self.map(share)(self.rows[self.held]))
        return mixed(own, unit(self.asked[self.held]), weight)

    def ranks(self, found: Array, wanted: Array) -> Array:
        """Reciprocal rank of each held-out row's own vector among all of them."""
        similar = found @ unit(wanted).T
        own = np.diag(similar)[:, None]
        ranked: Array = 1 / (1 + (similar > own + 1e-6).sum(axis=1))
        return ranked

    @cached_property
    def by_response(self) -> Cell:
        """The cell whose held-out questions find their own responses best."""
        wanted = self.answered[self.held]
        return max(CELLS, key=lambda cell: float(self.ranks(self.found(*cell), wanted).mean()))

    @cached_property
    def by_target(self) -> Cell:
        """The cell whose held-out questions find their own targets best, each share's own."""

        def finds(cell: Cell) -> float:
            wanted = (1 - cell[0]) * self.answered[self.held] + cell[0] * self.asked[self.held]
            return float(self.ranks(self.found(*cell), wanted).mean())

        return max(CELLS, key=finds)

    @cached_property
    def bins(self) -> tuple[Array, Array]:
        """Edges of how far a question's two vectors agree, and the weights for the rows between them."""
        own, asked = self.found(0.5, 0.0), unit(self.asked[self.held])
        agreement = (own * asked).sum(axis=1)
        edges = np.quantile(agreement, np.arange(1, BINS) / BINS)
        ranks = np.array([self.ranks(self.found(0.5, weight), self.answered[self.held]) for weight in WEIGHTS])
        places = np.digitize(agreement, edges)
        return edges, np.array([WEIGHTS[int(ranks[:, places == b].mean(axis=1).argmax())] for b in range(BINS)])

    @cached_property
    def by_agreement(self) -> Array:
        """A row's share of the question: the less its question and response agree, the more."""
        return thirds((unit(self.asked) * unit(self.answered)).sum(axis=1))

    @cached_property
    def by_likelihood(self) -> Array:
        """A row's share of the question: the less likely the model finds its own response, the more."""
        assert self.source.likelihood is not None
        return thirds(self.source.likelihood)


def thirds(score: Array) -> Array:
    """0.75 for the lowest third, 0.5 for the middle one, 0.25 for the highest; (rows, 1)."""
    place = np.digitize(score, np.quantile(score, [1 / 3, 2 / 3]))
    shares: Array = np.array([0.75, 0.5, 0.25], np.float32)[place][:, None]
    return shares


def mixed(own: Array, asked: Array, weight: float | Array) -> Array:
    """The two vectors of a question, each of length 1, added; of length 1."""
    return unit((1 - weight) * own + weight * asked)


@dataclass(frozen=True)
class Asked:
    """One set, as one fit sees it."""

    one: LabelledSet
    fit: Fit
    states: Array
    asked: Array
    documents: Array

    def own(self, share: float | Array) -> Array:
        """In one pass."""
        return unit(self.fit.map(share)(self.states))

    def by_agreement(self) -> Array:
        """The weight of each question by how far its two vectors agree."""
        edges, weights = self.fit.bins
        own = self.own(0.5)
        return mixed(own, self.asked, weights[np.digitize((own * self.asked).sum(axis=1), edges)][:, None])

    def sharpness(self, weight: float) -> float:
        """How far the nearest text stands out among all, in standard deviations; mean over the questions."""
        queries = mixed(self.own(0.5), self.asked, weight)
        similar = queries @ (self.documents if len(self.documents) else queries).T
        if not len(self.documents):
            np.fill_diagonal(similar, np.nan)
        spread = np.nanstd(similar, axis=1)
        return float(((np.nanmax(similar, axis=1) - np.nanmean(similar, axis=1)) / spread).mean())

    def sharpest(self) -> Cell:
        """Half of the question in the target, and the weight whose rankings stand out most."""
        return 0.5, max(WEIGHTS, key=self.sharpness)


RULES: dict[str, Callable[[Asked], Cell | Array]] = {
    "held-out questions find their own responses": lambda on: on.fit.by_response,
    "held-out questions find their own targets": lambda on: on.fit.by_target,
    "rankings that stand out, on the set's own texts": Asked.sharpest,
    "agreement of a question's two vectors": Asked.by_agreement,
    "share by agreement of question and response, 0.25": lambda on: mixed(on.own(on.fit.by_agreement), on.asked, 0.25),
    LIKELIHOOD: lambda on: mixed(on.own(on.fit.by_likelihood), on.asked, 0.25),
}


Choices = dict[str, dict[str, list[str]]]
"""By rule and set, what was chosen with each seed."""


class Table:
    """Items of every cell and rule on every set, and what each rule chose."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.found: Found = {}
        self.choices: Choices = {}

    def add(self, on: Asked) -> None:
        """One set with one seed's fit."""
        one, name = on.one, on.one.name
        alone = one.items(on.asked, on.documents)  # a weight of 1, whatever the share
        for cell in CELLS:
            items = alone if cell[1] == 1 else one.items(mixed(on.own(cell[0]), on.asked, cell[1]), on.documents)
            self.found.setdefault(label(cell), {}).setdefault(name, []).append(items)
        for rule, choose in RULES.items():
            if rule == LIKELIHOOD and on.fit.source.likelihood is None:
                continue
            chosen = choose(on)
            if isinstance(chosen, tuple):
                items = self.found[label(chosen)][name][-1]
                self.choices.setdefault(rule, {}).setdefault(name, []).append(f"{chosen[0]:g}/{chosen[1]:g}")
            else:
                items = one.items(chosen, on.documents)
            self.found.setdefault(rule, {}).setdefault(name, []).append(items)


def measure(fits: list[Fit], sets: list[LabelledSet], source: Source) -> Table:
    """Every set; the slow ones with one seed."""
    made = Table()
    for one in sets:
        states, asked = source.states(one.queries), unit(source.teacher(one.queries))
        documents = unit(source.teacher(one.documents)) if one.documents else asked[:0]
        for fit in fits[:1] if one.name in SLOW else fits:
            made.add(Asked(one, fit, states, asked, documents))
        sys.stderr.write(f"{one.name}: measured\n")
    return made


def label(cell: Cell) -> str:
    """The row of a constant."""
    return f"always {cell[0]:g} in the target, {cell[1]:g} at inference"


def report(made: Table, sets: list[LabelledSet]) -> str:
    """Rules, the constants that are worth a row, and the best of each set."""
    found, constants = made.found, [label(cell) for cell in CELLS]
    for one in sets:
        top = max(CELLS, key=lambda cell: score(found, label(cell), one))
        found.setdefault(ORACLE, {})[one.name] = found[label(top)][one.name]
        made.choices.setdefault(ORACLE, {})[one.name] = [f"{top[0]:g}/{top[1]:g}"]
    overall = max(constants, key=lambda name: gain(found, name, BASE, sets))
    rows = [row for row in dict.fromkeys([*map(label, SHOWN), overall, *RULES, ORACLE]) if row in found]
    gains = [[gain(found, name, BASE, part) for part in (sets[:5], sets)] for name in rows]
    every = [f"| {name} | {some:+.1%} | {all_:+.1%} |\n" for name, (some, all_) in zip(rows, gains, strict=True)]
    names = " | ".join(one.name for one in sets)
    head = f"| share / weight chosen | {names} |\n|" + "---|" * (len(sets) + 1) + "\n"
    body = [
        f"| {rule} | " + " | ".join(", ".join(dict.fromkeys(chosen[one.name])) for one in sets) + " |\n"
        for rule, chosen in made.choices.items()
    ]
    return "\n".join(
        [
            table(found, rows, sets[:5], BASE),
            table(found, rows, sets[5:], BASE),
            f"| mean gain over {BASE} | retrieval | all sets |\n|---|---|---|\n" + "".join(every),
            head + "".join(body),
            f"Best constant over all of these sets: {overall}.\n",
        ]
    )


@click.command()
@click.argument("backbone", type=click.Choice(sorted(SOURCES)))
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--responses", required=True, type=click.Path(path_type=Path))
@click.option("--cache", required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(backbone: str, data: Path, responses: Path, cache: Path, output: Path) -> None:
    """Appends the tables of one backbone."""
    torch.set_num_threads(1)
    rows = read_responses(responses)
    source = SOURCES[backbone](cache, [row.query for row in rows], [row.response for row in rows])
    sets = [one for one in all_sets(data) if "finds" not in one.name]
    made = measure([Fit(source, seed) for seed in SEEDS], sets, source)
    text = f"## {backbone}: {len(rows):,} responses\n\n" + report(made, sets)
    before = output.read_text() if output.is_file() else HEAD
    output.write_text(before + "\n" + text)


HEAD = f"""# The question's share in the target and its weight at inference: rules that need no label

Three draws of {HELD} held-out rows (one for banking77, sst2 and stackoverflow); everything else in closed form. In
brackets the 95 % bootstrap interval, over the items of a set, of the difference to the constant
*{BASE}*.
A weight of 1 is the teacher. *Held-out questions find …*: the share and weight with the highest mean reciprocal rank
among the held-out rows. *Rankings that stand out*: half of the question in the target, and for each set the weight with
which the nearest text is farthest from the mean one, in standard deviations. *Agreement of a question's two vectors*:
half in the target; questions fall into four groups by the cosine of the two vectors, and each group has the weight that
serves its held-out rows best. *Share by agreement of question and response*: 0.75 of the question in the target for the
third of the rows that agree least, 0.5, and 0.25 for those that agree most. *By likelihood of the response*: the same
by the mean log-probability that the model gives its response's tokens.
"""

if __name__ == "__main__":
    main()
