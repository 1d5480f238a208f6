"""The figures of a training run as a picture: both losses, and the held-out rows, against the step."""

import json
from pathlib import Path
from typing import Any


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draws `metrics.jsonl`, a line a step, as a PNG with three panels.

    Each loss is drawn thin as it was and thick as its running mean, since single batches are noisy.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    for panel, name, unit, color in (
        (panels[0], "alignment", "mean squared error", "#2563a8"),
        (panels[1], "reconstruction", "nats a token", "#b4531f"),
    ):
        steps, values = _series(rows, name)
        panel.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        panel.plot(steps, _running_mean(values), color=color, linewidth=1.8)
        panel.set_title(f"{name} loss")
        panel.set_ylabel(unit)
    for name, color in (("cosine", "#2563a8"), ("retrieval@1", "#2f7d4f")):
        steps, values = _series(rows, name)
        panels[2].plot(steps, values, marker="o", markersize=3, color=color, label=name)
    panels[2].set_title("held-out rows")
    panels[2].set_ylim(0, 1)
    panels[2].legend(frameon=False, loc="best")
    for panel in panels:
        panel.set_xlabel("step")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.2)
    figure.savefig(picture, dpi=120)


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
