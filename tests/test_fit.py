"""The closed form, against scikit-learn's ridge regression."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from foresay import fit as closed_form
from foresay.backbone import Backbone
from foresay.encoder import Encoder
from foresay.model import Model

Get = Callable[[str], Backbone]
TEXTS = [f"{word} {number} {other}" for number in range(10) for word, other in (("fox", "fever"), ("Chad", "rash"))]


def made(backbone: Backbone) -> tuple[Encoder, np.ndarray]:
    """An encoder and targets for TEXTS."""
    targets = np.random.default_rng(0).normal(size=(len(TEXTS), 5)).astype(np.float32)
    return Encoder(Model(backbone, thought=1, compression=3, dim=5)), targets


def test_it_is_ridge_regression(backbone: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """On standardised states, whatever the size of the blocks."""
    monkeypatch.setattr(closed_form, "_BLOCK", 7)
    monkeypatch.setattr(closed_form, "PENALTIES", (0.3,))
    encoder, targets = made(backbone("qwen3"))
    rows = np.arange(16)
    seen: list[int] = []
    found = closed_form.fit(encoder, TEXTS, targets, rows, np.array([], int), seen.append)
    assert seen == [7, 14, 16]
    states = closed_form.mean_states(encoder, TEXTS)
    scaler = StandardScaler().fit(states[rows])
    ridge = Ridge(alpha=0.3 * len(rows)).fit(scaler.transform(states[rows]), targets[rows])
    expected = ridge.predict(scaler.transform(states))
    np.testing.assert_allclose(states @ found.weight.numpy().T + found.bias.numpy(), expected, atol=1e-4)
    assert np.isnan(found.cosine)


def test_held_out_rows_choose_the_penalty(backbone: Get) -> None:
    """The one whose map comes nearest to the held-out targets."""
    encoder, targets = made(backbone("qwen3"))
    rows, held = np.arange(16), np.arange(16, 20)
    found = closed_form.fit(encoder, TEXTS, targets, rows, held)
    states = closed_form.mean_states(encoder, TEXTS)[held]

    def cosine(weight: torch.Tensor, bias: torch.Tensor) -> float:
        return float(np.diag(Encoder.similarity(states @ weight.numpy().T + bias.numpy(), targets[held])).mean())

    assert found.cosine == pytest.approx(cosine(found.weight, found.bias), abs=1e-5)
    for penalty in closed_form.PENALTIES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(closed_form, "PENALTIES", (penalty,))
            other = closed_form.fit(encoder, TEXTS, targets, rows, held)
        assert other.cosine <= found.cosine + 1e-6


def test_the_start_gives_the_fitted_embeddings(backbone: Get) -> None:
    """Through both maps, as training then goes on from."""
    encoder, targets = made(backbone("gemma3_text"))
    found = closed_form.fit(encoder, TEXTS, targets, np.arange(20), np.array([], int))
    closed_form.start_from(encoder.model, found)
    expected = closed_form.mean_states(encoder, TEXTS) @ found.weight.numpy().T + found.bias.numpy()
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-4)
