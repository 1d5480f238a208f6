"""Scores with their intervals, as Markdown.

In: items of each method, set and seed. Out: tables, and one picture. The same items are drawn for both sides of a
difference.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from smollm2_sets import Items, LabelledSet, mean

BASE = "teacher, whitened"
DRAWS = 500
Found = dict[str, dict[str, list[Items]]]
"""Items of each method, set and seed."""


def score(found: Found, method: str, one: LabelledSet) -> float:
    """The statistic, its mean over the seeds."""
    return float(np.mean([one.statistic(items) for items in found[method][one.name]]))


def difference(found: Found, method: str, base: str, one: LabelledSet) -> tuple[float, float]:
    """95 % bootstrap interval over the items of the difference of two methods' mean statistics."""
    pairs = list(zip(found[method][one.name], found[base][one.name], strict=True))
    rng, size = np.random.default_rng(0), len(pairs[0][0])
    if one.statistic is mean:
        gaps = np.mean([ours - theirs for ours, theirs in pairs], axis=0)
        drawn = gaps[rng.integers(size, size=(4 * DRAWS, size))].mean(axis=1)
    else:
        drawn = np.empty(DRAWS)
        for draw in range(DRAWS):
            at = rng.integers(size, size=size)
            drawn[draw] = np.mean([one.statistic(ours[at]) - one.statistic(theirs[at]) for ours, theirs in pairs])
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def gain(found: Found, method: str, base: str, sets: Iterable[LabelledSet]) -> float:
    """The mean over the sets of how much more a method scores than another, as a share."""
    return float(np.mean([score(found, method, one) / score(found, base, one) - 1 for one in sets]))


def table(
    found: Found, methods: Sequence[str], sets: Sequence[LabelledSet], base: str = BASE, *, gains: bool = True
) -> str:
    """Methods by sets; in brackets the interval of the difference to `base`."""
    names = " | ".join(one.name for one in sets)
    head = f"| | {names} |{' mean gain |' if gains else ''}\n|---|{'---|' * (len(sets) + gains)}\n"
    body = []
    for method in methods:
        cells = []
        for one in sets:
            if one.name not in found[method]:
                cells.append("–")
            elif method == base:
                cells.append(f"{score(found, method, one):.3f}")
            else:
                low, high = difference(found, method, base, one)
                cells.append(f"{score(found, method, one):.3f} ({low:+.3f} to {high:+.3f})")
        whole = gains and all(one.name in found[method] for one in sets)
        last = f" {gain(found, method, base, sets):+.0%} |" if whole else " – |" if gains else ""
        body.append(f"| {method} | {' | '.join(cells)} |{last}")
    return head + "\n".join(body) + "\n"


def draw(found: Found, shown: Mapping[str, tuple[str, str]], sets: Sequence[LabelledSet], path: Path) -> None:
    """One line a set, one dot a method, and a stroke from the first method to the last.

    Args:
        found: the items.
        shown: of each method its label and colour.
        sets: from top to bottom.
        path: of the PNG.
    """
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(8, 0.36 * len(sets) + 1.2), dpi=160, layout="constrained")
    panel = figure.subplots()
    places = np.arange(len(sets))[::-1]
    scores = {method: np.array([score(found, method, one) for one in sets]) for method in shown}
    first, *_, last = scores.values()
    panel.hlines(places, first, last, color="#cbd5e1", lw=2, zorder=1)
    for method, (label, color) in shown.items():
        panel.scatter(scores[method], places, s=46, color=color, label=label, zorder=2)
    panel.set_yticks(places, [one.name for one in sets])
    panel.set_xlim(0, 0.9)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(left=False, labelsize=9)
    panel.grid(axis="x", color="#eef2f7", zorder=0)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path)
