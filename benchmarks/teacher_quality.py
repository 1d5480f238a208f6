"""What a teacher's two stages buy, and what whitening buys before, between and after them.

    python benchmarks/teacher_quality.py --data FOLDER --teacher DIR [--teacher DIR …] --pairs responses.jsonl \\
        --cache cache/ --output benchmarks/results/teacher_quality.md

In: folders that `foresay teacher` made of one backbone with several seeds, a folder of labelled sets, and rows of query
and response to whiten by. Out: Markdown tables, appended to the output once a set is measured by all: each figure the
mean over the seeds with its 95 % interval, plain and whitened, and what whitening is chosen by. What was embedded is
kept in --cache, so a killed run goes on. There are no prompts, and the same model embeds both sides of a retrieval
task: these are scores of the embedder alone, not of LLM2Vec-Gen. The sets are those of smollm2_sets.py.

The interval is from 1,000 draws. Each draws test items with replacement, the same for all seeds, and takes the mean
over the seeds; to it is added their standard error times a draw from Student's t with seeds - 1 degrees of freedom:
three seeds tell little about how far seeds spread, and t says so. Of one seed, it is the bootstrap over items alone.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from foresay.backbone import Backbone
from foresay.config import TeachConfig
from foresay.data.responses import read_responses
from foresay.teachers.base import Teacher
from foresay.teachers.bidirectional import Bidirectional
from foresay.teachers.llm2vec import LLM2VecTeacher
from foresay.teachers.pooled import SelfTeacher
from foresay.teachers.whitening import Choice, Whitening, choose_whitening
from kept import Kept
from smollm2_sets import Array, Items, LabelledSet, all_sets, unit

BOOTSTRAP = 1000
UNTRAINED = "both directions, untrained"
BASE = f"{UNTRAINED}, whitened"
Picks = NDArray[np.intp]
Figure = tuple[float, float, float]
"""A score and the ends of its interval."""


@dataclass(frozen=True)
class Outcome:
    """How one embedder did on the items of a task: `score` of any choice of them, as often as they are named."""

    items: int
    score: Callable[[Picks], float]

    @property
    def whole(self) -> float:
        """The score of all items."""
        return self.score(np.arange(self.items))

    def minus(self, other: "Outcome") -> "Outcome":
        """The difference of two embedders on the same items."""
        return Outcome(self.items, lambda pick: self.score(pick) - other.score(pick))


def outcome(one: LabelledSet, items: Items) -> Outcome:
    """Of a set's items."""
    return Outcome(len(items), lambda pick: one.statistic(items[pick]))


def figure(seeds: Sequence[Outcome]) -> Figure:
    """Mean of the same embedder trained with several seeds, and its interval as described on top."""
    random, items = np.random.default_rng(0), seeds[0].items
    picks = random.integers(items, size=(BOOTSTRAP, items))
    drawn = np.array([np.mean([outcome.score(pick) for outcome in seeds]) for pick in picks])
    whole = [outcome.whole for outcome in seeds]
    if len(seeds) > 1:
        error = np.std(whole, ddof=1) / np.sqrt(len(seeds))
        drawn += error * random.standard_t(len(seeds) - 1, size=BOOTSTRAP)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(np.mean(whole)), float(low), float(high)


# -- the stages ------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """One embedder: the backbone at some point of the training of one teacher.

    Attributes:
        name: of its row.
        teacher: that embeds.
        kept: what it embedded already.
        whitening: estimated from the pairs, once asked for; and what it was chosen by.
    """

    name: str
    teacher: Teacher
    kept: Kept
    whitening: tuple[Whitening, Choice] | None = field(default=None, init=False)

    def vectors(self, texts: Sequence[str]) -> Array:
        """Plain, (texts, dim)."""
        self.kept.fill(texts, lambda block: np.asarray(self.teacher.embed(block), np.float32), self.name)
        return self.kept.read(texts) if texts else np.empty((0, self.teacher.dim), np.float32)

    def whiten(self, pairs: Sequence[tuple[str, str]]) -> Choice:
        """Chooses the whitening as `foresay whiten` does."""
        left, right = (self.vectors([pair[side] for pair in pairs]) for side in (0, 1))
        self.whitening = choose_whitening(left, right)
        return self.whitening[1]

    def outcomes(self, one: LabelledSet) -> dict[str, Outcome]:
        """On a set: plain, and whitened if a whitening was chosen."""
        found, sides = {}, (self.vectors(one.queries), self.vectors(one.documents))
        found[self.name] = outcome(one, one.items(*map(unit, sides)))
        if self.whitening:
            white = [unit(self.whitening[0](side)) for side in sides]
            found[f"{self.name}, whitened"] = outcome(one, one.items(*white))
        return found


def stages(folders: list[Path], config: TeachConfig, cache: Path, *, causal: bool = False) -> Iterator[Stage]:
    """The backbone with full attention, and each teacher after stage 1 and after stage 2; first the causal backbone."""
    about = json.loads((folders[0] / "teacher.json").read_text())["backbone"]
    backbone = Backbone.load(about["name"], revision=about["revision"], device="cpu", dtype=about["dtype"])
    name = f"{Path(about['name']).name}-{about['dtype']}"

    def stage(row: str, key: str, teacher: Teacher) -> Stage:
        return Stage(row, teacher, Kept(cache, f"{name}-{key}-{config.max_tokens}"))

    if causal:
        yield stage("backbone, causal", "self", SelfTeacher(backbone, config))
    yield stage(UNTRAINED, "both", LLM2VecTeacher(Bidirectional(backbone), "untrained", config))
    for folder in folders:
        options = json.loads((folder / "teacher.json").read_text())["training"]["config"]
        first = folder / "training" / f"step-{options['mntp_steps']:06d}"
        for row, adapter in (("after stage 1", first), ("after stage 2", folder / "adapter")):
            if not adapter.is_dir():  # a packaged teacher has no stage 1 to look at
                sys.stderr.write(f"{folder}: no {row}\n")
                continue
            own = Backbone.load(about["name"], revision=about["revision"], device="cpu", dtype=about["dtype"])
            reader = Bidirectional(own)
            reader.load_adapter(adapter)
            reader.merge()  # as a teacher that shares no weights does
            teacher = LLM2VecTeacher(reader, row, config, adapters=[adapter])
            yield stage(row, str(teacher.revision), teacher)


# -- the tables ------------------------------------------------------------------------------------------

Rows = dict[str, dict[str, list[Outcome]]]
"""By row and set, an outcome for each seed."""


def table(rows: Rows, sets: Sequence[str]) -> str:
    """The figures as Markdown."""
    lines = [_line("", sets), "|" + "---|" * (len(sets) + 1)]
    for name, found in rows.items():
        figures = [figure(found[one]) for one in sets]
        mean = ", mean" if len(found[sets[0]]) > 1 else ""
        lines.append(_line(f"{name}{mean}", [f"{value:.3f} ({low:.3f}–{high:.3f})" for value, low, high in figures]))
    for name, found in rows.items():
        for i in range(len(found[sets[0]]) if len(found[sets[0]]) > 1 else 0):
            lines.append(_line(f"{name}, teacher {i}", [f"{found[one][i].whole:.3f}" for one in sets]))
    return "\n".join(lines) + "\n"


def differences(rows: Rows, sets: Sequence[str]) -> str:
    """Each row minus the untrained, whitened one, paired by item, and its mean over the sets; as Markdown."""
    lines = [_line(f"minus *{BASE}*", [*sets, "mean"]), "|" + "---|" * (len(sets) + 2)]
    for name, found in rows.items():
        if name != BASE:
            gaps = [figure([outcome.minus(rows[BASE][one][0]) for outcome in found[one]]) for one in sets]
            cells = [f"{value:+.3f} ({low:+.3f} to {high:+.3f})" for value, low, high in gaps]
            lines.append(_line(name, [*cells, f"{np.mean([gap[0] for gap in gaps]):+.3f}"]))
    return "\n".join(lines) + "\n"


def _line(name: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join([name, *cells]) + " |"


def choices(found: list[tuple[str, Choice]]) -> str:
    """What each whitening was chosen by, as Markdown."""
    lines = ["| whitening | axes | strength | criterion, plain | criterion, whitened |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {one.axes} | {one.strength:g} | {one.before:.3f} | {one.found:.3f} |" for name, one in found]
    return "\n".join(lines) + "\n"


HEAD = """## {backbone}

{count} teacher(s), at most {longest} tokens of a text. Whitening is chosen on {pairs:,} pairs of query and response: on
30 % of them, how well a query finds its own response (mean reciprocal rank, the criterion).

"""


def main() -> None:
    """Measures set by set, and writes the tables after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder of the labelled sets.")
    parser.add_argument("--teacher", type=Path, action="append", required=True, help="Made by foresay teacher.")
    parser.add_argument("--pairs", type=Path, required=True, help="Rows of query and response, to whiten by.")
    parser.add_argument("--most-pairs", type=int, default=2000, help="How many of them.")
    parser.add_argument("--max-tokens", type=int, default=512, help="Longer texts are cut.")
    parser.add_argument("--causal", action="store_true", help="Measure the backbone as it is, too.")
    parser.add_argument("--sets", default="", help="Some of the sets, in this order; all if left out.")
    parser.add_argument("--cache", type=Path, required=True, help="Folder for what was embedded.")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file; the tables are put at its end.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [(row.query, row.response) for row in read_responses(arguments.pairs)][: arguments.most_pairs]
    every = list(
        stages(
            arguments.teacher, TeachConfig(max_tokens=arguments.max_tokens), arguments.cache, causal=arguments.causal
        )
    )
    chosen = [(one.name, one.whiten(pairs)) for one in every]
    sets = {one.name: one for one in all_sets(arguments.data) if "finds" not in one.name}
    before = arguments.output.read_text() if arguments.output.is_file() else ""
    head = HEAD.format(
        backbone=json.loads((arguments.teacher[0] / "teacher.json").read_text())["backbone"]["name"],
        count=len(arguments.teacher),
        longest=arguments.max_tokens,
        pairs=len(pairs),
    )
    rows: Rows = {}
    done: list[str] = []
    for name in arguments.sets.split(",") if arguments.sets else sets:
        for stage in every:
            for row, found in stage.outcomes(sets[name]).items():
                rows.setdefault(row, {}).setdefault(name, []).append(found)
        done.append(name)
        text = head + choices(chosen) + "\n" + table(rows, done) + "\n" + differences(rows, done)
        arguments.output.write_text(before + text)
        sys.stderr.write(f"{name}: measured\n")


if __name__ == "__main__":
    main()
