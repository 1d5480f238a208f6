"""What a training run shows while it runs: a table of its figures and a bar, in a terminal; else a line now and then.

In: a step and its figures, as `train` reports them. Out: text on stderr.
What a reader would get wrong: the loss of one batch says little, since batches differ more than steps do. So the table
shows running means beside the held-out figures, which are of the same rows each time.
"""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

LOSSES = ("loss", "alignment", "reconstruction", "contrast")
NEARNESS = ("cosine", "retrieval@1")
_KEPT = 0.9
"""Of a running mean, from step to step."""
_QUIET_SECONDS = 60.0
"""Between two lines where there is no terminal, unless held-out figures come in."""


class LiveTable:
    """Shows the figures of a run; use it in a `with`, and call it after each step."""

    def __init__(self, steps: int, console: Console | None = None) -> None:
        """Shows nothing yet.

        Args:
            steps: of the whole run.
            console: to draw on; else stderr.
        """
        self.steps = steps
        self.console = console or Console(stderr=True)
        self.means: dict[str, float] = {}
        self.held: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.step = 0
        self._bar = Progress(
            TextColumn("{task.description:10}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        self._task = self._bar.add_task("training", total=steps, note="")
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._said, self._fresh = float("-inf"), False

    def __enter__(self) -> Self:
        """Begins to draw."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the last table on the screen."""
        if self._live:
            self._live.update(self.drawing(), refresh=True)
            self._live.stop()

    def __call__(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes in a step's figures; step 0 reports how many rows the closed-form start has read."""
        if step == 0:
            self._bar.update(self._task, note=f"closed-form start: {figures['fitted rows']:.0f} rows")
        else:
            self._take(step, figures)
        if self._live:
            self._live.update(self.drawing(), refresh=True)
        elif step and (self._fresh or step == self.steps or time.monotonic() > self._said + _QUIET_SECONDS):
            self._said = time.monotonic()
            self.console.print(self.line(), soft_wrap=True, highlight=False)

    def _take(self, step: int, figures: Mapping[str, float]) -> None:
        self.step = step
        for name, value in figures.items():
            self.means[name] = _KEPT * self.means.get(name, value) + (1 - _KEPT) * value
        held = {
            name: figures[name] for name in (*(f"held_out_{loss}" for loss in LOSSES), *NEARNESS) if name in figures
        }
        self._fresh = bool(held)
        self.held |= held
        if held and held["held_out_loss"] <= self.best.get("held_out_loss", float("inf")):
            self.best = {"step": step, **held}
        self._bar.update(self._task, completed=step, note=self._speed())

    def _speed(self) -> str:
        seconds = max(self.means.get("seconds", 0.0), 1e-9)
        return f"{seconds:.2f} s a step, {self.means.get('tokens', 0.0) / seconds:,.0f} tokens/s"

    def line(self) -> str:
        """The figures of the moment in one line."""
        shown = [f"{name} {self.means[name]:.4g}" for name in LOSSES if name in self.means]
        shown += [f"{name.replace('held_out_', 'held-out ')} {value:.4g}" for name, value in self.held.items()]
        return f"step {self.step}/{self.steps}  {'  '.join(shown)}  {self._speed()}"

    def drawing(self) -> Group:
        """The table and the bar."""
        best = f"best, step {self.best['step']:.0f}" if self.best else "best"
        table = Table("", "running mean", "held out", best, box=None, padding=(0, 2), header_style="bold")
        for name in (*LOSSES, *NEARNESS):
            held = name if name in NEARNESS else f"held_out_{name}"
            cells = [self.means.get(name) if name in LOSSES else None, self.held.get(held), self.best.get(held)]
            if any(cell is not None for cell in cells):
                table.add_row(name, *("" if cell is None else f"{cell:.4f}" for cell in cells))
        return Group(table, self._bar) if table.row_count else Group(self._bar)
