"""Training: what moves and what does not, how a batch is cut, stopping and going on, and that it learns."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foresay.backbone import Backbone
from foresay.config import TrainConfig
from foresay.encoder import Encoder
from foresay.errors import InputError
from foresay.model import Model
from foresay.pairs import Pairs
from foresay.step import Figures, gradient, loss_of
from foresay.stop import Stopped
from foresay.train import learning_rate, row_order, train

from .conftest import SENTENCES

Get = Callable[[str], Backbone]
QUERIES = [f"{sentence} ({i})" for i in range(4) for sentence in SENTENCES]
RESPONSES = [f"{sentence} is the answer to {i}." for i in range(4) for sentence in reversed(SENTENCES)]


def small(**changes: Any) -> TrainConfig:  # noqa: ANN401
    """Options for seconds."""
    few = {"compression": 3, "batch_size": 8, "warmup_steps": 2, "evaluate_every": 2, "micro_batch_tokens": 400}
    return TrainConfig(**{**few, **changes})


def pairs(dim: int = 8) -> Pairs:
    """24 rows with random targets."""
    targets = np.random.default_rng(0).normal(size=(len(QUERIES), dim)).astype(np.float32)
    return Pairs(QUERIES, RESPONSES, targets, {"responses": "made up"})


def test_backbone_stays_and_trained_weights_move(backbone: Get, tmp_path: Path) -> None:
    """Invariant 4."""
    base = backbone("qwen3")
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    start = Model(base, thought=1, compression=3, dim=8)
    encoder = train(pairs(), base, tmp_path / "run", small(thought=1, steps=3))
    assert all(torch.equal(weight, before[name]) for name, weight in base.model.state_dict().items())
    for name, weight in encoder.model.named_parameters():
        assert not torch.equal(weight, start.get_parameter(name)), name


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "gpt_neox"])
def test_loss_does_not_depend_on_the_cut(backbone: Get, family: str) -> None:
    """Invariant 5: one pass for all, or a row at a time, gives the same figures and gradient."""
    model = Model(backbone(family), thought=1, compression=3, dim=8)
    base = model.backbone
    rows, _ = model.rows(QUERIES[:12], 64)
    answers = [[*ids, base.end_id] for ids in base.tokenize(RESPONSES[:12])]
    targets = torch.from_numpy(pairs().targets[:12])
    seen: list[tuple[Figures, list[Tensor]]] = []
    for limit in (1, 150, 100_000):
        model.zero_grad()
        config = TrainConfig(micro_batch_tokens=limit)
        figures = gradient(model, rows, answers, targets, config)
        seen.append((figures, [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]))
    for figures, gradients in seen[1:]:
        assert figures == pytest.approx(seen[0][0], rel=1e-5)
        for one, other in zip(gradients, seen[0][1], strict=True):
            scale = other.abs().max()
            torch.testing.assert_close(one / scale, other / scale, atol=2e-5, rtol=1e-5)


def test_gradient_is_the_plain_one(backbone: Get) -> None:
    """The two-stage backward equals autograd through the losses as the paper writes them."""
    model = Model(backbone("qwen3"), thought=1, compression=3, dim=8)
    base = model.backbone
    rows, _ = model.rows(QUERIES[:6], 64)
    answers = [[*ids, base.end_id] for ids in base.tokenize(RESPONSES[:6])]
    targets = torch.from_numpy(pairs().targets[:6])
    config = TrainConfig(alignment_weight=0.5, reconstruction_weight=2.0)
    gradient(model, rows, answers, targets, config)
    ours = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    prompt, embedding = model.outputs(model.hidden(rows))
    alignment = torch.nn.functional.mse_loss(embedding, targets)
    nats, tokens = torch.zeros(()), 0
    for soft, ids in zip(prompt, answers, strict=True):
        inputs = torch.cat([soft, base.embedding(torch.tensor(ids))])[None]
        labels = torch.tensor([[-100] * len(soft) + ids])
        nats = nats + base.model(inputs_embeds=inputs, labels=labels).loss * len(ids)
        tokens += len(ids)
    plain = torch.autograd.grad(0.5 * alignment + 2.0 * nats / tokens, list(model.parameters()))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_held_out_loss_is_the_training_loss_of_other_rows(backbone: Get) -> None:
    """`loss_of` and `gradient` agree on any rows."""
    model = Model(backbone("qwen3"), thought=1, compression=3, dim=8)
    base = model.backbone
    rows, _ = model.rows(QUERIES[:9], 64)
    answers = [[*ids, base.end_id] for ids in base.tokenize(RESPONSES[:9])]
    targets = torch.from_numpy(pairs().targets[:9])
    config = TrainConfig(alignment_weight=0.5, reconstruction_weight=2.0, micro_batch_tokens=200)
    figures = gradient(model, rows, answers, targets, config)
    assert loss_of(model, rows, answers, targets, config) == pytest.approx(figures["loss"], rel=1e-5)


def test_the_best_step_is_the_result(backbone: Get, tmp_path: Path) -> None:
    """A run that gets worse gives the step before it did."""
    config = small(steps=6, held_out=2, evaluate_every=1, learning_rate=3.0)
    encoder = train(pairs(), backbone("qwen3"), tmp_path / "run", config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "training" / "metrics.jsonl").read_text().splitlines()]
    best = min(lines, key=lambda row: row["held_out_loss"])["step"]
    assert best < 6
    kept = Encoder.from_pretrained(tmp_path / "run" / "training" / f"step-{best:06d}", backbone=backbone("qwen3"))
    assert torch.equal(kept.model.special_tokens, encoder.model.special_tokens)
    assert json.loads((tmp_path / "run" / "foresay.json").read_text())["training"]["step"] == best


def test_four_steps_are_two_a_kill_and_two_more(backbone: Get, tmp_path: Path) -> None:
    """Invariant 6, bit for bit: weights, optimiser, figures, best step."""
    config = small(steps=4, held_out=2)
    whole = train(pairs(), backbone("qwen3"), tmp_path / "whole", config)

    class Killed(Exception):
        pass

    def kill(step: int, figures: Figures) -> None:
        if step == 3:  # one step behind the last save: it has to be done again
            raise Killed

    with pytest.raises(Killed):
        train(pairs(), backbone("qwen3"), tmp_path / "killed", config, kill)
    steps: list[int] = []
    resumed = train(
        pairs(), backbone("qwen3"), tmp_path / "killed", config, lambda step, _: steps.append(step) if step else None
    )
    assert steps == [3, 4]
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    logs = []
    for run in ("whole", "killed"):
        lines = (tmp_path / run / "training" / "metrics.jsonl").read_text().splitlines()
        logs.append([{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines])
    assert logs[0] == logs[1]
    assert [row["step"] for row in logs[0]] == [1, 2, 3, 4]


def test_a_finished_run_is_not_done_again(backbone: Get, tmp_path: Path) -> None:
    """The same command once more: no step, the same checkpoint."""
    config = small(steps=2)
    first = train(pairs(), backbone("qwen3"), tmp_path / "run", config)
    again = train(pairs(), backbone("qwen3"), tmp_path / "run", config, lambda *_: pytest.fail("a step ran"))
    assert torch.equal(first.model.special_tokens, again.model.special_tokens)


def test_another_run_in_the_same_folder_is_refused(backbone: Get, tmp_path: Path) -> None:
    """Other options never go on from a foreign state; the message names them."""
    train(pairs(), backbone("qwen3"), tmp_path / "run", small(steps=2))
    with pytest.raises(InputError, match=r"config\.learning_rate"):
        train(pairs(), backbone("qwen3"), tmp_path / "run", small(steps=2, learning_rate=1e-2))
    with pytest.raises(InputError, match="another backbone"):
        train(pairs(), backbone("qwen2"), tmp_path / "run", small(steps=2))


def test_sigterm_saves_and_goes_on(backbone: Get, tmp_path: Path) -> None:
    """A polite kill loses no step."""

    def terminate(step: int, figures: Figures) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    config = small(steps=6, evaluate_every=100)
    with pytest.raises(Stopped, match="step 2"):
        train(pairs(), backbone("qwen3"), tmp_path / "run", config, terminate)
    steps: list[int] = []
    train(pairs(), backbone("qwen3"), tmp_path / "run", config, lambda step, _: steps.append(step) if step else None)
    assert steps == [3, 4, 5, 6]


def test_it_overfits_eight_pairs(tmp_path: Path) -> None:
    """Invariant 9, on the packaged backbone: the losses fall, and decode returns the responses."""
    base = Backbone.load("nano", device="cpu", dtype="float32")
    queries = ["a b", "c d", "e f", "g h", "i j", "k l", "m n", "o p"]
    words = ["cat", "dog", "sun", "moon", "tree", "fish", "king", "bread"]
    responses = [f"The {word} is here." for word in words]
    targets = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    config = TrainConfig(start="random", steps=50, batch_size=8, learning_rate=1e-2, warmup_steps=10, compression=4)
    seen: list[Figures] = []
    encoder = train(
        Pairs(queries, responses, targets),
        base,
        tmp_path / "run",
        config,
        lambda step, f: seen.append(f) if step else None,
    )
    assert seen[-1]["alignment"] < 0.05 * seen[0]["alignment"]
    assert seen[-1]["reconstruction"] < 0.1 * seen[0]["reconstruction"]
    assert encoder.decode(queries, max_new_tokens=16) == responses
    assert (Encoder.similarity(encoder.encode(queries), targets).argmax(axis=1) == np.arange(8)).all()


def test_schedule() -> None:
    """A linear rise, a straight fall to zero; the published run stops with three quarters of the rate left."""
    config = TrainConfig(steps=10, warmup_steps=2, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-1] == pytest.approx(1 / 8)
    published = TrainConfig(steps=5000, warmup_steps=100, decay_steps=20_000, learning_rate=1.0)
    assert learning_rate(4999, published) == pytest.approx(0.754, abs=1e-3)


def test_row_order_is_a_shuffle_a_pass() -> None:
    """Each pass holds every row once, in another order."""
    order = row_order(3, 5)
    first, second = ([next(order) for _ in range(5)] for _ in range(2))
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4]
    assert first != second


def test_rows_that_do_not_belong_together() -> None:
    """Said before anything runs."""
    with pytest.raises(InputError, match="2 queries, 1 responses"):
        Pairs(["a", "b"], ["a"], np.zeros((2, 4), np.float32))
