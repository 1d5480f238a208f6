"""The losses, against what one can compute by eye; and that no cut of a batch changes them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foresay.backbone import Backbone
from foresay.config import TrainConfig
from foresay.errors import InputError
from foresay.model import Model
from foresay.reconstruction import reconstruction_loss
from foresay.training.losses import alignment_loss, contrast_loss
from foresay.training.metrics import Metrics
from foresay.training.step import gradient, losses_of

from .conftest import SENTENCES


def test_alignment() -> None:
    """Squared error or one minus cosine, summed over rows; the mean over the lengths an embedding may have."""
    embedding, target = torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0]]), torch.tensor([[0.0, 1, 0, 0], [0, 1.0, 0, 0]])
    assert alignment_loss(embedding, target, TrainConfig(alignment="mse")) == pytest.approx((2 + 1) / 4)
    assert alignment_loss(embedding, target, TrainConfig()) == pytest.approx(1.0)
    shorter = TrainConfig(dims=(2,), alignment="mse")
    assert alignment_loss(embedding, target, shorter) == pytest.approx(((2 + 1) / 4 + (2 + 1) / 2) / 2)


def test_contrast() -> None:
    """The own target against the others, and a target that two rows share is nobody's negative."""
    target = torch.eye(3)
    config = TrainConfig(contrast_temperature=0.5)
    e2 = float(np.exp(2))
    assert contrast_loss(target, target, config) == pytest.approx(-np.log(e2 / (e2 + 2)))
    shared = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    expected = (2 * -np.log(e2 / (e2 + 1)) - np.log(e2 / (e2 + 2))) / 3
    assert contrast_loss(shared, shared, config) == pytest.approx(expected)


@pytest.mark.parametrize(
    "options",
    [
        {"contrast_weight": 0.7, "contrast_temperature": 0.2},
        {"alignment": "cosine", "contrast_weight": 0.3, "dims": (2, 4)},
        {"reconstruction_weight": 0.0, "contrast_weight": 0.3},
    ],
)
def test_no_cut_changes_the_gradient(backbone: Callable[[str], Backbone], options: dict[str, Any]) -> None:
    """Invariant 5 for every loss: a row at a time, or all at once, or plain autograd through one pass."""
    model = Model(backbone("qwen3"), thought=1, compression=3, dim=8)
    rows, _ = model.rows(SENTENCES, 64)
    answers = model.backbone.tokenize(SENTENCES[::-1])
    targets = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32))
    seen: list[tuple[Metrics, list[Tensor]]] = []
    for limit in (1, 60, 10_000):
        config = TrainConfig(micro_batch_tokens=limit, **options)
        metrics = gradient(model, rows, answers, targets, config)
        seen.append((metrics, [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]))
        assert losses_of(model, rows, answers, targets, config) == pytest.approx(metrics, rel=1e-5)
        assert ("reconstruction" in metrics) == (config.reconstruction_weight > 0)

    prompts, embeddings = model.outputs(model.hidden(rows))
    loss = config.alignment_weight * alignment_loss(embeddings, targets, config) / 6
    loss = loss + config.contrast_weight * contrast_loss(embeddings, targets, config)
    if config.reconstruction_weight:
        loss = loss + reconstruction_loss(model.backbone, prompts, answers) / sum(map(len, answers))
    plain = torch.autograd.grad(loss, list(model.parameters()))
    for metrics, gradients in seen:
        assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
        for one, other in zip(gradients, plain, strict=True):
            torch.testing.assert_close(one, other, atol=2e-5 * float(other.abs().max()), rtol=1e-4)


def test_without_reconstruction_its_pass_does_not_run(
    backbone: Callable[[str], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight of 0 costs nothing."""
    model = Model(backbone("qwen3"), thought=0, compression=3, dim=8)
    monkeypatch.setattr("foresay.training.step.reconstruction_loss", lambda *_: pytest.fail("it ran"))
    rows, _ = model.rows(SENTENCES, 64)
    config = TrainConfig(reconstruction_weight=0.0)
    for compute in (gradient, losses_of):
        assert set(compute(model, rows, [[1]] * 6, torch.zeros(6, 8), config)) == {"loss", "alignment"}


def test_options_out_of_range() -> None:
    """Said before anything runs."""
    for wrong in (
        {"contrast_temperature": 0.0},
        {"contrast_weight": -1.0},
        {"patience": 2, "held_out": 0},
        {"keep": 0},
    ):
        with pytest.raises(InputError, match=next(iter(wrong))):
            TrainConfig(**wrong)
