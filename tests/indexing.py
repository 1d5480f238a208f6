"""What the tests of indexes share: an encoder with random maps, documents, and a teacher that knows words alone."""

import hashlib
from collections.abc import Sequence

import numpy as np

from foresay import Encoder
from foresay.backbone import Backbone
from foresay.embedded import Array
from foresay.model import Model
from foresay.retrieval.documents import Document
from foresay.teachers.base import Teacher

from .conftest import SENTENCES

WORDS = ("measles", "fever", "capital", "river", "cheese", "fox", "crow", "frugal")


def make(backbone: Backbone, seed: int = 0, **options: object) -> Encoder:
    """An encoder whose maps are random."""
    model = Model(backbone, thought=1, compression=3, dim=12, seed=seed)
    return Encoder(model, max_tokens=64, **options)  # type: ignore[arg-type]


def some(count: int = 40) -> list[Document]:
    """Documents that differ in words, years and length."""
    return [
        Document(f"d{i}", f"{SENTENCES[i % 4]} {WORDS[i % 8]} number{i}", {"year": 1980 + i, "even": i % 2 == 0})
        for i in range(count)
    ]


class Hashed(Teacher):
    """A teacher whose vectors are those of a text's words, each drawn from its hash; a prompt is one more word."""

    revision, pooling, dim, max_tokens = "1", "sum", 12, 200

    def __init__(self, name: str = "hashed") -> None:
        """Draws its words from the name."""
        self.name = name

    def embed(self, texts: Sequence[str]) -> Array:
        """The sum of the words' vectors, of any length."""
        return np.stack([np.sum([self._word(word) for word in text.split() or ["."]], axis=0) for text in texts])

    def _word(self, word: str) -> Array:
        seed = int.from_bytes(hashlib.sha256(f"{self.name}{word}".encode()).digest()[:8])
        return np.random.default_rng(seed).normal(size=12).astype(np.float32)
