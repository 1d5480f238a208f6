"""The files of a training run under `training/`: what it is, its figures, and the states a killed run resumes from.

    run.json           options, data and backbone: another run is refused
    metrics.jsonl      the figures of each step, a line a step
    step-000200/       a state: weights, optimiser, and `state.json` with where the run was

In: steps, figures, and a function that writes a state's files. Out: the last whole state.
What a reader would get wrong: the order of the writes is what makes a kill harmless, also one of the whole machine. The
figures up to a step are on the disk before its state is, a state appears by one rename when its files are, and an older
one goes only after that. So the last state is whole, and no figure up to it is missing.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import load_object, read_json, sync, write_json

logger = logging.getLogger(__name__)

STATE = "state.json"
"""In a state's folder: where the run was."""
FREE = ("config.keep", "config.micro_batch_tokens", "config.tracker")
"""Options that a resumed run may change, since no figure depends on them."""


class States:
    """The files of one run. Only one process may write them."""

    def __init__(self, folder: Path, keep: int) -> None:
        """Touches nothing yet.

        Args:
            folder: the run's `training` folder.
            keep: last states to keep.
        """
        self.folder, self.keep = folder, keep
        self.metrics = folder / "metrics.jsonl"

    def path(self, step: int) -> Path:
        """The folder of a step's state."""
        return self.folder / f"step-{step:06d}"

    def open(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """Opens the run in the folder, or begins one.

        Args:
            identity: options, data and backbone, as JSON values.

        Returns:
            the last state's `STATE`; None for a run that begins.

        Raises:
            InputError: if the folder holds the states of another run.
        """
        for draft in self.folder.glob(".step-*.saving"):
            shutil.rmtree(draft)
        steps = self._steps()
        if not steps:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "run.json", identity)
            self.metrics.unlink(missing_ok=True)  # of a run killed before its first save
            return None
        before, now = _flat(read_json(self.folder / "run.json")), _flat(identity)
        changed = sorted(key for key in now if now[key] != before.get(key) and key not in FREE)
        if changed:
            raise InputError(
                f"{self.folder.parent} holds a run with another {', '.join(changed)}; "
                "give the same options to go on with it, or another -o for a new one"
            )
        self._cut_metrics(steps[-1])
        logger.info("resuming %s at step %d", self.folder.parent, steps[-1])
        return read_json(self.path(steps[-1]) / STATE)

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Appends one line of figures."""
        with self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")

    def save(self, step: int, best: int | None, write: Callable[[Path], None]) -> None:
        """Writes a state, whole or not at all, and removes those that are no longer wanted.

        Args:
            step: the one at hand.
            best: the best step so far, if there is one; its state stays.
            write: makes the folder that it is given appear, a `STATE` file inside.
        """
        sync(self.metrics)
        write(self.path(step))
        steps = self._steps()
        for old in set(steps) - {*steps[-self.keep :], best}:
            shutil.rmtree(self.path(old))

    def _steps(self) -> list[int]:
        return sorted(int(path.parent.name.removeprefix("step-")) for path in self.folder.glob(f"step-*/{STATE}"))

    def _cut_metrics(self, step: int) -> None:
        """Takes away the figures of steps that will be done again, a torn line among them."""
        lines = self.metrics.read_text().splitlines(True)
        rows = [(line, load_object(line)) for line in lines]
        part = self.metrics.with_name(self.metrics.name + ".tmp")
        part.write_text("".join(line for line, row in rows if row is not None and row["step"] <= step))
        sync(part)
        os.replace(part, self.metrics)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options under their own last names, for telling what changed."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
