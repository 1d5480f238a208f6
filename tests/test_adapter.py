"""The paper's ablation: an adapter that reads, and a frozen backbone that neither changes nor writes through it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from foresay.backbone import Backbone
from foresay.checkpoints.bundle import bundle
from foresay.checkpoints.verify import verify
from foresay.encoder import Encoder
from foresay.errors import BackboneError
from foresay.model import Model
from foresay.reconstruction import reconstruction_loss
from foresay.training.metrics import Event, Step
from foresay.training.step import gradient, losses_of
from foresay.training.train import train

from .conftest import SENTENCES
from .making import QUERIES, RESPONSES, pairs, small

Get = Callable[[str], Backbone]


def adapted(backbone: Backbone) -> Model:
    """A model whose adapter has been moved off its start, at which it does nothing."""
    model = Model(backbone, thought=1, compression=3, dim=8, lora_rank=2)
    assert model.adapter is not None
    torch.manual_seed(0)
    for weight in model.adapter.weights.values():
        nn.init.normal_(weight, std=0.1)
    return model


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "gpt_neox"])
def test_it_starts_as_no_change_and_only_reads(backbone: Get, family: str) -> None:
    """At first the same states; later others, from a backbone that is bit for bit the same and decodes without it."""
    base = backbone(family)
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    plain = Model(base, thought=1, compression=3, dim=8)
    rows, _ = plain.rows(SENTENCES, 64)
    answers = base.tokenize(SENTENCES)
    with torch.no_grad():
        prompts = plain.soft_prompt(plain.hidden(rows))
        bare = reconstruction_loss(base, prompts, answers)
    fresh, moved = Model(base, thought=1, compression=3, dim=8, lora_rank=2), adapted(base)
    with torch.no_grad():
        torch.testing.assert_close(fresh.hidden(rows), plain.hidden(rows))
        assert (moved.hidden(rows) - plain.hidden(rows)).abs().max() > 1e-2
        assert torch.equal(reconstruction_loss(base, prompts, answers), bare)
    assert before.keys() == base.model.state_dict().keys()
    assert all(torch.equal(weight, before[name]) for name, weight in base.model.state_dict().items())


def test_its_gradient_is_the_plain_one(backbone: Get) -> None:
    """However the batch is cut; the text's own tokens have a part in it."""
    model = adapted(backbone("qwen3"))
    rows, _ = model.rows(QUERIES[:6], 64)
    answers = model.backbone.tokenize(RESPONSES[:6])
    targets = torch.from_numpy(pairs().targets[:6])
    prompts, embeddings = model.outputs(model.hidden(rows))
    loss = (embeddings - targets).square().mean()
    loss = loss + reconstruction_loss(model.backbone, prompts, answers) / sum(map(len, answers))
    plain = torch.autograd.grad(loss, list(model.parameters()))
    assert len(plain) > 5 + 10
    for limit in (1, 10_000):
        config = small(alignment="mse", micro_batch_tokens=limit)
        metrics = gradient(model, rows, answers, targets, config)
        assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
        assert losses_of(model, rows, answers, targets, config) == pytest.approx(metrics, rel=1e-5)
        for weight, wanted in zip(model.parameters(), plain, strict=True):
            torch.testing.assert_close(weight.grad, wanted, atol=2e-5 * float(wanted.abs().max()), rtol=1e-4)


def test_trained_saved_resumed_and_loaded(backbone: Get, tmp_path: Path) -> None:
    """The checkpoint says so and holds the adapter, never the backbone; a run in two parts is the whole one."""
    config = small(steps=4, held_out=2, lora_rank=2)
    encoder = train(pairs(), backbone("qwen3"), tmp_path / "run", config)

    class Killed(Exception):
        pass

    def kill(event: Event) -> None:
        if isinstance(event, Step) and event.step == 3:
            raise Killed

    with pytest.raises(Killed):
        train(pairs(), backbone("qwen3"), tmp_path / "killed", config, kill)
    resumed = train(pairs(), backbone("qwen3"), tmp_path / "killed", config)
    for name, weight in encoder.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name

    described = json.loads((tmp_path / "run" / "foresay.json").read_text())
    assert described["lora_rank"] == 2
    stored = load_file(tmp_path / "run" / "foresay.safetensors")
    moved = [weight for name, weight in stored.items() if name.startswith("adapter.") and "lora_B" in name]
    assert moved and all(weight.abs().max() > 0 for weight in moved)
    assert not (tmp_path / "run" / "modules.json").exists()
    assert "through a LoRA adapter" in (tmp_path / "run" / "README.md").read_text()
    sizes = [path.stat().st_size for path in (tmp_path / "run").glob("*.safetensors")]
    assert sum(sizes) < sum(weight.numel() * 4 for weight in backbone("qwen3").model.parameters())

    loaded = Encoder.from_pretrained(tmp_path / "run", device="cpu")
    assert (loaded.encode(SENTENCES) == encoder.encode(SENTENCES)).all()
    assert all(verdict.agrees for verdict in verify(tmp_path / "run", device="cpu"))
    bundle(tmp_path / "run", tmp_path / "bundle", device="cpu")
    assert all(verdict.agrees for verdict in verify(tmp_path / "bundle", device="cpu"))


def test_not_on_few_bits(backbone: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """Untried, so refused."""
    monkeypatch.setattr(Backbone, "dtype_name", "4bit")
    with pytest.raises(BackboneError, match="--lora-rank"):
        Model(backbone("qwen3"), thought=0, compression=3, dim=8, lora_rank=2)
