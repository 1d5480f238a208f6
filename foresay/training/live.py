"""What a training run shows while it runs: a table of its metrics and a bar, in a terminal; else a line now and then.

In: the events that `train` reports. Out: text on stderr.
Careful: the loss of one batch says little, since batches differ more than steps do. So the table shows running means
beside the held-out metrics, which are of the same rows each time.
"""

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .metrics import HELD_OUT, LOSSES, Event, Read, Step, digits, held_out

_ROWS = {loss.name: held_out(loss.name) for loss in LOSSES} | {metric.name: metric.name for metric in HELD_OUT}
"""Rows of the table, with the name that the metric has for the held-out rows."""
_KEPT = 0.9
"""Of a running mean, from step to step."""
_QUIET_SECONDS = 60.0
"""Between two lines where there is no terminal, unless held-out metrics come in."""


class LiveTable:
    """Shows the metrics of a run; use it in a `with`, and call it with each event."""

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
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
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

    def __call__(self, event: Event) -> None:
        """Takes in an event."""
        if isinstance(event, Read):
            self._bar.update(self._task, note=f"start: {event.rows} of {event.total} rows")
        else:
            self._take(event)
        if self._live:
            self._live.update(self.drawing(), refresh=True)
        elif isinstance(event, Step) and self._is_due():
            self._said = time.monotonic()
            self.console.print(self.line(), soft_wrap=True, highlight=False)

    def _is_due(self) -> bool:
        return self._fresh or self.step == self.steps or time.monotonic() > self._said + _QUIET_SECONDS

    def _take(self, event: Step) -> None:
        self.step = event.step
        for name, value in event.metrics.items():
            self.means[name] = _KEPT * self.means.get(name, value) + (1 - _KEPT) * value
        held = {name: event.metrics[name] for name in _ROWS.values() if name in event.metrics}
        self._fresh = bool(held)
        self.held |= held
        if held and held[held_out("loss")] <= self.best.get(held_out("loss"), float("inf")):
            self.best = {"step": self.step, **held}
        self._bar.update(self._task, completed=self.step, note=self._speed())

    def _speed(self) -> str:
        seconds = max(self.means.get("seconds", 0.0), 1e-9)
        return f"{seconds:.2f} s/step, {self.means.get('tokens', 0.0) / seconds:,.0f} tok/s"

    def line(self) -> str:
        """The metrics of the moment in one line."""
        shown = [f"{loss.name} {digits(self.means[loss.name])}" for loss in LOSSES if loss.name in self.means]
        shown += [f"{name.replace('held_out_', 'held-out ')} {digits(value)}" for name, value in self.held.items()]
        return f"step {self.step}/{self.steps}  {'  '.join(shown)}  {self._speed()}"

    def drawing(self) -> Group:
        """The table and the bar."""
        best = f"best, step {self.best['step']:.0f}" if self.best else "best"
        table = Table("", "running mean", "held out", best, box=None, padding=(0, 2), header_style="bold")
        for name, held in _ROWS.items():
            mean = self.means.get(name) if held != name else None
            cells = [mean, self.held.get(held), self.best.get(held)]
            if any(cell is not None for cell in cells):
                table.add_row(name, *("" if cell is None else digits(cell) for cell in cells))
        return Group(table, self._bar) if table.row_count else Group(self._bar)
