"""The metrics of a run sent to a tracker as well: TensorBoard, Weights & Biases, MLflow, Trackio.

In: the tracker's name, steps. Out: whatever the tracker makes of them; TensorBoard writes below the run's folder.
Careful: a run that is resumed sends the steps since its last saved state again. Trackers that
draw by step show those twice; `metrics.jsonl` holds each step once.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError
from .metrics import Step

PROJECT = "foresay"

Track = Callable[[Step], None]


@contextmanager
def tracking(name: str, folder: Path, options: Mapping[str, Any]) -> Iterator[Track]:
    """Opens a tracker by its name; `none` gives one that does nothing.

    Args:
        name: one of `config.Tracker`.
        folder: for what a tracker writes here.
        options: of the run, shown beside its metrics.

    Yields:
        a function to be called with each step.

    Raises:
        InputError: if the tracker is not installed.
    """
    if name == "none":
        yield lambda step: None
        return
    from accelerate import PartialState
    from accelerate import tracking as library

    PartialState()  # accelerate's trackers ask it which process they are in, and fail where nobody has made it
    kind = library.LOGGER_TYPE_TO_CLASS[name]
    tracker = kind(PROJECT, folder) if kind.requires_logging_directory else kind(PROJECT)
    try:
        tracker.start()
    except ImportError as error:
        raise InputError(f"the tracker {name} is not installed ({error}): pip install {name}") from None
    plain = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in options.items()}
    tracker.store_init_configuration(plain)
    try:
        yield lambda step: tracker.log(dict(step.metrics), step=step.step)
    finally:
        tracker.finish()
