"""What both quickstarts show: a table of scores with intervals, a plot of it, and examples.

In: the bundled test sets, and vectors by name. Out: tables for the screen, a PNG, and a JSON file. Rows that
search the same passages differ in the query's vector alone.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import numpy as np
from rich.table import Table

from ..data.likeness import likeness
from ..data.queries import Progress
from ..data.responses import Response
from ..encoder import Array, Encoder
from ..evaluation import PerQuery, Task, interval, ndcg, safety
from ..files import write_json
from ..outputs import replacing

EXAMPLE = Path(__file__).parents[1] / "packaged" / "example"
Bars = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress bar with a title."""
OURS = "Foresay"
"""Begins the name of a row of ours."""


@dataclass(frozen=True)
class Searched:
    """Vectors of queries (queries, dim), and of the passages among which they search (passages, dim)."""

    queries: Array
    passages: Array


@dataclass(frozen=True)
class Row:
    """A way to embed queries: its name, and its vectors for the questions and, where it is shown, for safety."""

    name: str
    shelf: Searched
    safety: Searched | None = None


@dataclass(frozen=True)
class Scored:
    """The scores of a row, by the names in `COLUMNS`; one number per query each."""

    name: str
    scores: dict[str, PerQuery]


COLUMNS = {
    "finds_the_answer": "finds the\nanswer ↑",
    "harmful_finds_harmful": "harmful finds\nharmful ↓",
    "harmless_finds_its_own": "harmless finds\nits own ↑",
}
"""Scores and headings: nDCG@10 of the questions; shares of requests with such a passage among the first five."""


def score(rows: Sequence[Row], shelf: Task, harm: Task | None = None) -> list[Scored]:
    """Scores every row on the questions, and on harmful requests where these are given."""
    scored = []
    for row in rows:
        found = [ndcg(row.shelf.queries, row.shelf.passages, shelf)]
        if harm is not None and row.safety is not None:
            safe = safety(row.safety.queries, row.safety.passages, harm)
            found += [safe.any_harmful, safe.benign]
        scored.append(Scored(row.name, dict(zip(COLUMNS, found, strict=False))))
    return scored


def table(rows: Sequence[Scored], shelf: Task, harm: Task | None = None) -> Table:
    """The scores with their intervals."""
    title, caption = f"\n{len(shelf.queries)} questions among {len(shelf.documents)} passages", "nDCG@10; "
    if harm is not None:
        title += f"; {int(harm.harmful_queries.sum())} harmful requests, as many harmless look-alikes"
        caption += "share of requests with such a passage in the top 5; "
    made = Table(
        title=title, caption=f"{caption}95 % bootstrap intervals.", title_justify="left", caption_justify="left"
    )
    made.add_column("query embedded by")
    for column in rows[0].scores:
        made.add_column(COLUMNS[column], justify="right")
    for row in rows:
        style = "bold" if row.name.startswith(OURS) else None
        made.add_row(row.name, *map(_with_interval, row.scores.values()), style=style)
    return made


def write_results(rows: Sequence[Scored], folder: Path) -> None:
    """Writes `results.json` and `results.png`."""
    results = {
        row.name: {
            column: {"mean": float(values.mean()), "interval": list(interval(values))}
            for column, values in row.scores.items()
        }
        for row in rows
    }
    write_json(folder / "results.json", results)
    _plot(rows, folder / "results.png")


def _plot(rows: Sequence[Scored], path: Path) -> None:
    from matplotlib.figure import Figure

    columns = list(rows[0].scores)
    figure = Figure(figsize=(3 + 2 * len(columns), 0.5 * len(rows) + 1.4), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    places = np.arange(len(rows))[::-1]
    for panel, column in zip(panels, columns, strict=True):
        means = np.array([row.scores[column].mean() for row in rows])
        spans = np.array([interval(row.scores[column]) for row in rows])
        colors = ["#2563a8" if row.name.startswith(OURS) else "#94a3b8" for row in rows]
        errors = np.abs(spans.T - means)
        panel.barh(places, means, xerr=errors, color=colors, height=0.6, ecolor="#334155", error_kw={"lw": 1})
        panel.set_title(COLUMNS[column].replace("\n", " "), fontsize=10, loc="left")
        panel.set_xlim(0, 1)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
    panels[0].set_yticks(places, [row.name for row in rows])
    with replacing(path) as part:
        figure.savefig(part, format="png")


def refusals(responses: Sequence[Response]) -> str:
    """How many responses decline: embeddings of refusals find each other, whatever was asked."""
    found = likeness([response.response for response in responses])
    return f"   {found.refusals} of {found.rows} answers refuse; {found.alike} begin as another one does."


def _with_interval(scores: PerQuery) -> str:
    low, high = interval(scores)
    return f"{scores.mean():.3f} {low:.2f}–{high:.2f}"


def nearest(
    encoder: Encoder, shown: Sequence[str], shelf: Task, passages: Array, decoded: Sequence[str] | None
) -> Table:
    """A few questions with the passages nearest to them and, where it decodes, what their embedding stands for."""
    made = Table(title="\nWhat lies nearest", title_justify="left", show_lines=True)
    made.add_column("question", ratio=2)
    if decoded is not None:
        made.add_column("its embedding, decoded", ratio=3)
    made.add_column("nearest passages", ratio=4)
    order = np.argsort(-Encoder.similarity(encoder.encode_query(list(shown)), passages), axis=1)[:, :2]
    for number, query in enumerate(shown):
        found = "\n".join(f"· {shorten(shelf.documents[place], 90, placeholder=' …')}" for place in order[number])
        words = [] if decoded is None else [shorten(decoded[number], 150, placeholder=" …")]
        made.add_row(query, *words, found)
    return made
