"""What the commands share while they run: texts from a file or from -t, a loaded checkpoint, a progress bar."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from ..data.queries import Progress
    from ..encoder import Encoder
    from ..training.metrics import Report


def texts_of(
    source: str | None, texts: tuple[str, ...], column: str | None, split: str, *, repeats: bool = False
) -> tuple[list[str], list[str]]:
    """Ids and texts from a file or from -t; with `repeats`, a row for every row of the file."""
    from ..data.queries import Query, content_id, read_queries

    if (source is None) == (not texts):
        raise InputError("give either a file of texts or -t TEXT")
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


@contextmanager
def progress_bar(what: str) -> "Iterator[Progress]":
    """A bar with the time left; updated by (done, total, note)."""
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
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None, note="")
        yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note)


def on_bar(progress: "Progress") -> "Report":
    """Shows the events of a training run on a bar."""
    from ..training.metrics import Event, Read, digits

    def report(event: Event) -> None:
        if isinstance(event, Read):
            progress(event.rows, event.total, "rows read")
        else:
            progress(event.step, event.total, f"{event.stage} loss {digits(event.metrics['loss'])}".strip())

    return report
