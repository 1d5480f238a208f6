"""The metrics of a training run as a picture: each loss that is on, and the held-out rows, against the step.

In: `metrics.jsonl`. Out: a PNG.
Careful: only losses that the run had get a panel, so pictures of two runs may have different panels.
"""

import json
from pathlib import Path
from typing import Any

from ..outputs import replacing
from .metrics import ALIGNMENT_UNITS, HELD_OUT, LOSSES, held_out

_COLOURS = {
    "alignment": "#2563a8",
    "reconstruction": "#b4531f",
    "contrast": "#7a3f9d",
    "cosine": "#2563a8",
    "retrieval@1": "#2f7d4f",
}
_WIDE = 30
"""Ratio of the largest to the smallest value from which on a loss is drawn on a logarithmic scale."""


def draw_curves(metrics: Path, picture: Path, alignment: str = "mse") -> None:
    """Draws `metrics.jsonl`, a line a step, as a PNG with a panel a loss and one for the held-out rows.

    Each loss is drawn thin as it was and thick as its running mean, since single batches are noisy; as dots, the
    held-out rows.

    Args:
        metrics: what the run wrote.
        picture: the PNG to make.
        alignment: `mse` or `cosine`, the unit of the alignment loss.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    units = {loss.name: loss.unit for loss in LOSSES} | {"alignment": ALIGNMENT_UNITS[alignment]}
    losses = [loss.name for loss in LOSSES[1:] if any(loss.name in row for row in rows)]
    near = [metric.name for metric in HELD_OUT if any(metric.name in row for row in rows)]
    count = len(losses) + bool(near)
    figure = Figure(figsize=(4 * count, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, count, squeeze=False)[0]
    for panel, name in zip(panels, losses, strict=False):
        _draw_loss(panel, rows, name, units[name])
    if near:
        _draw_held_out(panels[-1], rows, near)
    for panel in panels:
        panel.set_xlabel("step")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.2)
    with replacing(picture) as part:
        figure.savefig(part, dpi=120, format="png")


def _draw_loss(panel: Any, rows: list[dict[str, Any]], name: str, unit: str) -> None:  # noqa: ANN401 - matplotlib's
    steps, values = _series(rows, name)
    panel.plot(steps, values, color=_COLOURS[name], alpha=0.25, linewidth=0.8)
    panel.plot(steps, _running_mean(values), color=_COLOURS[name], linewidth=1.8, label="running mean")
    held_steps, held = _series(rows, held_out(name))
    if held:
        panel.plot(held_steps, held, "o", color="#333333", markersize=3.5, label="held out")
        panel.legend(frameon=False, loc="best")
    every = [*values, *held]
    if min(every) > 0 and max(every) > _WIDE * min(every):
        panel.set_yscale("log")
    panel.set_title(f"{name} loss")
    panel.set_ylabel(unit)


def _draw_held_out(panel: Any, rows: list[dict[str, Any]], names: list[str]) -> None:  # noqa: ANN401 - matplotlib's
    lowest = 0.0
    for name in names:
        steps, values = _series(rows, name)
        panel.plot(steps, values, marker="o", markersize=3, color=_COLOURS[name], label=name)
        lowest = min(lowest, *values)
    panel.set_title("held-out rows")
    panel.set_ylim(lowest, 1)
    panel.legend(frameon=False, loc="best")


def _series(rows: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    present = [row for row in rows if name in row]
    return [row["step"] for row in present], [row[name] for row in present]


def _running_mean(values: list[float], keep: float = 0.95) -> list[float]:
    """Exponential mean, corrected for its start."""
    smooth, weight, means = 0.0, 0.0, []
    for value in values:
        smooth, weight = keep * smooth + (1 - keep) * value, keep * weight + (1 - keep)
        means.append(smooth / weight)
    return means
