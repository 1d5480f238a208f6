"""What the alignment map reads of the compression tokens' states; each readout is one small object.

In: states. Out: features, of which the embedding is a linear map. Three are here:

    mean     as published: the mean of the tokens' soft prompts
    tokens   every token's soft prompt, by a map of its own
    layers   every layer's mean of the tokens, standardised, by a map of its own; states are then
             (batch, layers, compression, hidden)

A readout is a matrix that says which weighted means of the tokens are read. All else follows from it: the width of
the map, how it fuses, how plain sentence-transformers expresses it. `register` adds one, and names it everywhere.
Be careful with the weights of a mean: they add up to 1, since the reconstruction map, which has a bias, may come
before the mean or after it. This module must not import torch: `foresay --help` reads its names.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Mixing = list[list[float]]
"""(parts, compression): the weight of each compression token in each part."""


class Readout(Protocol):
    """Which weighted means of the compression tokens' states the alignment map reads.

    Attributes:
        name: what options and checkpoints call it.
        summary: what it reads, for the help of `--readout`.
        every_layer: whether it reads the states of every layer, standardised; else the soft prompts of the last one.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def summary(self) -> str: ...  # noqa: D102
    @property
    def every_layer(self) -> bool: ...  # noqa: D102

    def mixing(self, compression: int) -> Mixing:
        """The parts of a layer: (parts, compression), each row with the sum 1."""
        ...


@dataclass(frozen=True)
class Mean:
    """The mean of the tokens: one part a layer."""

    name: str
    summary: str
    every_layer: bool

    def mixing(self, compression: int) -> Mixing:
        """One row, each token alike."""
        return [[1 / max(compression, 1)] * compression]


@dataclass(frozen=True)
class Tokens:
    """Each token by itself."""

    name: str = "tokens"
    summary: str = "every token by a map of its own"
    every_layer: bool = False

    def mixing(self, compression: int) -> Mixing:
        """The identity."""
        return [[float(part == token) for token in range(compression)] for part in range(compression)]


_READOUTS: dict[str, Readout] = {}


def register(readout: Readout) -> None:
    """Makes a readout known by its name, to options, models and checkpoints.

    Raises:
        InputError: if another one has that name, or the weights of a part do not add up to 1.
    """
    if _READOUTS.get(readout.name, readout) != readout:
        raise InputError(f"there is a readout {readout.name!r} already; give this one another name")
    for part in readout.mixing(3):
        if len(part) != 3 or abs(sum(part) - 1) > 1e-6:
            raise InputError(
                f"the readout {readout.name!r} mixes 3 tokens by the weights {part}; expected 3 weights with the sum 1"
            )
    _READOUTS[readout.name] = readout


def find(name: str) -> Readout:
    """The readout of that name.

    Raises:
        InputError: if there is none.
    """
    if name not in _READOUTS:
        raise InputError(f"no readout {name!r}; there are {', '.join(_READOUTS)}")
    return _READOUTS[name]


def names() -> tuple[str, ...]:
    """The names of all readouts."""
    return tuple(_READOUTS)


def summaries() -> str:
    """Each name with what it reads, for a help text."""
    return "; ".join(f"{name}: {readout.summary}" for name, readout in _READOUTS.items())


def gather(states: "Tensor", mixing: Mixing) -> "Tensor":
    """The parts of states (batch, …, compression, hidden), one after another: (batch, width).

    Where each token is a part, the states are taken as they are: a product with the identity could round them.
    """
    if mixing == Tokens().mixing(len(mixing[0])):
        return states.flatten(1)
    if len(mixing) == 1 and len(set(mixing[0])) == 1:
        return states.mean(dim=-2).flatten(1)
    return (states.new_tensor(mixing) @ states).flatten(1)


for _readout in (
    Tokens(),
    Mean("layers", "every layer by a map of its own (opens in foresay only)", every_layer=True),
    Mean("mean", "the mean of the tokens, as published", every_layer=False),
):
    register(_readout)
