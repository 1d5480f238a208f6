"""A picture of what special tokens hold: layers × tokens, coloured by how sure the best hit is.

In: a reading, as `lens` returns it. Out: a PNG.
Be careful with scripts that the font lacks: their characters are shown as boxes, so the picture names the words in
Latin, Greek and Cyrillic letters best.
"""

from pathlib import Path

from ..outputs import replacing
from .lens import LensReading

_WIDTH, _HEIGHT = 1.25, 0.42
"""Inches of a cell."""


def heat_map(reading: LensReading, path: Path) -> None:
    """Draws the best hit of every layer and compression token.

    Args:
        reading: of one text, at the layers that the picture is to have.
        path: a .png to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    best = [[hits[0] for hits in tokens] for tokens in reading.tokens]
    scores = [[hit.score for hit in row] for row in best]
    highest = max(1e-6, *map(max, scores))
    layers, tokens = len(best), len(best[0])
    figure = Figure(figsize=(tokens * _WIDTH + 2.2, layers * _HEIGHT + 1.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(scores, aspect="auto", cmap="YlGnBu", vmin=0, vmax=highest, origin="lower")
    for row, hits in enumerate(best):
        for column, hit in enumerate(hits):
            dark = scores[row][column] > 0.6 * highest
            label = axes.text(column, row, _short(hit.text), ha="center", va="center", fontsize=8, parse_math=False)
            label.set_color("white" if dark else "#1a1a1a")
    axes.set_xticks(range(tokens), [str(token + 1) for token in range(tokens)])
    axes.set_yticks(range(layers), [str(layer) for layer in reading.layers])
    axes.set_xlabel("compression token")
    axes.set_ylabel("layer")
    axes.tick_params(length=0)
    axes.set_title(_short(reading.text, 80), loc="left", fontsize=10, parse_math=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.colorbar(image, ax=axes, label=f"{reading.score} of the best hit", shrink=min(1, 4 / (layers * _HEIGHT)))
    with replacing(path) as part:
        figure.savefig(part, format="png")


def _short(text: str, most: int = 14) -> str:
    """A text on one line, its control characters as escapes."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.strip() or text)
    return line if len(line) <= most else line[: most - 1] + "…"
