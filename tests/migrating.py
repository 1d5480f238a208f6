"""An encoder, the same with other weights, and what an index holds: for tests of indexes under other weights."""

from collections.abc import Callable

import numpy as np

from foresay import Encoder, Index
from foresay.backbone import Backbone
from foresay.embedded import Array
from foresay.retrieval.documents import Document

from .conftest import SENTENCES
from .indexing import make

Get = Callable[[str], Backbone]
LONG = Document("long", " ".join(f"{sentence} measles." for sentence in SENTENCES * 3), {"year": 1})


def same_tokens(encoder: Encoder, seed: int, **changes: object) -> Encoder:
    """An encoder with other maps behind the same special tokens."""
    other = make(encoder.model.backbone, seed, **{"prompts": encoder.prompts, **changes})
    other.model.special_tokens.data.copy_(encoder.model.special_tokens.data)
    return other


def vectors_of(index: Index) -> dict[tuple[str, int], Array]:
    """The vector of each chunk, by its document and place."""
    rows = index._store.head(["id", "start", "vector"], 10_000).to_pylist()
    made = {(row["id"], row["start"]): np.asarray(row["vector"], np.float32) for row in rows}
    assert len(made) == len(rows)
    return made


def alike(found: Index, expected: Index, tolerance: float = 1e-5) -> None:
    """The same chunks with the same vectors."""
    left, right = vectors_of(found), vectors_of(expected)
    assert left.keys() == right.keys()
    for place in left:
        np.testing.assert_allclose(left[place], right[place], atol=tolerance)
