"""A look at a file of responses before training on it: how long, how many refuse, are empty, cut, or all alike.

In: responses. Out: `Look`, its lines, and a histogram of the lengths as a picture.
Be careful: shares of near-identical rows and refusals come from a sample, counts and lengths from all rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..outputs import replacing
from .likeness import Likeness, likeness, reservoir
from .responses import Response, stream_responses

_BARS = 12
_SHORT = 3
"""Words; fewer than these are as good as nothing."""


@dataclass(frozen=True)
class Look:
    """What is in a file of responses.

    Attributes:
        rows: responses.
        words: number of words of each response.
        cut: responses that reached the longest length.
        likeness: of a sample.
        examples: ten random rows.
    """

    rows: int
    words: list[int]
    cut: int
    likeness: Likeness
    examples: list[Response]

    @property
    def short(self) -> int:
        """Responses of fewer than three words."""
        return sum(count < _SHORT for count in self.words)

    def lines(self) -> list[str]:
        """The report, a line each."""
        like, middle = self.likeness, sorted(self.words)[self.rows // 2]
        return [
            f"{self.rows} responses, a median of {middle} words, {max(self.words)} at most",
            f"{_share(self.cut, self.rows)} stopped by the length limit",
            f"{_share(self.short, self.rows)} have fewer than {_SHORT} words",
            f"{_share(like.refusals, like.rows)} refuse",
            f"{_share(like.alike, like.rows)} begin like another one"
            + "".join(f"; {count} × {words!r}" for words, count in like.commonest[:3]),
            "",
            *self._histogram(),
        ]

    def _histogram(self) -> list[str]:
        counts, width = _bins(self.words)
        longest = max(counts)
        return [
            f"{i * width:6d}–{(i + 1) * width - 1:<6d} words {'█' * round(40 * count / longest)} {count}"
            for i, count in enumerate(counts)
        ]

    def plot(self, path: Path) -> None:
        """Draws the histogram of the lengths."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.hist(self.words, bins=40, color="#4c72b0")
        axes.set(xlabel="words in a response", ylabel="responses", title=f"{self.rows} responses")
        with replacing(path) as part:
            figure.savefig(part, dpi=120, format=path.suffix[1:].lower() or "png")


def look(responses: Path, seed: int = 0) -> Look:
    """Reads a file of responses once.

    Raises:
        DataError: as `read_responses`.
    """
    words: list[int] = []
    cut = 0

    def counted() -> Iterable[Response]:
        nonlocal cut
        for row in stream_responses(responses):
            words.append(len(row.response.split()))
            cut += row.finish == "length"
            yield row

    sample = reservoir(counted(), seed=seed)
    return Look(len(words), words, cut, likeness([row.response for row in sample]), reservoir(sample, 10, seed + 1))


def _bins(words: list[int]) -> tuple[list[int], int]:
    width = max(1, -(-(max(words) + 1) // _BARS))
    counts = [0] * (max(words) // width + 1)
    for count in words:
        counts[count // width] += 1
    return counts, width


def _share(count: int, of: int) -> str:
    return f"{count} of {of} ({count / of:.1%})"
