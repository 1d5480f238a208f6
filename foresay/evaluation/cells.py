"""Scores as text: for the cells of a table on the screen or in Markdown.

In: estimates. Out: text, an interval where there is one; on the screen the interval is below the figure.
"""

from collections.abc import Sequence
from math import isnan

from .intervals import Estimate


def with_interval(estimate: Estimate) -> str:
    """For Markdown."""
    return _value(estimate) + ("" if isnan(estimate.low) else f" ({estimate.low:.3f}–{estimate.high:.3f})")


def short(estimate: Estimate) -> str:
    """For the screen."""
    return _value(estimate) + ("" if isnan(estimate.low) else f"\n[dim]{estimate.low:.2f}–{estimate.high:.2f}[/dim]")


def in_two(title: str) -> str:
    """A title with the metric below the task, for narrow screens."""
    return title.replace(", ", "\n", 1)


def _value(estimate: Estimate) -> str:
    return f"{estimate.value:.3f}" + ("" if estimate.spread is None else f" ± {estimate.spread:.3f}")


def difference_cell(difference: Estimate, change: Estimate, mark: str) -> str:
    """With its interval where there is one, in bold where that leaves 0 out, and in per cent."""
    text = f"{difference.value:+.3f}"
    if not isnan(difference.low):
        text += f" ({difference.low:+.3f} to {difference.high:+.3f})"
    if difference.certain:
        text = f"{mark}{text}{mark.replace('[', '[/')}"
    return text if isnan(change.value) else f"{text}, {change.value:+.1f} %"


def markdown_table(head: list[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
