"""What a training run reports while it runs: events, and the metrics in them with their units.

In: nothing. Out: the types that training hands to whoever watches (the table in the terminal, a tracker, your own
function), and one list of the metrics' names, units and digits, from which tables, curves and cards are made.
Careful: the loss of one batch says little, since batches differ more than steps do. Compare held-out metrics.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Metrics = dict[str, float]
"""Numbers of a step by name; the names are those in `LOSSES`, `HELD_OUT` and `COSTS`."""


@dataclass(frozen=True)
class Metric:
    """A number that is logged for each step, or for each look at the held-out rows.

    Attributes:
        name: key in `metrics.jsonl`.
        unit: of its values.
        about: what it is, for cards.
        higher_is_better: whether larger is better.
    """

    name: str
    unit: str
    about: str
    higher_is_better: bool = False


LOSSES = (
    Metric("loss", "weighted sum", "loss of the last batch"),
    Metric("alignment", "see the option alignment", "alignment loss of the last batch"),
    Metric("reconstruction", "nats a token", "reconstruction loss of the last batch, nats a token"),
    Metric("contrast", "nats a row", "contrast of the last batch, nats a row"),
)
"""Of a batch. With `held_out_` before the name: of the rows kept out."""
HELD_OUT = (
    Metric("cosine", "cosine", "mean cosine of the held-out embeddings to their targets", higher_is_better=True),
    Metric("retrieval@1", "share of rows", "held-out rows whose own target is the nearest", higher_is_better=True),
)
"""Of the rows kept out of training alone: how near their embeddings come to their targets."""
COSTS = (
    Metric("gradient_norm", "norm before clipping", "gradient norm"),
    Metric("learning_rate", "of AdamW", "learning rate"),
    Metric("tokens", "tokens a step", "tokens of queries and responses in the batch"),
    Metric("seconds", "seconds a step", "time of the step"),
)
ALIGNMENT_UNITS = {
    "relative": "share of the targets' variance",
    "cosine": "1 − cosine",
    "mse": "mean squared error",
}
"""Units of the alignment loss by the option `alignment`."""


def held_out(name: str) -> str:
    """The name of a loss of the rows kept out."""
    return f"held_out_{name}"


@dataclass(frozen=True)
class Read:
    """Rows read so far for a closed form.

    Attributes:
        rows: read,
        total: of so many.
    """

    rows: int
    total: int


@dataclass(frozen=True)
class Step:
    """A finished step.

    Attributes:
        step: its number, from 1.
        total: steps of the whole run.
        metrics: of this step, and of the held-out rows where it looked at them.
        stage: of the run, where it has several.
    """

    step: int
    total: int
    metrics: Mapping[str, float]
    stage: str = ""


Event = Read | Step
Report = Callable[[Event], None]
"""Told of each event. Whatever it raises ends the run; the last saved state stays."""


def digits(value: float, significant: int = 4) -> str:
    """A metric to be read: four significant digits whatever its size, so .0009 does not become .00."""
    return f"{value:.{significant}g}" if 0 < abs(value) < 0.1 else f"{value:.{significant}f}"
