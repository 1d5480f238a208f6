"""The published format: against vectors made with the reference package, and against doctored files."""

import json
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from foresay.backbone import Backbone
from foresay.checkpoints.convert import convert
from foresay.checkpoints.verify import verify
from foresay.encoder import Encoder
from foresay.errors import CheckpointError
from foresay.reconstruction import generate

from .conftest import SHARED, make_folder

Get = Callable[[str], Path]

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
    for ids, wanted in zip(generate(encoder.model.backbone, prompts, 16), expected["greedy_16"], strict=True):
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


WIDTH, DIM = 32, 24


def publish(folder: Path, base: Path, *, thought: int) -> dict[str, torch.Tensor]:
    """Writes a checkpoint in the published format on a tiny random model; returns its weights.

    Names, shapes and files are those that the reference package (0.1.3) writes; `base` is named relatively.
    """
    torch.manual_seed(7)
    first, count = 451, thought + 10
    weights = {
        "tokens": torch.randn(count, WIDTH),
        "reconstruct.weight": torch.randn(WIDTH, WIDTH) / WIDTH**0.5,
        "reconstruct.bias": torch.randn(WIDTH),
        "align.weight": torch.randn(DIM, WIDTH) / WIDTH**0.5,
        "align.bias": torch.randn(DIM),
    }
    (folder / "encoder").mkdir(parents=True)
    shutil.copytree(base, folder.parent / "base", dirs_exist_ok=True)
    names = [f"<thought{i}>" for i in range(thought)] + [f"<question{i}>" for i in range(1, 11)]
    lines = ["model_name_or_path: base", "torch_dtype: !!python/object/apply:torch.float32 []" if thought else ""]
    lines += ["encoding_mode: last_10_tokens", f"special_tokens: {json.dumps(names)}", "max_input_length: 128"]
    (folder / "run_config.yml").write_text("\n".join(filter(None, lines)) + "\n")
    (folder / "encoder_decoder_config.json").write_text('{"encoding_mode": "last_10_tokens", "save_decoder": false}')
    adapter = {"peft_type": "TRAINABLE_TOKENS", "base_model_name_or_path": "base", "target_modules": "embed_tokens"}
    adapter["token_indices"] = list(range(first, first + count))  # type: ignore[assignment]
    (folder / "encoder" / "adapter_config.json").write_text(json.dumps(adapter))
    rows = {"trainable_tokens_delta": weights["tokens"], "base_layer.weight": torch.zeros(first + count, WIDTH)}
    path = folder / "encoder" / "adapter_model.safetensors"
    save_file({f"base_model.model.embed_tokens.{name}": tensor for name, tensor in rows.items()}, path)
    for head, name in (("reconstruction_mlp", "reconstruct"), ("alignment_mlp", "align")):
        state = {f"projection.{part}": weights[f"{name}.{part}"] for part in ("weight", "bias")}
        torch.save({"state_dict": OrderedDict(state), "config": {"pooling_mode": "linear"}}, folder / head)
    return weights


@pytest.fixture
def published(tmp_path: Path, folder: Get) -> Path:
    """A published checkpoint, whole, to doctor."""
    publish(tmp_path / "published", folder("qwen3"), thought=0)
    return tmp_path / "published"


@pytest.mark.parametrize("thought", [0, 10])
def test_the_published_format(thought: int, tmp_path: Path, folder: Get) -> None:
    """Invariant 8 in any clone: embeddings and soft prompts to 1e-5, worked out with transformers alone.

    The tokenizer reads the bare text; the special tokens follow as rows of input embeddings; the last ten states go
    through the reconstruction, those through the alignment, and their mean is the embedding.
    """
    weights = publish(tmp_path / "published", folder("qwen3"), thought=thought)
    model = AutoModel.from_pretrained(tmp_path / "base", dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base", split_special_tokens=True)
    texts = ["What does frugal mean?", "x", "Ça coûte 3 €, n'est-ce pas? 日本語 🙂"]
    soft_prompts = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        inputs = torch.cat([model.get_input_embeddings()(ids), weights["tokens"][None]], dim=1)
        with torch.no_grad():
            states = model(inputs_embeds=inputs).last_hidden_state[0, -10:]
        soft_prompts.append(states @ weights["reconstruct.weight"].T + weights["reconstruct.bias"])
    prompts = torch.stack(soft_prompts)
    embeddings = (prompts @ weights["align.weight"].T + weights["align.bias"]).mean(dim=1)

    convert(tmp_path / "published", tmp_path / "c", device="cpu")
    encoder = Encoder.from_pretrained(tmp_path / "c", device="cpu", dtype="float32")
    assert (encoder.model.thought, encoder.model.compression, encoder.max_tokens) == (thought, 10, 128)
    np.testing.assert_allclose(encoder.encode(texts), embeddings.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.soft_prompts(texts), prompts.numpy(), atol=1e-5)
    assert len(verify(tmp_path / "c", device="cpu", dtype="float32")) == 4


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


def test_the_wrong_backbone(published: Path, tmp_path: Path, folder: Get) -> None:
    """Its width gives it away."""
    wide = make_folder("qwen3", tmp_path / "wide", hidden_size=64)
    with pytest.raises(CheckpointError, match="width 32"):
        convert(published, tmp_path / "c", backbone=Backbone.load(str(wide), device="cpu"))


def test_our_own_loader_points_to_convert(published: Path) -> None:
    """Whoever opens a published folder directly is told the command."""
    with pytest.raises(CheckpointError, match="foresay convert"):
        Encoder.from_pretrained(published)
