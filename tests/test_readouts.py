"""Readouts: what each reads, and that one made up here works everywhere."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from foresay import readouts
from foresay.backbone import Backbone
from foresay.checkpoints.verify import verify
from foresay.config import FitConfig
from foresay.data.pairs import Pairs
from foresay.encoder import Encoder
from foresay.errors import InputError
from foresay.model import Model
from foresay.training.fit import fit

Get = Callable[[str], Backbone]
TEXTS = [f"What does word number {i} mean, and why is {i * i} larger?" for i in range(40)]


@dataclass(frozen=True)
class Ends:
    """The mean of all but the last token, and the last one."""

    name: str = "ends"
    summary: str = "the last token, and the mean of the others"
    every_layer: bool = False

    def mixing(self, compression: int) -> list[list[float]]:
        """Two rows."""
        rest = compression - 1
        return [[1 / rest] * rest + [0.0], [0.0] * rest + [1.0]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Registered for one test."""
    readout = Ends()
    readouts.register(readout)
    yield readout
    del readouts._READOUTS[readout.name]


def test_what_they_read() -> None:
    """Parts are weighted means of the compression tokens, of each layer where there are several."""
    states = torch.randn(4, 3, 8)
    read = {name: readouts.gather(states, readouts.find(name).mixing(3)) for name in readouts.names()}
    torch.testing.assert_close(read["tokens"], states.flatten(1), rtol=0, atol=0)
    torch.testing.assert_close(read["mean"], states.sum(dim=1) / 3)
    layered = torch.randn(4, 2, 3, 8)
    both = readouts.gather(layered, readouts.find("layers").mixing(3))
    torch.testing.assert_close(both, torch.cat([layered[:, 0].sum(1), layered[:, 1].sum(1)], dim=1) / 3)
    ends = readouts.gather(states, Ends().mixing(3))
    torch.testing.assert_close(ends, torch.cat([states[:, :2].mean(1), states[:, 2]], dim=1))


def test_a_bad_readout_is_refused() -> None:
    """Weights without the sum 1 would count the reconstruction's bias wrongly; names are taken once."""

    @dataclass(frozen=True)
    class Sum(Ends):
        name: str = "sum"

        def mixing(self, compression: int) -> list[list[float]]:
            return [[1.0] * compression]

    with pytest.raises(InputError, match="expected 3 weights with the sum 1"):
        readouts.register(Sum())
    with pytest.raises(InputError, match="a readout 'mean' already"):
        readouts.register(Ends(name="mean"))
    with pytest.raises(InputError, match="no readout 'sum'; there are tokens, layers, mean"):
        readouts.find("sum")
    with pytest.raises(InputError, match="readout is 'sum'; expected one of"):
        FitConfig(readout="sum")


@pytest.mark.parametrize("readout", ["tokens", "layers", "mean", "ends"])
def test_embed_is_the_second_of_outputs(backbone: Get, ends: Ends, readout: str) -> None:
    """The fused map gives the same embeddings as the maps one after the other, and follows each change of them."""
    model = Model(backbone("qwen3"), thought=1, compression=3, dim=8, readout=readout)
    hidden = torch.randn(5, 2, 3, 32) if model.every_layer else torch.randn(5, 3, 32)
    for weight in (model.align.weight, model.reconstruct.weight, model.reconstruct.bias, model.align.bias):
        with torch.no_grad():
            weight.mul_(1.5).add_(0.01)
        torch.testing.assert_close(model.embed(hidden), model.outputs(hidden)[1], atol=1e-5, rtol=1e-5)
    assert not model.embed(hidden).requires_grad


def test_one_made_up_here_works_end_to_end(backbone: Get, ends: Ends, tmp_path: Path) -> None:
    """Fit, save, load, encode, verify, and plain sentence-transformers, without a line of ours about it."""
    base = backbone("qwen3")
    targets = np.random.default_rng(0).standard_normal((len(TEXTS), 6)).astype(np.float32)
    pairs = Pairs(TEXTS, TEXTS, targets, {})
    config = FitConfig(compression=4, readout="ends", reconstruct="one", documents="checkpoint", held_out=4)
    encoder = fit(pairs, base, tmp_path / "made", config)
    assert encoder.model.align.weight.shape == (6, 2 * 32)
    expected = encoder.encode(TEXTS)
    loaded = Encoder.from_pretrained(tmp_path / "made", backbone=base)
    np.testing.assert_array_equal(loaded.encode(TEXTS), expected)
    assert all(verdict.agrees for verdict in verify(tmp_path / "made", device="cpu"))
    plain = SentenceTransformer(str(tmp_path / "made"), device="cpu")
    np.testing.assert_allclose(plain.encode_query(TEXTS[:5]), encoder.encode_query(TEXTS[:5]), atol=1e-4, rtol=1e-4)
    rows = encoder.model.rows(TEXTS, 512)[0]
    with torch.no_grad():
        states = encoder.model.hidden(rows)
        prompts = encoder.model.soft_prompt(states)
        parts = torch.cat([prompts[:, :3].mean(1), prompts[:, 3]], dim=1)
        np.testing.assert_allclose(encoder.model.align(parts).numpy(), expected, atol=1e-4, rtol=1e-4)
