"""Whoever embeds responses: the `Teacher` protocol, and the registry of its kinds.

In: a name, and what is loaded already. Out: a teacher of the first kind that knows the name.
A kind is one file: a class, and a function under `@kind` that opens it, or returns None for a name that is not its own.
Careful: a name is not enough to tell two teachers apart. A folder may hold another model than it did, so a few numbers
of every weight are part of a fingerprint.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..backbone import Backbone
from ..config import TeachConfig

Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LinearMap:
    """From one space of vectors to another: `vectors @ weight.T + bias`.

    Attributes:
        weight: (out, in) float32.
        bias: (out,) float32.
    """

    weight: Vectors
    bias: Vectors

    def then(self, after: "LinearMap | None") -> "LinearMap":
        """This map and another after it, as one."""
        if after is None:
            return self
        weight, bias = (array.astype(np.float64) for array in (self.weight, self.bias))
        return LinearMap(
            (after.weight @ weight).astype(np.float32), (after.weight @ bias + after.bias).astype(np.float32)
        )


class Teacher(Protocol):
    """Whatever embeds responses. Two teachers with the same name, revision and pooling give the same vectors.

    A class of its own kind inherits from this, defines `embed`, and sets the attributes; the rest has defaults.

    Attributes:
        name: as `load_teacher` takes it.
        revision: what tells apart two models of that name; None where nothing is known.
        pooling: how a text's states become one vector.
        dim: width of a vector.
        max_tokens: longer texts are cut to this many tokens.
        dtype: of the weights, spelled as `Backbone.load` takes it; empty where a kind does not know it.
        blocks: of `teach`'s, that it likes to be given together.
    """

    name: str
    revision: str | None
    pooling: str
    dim: int
    max_tokens: int
    dtype: str = ""
    blocks: int = 1

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (texts, dim), float32, not normalised."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, before any is cut to `max_tokens`; words, where a kind does not say otherwise."""
        return [len(text.split()) for text in texts]

    def weights(self) -> Iterable[Tensor]:
        """The weights that the vectors depend on, besides what the revision stands for."""
        return ()

    def fingerprint(self) -> str:
        """Tells two teachers apart, also where a folder holds another model than it did."""
        return digest(self.name, str(self.revision), self.pooling, str(self.max_tokens), sample(self.weights()))

    def source(self) -> dict[str, Any]:
        """What finds it again, for the `teacher.json` of a folder that builds on it."""
        return {"teacher": {"name": self.name, "revision": self.revision}}

    def golden(self) -> dict[str, Tensor]:
        """What tells another backbone under the same name, for such a folder."""
        return {}

    def export(self, folder: Path, after: LinearMap | None, *, whole: bool) -> bool:
        """Writes a folder that plain sentence-transformers opens as this teacher.

        Args:
            folder: to make.
            after: what its vectors go through, such as a checkpoint's rotation or whitening.
            whole: with its weights; else these go by name.

        Returns:
            whether that library can express it; if not, nothing is written.
        """
        return False


@torch.no_grad()
def sample(weights: Iterable[Tensor]) -> str:
    """Three numbers of each weight, in hex."""
    picks = [weight.flatten()[[0, weight.numel() // 2, weight.numel() - 1]] for weight in weights]
    return torch.cat([pick.float().cpu() for pick in picks]).numpy().tobytes().hex() if picks else ""


def digest(*parts: str) -> str:
    """16 hex digits that stand for all of these."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


# -- the registry ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """A teacher to open.

    Attributes:
        name: a word, a folder, or a hub id.
        backbone: a language model that is loaded already; a teacher made of it shares its weights.
        device: as for `Backbone.load`, for a teacher with weights of its own.
        config: lengths and batch size.
        bare: without the whitening that its folder holds.
    """

    name: str
    backbone: Backbone | None = None
    device: str = "auto"
    config: TeachConfig = field(default_factory=TeachConfig)
    bare: bool = False


Opener = Callable[[Wanted], Teacher | None]
Opens = TypeVar("Opens", bound=Opener)
_KINDS: list[tuple[int, Opener]] = []


def kind(order: int = 0) -> Callable[[Opens], Opens]:
    """Registers what opens teachers of a kind.

    Args:
        order: kinds are asked from the lowest to the highest, and of two with the same the one registered last.
            sentence-transformers takes any name, so it is asked last, at 100.
    """

    def register(opener: Opens) -> Opens:
        _KINDS.insert(0, (order, opener))
        _KINDS.sort(key=lambda entry: entry[0])
        return opener

    return register


def open_teacher(wanted: Wanted) -> Teacher | None:
    """The teacher of the first registered kind that knows the name; None if none does."""
    return next((teacher for _, opener in list(_KINDS) if (teacher := opener(wanted)) is not None), None)
