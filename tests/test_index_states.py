"""The states that an index keeps: made into vectors of new maps, and decoded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from foresay import Encoder, Index, IndexConfig, rehead
from foresay.embedded import Array
from foresay.errors import DataError, InputError
from foresay.model import Model
from foresay.retrieval.states import Keeping

from .indexing import Hashed, make, some
from .migrating import LONG, Get, alike, same_tokens


@pytest.fixture(scope="module")
def encoder(backbone: Get) -> Encoder:
    """One for the module."""
    return make(backbone("qwen3"), prompts={"query": "Q: ", "document": "D: "})


@pytest.mark.parametrize(
    ("storage", "readout", "tolerance"),
    [
        ("float16", "mean", 3e-3),
        ("int8", "tokens", 3e-2),
        ("float16", "layers", 3e-3),
    ],
)
def test_rehead_makes_the_vectors_of_the_new_maps(
    storage: str, readout: str, tolerance: float, backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And runs the language model on a handful of texts alone."""

    def build(seed: int) -> Encoder:
        model = Model(backbone("qwen3"), thought=1, compression=3, dim=12, seed=seed, readout=readout)
        model.special_tokens.data.copy_(Model(backbone("qwen3"), thought=1, compression=3, dim=12).special_tokens.data)
        return Encoder(model, max_tokens=64, prompts={"document": "D: "})

    config = IndexConfig(states=storage, chunk_tokens=20)  # type: ignore[arg-type]
    index = Index.create(tmp_path / "index", build(1), config)
    index.add([LONG, *some(30)])
    cosine = index.states_cosine()
    assert cosine is not None and 1 - tolerance**2 < cosine <= 1.000001
    rows: list[int] = []
    run = Model.run

    def counts(self: Model, given: Sequence[Any], *rest: Any) -> None:  # noqa: ANN401
        rows.append(len(given))
        run(self, given, *rest)

    monkeypatch.setattr(Model, "run", counts)
    made = rehead(tmp_path / "index", build(2))
    assert sum(rows) <= 8
    fresh = Index.create(tmp_path / "fresh", build(2), config)
    fresh.add([LONG, *some(30)])
    alike(made, fresh, tolerance)
    assert made.add(some(31)).new == 1
    again = rehead(tmp_path / "index", build(1))
    alike(again, _alone(tmp_path / "again", build(1), config), tolerance)


def _alone(path: Path, encoder: Encoder, config: IndexConfig) -> Index:
    index = Index.create(path, encoder, config)
    index.add([LONG, *some(31)])
    return index


def test_what_cannot_be_reheaded_says_why(encoder: Encoder, backbone: Get, tmp_path: Path) -> None:
    """No states, states of other tokens, prompts or backbones, documents of a teacher."""
    Index.create(tmp_path / "none", encoder).add(some(3))
    with pytest.raises(DataError, match="keeps no states .*--states float16"):
        rehead(tmp_path / "none", encoder)
    kept = IndexConfig(states="float16")
    Index.create(tmp_path / "index", encoder, kept).add(some(9))
    for other in (
        make(backbone("qwen3"), seed=1, prompts=encoder.prompts),
        same_tokens(encoder, 1, prompts={"document": "Measles! "}),
        make(backbone("llama"), prompts=encoder.prompts),
    ):
        with pytest.raises(DataError, match=r"median cosine of -?0\.\d+ .*; use foresay migrate"):
            rehead(tmp_path / "index", other)
    wide = Encoder(Model(backbone("qwen3"), thought=1, compression=4, dim=12), max_tokens=64)
    with pytest.raises(DataError, match=r"shape \(3, 32\), the checkpoint has \(4, 32\)"):
        rehead(tmp_path / "index", wide)
    taught = encoder.with_document_teacher(Hashed())
    with pytest.raises(InputError, match="hashed, which has no states to keep"):
        Index.create(tmp_path / "other", taught, kept)
    Index.create(tmp_path / "taught", taught).add(some(3))
    with pytest.raises(DataError, match="embedded by hashed: a checkpoint of that teacher searches it as it is"):
        rehead(tmp_path / "taught", taught)
    assert len(rehead(tmp_path / "index", same_tokens(encoder, 5))) == 9


def test_hits_are_decoded_from_their_states(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As their texts would be, within half precision; without states that is refused."""
    index = Index.create(tmp_path / "index", encoder, IndexConfig(states="float16", chunk_tokens=12))
    index.add([LONG, *some(5)])
    hits = index.search("measles", 4)
    given: list[Array] = []

    def decode(self: Encoder, *, soft_prompts: Array, max_new_tokens: int) -> list[str]:
        given.append(soft_prompts)
        return ["read"] * len(soft_prompts)

    assert len(index.read(hits, max_new_tokens=4)) == len(hits) == 4
    monkeypatch.setattr(Encoder, "decode", decode)
    assert index.read(hits) == ["read"] * 4
    prompts = encoder.soft_prompts([hit.text for hit in hits], prompt_name="document")
    np.testing.assert_allclose(given[0], prompts, atol=2e-3 * np.abs(prompts).max())
    states = np.random.default_rng(0).normal(size=(5, 3, 32)).astype(np.float32) * 30
    for storage, error in (("float16", 1e-3), ("int8", 1e-2)):
        one = Keeping(storage, (3, 32))
        packed = pa.table(one.pack(states), schema=pa.schema(one.fields()))
        assert np.abs(one.unpack(packed) - states).max() < error * np.abs(states).max()
    with pytest.raises(DataError, match="too large for float16"):
        Keeping("float16", (3, 32)).pack(states * 1e5)
    with pytest.raises(InputError, match="keeps no states to decode"):
        Index.create(tmp_path / "none", encoder).read(hits)
