"""The loop of a long run: steps, saved states, watchers, and a polite stop. `train` and `make_teacher` both run in it.

In: a `Run`, which knows how to do one step and how to save. Out: nothing; the run has done its steps.
Careful: what a run does may depend on the seed and the step alone, never on how often it was killed. So the loop asks a
run for nothing but the next step, and a run that is stopped looks at nothing out of turn.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..config import TeacherConfig, TrainConfig
from .distributed import Processes
from .metrics import Report, Step
from .run_folder import RunFolder
from .stopping import Stopped, stop_signals
from .tracking import tracking


class Run(Protocol):
    """What the loop needs of a run.

    Attributes:
        processes: those that compute together.
        folder: where a tracker may write.
        tracker: its name.
        options: shown beside the metrics by a tracker.
    """

    processes: Processes

    @property
    def folder(self) -> Path: ...  # noqa: D102
    @property
    def tracker(self) -> str: ...  # noqa: D102
    @property
    def options(self) -> Mapping[str, Any]: ...  # noqa: D102

    def done(self) -> bool:
        """Whether there is nothing left to do."""
        ...

    def next_step(self) -> Step:
        """Does one step."""
        ...

    def record(self, step: Step, *, stop: bool) -> Step:
        """Writes the step down, and its state where it is time or the run is to stop; the step with all its metrics."""
        ...


class RunInFolder:
    """What a run that keeps its state in a folder tells the loop about itself."""

    files: RunFolder
    config: TrainConfig | TeacherConfig

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.files.folder

    @property
    def tracker(self) -> str:
        """By its name."""
        return self.config.tracker

    @property
    def options(self) -> Mapping[str, Any]:
        """All of them."""
        return asdict(self.config)


def run_steps(run: Run, report: Report | None = None) -> None:
    """Runs until the run is done.

    Raises:
        Stopped: on Ctrl-C or SIGTERM, when the state has been saved.
    """
    first = run.processes.first
    with tracking(run.tracker if first else "none", run.folder, run.options) as track, stop_signals() as stopped:
        while not run.done():
            step = run.next_step()
            stop = run.processes.any(stopped())
            step = run.record(step, stop=stop)
            track(step)
            if report and first:
                report(step)
            if stop and not run.done():
                raise Stopped(f"stopped and saved at step {step.step}; the same command resumes there")


def row_order(seed: int, rows: int) -> Iterator[int]:
    """Endless row numbers: each pass over the data is a new shuffle, which depends on nothing but the seed."""
    for epoch in range(1 << 62):
        yield from np.random.default_rng([seed, epoch]).permutation(rows).tolist()
