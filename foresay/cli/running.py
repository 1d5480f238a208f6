"""What the commands share while they run: texts from a file or from --text, a loaded checkpoint, a progress bar."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import InputError

_QUIET_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""
_now = time.monotonic

if TYPE_CHECKING:
    from ..data.queries import Progress
    from ..encoder import Encoder
    from ..training.metrics import Report


def texts_of(
    source: str | None,
    texts: tuple[str, ...],
    column: str | None,
    split: str,
    *,
    repeats: bool = False,
    expected: str = "a file of texts or --text TEXT",
) -> tuple[list[str], list[str]]:
    """Ids and texts from a file or from the command line; with `repeats`, a row for every row of the file."""
    from ..data.queries import Query, content_id, read_queries

    if (source is None) == (not texts):
        raise InputError(f"give either {expected}")
    if source is None:
        return [content_id(text) for text in texts], list(texts)
    rows = list(read_queries(source, column=column, split=split, repeats=repeats))
    bad = [row for row in rows if not isinstance(row, Query)]
    if bad:
        raise InputError(f"{source}, row {bad[0].line}: {bad[0].reason}; mend it or take it out ({len(bad)} such rows)")
    good = [row for row in rows if isinstance(row, Query)]
    if not good:
        raise InputError(f"{source} holds no texts")
    return [row.id for row in good], [row.text for row in good]


def load_encoder(checkpoint: str, *, backbone: str | None, device: str, dtype: str) -> "Encoder":
    """A checkpoint, its backbone taken from elsewhere if one is named."""
    calm_libraries()
    from ..backbone import Backbone
    from ..encoder import Encoder

    loaded = Backbone.load(backbone, device=device, dtype=dtype) if backbone else None
    return Encoder.from_pretrained(checkpoint, backbone=loaded, device=device, dtype=dtype)


def calm_libraries() -> None:
    """Our own progress bars are enough: the libraries' bars and notes stay out of the way."""
    from transformers.utils import logging as library

    library.set_verbosity_error()
    library.disable_progress_bar()


def reasons_of(rejected: Path, most: int = 3) -> str:
    """The commonest reasons in a file of rejects, with their counts."""
    from ..files import strict_rows

    with rejected.open("rb") as file:
        reasons = Counter(str(row.get("reason")) for _, row in strict_rows(file, rejected))
    words = [f"{count} because {reason}" for reason, count in reasons.most_common(most)]
    return "; ".join([*words, "…"] if len(reasons) > most else words)


class _Lines:
    """Progress where nothing can be drawn over: a line now and then, and one at the end."""

    def __init__(self, what: str) -> None:
        self.what, self.started = what, _now()
        self.said, self.line = self.started, ""

    def __call__(self, done: int, total: int | None, note: str) -> None:
        """Takes in how far it is."""
        of = "" if total is None else f"/{total}"
        self.line = " ".join(part for part in (f"{self.what} {done}{of}", note) if part)
        if _now() >= self.said + _QUIET_SECONDS:
            self.end()

    def end(self) -> None:
        """Says it, unless it was said."""
        if self.line:
            click.echo(self.line, err=True)
        self.said, self.line = _now(), ""


@contextmanager
def progress_bar(what: str) -> "Iterator[Progress]":
    """A bar with the time left, updated by (done, total, note); in a pipe or a log, a line every ten seconds."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
    )
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines(what)
        yield lines
        lines.end()
        return
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=None, note="")
        yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note)


def on_bar(progress: "Progress") -> "Report":
    """Shows the events of a training run on a bar."""
    from ..training.metrics import Event, Read, digits

    def report(event: Event) -> None:
        if isinstance(event, Read):
            progress(event.rows, event.total, "rows read" if event.rows < event.total else "solving for the maps")
        else:
            progress(event.step, event.total, f"{event.stage} loss {digits(event.metrics['loss'])}".strip())

    return report
