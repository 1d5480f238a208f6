"""Training: what moves and what does not, how a batch is cut, rates, and that it learns."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from foresay.backbone import Backbone
from foresay.config import FitConfig, TrainConfig
from foresay.data.pairs import Pairs
from foresay.encoder import Encoder
from foresay.errors import InputError
from foresay.model import Model
from foresay.training import step
from foresay.training.fit import fit
from foresay.training.metrics import Event, Metrics, Report, Step
from foresay.training.micro_batch import MicroBatch
from foresay.training.step import gradient, losses_of
from foresay.training.train import schedule, train

from .making import QUERIES, RESPONSES, pairs, small

Get = Callable[[str], Backbone]


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
    """Invariant 5: one pass for all, or a row at a time, gives the same metrics and gradient."""
    model = Model(backbone(family), thought=1, compression=3, dim=8)
    base = model.backbone
    rows, _ = model.rows(QUERIES[:12], 64)
    answers = [[*ids, base.end_id] for ids in base.tokenize(RESPONSES[:12])]
    targets = torch.from_numpy(pairs().targets[:12])
    seen: list[tuple[Metrics, list[Tensor]]] = []
    for limit in (1, 150, 100_000):
        model.zero_grad()
        config = TrainConfig(micro_batch_tokens=limit)
        metrics = gradient(model, rows, answers, targets, config)
        seen.append((metrics, [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]))
    for metrics, gradients in seen[1:]:
        assert metrics == pytest.approx(seen[0][0], rel=1e-5)
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
    config = TrainConfig(alignment="mse", alignment_weight=0.5, reconstruction_weight=2.0)
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
    """`losses_of` and `gradient` agree on any rows."""
    model = Model(backbone("qwen3"), thought=1, compression=3, dim=8)
    base = model.backbone
    rows, _ = model.rows(QUERIES[:9], 64)
    answers = [[*ids, base.end_id] for ids in base.tokenize(RESPONSES[:9])]
    targets = torch.from_numpy(pairs().targets[:9])
    config = TrainConfig(alignment_weight=0.5, reconstruction_weight=2.0, micro_batch_tokens=200)
    metrics = gradient(model, rows, answers, targets, config)
    assert losses_of(model, rows, answers, targets, config) == pytest.approx(metrics, rel=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        *({"learning_rate": value} for value in (0.0, -0.01, float("nan"), float("inf"))),
        *({name: -1} for name in ("seed", "weight_decay", "clip_norm", "token_learning_rate")),
        *({"max_response_tokens": value} for value in (0, -3)),
        {"clip_norm": float("nan")},
        {"dims": 8},
    ],
)
def test_numbers_out_of_range(bad: dict[str, Any]) -> None:
    """Each is refused by its name."""
    with pytest.raises(InputError, match=f"{next(iter(bad))} is"):
        small(**bad)
    assert small(dims=[4]).dims == (4,)


def test_empty_responses_are_no_crash(backbone: Get, tmp_path: Path) -> None:
    """A checkpoint of answers without a word is of little use, and is made."""
    made, config = pairs(), FitConfig(compression=3, documents="checkpoint")
    fit(replace(made, responses=[""] * len(made.queries)), backbone("qwen3"), tmp_path / "c", config)


def test_a_learning_rate_that_is_far_too_large_is_said(
    backbone: Get, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All weights are gone, every embedding is the same: no vector of its own for any query."""
    config = small(steps=2, held_out=2, evaluate_every=1)
    train(pairs(), backbone("qwen3"), tmp_path / "good", config)
    assert "nothing was learnt" not in caplog.text
    train(pairs(), backbone("qwen3"), tmp_path / "bad", replace(config, learning_rate=1e6))
    assert "nothing was learnt" in caplog.text and "another learning rate than 1e+06" in caplog.text


def test_it_overfits_eight_pairs(tmp_path: Path) -> None:
    """Invariant 9, on the packaged backbone: the losses fall, and decode returns the responses."""
    base = Backbone.load("nano", device="cpu", dtype="float32")
    queries = ["a b", "c d", "e f", "g h", "i j", "k l", "m n", "o p"]
    words = ["cat", "dog", "sun", "moon", "tree", "fish", "king", "bread"]
    responses = [f"The {word} is here." for word in words]
    targets = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    config = small(
        start="random", steps=50, learning_rate=1e-2, warmup_steps=10, compression=4, micro_batch_tokens=8192
    )
    seen: list[Step] = []
    encoder = train(
        Pairs(queries, responses, targets),
        base,
        tmp_path / "run",
        config,
        lambda event: seen.append(event) if isinstance(event, Step) else None,
    )
    first, last = seen[0].metrics, seen[-1].metrics
    assert last["alignment"] < 0.05 * first["alignment"]
    assert last["reconstruction"] < 0.1 * first["reconstruction"]
    assert encoder.decode(queries, max_new_tokens=16) == responses
    assert (Encoder.similarity(encoder.encode(queries), targets).argmax(axis=1) == np.arange(8)).all()


def test_schedule() -> None:
    """A linear rise, a straight fall to zero; the published run stops with three quarters of the rate left."""
    config = TrainConfig(steps=10, warmup_steps=2)
    rates = [schedule(config).share(step) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-1] == pytest.approx(1 / 8)
    published = TrainConfig(steps=5000, warmup_steps=100, decay_steps=20_000)
    assert schedule(published).share(4999) == pytest.approx(0.754, abs=1e-3)


def test_rows_that_do_not_belong_together() -> None:
    """Said before anything runs."""
    with pytest.raises(InputError, match="2 queries, 1 responses"):
        Pairs(["a", "b"], ["a"], np.zeros((2, 4), np.float32))


@pytest.mark.parametrize("where", ["hidden", "hidden_split", "reconstruction_loss"])
def test_out_of_memory_halves_the_passes(
    backbone: Get, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """The step is done again with the same result, wherever memory ran out; said once."""
    model = Model(backbone("qwen3"), thought=1, compression=3, dim=8)
    rows, _ = model.rows(QUERIES[:8], 64)
    answers = model.backbone.tokenize(RESPONSES[:8])
    targets = torch.from_numpy(pairs().targets[:8])
    config = TrainConfig(contrast_weight=1.0, micro_batch_tokens=128)
    expected = gradient(model, rows, answers, targets, config)
    wanted = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    owner = step if where == "reconstruction_loss" else Model
    plain, calls = getattr(owner, where), iter(range(100))

    def full_once(*arguments: Any) -> Tensor:  # noqa: ANN401
        if next(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        result: Tensor = plain(*arguments)
        return result

    monkeypatch.setattr(owner, where, full_once)
    limit = MicroBatch(config.micro_batch_tokens)
    metrics = gradient(model, rows, answers, targets, config, limit)
    assert limit.tokens == 64
    assert [record.message for record in caplog.records if "out of memory: from here on 64" in record.message]
    assert len(caplog.records) == 1
    assert metrics == pytest.approx(expected, rel=1e-5)
    for weight, before in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(weight.grad, before, atol=1e-5 * float(before.abs().max()), rtol=1e-4)


def test_a_row_that_does_not_fit_alone() -> None:
    """There is nothing left to halve."""

    def never(tokens: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        MicroBatch(8).run(never)


def test_a_gradient_that_is_not_finite(backbone: Get, tmp_path: Path) -> None:
    """The run ends before the weights are lost, and what it has saved is whole: here two steps of four."""
    made = pairs()
    train(made, backbone("qwen3"), tmp_path / "whole", small(steps=2, evaluate_every=2, start="random", held_out=0))
    before = load_file(tmp_path / "whole" / "foresay.safetensors")
    spoilt = np.array(made.targets)
    seen: list[Event] = []

    def spoil(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Step) and event.step == 2:
            spoilt[:] = np.nan

    config = small(steps=4, evaluate_every=2, start="random", held_out=0, warmup_steps=0)
    with pytest.raises(InputError, match="the gradient norm is nan, .* saved so far are whole"):
        train(
            Pairs(made.queries, made.responses, spoilt, made.origin), backbone("qwen3"), tmp_path / "run", config, spoil
        )
    assert len(seen) == 2
    (state,) = (tmp_path / "run" / "training").glob("step-*")
    assert state.name == "step-000002"
    saved = [load_file(path) for path in state.glob("*.safetensors")]
    assert before.keys() <= {name for tensors in saved for name in tensors}
    assert all(torch.isfinite(tensor).all() for tensors in saved for tensor in tensors.values())


def test_rates(backbone: Get, tmp_path: Path) -> None:
    """Adam's first step has the size of the rate: tokens may have their own, a map of three parts takes a third."""
    config = small(
        steps=1,
        warmup_steps=0,
        start="random",
        learning_rate=1e-3,
        token_learning_rate=1e-2,
        reconstruct="one",
        alignment="mse",
    )
    start = Model(backbone("qwen3"), thought=0, compression=3, dim=8, readout="tokens")
    encoder = train(pairs(), backbone("qwen3"), tmp_path / "run", config)
    moved = (encoder.model.special_tokens - start.special_tokens).abs().max()
    assert float(moved.detach()) == pytest.approx(1e-2, rel=1e-3)
    for name, rate in (("reconstruct.weight", 1e-3), ("align.weight", 1e-3 / 3)):
        moved = (encoder.model.get_parameter(name) - start.get_parameter(name)).abs().max()
        assert float(moved.detach()) == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_alignment_loss_has_no_scale(backbone: Get, tmp_path: Path, scale: float) -> None:
    """A teacher of unit length or of any other: the same share of the variance, the same best step."""
    whole = pairs()
    scaled = Pairs(whole.queries, whole.responses, whole.targets * np.float32(scale), whole.origin)
    seen: list[Step] = []
    config = small(steps=2, held_out=2, learning_rate=1e-9, alignment="relative")
    report: Report = lambda event: seen.append(event) if isinstance(event, Step) else None  # noqa: E731
    encoder = train(scaled, backbone("qwen3"), tmp_path / "run", config, report)
    rows, held = scaled.split(config)
    embeddings = encoder.encode([scaled.queries[i] for i in held], on_cut="ignore")
    missed = np.square(embeddings - scaled.targets[held]).mean() / scaled.targets[rows].var(axis=0).mean()
    assert seen[-1].metrics["held_out_alignment"] == pytest.approx(float(missed), rel=1e-3)
    loss = seen[-1].metrics["held_out_alignment"] + seen[-1].metrics["held_out_reconstruction"]
    assert seen[-1].metrics["held_out_loss"] == pytest.approx(loss, rel=1e-5)


def test_a_schedule_that_never_arrives() -> None:
    """A warm-up longer than the run, a decay that ends before it; the default fits any run."""
    with pytest.raises(InputError, match="warmup_steps is 100 and steps is 12.*never reach its peak"):
        TrainConfig(steps=12, warmup_steps=100)
    with pytest.raises(InputError, match="decay_steps is 5 and steps is 12.*the last steps would change nothing"):
        TrainConfig(steps=12, decay_steps=5)
    assert [TrainConfig(steps=steps).warmup for steps in (1, 12, 5000)] == [0, 1, 100]
    assert max(schedule(TrainConfig(steps=12)).share(step) for step in range(12)) == 1.0


def test_pairs_that_are_all_alike_are_said(backbone: Get, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Refusals in most rows and one target for them: with numbers, before the first step, by fit and train."""
    whole = pairs()
    targets = whole.targets.copy()
    targets[:20] = targets[0]
    refusals = ["I'm sorry, but I can't help with that."] * 20 + list(whole.responses[20:])
    alike = Pairs(whole.queries, refusals, targets, whole.origin, "r.jsonl")
    fit(alike, backbone("qwen3"), tmp_path / "f", FitConfig(compression=3, documents="checkpoint"))
    train(alike, backbone("qwen3"), tmp_path / "t", small(steps=2))
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len([line for line in said if "20 of 24 responses" in line or "and 20 refuse" in line]) == 2
    assert len([line for line in said if "of 24 targets" in line]) == 2
    caplog.clear()
    train(pairs(), backbone("qwen3"), tmp_path / "g", small(steps=2))
    assert not [record for record in caplog.records if "targets" in record.message]


@pytest.mark.parametrize("alignment", ["relative", "cosine"])
def test_training_does_not_depend_on_the_teachers_scale(backbone: Get, tmp_path: Path, alignment: str) -> None:
    """Targets a thousandth as long: the same losses step by step, and the same embeddings, a thousandth as long."""
    whole = pairs()
    config = small(steps=6, held_out=2, learning_rate=1e-2, clip_norm=0.0, alignment=alignment, select="loss")
    runs: list[tuple[list[float], np.ndarray]] = []
    for scale in (1.0, 1e-3):
        losses: list[float] = []

        def note(event: Event, losses: list[float] = losses) -> None:
            if isinstance(event, Step):
                losses.append(event.metrics["loss"])

        scaled = Pairs(whole.queries, whole.responses, whole.targets * np.float32(scale), whole.origin)
        encoder = train(scaled, backbone("qwen3"), tmp_path / f"{scale}", config, note)
        runs.append((losses, encoder.encode(QUERIES) / np.float32(scale)))
    assert runs[1][0] == pytest.approx(runs[0][0], rel=1e-3)
    np.testing.assert_allclose(runs[1][1], runs[0][1], atol=1e-2 * float(np.abs(runs[0][1]).max()))
