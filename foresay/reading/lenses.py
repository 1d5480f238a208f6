"""Lenses: what a state of a special token reads as. A protocol, and a registry of all that follow it.

In: states of one layer. Out: what they read as, best first: tokens with a probability (logit_lens.py), words of a
corpus with a similarity (latent_lens.py), or whatever a lens of your own finds. `register` adds one, and then
the command line, the report and `lens` in lens.py take its name.
Be careful with layers: 0 is the input embedding; the last is after the final norm, all others are before it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from ..config import LensConfig
    from ..encoder import Encoder


@dataclass(frozen=True, slots=True)
class Hit:
    """One thing that a state reads as.

    Attributes:
        text: a token or a word.
        score: a probability, or a cosine: the lens says which.
        sentence: where the word comes from; empty for a bare token.
        start, end: where the word is in the sentence, in characters.
        layer: which layer of the corpus it was found in, where that makes a difference.
    """

    text: str
    score: float
    sentence: str = ""
    start: int = 0
    end: int = 0
    layer: int | None = None


Found = tuple[list[list[list[Hit]]], list[list[Hit]]]
"""Of states (rows, tokens, hidden): the hits of each row and token, and of each row over all of its tokens."""


class Lens(Protocol):
    """Reads states.

    Attributes:
        score: what the score of a hit is, in a word or two.
    """

    @property
    def score(self) -> str: ...  # noqa: D102

    def read(self, states: "Tensor", layer: int, top: int) -> Found:
        """The best hits of states (rows, tokens, hidden) of a layer, best first, at most `top` a token."""
        ...


Maker = Callable[["Encoder", "LensConfig"], Lens]
_LENSES: dict[str, Maker] = {}


def register(name: str, make: Maker) -> None:
    """Makes a lens known by its name.

    Args:
        name: what `--lens` takes.
        make: an encoder and the options to a lens, once for any number of texts.

    Raises:
        InputError: if another lens has that name.
    """
    if _LENSES.get(name, make) is not make:
        raise InputError(f"there is a lens {name!r} already; give this one another name")
    _LENSES[name] = make


def find(name: str) -> Maker:
    """What makes the lens of that name; InputError if there is none."""
    if name not in _LENSES:
        raise InputError(f"no lens {name!r}; there are {', '.join(names())}")
    return _LENSES[name]


def names() -> tuple[str, ...]:
    """The names of all lenses."""
    return tuple(_LENSES)
