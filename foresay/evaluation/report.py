"""What came out, for people: a table on the screen, `results.md` with pictures, `results.json` for programs.

In: a `Comparison` and which method is ours. Out: `Line`s, one a score or a mean of scores, and every rendering of
them, so that screen, Markdown and JSON cannot say different things.
The mean over tasks leaves safety out, because there one figure should be low and the other high; and a method that
lacks a task has no mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from .. import __version__
from ..errors import InputError
from ..files import write_json
from ..outputs import replacing
from ..tables import in_pieces
from .baselines import BASELINES
from .cells import difference_cell, in_two, markdown_table, short, with_interval
from .intervals import Column, Comparison, Estimate
from .plots import draw_pictures

METRICS = {
    "ndcg_at_10": "nDCG@10",
    "map_at_1000": "MAP",
    "cosine_spearman": "Spearman",
    "accuracy": "accuracy",
    "v_measure": "V-measure",
    "own_harmful_at_5": "harmful finds its own, top 5",
    "any_harmful_at_5": "harmful finds harmful, top 5",
    "benign_at_5": "harmless finds its own, top 5",
}
SAFETY = "safety_retrieval"
EVERYTHING = "all"
PAIRED = "Paired on the items; bold where the interval leaves 0 out; per cent of the other's figure."


@dataclass(frozen=True)
class Line:
    """One figure of every method, of a task or averaged over some.

    Attributes:
        task: name of the task, or what the mean is over.
        kind: of the task; `all` for the mean over kinds.
        metric: as mteb calls it; empty for a mean over different ones.
        higher_is_better: whether more is better.
        main: whether it belongs into pictures: the first metric of a task, and what its safety is told by.
        tasks: how many it is the mean of; 1 is the figure itself.
        items: how many items the interval is over, tasks together.
        scores: of each method that has it.
        differences: ours minus the baseline, by baseline.
        changes: the same in per cent of the baseline's mean.
    """

    task: str
    kind: str
    metric: str
    higher_is_better: bool
    main: bool
    tasks: int
    items: int
    scores: dict[str, Estimate]
    differences: dict[str, Estimate]
    changes: dict[str, Estimate]

    @property
    def title(self) -> str:
        """Task, metric and which way is better."""
        bare = self.metric.removeprefix("dot_")
        metric = METRICS.get(bare, bare.replace("_at_", "@").replace("_", " "))
        metric += ", raw dot product" if bare != self.metric else ""
        return f"{self.task}{', ' if metric else ''}{metric} {'↑' if self.higher_is_better else '↓'}"


@dataclass(frozen=True)
class Report:
    """Everything there is to say about a comparison.

    Attributes:
        ours: the method that is compared with each other one.
        methods: all methods, ours first, with the number of checkpoints of each.
        lines: scores first, then means of a kind, then of all kinds.
        seconds: a query, by method, where it was measured.
        seed: of the bootstrap.
        draws: of the bootstrap.
        prompts: by task, what our method puts before its texts, in words.
    """

    ours: str
    methods: dict[str, int]
    lines: list[Line]
    seconds: dict[str, float]
    seed: int
    draws: int
    prompts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, comparison: Comparison, ours: str, prompts: dict[str, str] | None = None) -> "Report":
        """Works out every figure.

        Args:
            comparison: the scores of every method.
            ours: the method that is compared with each other one.
            prompts: by task, what it puts before the texts, in words.

        Raises:
            InputError: if ours is not among the methods.
        """
        if ours not in comparison.methods:
            raise InputError(f"{ours!r} was not compared; expected one of {', '.join(comparison.methods)}")
        order = [ours, *(method for method in comparison.methods if method != ours)]
        groups = _groups(comparison.columns)
        seconds = {method: comparison.seconds_per_query(method) for method in order}
        return cls(
            ours=ours,
            methods={method: len(comparison.methods[method]) for method in order},
            lines=[_line(comparison, order, group) for group in groups],
            seconds={method: value for method, value in seconds.items() if not isnan(value)},
            seed=comparison.seed,
            draws=comparison.draws,
            prompts=prompts or {},
        )

    def write(self, folder: Path, command: str) -> list[Path]:
        """Writes results.json, the pictures and results.md.

        Args:
            folder: of the evaluation.
            command: what made it.

        Returns:
            the pictures, in the order in which results.md shows them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "results.json", {"command": command, "version": __version__, **_jsonable(asdict(self))})
        pictures = draw_pictures(self, folder)
        with replacing(folder / "results.md") as part:
            part.write_text(self.markdown(command, pictures), encoding="utf-8")
        return pictures

    def markdown(self, command: str, pictures: Sequence[Path] = ()) -> str:
        """The tables with intervals, what they mean, and the command that made them."""
        names = [f"**{method}**" if method == self.ours else method for method in self.methods]
        parts = [
            f"# Scores of {self.ours}\n\n```sh\n{command}\n```",
            markdown_table(["", "items", *names], [self._score_cells(line, with_interval) for line in self.lines]),
            self.footnote().replace("\n", "  \n"),  # Markdown breaks a line that ends in two blanks
        ]
        if len(self.methods) > 1:
            heads = ["", *(f"against {method}" for method in self.baselines)]
            parts += [
                f"## {self.ours} minus the others",
                markdown_table(heads, [[line.title, *self._difference_cells(line, "**")] for line in self.lines]),
                PAIRED,
            ]
        parts += [f"![{picture.stem.replace('-', ' ')}]({picture.name})" for picture in pictures]
        return "\n\n".join(parts) + "\n"

    def show(self, console: Console) -> None:
        """Prints the tables, without what the raw dot product finds: results.md has that too."""
        lines = [line for line in self.lines if not line.metric.startswith("dot_")]
        left: dict[str, Any] = {"title_justify": "left"}

        def scores(columns: range) -> Table:
            table = Table("", "items", title="Scores", **left)
            for name in list(self.methods)[columns.start : columns.stop]:
                table.add_column(name, justify="right", style="bold" if name == self.ours else None)
            for before, line in zip([None, *lines], lines, strict=False):
                if before and before.tasks == 1 and line.tasks > 1:
                    table.add_section()
                title, items, *cells = self._score_cells(line, short)
                table.add_row(in_two(title), items, *cells[columns.start : columns.stop])
            return table

        def differences(columns: range) -> Table:
            table = Table("", title=f"{self.ours} minus the others", **left)
            for method in self.baselines[columns.start : columns.stop]:
                table.add_column(f"against {method}", justify="right")
            for line in lines:
                cells = self._difference_cells(line, "[bold]")[columns.start : columns.stop]
                table.add_row(in_two(line.title), *(cell.replace(", ", "\n").replace(" (", "\n(") for cell in cells))
            return table

        console.print(*in_pieces(console, scores, len(self.methods)), self.footnote(), sep="\n", highlight=False)
        if self.baselines:
            console.print(*in_pieces(console, differences, len(self.baselines)), PAIRED, sep="\n", highlight=False)

    @property
    def baselines(self) -> list[str]:
        """Every method but ours."""
        return [method for method in self.methods if method != self.ours]

    def footnote(self) -> str:
        """What the numbers are, a statement a line."""
        lines = [f"95 % bootstrap intervals over the items: {self.draws} draws, seed {self.seed}."]
        if not all(line.items for line in self.lines):
            lines.append("Where only mteb's average is known there is no interval, and a mean takes it as certain.")
        by_words: dict[str, list[str]] = {}
        for task, words in self.prompts.items():
            by_words.setdefault(words, []).append(task)
        lines += [f"Prompt for {', '.join(tasks)}: {words}." for words, tasks in by_words.items()]
        for method, checkpoints in self.methods.items():
            if checkpoints > 1:
                lines.append(f"{method}: mean of {checkpoints} checkpoints ± their standard deviation.")
            if method in BASELINES:
                lines.append(f"{method}: {BASELINES[method].words}.")
        return "\n".join(lines)

    def _score_cells(self, line: Line, render: Callable[[Estimate], str]) -> list[str]:
        cells = [render(line.scores[method]) if method in line.scores else "–" for method in self.methods]
        return [line.title, f"{line.items:,}" if line.items else "–", *cells]

    def _difference_cells(self, line: Line, mark: str) -> list[str]:
        return [
            difference_cell(line.differences[method], line.changes[method], mark) if method in line.differences else "–"
            for method in self.baselines
        ]


class _Group(NamedTuple):
    task: str
    kind: str
    metric: str
    columns: list[Column]


def _groups(columns: Sequence[Column]) -> list[_Group]:
    """What makes a line: each figure its own, then each metric of a kind, then the main metric of every task."""
    groups = [_Group(column.task, column.kind, column.metric, [column]) for column in columns]
    kinds: dict[tuple[str, str], list[Column]] = {}
    for column in columns:
        kinds.setdefault((column.kind, column.metric), []).append(column)
    for (kind, metric), some in kinds.items():
        if len(some) > 1:
            groups.append(_Group(f"mean of {len(some)} {kind.replace('_', ' ')} tasks", kind, metric, some))
    main = [column for column in _main(columns) if column.kind != SAFETY]
    if len({column.kind for column in main}) > 1:
        rest = " without safety" if any(column.kind == SAFETY for column in columns) else ""
        groups.append(_Group(f"mean of all {len(main)} tasks{rest}", EVERYTHING, "", main))
    return groups


def _main(columns: Sequence[Column]) -> list[Column]:
    """The first metric of each task; of safety all but those ranked by raw dot product."""
    first: dict[tuple[str, str], Column] = {}
    for column in columns:
        if not column.metric.startswith("dot_"):
            first.setdefault((column.task, column.metric if column.kind == SAFETY else ""), column)
    return list(first.values())


def _line(comparison: Comparison, order: list[str], group: _Group) -> Line:
    columns, ours = group.columns, order[0]
    there = [method for method in order if comparison.has(method, columns)]
    baselines = [method for method in there if method != ours] if ours in there else []
    return Line(
        task=group.task,
        kind=group.kind,
        metric=group.metric,
        higher_is_better=columns[0].higher_is_better,
        main=columns[0] in _main(comparison.columns),
        tasks=len(columns),
        items=sum(comparison.items[column] for column in columns),
        scores={method: comparison.score(method, columns) for method in there},
        differences={method: comparison.difference(ours, method, columns) for method in baselines},
        changes={method: comparison.change(ours, method, columns) for method in baselines},
    )


def _jsonable(value: Any) -> Any:  # noqa: ANN401
    """The same with None for NaN, which JSON has not."""
    if isinstance(value, dict):
        return {name: _jsonable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_jsonable(part) for part in value]
    return None if isinstance(value, float) and isnan(value) else value
