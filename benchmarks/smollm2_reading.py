"""What the language model reads once: its teacher's vectors, and the states of its special tokens.

In: texts. Out: arrays from a cache on the disk (`kept.py`), of which only the missing rows are computed.
Be careful with a store's name: it says the teacher's longest text, the seed of the special tokens, and the template.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from foresay.backbone import Backbone
from foresay.config import TeachConfig
from foresay.model import Model
from foresay.teachers.base import Teacher
from foresay.teachers.llm2vec import BOTH
from foresay.teachers.load import load_teacher
from foresay.teachers.whitened import WhitenedTeacher
from kept import Array, Kept

TOKENS = 10
LONGEST = 96
"""Tokens of a text that the teacher reads."""


@dataclass
class Reader:
    """One backbone's vectors and states, computed where they are not in the cache yet."""

    backbone: Backbone
    cache: Path
    name: str
    teacher: str = BOTH
    _teacher: Teacher = field(init=False)
    _stores: dict[str, Kept] = field(init=False, default_factory=dict)
    _memory: dict[tuple[str, int | None, int], Array] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """The teacher, mean pooled: the backbone read in both directions, or the one below a whitened one's name."""
        found = load_teacher(self.teacher, self.backbone, config=TeachConfig(max_tokens=LONGEST))
        self._teacher = found.inner if isinstance(found, WhitenedTeacher) else found

    def vectors(self, texts: Sequence[str]) -> Array:
        """The teacher's, not whitened: (texts, hidden)."""

        def embed(block: Sequence[str]) -> Array:
            return np.asarray(self._teacher.embed(block), np.float32)

        name = "both" if self.teacher == BOTH else f"below-{slug(self.teacher)}"
        return self._read(f"{name}-{LONGEST}", texts, embed, slice(None))

    def states(self, texts: Sequence[str], seed: int = 0, template: str = "chat", first: int = TOKENS) -> Array:
        """The mean of the first special tokens' states, (texts, hidden); no token sees a later one."""
        mean: Array = self.every_state(texts, seed, template, first).reshape(len(texts), first, -1).mean(axis=1)
        return mean

    def every_state(self, texts: Sequence[str], seed: int = 0, template: str = "chat", first: int = TOKENS) -> Array:
        """The first special tokens' states side by side: (texts, first * hidden)."""
        model: list[Model] = []

        def embed(block: Sequence[str]) -> Array:
            if not model:
                model.append(self._model(seed, template))
            rows, _ = model[0].rows(list(block), 512)
            out = torch.empty(len(rows), TOKENS * self.backbone.hidden_size)
            model[0].run(rows, lambda hidden: hidden.float().flatten(1), [out], 6144)
            found: Array = out.numpy()
            return found

        part = slice(0, first * self.backbone.hidden_size)
        return self._read(f"tokens-{template}-seed{seed}", texts, embed, part)

    def _read(self, name: str, texts: Sequence[str], embed: Callable[[Sequence[str]], Array], part: slice) -> Array:
        """From memory, from the disk, or computed."""
        known = (name, part.stop, hash(tuple(texts)))
        if known not in self._memory:
            if name not in self._stores:
                self._stores[name] = Kept(self.cache, f"{self.name}-{name}")
            self._stores[name].fill(texts, embed, name)
            self._memory[known] = self._stores[name].read(texts, part)
        return self._memory[known]

    def _model(self, seed: int, template: str) -> Model:
        return Model(
            self.backbone, thought=0, compression=TOKENS, dim=8, template=template, readout="tokens", seed=seed
        )


def slug(name: str) -> str:
    """A name, a path perhaps, as the name of one folder."""
    return re.sub(r"[^\w-]+", "_", name).strip("_")


def cut(backbone: Backbone, texts: list[str], tokens: int) -> list[str]:
    """Texts shortened to their first tokens."""
    rows = backbone.tokenize(texts)
    short = backbone.tokenizer.batch_decode([row[:tokens] for row in rows])
    return [short[i] if len(row) > tokens else texts[i] for i, row in enumerate(rows)]
