"""The closed form, against scikit-learn's ridge regression, and the checkpoint it makes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from foresay.backbone import Backbone
from foresay.checkpoints.bundle import bundle
from foresay.checkpoints.verify import verify
from foresay.config import FitConfig
from foresay.data.pairs import Pairs
from foresay.encoder import Encoder
from foresay.errors import InputError
from foresay.model import Model
from foresay.training import closed_form as ridge
from foresay.training.fit import fit
from foresay.training.metrics import Event, Read, Report

Get = Callable[[str], Backbone]
TEXTS = [f"{word} {number} {other}" for number in range(10) for word, other in (("fox", "fever"), ("Chad", "rash"))]
NONE = np.array([], int)
readout = pytest.mark.parametrize("readout", ["mean", "tokens", "layers"])


def made(backbone: Backbone, **changes: object) -> tuple[Encoder, np.ndarray]:
    """An encoder and targets for TEXTS."""
    targets = np.random.default_rng(0).normal(size=(len(TEXTS), 5)).astype(np.float32)
    model = Model(backbone, **{"thought": 1, "compression": 3, "dim": 5, **changes})  # type: ignore[arg-type]
    return Encoder(model), targets


def of(targets: np.ndarray) -> Pairs:
    """TEXTS with their targets."""
    return Pairs(TEXTS, TEXTS, targets)


def fitted(
    encoder: Encoder, pairs: Pairs, rows: np.ndarray, held: np.ndarray, report: Report | None = None
) -> ridge.Fit:
    """The alignment map."""
    return ridge.closed_form(encoder, pairs, rows, held, report).alignment


def predict(found: ridge.Fit, states: torch.Tensor) -> np.ndarray:
    """What the fitted map makes of states."""
    embeddings: np.ndarray = ((states - found.center) / found.scale @ found.weight.T + found.bias).numpy()
    return embeddings


@readout
def test_it_is_ridge_regression(backbone: Get, monkeypatch: pytest.MonkeyPatch, readout: str) -> None:
    """On standardised states, whatever the size of the blocks."""
    monkeypatch.setattr(ridge, "_BLOCK", 7)
    monkeypatch.setattr(ridge, "PENALTIES", (0.3,))
    encoder, targets = made(backbone("qwen3"), readout=readout)
    rows = np.arange(16)
    seen: list[Event] = []
    found = fitted(encoder, of(targets), rows, NONE, seen.append)
    assert seen == [Read(7, 16), Read(14, 16), Read(16, 16)]
    states = ridge.features_of(encoder, TEXTS)
    assert states.shape == (20, 32 * {"mean": 1, "tokens": 3, "layers": 2}[readout])
    scaler = StandardScaler().fit(states[rows])
    model = Ridge(alpha=0.3 * len(rows)).fit(scaler.transform(states[rows]), targets[rows])
    np.testing.assert_allclose(predict(found, states), model.predict(scaler.transform(states)), atol=1e-4)
    assert np.isnan(found.cosine)


def test_many_layers_are_reduced(backbone: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many components as a layer has rows nothing is lost; with fewer, the map still fits, a little worse."""
    monkeypatch.setattr(ridge, "PENALTIES", (0.01,))
    encoder, targets = made(backbone("qwen3"), readout="layers")
    states, rows = ridge.features_of(encoder, TEXTS), np.arange(20)
    errors = []
    for most in (64, 63, 8):  # all; 31 a layer, more than the 19 that 20 rows span; 4 a layer
        monkeypatch.setattr(ridge, "MOST_FEATURES", most)
        found = fitted(encoder, of(targets), rows, NONE)
        assert found.weight.shape == (5, 64)
        errors.append(float(np.square(predict(found, states) - targets).mean()))
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)
    assert errors[0] < errors[2] < np.square(targets - targets.mean(0)).mean()


def test_numbers_that_are_none(backbone: Get, tmp_path: Path) -> None:
    """One NaN would go into every number of the maps."""
    encoder, targets = made(backbone("qwen3"))
    targets[7, 2] = np.nan
    with pytest.raises(InputError, match="the targets are not finite for 1 of 20 rows; make them again"):
        ridge.closed_form(encoder, of(targets), np.arange(len(TEXTS)), NONE)
    encoder.model.special_tokens.data[1] = torch.inf
    with pytest.raises(InputError, match="the states of .* are not finite for 20 of 20 rows; take --dtype"):
        ridge.closed_form(encoder, of(targets), np.arange(len(TEXTS)), NONE)


def test_held_out_rows_choose_the_penalty(backbone: Get) -> None:
    """The one whose map comes nearest to the held-out targets."""
    encoder, targets = made(backbone("qwen3"))
    rows, held = np.arange(16), np.arange(16, 20)
    found = fitted(encoder, of(targets), rows, held)
    states = ridge.features_of(encoder, TEXTS)[held]
    cosine = float(np.diag(Encoder.similarity(predict(found, states), targets[held])).mean())
    assert found.cosine == pytest.approx(cosine, abs=1e-5)
    assert set(found.path) == set(ridge.PENALTIES)
    for penalty in ridge.PENALTIES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ridge, "PENALTIES", (penalty,))
            other = fitted(encoder, of(targets), rows, held)
        assert other.cosine == pytest.approx(found.path[penalty], abs=1e-6)
        assert other.cosine <= found.cosine + 1e-6


@readout
def test_the_start_gives_the_fitted_embeddings(backbone: Get, readout: str) -> None:
    """Through all maps, as training then goes on from."""
    encoder, targets = made(backbone("gemma3_text"), readout=readout)
    found = ridge.closed_form(encoder, of(targets), np.arange(20), NONE)
    ridge.start_from(encoder.model, found)
    expected = predict(found.alignment, ridge.features_of(encoder, TEXTS))
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-4)


@readout
def test_a_fitted_checkpoint(backbone: Get, tmp_path: Path, readout: str) -> None:
    """With one map: it comes back with the same vectors, verifies, says what it is, and refuses to decode."""
    base = backbone("qwen3")
    _, targets = made(base)
    pairs = Pairs(TEXTS, TEXTS, targets, {"teacher": "t", "revision": None})
    config = FitConfig(compression=3, readout=readout, reconstruct="one", documents="checkpoint", held_out=4)
    encoder = fit(pairs, base, tmp_path / "c", config)
    again = Encoder.from_pretrained(tmp_path / "c", backbone=base)
    np.testing.assert_array_equal(encoder.encode(TEXTS), again.encode(TEXTS))
    ways = {verdict.way for verdict in verify(tmp_path / "c", device="cpu")}
    assert ("sentence-transformers" in ways) == (readout != "layers")
    card = (tmp_path / "c" / "README.md").read_text()
    assert "closed form" in card and "decode" not in card
    assert ("cannot express" in card) == (readout == "layers")
    with pytest.raises(InputError, match="foresay train"):
        again.decode(["x"])


def test_a_bundle_of_every_layer(backbone: Get, tmp_path: Path) -> None:
    """Plain sentence-transformers cannot open it, but it is self-contained."""
    base = backbone("llama")
    _, targets = made(base)
    config = FitConfig(compression=3, readout="layers", documents="checkpoint")
    encoder = fit(Pairs(TEXTS, TEXTS, targets), base, tmp_path / "c", config)
    bundle(tmp_path / "c", tmp_path / "b", device="cpu")
    (tmp_path / "b").rename(tmp_path / "moved")
    moved = Encoder.from_pretrained(tmp_path / "moved", device="cpu")
    np.testing.assert_allclose(moved.encode(TEXTS), encoder.encode(TEXTS), atol=1e-5)
    assert verify(tmp_path / "moved", device="cpu")
