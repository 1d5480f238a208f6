"""The report as plots: bars, dots, safety against benign recall, latency against quality.

In: a `Report`. Out: PNG files, those for which there are scores.
Error bars of two methods may overlap where their difference is certain, because both saw the same items;
`differences.png` is the one to judge by.
"""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..outputs import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .intervals import Estimate
    from .report import Line, Report

# Blue for ours as in curves.py; all of them told apart by the colour-blind, and by their marks in print.
COLORS = ("#2563a8", "#e08a1e", "#2f9d8f", "#8a4f9e", "#6b7280", "#b4531f", "#c9a227", "#111827")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_MOST_BARS = 8
"""Groups of bars that one can still read; with more tasks the bars are means of a kind."""


def draw_pictures(report: "Report", folder: Path) -> list[Path]:
    """Draws what there are scores for.

    Returns:
        the files: some of scores.png, tasks.png, differences.png, safety.png, latency.png.
    """
    made = []
    drawers: dict[str, Callable[[Report], Figure | None]] = {
        "scores": draw_scores,
        "differences": draw_differences,
        "tasks": draw_tasks,
        "safety": draw_safety,
        "latency": draw_latency,
    }
    for name, draw in drawers.items():
        path = folder / f"{name}.png"
        path.unlink(missing_ok=True)
        figure = draw(report)
        if figure is not None:
            with replacing(path) as part:
                figure.savefig(part, dpi=150, format="png")
            made.append(path)
    return made


def draw_scores(report: "Report") -> "Figure | None":
    """Bars with intervals: each figure, or with many tasks the means of each kind."""
    lines = [line for line in report.lines if line.tasks == 1 and line.main]
    if len(lines) > _MOST_BARS:
        means = [line for line in report.lines if line.tasks > 1 and line.main]
        averaged = {(line.kind, line.metric) for line in means}
        lines = [line for line in lines if (line.kind, line.metric) not in averaged] + means
        lines.sort(key=lambda line: line.kind == "safety_retrieval")  # after the others
    figure = _figure(max(6.0, 1.0 + len(lines) * max(1.15, 0.2 + 0.17 * len(report.methods))), 4.2)
    panel = figure.subplots()
    width = 0.8 / len(report.methods)
    for i, method in enumerate(report.methods):
        places, shown = _shown(lines, method)
        panel.bar(
            [place - 0.4 + (i + 0.5) * width for place in places],
            [estimate.value for estimate in shown],
            width * 0.92,
            yerr=_errors(shown),
            color=COLORS[i % len(COLORS)],
            error_kw={"ecolor": "#1f2937", "elinewidth": 1.1, "capsize": 2},
            label=_label(report, method),
        )
    panel.set_xticks(range(len(lines)), [_wrapped(line) for line in lines])
    panel.tick_params(axis="x", length=0, labelsize=9)
    panel.set_xlim(-0.6, len(lines) - 0.4)
    _finish(panel, "y")
    _legend(figure, panel)
    return figure


def draw_tasks(report: "Report") -> "Figure | None":
    """A row a figure, a dot a method; None where bars show as much."""
    lines = [line for line in report.lines if line.tasks == 1 and line.main]
    if len(lines) <= _MOST_BARS:
        return None
    figure = _figure(8.5, 1.3 + len(lines) * (0.14 + 0.05 * len(report.methods)))
    panel = figure.subplots()
    for i, method in enumerate(report.methods):
        places, shown = _shown(lines, method)
        shift = 0.6 * ((i + 0.5) / len(report.methods) - 0.5)
        _dots(panel, [place + shift for place in places], shown, i, _label(report, method))
    _rows(panel, lines)
    _between(panel, lines)
    _finish(panel, "x")
    _legend(figure, panel)
    return figure


def draw_differences(report: "Report") -> "Figure | None":
    """Ours minus each baseline with its paired interval; to the right of 0 is better, also where lower is better.

    Safety has a scale of its own below: its differences are often ten times as large.
    """
    if not report.baselines:
        return None
    main = [line for line in report.lines if line.main]
    parts = [[line for line in main if (line.kind == "safety_retrieval") == safety] for safety in (False, True)]
    parts = [lines for lines in parts if lines]
    figure = _figure(3.6 + 2.3 * len(report.baselines), 1.2 + 0.5 * len(parts) + 0.3 * len(main))
    heights = [len(lines) for lines in parts]
    grid = figure.subplots(
        len(parts), len(report.baselines), sharex="row", sharey="row", squeeze=False, height_ratios=heights
    )
    for lines, panels in zip(parts, grid, strict=True):
        for panel, method in zip(panels, report.baselines, strict=True):
            _forest(panel, lines, method)
            panel.tick_params(left=panel is panels[0])
        _rows(panels[0], lines)
    for panel, method in zip(grid[0], report.baselines, strict=True):
        panel.set_title(f"against {_label(report, method)}", fontsize=10)
    figure.suptitle(f"{report.ours}: blue is better, brown worse, grey not certain", fontsize=11)
    figure.supxlabel("difference and its paired 95 % interval; right is better", fontsize=9)
    return figure


def _forest(panel: "Axes", lines: Sequence["Line"], method: str) -> None:
    for place, line in enumerate(lines):
        if method not in line.differences:
            continue
        difference, sign = line.differences[method], 1 if line.higher_is_better else -1
        low, high = sorted((sign * difference.low, sign * difference.high))
        color = COLORS[0] if low > 0 else COLORS[5] if high < 0 else "#9ca3af"
        panel.plot([low, high], [place, place], color=color, linewidth=2, solid_capstyle="round")
        panel.plot([sign * difference.value], [place], "D" if line.tasks > 1 else "o", color=color, markersize=6)
    panel.axvline(0, color="#1f2937", linewidth=0.8)
    _between(panel, lines)
    _finish(panel, "x")


def draw_safety(report: "Report") -> "Figure | None":
    """What harmful requests find against what harmless ones find; a model that finds nothing is at the lower left."""
    harmful, benign = (
        next((line for line in report.lines if line.metric == metric), None)
        for metric in ("any_harmful_at_5", "benign_at_5")
    )
    if harmful is None or benign is None:
        return None
    figure = _figure(5.8, 4.8)
    panel = figure.subplots()
    for i, method in enumerate(report.methods):
        if method in harmful.scores and method in benign.scores:
            x, y = benign.scores[method], harmful.scores[method]
            _point(panel, x.value, y, i, _label(report, method), sideways=_errors([x]))
    panel.set_xlabel("harmless requests that find their own passage, top 5  →  useful")
    panel.set_ylabel("harmful requests that find harmful, top 5")
    panel.annotate("safe and useful ↘", (0.98, 0.02), xycoords="axes fraction", ha="right", color="#6b7280", fontsize=9)
    panel.set_ylim(bottom=min(0, panel.get_ylim()[0]))
    panel.set_xlim(left=min(0, panel.get_xlim()[0]))
    _finish(panel, "both")
    _legend(figure, panel)
    return figure


def draw_latency(report: "Report") -> "Figure | None":
    """Quality against what a query costs, on a logarithmic scale; None if it was measured for one method only."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    lines = [line for line in report.lines if line.main and line.kind != "safety_retrieval"]
    shown = [method for method in report.methods if lines and method in report.seconds and method in lines[-1].scores]
    if len(shown) < 2:
        return None
    line = lines[-1]  # the mean over most tasks comes last
    figure = _figure(5.8, 4.2)
    panel = figure.subplots()
    for i, method in enumerate(report.methods):
        if method in shown:
            _point(panel, 1000 * report.seconds[method], line.scores[method], i, _label(report, method))
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_ylim(bottom=0)
    panel.set_xlabel("milliseconds a query, on the machine that measured")
    panel.set_ylabel(line.title)
    _finish(panel, "both")
    _legend(figure, panel)
    return figure


# -- what the pictures share -----------------------------------------------------------------------------


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _shown(lines: Sequence["Line"], method: str) -> tuple[list[int], list["Estimate"]]:
    places = [place for place, line in enumerate(lines) if method in line.scores]
    return places, [lines[place].scores[method] for place in places]


def _errors(shown: Sequence["Estimate"]) -> list[list[float]]:
    """How far the intervals reach, as matplotlib takes it; a V-measure's own interval may lie beside its figure."""
    return [[max(0.0, e.value - e.low) for e in shown], [max(0.0, e.high - e.value) for e in shown]]


def _dots(panel: "Axes", places: Sequence[float], shown: Sequence["Estimate"], i: int, label: str) -> None:
    panel.errorbar(
        [estimate.value for estimate in shown],
        places,
        xerr=_errors(shown),
        fmt=MARKS[i % len(MARKS)],
        color=COLORS[i % len(COLORS)],
        markersize=6 if i == 0 else 4.5,
        elinewidth=1.1,
        label=label,
    )


def _point(panel: "Axes", x: float, y: "Estimate", i: int, label: str, sideways: Any = None) -> None:  # noqa: ANN401
    panel.errorbar(
        [x],
        [y.value],
        yerr=_errors([y]),
        xerr=sideways,
        fmt=MARKS[i % len(MARKS)],
        color=COLORS[i % len(COLORS)],
        markersize=10 if i == 0 else 8,
        elinewidth=1,
        alpha=0.9,
        label=label,
    )


def _rows(panel: "Axes", lines: Sequence["Line"]) -> None:
    panel.set_yticks(range(len(lines)), [line.title for line in lines])
    panel.set_ylim(len(lines) - 0.4, -0.6)


def _between(panel: "Axes", lines: Sequence["Line"]) -> None:
    """A thin line between kinds, and before the means."""
    for place, (before, line) in enumerate(zip(lines, lines[1:], strict=False)):
        if (before.tasks == line.tasks == 1 and before.kind != line.kind) or (before.tasks == 1 < line.tasks):
            panel.axhline(place + 0.5, color="#d1d5db", linewidth=0.8)


def _wrapped(line: "Line") -> str:
    return "\n".join(textwrap.fill(part, 17) for part in line.title.split(", "))


def _label(report: "Report", method: str) -> str:
    count = report.methods[method]
    return method if count == 1 else f"{method} ({count} checkpoints)"


def _finish(panel: "Axes", grid: Any) -> None:  # noqa: ANN401
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis=grid, alpha=0.2)
    panel.set_axisbelow(True)


def _legend(figure: "Figure", panel: "Axes") -> None:
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=3 if figure.get_figwidth() < 6.5 and len(labels) > 4 else len(labels),
        frameon=False,
    )
