"""The published format: against vectors made with the reference package, and against doctored files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from foresay.backbone import Backbone
from foresay.checkpoints.checkpoint import verify
from foresay.checkpoints.convert import convert
from foresay.encoder import Encoder
from foresay.errors import CheckpointError

from .conftest import SHARED

PEER = SHARED / "peer"
needs_peer = pytest.mark.skipif(not PEER.is_dir(), reason="the reference checkpoints are not part of the repository")


@needs_peer
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_published_checkpoints(version: str, tmp_path: Path) -> None:
    """Invariant 8: what the reference package gives for each text alone, to 1e-5, through a saved checkpoint."""
    convert(PEER / version, tmp_path / "c", device="cpu")
    encoder = Encoder.from_pretrained(tmp_path / "c", device="cpu", dtype="float32")
    texts = json.loads((PEER / version / "expected.json").read_text())["texts"]
    alone = load_file(Path(__file__).parent / "data" / "reference_alone.safetensors")
    np.testing.assert_allclose(encoder.encode(texts), alone[f"{version}.embedding"].numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.soft_prompts(texts), alone[f"{version}.soft_prompt"].numpy(), atol=1e-5)
    assert len(verify(tmp_path / "c", device="cpu", dtype="float32")) == 4


@needs_peer
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_published_expectations(version: str, tmp_path: Path) -> None:
    """The outputs that came with the checkpoints, reproduced to 1e-5 and decoded token for token.

    They were made in one batch padded on the right, of which the reference reads the last places: for all
    texts but the longest these are pads. So the pads are fed here as the reference feeds them; our own encoder
    agrees with the longest text, and gives every text what it gets alone (the test above).
    """
    encoder = convert(PEER / version, tmp_path / "c", device="cpu")
    expected = json.loads((PEER / version / "expected.json").read_text())
    vectors = load_file(PEER / version / "expected.safetensors")
    prompts = as_the_reference_pads(encoder, expected["texts"])
    embeddings = encoder.model.align(prompts).mean(1).detach()
    np.testing.assert_allclose(embeddings.numpy(), vectors["embedding"].numpy(), atol=1e-5)
    np.testing.assert_allclose(prompts.numpy(), vectors["soft_prompt"].numpy(), atol=1e-5)
    longest = max(range(len(expected["texts"])), key=lambda i: len(encoder.model.rows(expected["texts"], 512)[0][i]))
    ours = encoder.encode(expected["texts"])[longest]
    np.testing.assert_allclose(ours, vectors["embedding"][longest].numpy(), atol=1e-5)
    stops = encoder.model.backbone.stop_ids
    for ids, wanted in zip(encoder.model.generate(prompts, 16), expected["greedy_16"], strict=True):
        stopped = next((i + 1 for i, token in enumerate(wanted) if token in stops), len(wanted))
        assert ids.tolist()[:stopped] == wanted[:stopped]


@torch.no_grad()
def as_the_reference_pads(encoder: Encoder, texts: list[str]) -> torch.Tensor:
    """Soft prompts read from the last places of a batch padded on the right."""
    model, backbone = encoder.model, encoder.model.backbone
    rows, _ = model.rows(texts, 512)
    longest = max(map(len, rows))
    pads = [backbone.embedding(torch.full((longest - len(row),), backbone.pad_id)) for row in rows]
    inputs = [
        torch.cat([backbone.embedding(torch.tensor(row)), model.special_tokens, pad])
        for row, pad in zip(rows, pads, strict=True)
    ]
    mask = torch.tensor([[1] * (len(row) + model.tokens) + [0] * len(pad) for row, pad in zip(rows, pads, strict=True)])
    states = backbone.decoder(inputs_embeds=torch.stack(inputs), attention_mask=mask).last_hidden_state
    return model.soft_prompt(states[:, -model.compression :])


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A copy to doctor."""
    if not PEER.is_dir():
        pytest.skip("the reference checkpoints are not part of the repository")
    shutil.copytree(PEER / "base", tmp_path / "base")
    return Path(shutil.copytree(PEER / "v2", tmp_path / "v2"))


class _Evil:
    """What a hostile checkpoint would hold: unpickling it runs a command."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('ran')",)


def test_a_pickle_with_code_in_it_is_refused(published: Path, tmp_path: Path) -> None:
    """And does not run."""
    torch.save({"state_dict": _Evil(), "config": {}}, published / "alignment_mlp")
    with pytest.raises(CheckpointError, match="refused"):
        convert(published, tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "name", ["run_config.yml", "alignment_mlp", "reconstruction_mlp", "encoder/adapter_model.safetensors"]
)
def test_a_missing_file(published: Path, tmp_path: Path, name: str) -> None:
    """No head is ever left out in silence."""
    (published / name).unlink()
    with pytest.raises(CheckpointError, match=name.split("/")[-1]):
        convert(published, tmp_path / "c")


def test_the_wrong_backbone(published: Path, tmp_path: Path, folder: object) -> None:
    """Its width gives it away."""
    with pytest.raises(CheckpointError, match="width 128"):
        convert(published, tmp_path / "c", backbone=Backbone.load(str(folder("qwen3")), device="cpu"))  # type: ignore[operator]


def test_our_own_loader_points_to_convert(published: Path) -> None:
    """Whoever opens a published folder directly is told the command."""
    with pytest.raises(CheckpointError, match="foresay convert"):
        Encoder.from_pretrained(published)
