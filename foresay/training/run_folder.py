"""The files of a run under `training/`: what it is, its metrics, and the states that a killed run resumes from.

    run.json           options, data and backbone: another run is refused
    metrics.jsonl      the metrics of each step, a line a step; locked while a run writes it
    step-000200/       a state: weights, optimiser, and `state.json` with where the run was

In: steps, metrics, and a function that writes a state's files. Out: the last whole state.
Careful: the order of the writes is what makes a kill harmless, also one of the whole machine. The metrics up to a step
are on the disk before its state is, a state appears by one rename when its files are, and an older one goes only after
that. So the last state is whole, and no line up to it is missing. A full disk is a kill that says so.
"""

import itertools
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import DataError, InputError
from ..files import Journal, as_json, read_json, write_json
from ..outputs import sync, writing

logger = logging.getLogger(__name__)

STATE = "state.json"
"""In a state's folder: where the run was."""


class RunFolder:
    """The files of one run; use it in a `with`. One process at a time may write them."""

    def __init__(self, folder: Path, keep: int = 1) -> None:
        """Touches nothing yet.

        Args:
            folder: the run's `training` folder.
            keep: last states to keep.
        """
        self.folder, self.keep = folder, keep
        self.metrics = folder / "metrics.jsonl"
        self._journal: Journal | None = None

    def __enter__(self) -> Self:
        """The folder itself; `open` locks it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets the next run in."""
        if self._journal is not None:
            self._journal.__exit__(kind, error, trace)
            self._journal = None

    def path(self, step: int) -> Path:
        """The folder of a step's state."""
        return self.folder / f"step-{step:06d}"

    def open(self, identity: Mapping[str, Any], free: Collection[str] = ()) -> dict[str, Any] | None:
        """Locks the folder, and opens the run in it or begins one.

        Args:
            identity: options, data and backbone, as nested dictionaries.
            free: names in it that a resumed run may change, such as `config.tracker`, since no metric depends on them.

        Returns:
            the last state's `STATE`; None for a run that begins.

        Raises:
            InputError: if the folder holds the states of another run.
            DataError: if another process is at it, or nothing can be written there.
        """
        with self.writing():
            return self._open(as_json(identity), free)

    def _open(self, identity: dict[str, Any], free: Collection[str]) -> dict[str, Any] | None:
        if self._journal is None:
            self._journal = self._lock()
        for draft in self.folder.glob(".step-*.saving"):
            shutil.rmtree(draft)
        steps = self._steps()
        if not steps:
            write_json(self.folder / "run.json", identity)
            os.truncate(self.metrics, 0)  # lines of a run that was killed before its first save
            return None
        before, now = _flat(read_json(self.folder / "run.json")), _flat(identity)
        changed = [key for key in sorted(now.keys() - set(free)) if now[key] != before.get(key)]
        if changed:
            told = ", ".join(f"{key} ({before.get(key)!r} there, {now[key]!r} now)" for key in changed)
            raise InputError(
                f"{self.folder.parent} holds a run with another {told}; "
                "give the same options to resume it, or another -o for a new one (or delete this one)"
            )
        self._cut(steps[-1])
        logger.info("resuming %s at step %d", self.folder.parent, steps[-1])
        return read_json(self.path(steps[-1]) / STATE)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends one line of metrics."""
        with self.writing():
            self._open_journal().append([{"step": step, **metrics}])

    def save(self, step: int, keep: Collection[int | None], write: Callable[[Path], None]) -> None:
        """Writes a state, whole or not at all, and removes those that are no longer wanted.

        Args:
            step: the one at hand.
            keep: steps whose states stay, besides the last ones.
            write: makes the folder that it is given appear, a `STATE` file inside.
        """
        with self.writing():
            sync(self.metrics)
            write(self.path(step))
            steps = self._steps()
            for old in set(steps) - {*steps[-self.keep :], *keep}:
                shutil.rmtree(self.path(old))

    def _steps(self) -> list[int]:
        return sorted(int(path.parent.name.removeprefix("step-")) for path in self.folder.glob(f"step-*/{STATE}"))

    def _lock(self) -> Journal:
        try:
            return Journal(self.metrics)
        except DataError as error:
            if "another process" not in str(error):
                raise
            raise DataError(
                f"another process is training in {self.folder.parent}; wait for it or stop it, or use another -o"
            ) from None

    def _open_journal(self) -> Journal:
        if self._journal is None:
            raise RuntimeError("the run folder is not open")
        return self._journal

    def _cut(self, step: int) -> None:
        """Takes away the metrics of steps that will be done again."""
        kept = sum(row["step"] <= step for _, row in self._open_journal().rows())
        with self.metrics.open("rb") as file:
            size = sum(len(line) for line in itertools.islice(file, kept))
        os.truncate(self.metrics, size)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Says in one line why something could not be written; what is on the disk is whole, and drafts go."""
        try:
            with writing(self.folder.parent):
                yield
        except DataError:
            for draft in self.folder.glob(".step-*.saving"):
                shutil.rmtree(draft, ignore_errors=True)
            raise


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options under their own last names, for telling what changed."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
