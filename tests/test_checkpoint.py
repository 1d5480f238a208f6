"""Checkpoints: saving, loading, verifying, and every way in which one can be broken."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from foresay.backbone import Backbone
from foresay.checkpoints.bundle import bundle
from foresay.checkpoints.verify import verify
from foresay.encoder import Encoder
from foresay.errors import BackboneError, CheckpointError, DeviceError, ForesayError, VerifyError
from foresay.model import Model

from .conftest import FAMILIES, SENTENCES, make_folder, save_and_export

Get = Callable[[str], Backbone]


def make(backbone: Backbone) -> Encoder:
    """A small untrained encoder."""
    model = Model(backbone, thought=2, compression=3, dim=8, template="chat", seed=1)
    return Encoder(model, prompts={"query": "Q: ", "document": "D: "}, max_tokens=90)


@pytest.fixture
def saved(backbone: Get, tmp_path: Path) -> Path:
    """A checkpoint of the Qwen3 backbone."""
    save_and_export(tmp_path / "checkpoint", make(backbone("qwen3")))
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("family", FAMILIES)
def test_save_load_encode_is_bit_equal(backbone: Get, family: str, tmp_path: Path) -> None:
    """Invariant 7: vectors, soft prompts, prompts, limit; and verify agrees in every way it knows."""
    encoder = make(backbone(family))
    save_and_export(tmp_path / "c", encoder)
    again = Encoder.from_pretrained(tmp_path / "c", device="cpu")
    np.testing.assert_array_equal(again.encode_query(SENTENCES), encoder.encode_query(SENTENCES))
    np.testing.assert_array_equal(again.soft_prompts(SENTENCES), encoder.soft_prompts(SENTENCES))
    assert (again.prompts, again.max_tokens) == (encoder.prompts, encoder.max_tokens)
    verdicts = verify(tmp_path / "c", device="cpu")
    assert len(verdicts) == 4
    assert all(verdict.distance < 1e-5 for verdict in verdicts)


def test_it_opens_in_the_number_type_it_was_made_in(
    folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the backbone's weights are stored in, so that the golden vectors come out."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)  # on any CPU
    encoder = make(Backbone.load(str(folder("qwen3")), device="cpu", dtype="bfloat16"))
    save_and_export(tmp_path / "c", encoder)
    again = Encoder.from_pretrained(tmp_path / "c", device="cpu")
    np.testing.assert_array_equal(again.encode(SENTENCES), encoder.encode(SENTENCES))
    assert all(verdict.distance < 1e-2 for verdict in verify(tmp_path / "c", device="cpu"))


def test_a_loaded_backbone_can_be_handed_in(backbone: Get, saved: Path) -> None:
    """One copy in memory for many checkpoints."""
    base = backbone("qwen3")
    assert Encoder.from_pretrained(saved, backbone=base).model.backbone is base


def test_saving_again_replaces(backbone: Get, saved: Path) -> None:
    """Other files in the folder stay; no draft is left."""
    (saved / "training").mkdir()
    (saved / "training" / "metrics.jsonl").write_text("kept")
    other = make(backbone("qwen3"))
    other.prompts["query"] = "new: "
    save_and_export(saved, other)
    assert Encoder.from_pretrained(saved, device="cpu").prompts["query"] == "new: "
    assert (saved / "training" / "metrics.jsonl").read_text() == "kept"
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint"]


def test_saving_with_the_backbone_over_one_without(backbone: Get, saved: Path) -> None:
    """The adapter of the first save is gone: the library would take it before the copy."""
    assert list(saved.rglob("adapter_config.json"))
    save_and_export(saved, make(backbone("qwen3")), whole=True)
    assert not list(saved.rglob("adapter_config.json"))
    assert len(verify(saved, device="cpu")) == 4


@pytest.mark.parametrize("name", ["foresay.json", "foresay.safetensors", "golden.safetensors"])
def test_a_missing_or_renamed_file(saved: Path, name: str) -> None:
    """One line that names the file."""
    (saved / name).rename(saved / f"old-{name}")
    with pytest.raises(CheckpointError, match=name) as caught:
        Encoder.from_pretrained(saved, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["foresay.json", "foresay.safetensors"])
def test_a_torn_file(saved: Path, name: str) -> None:
    """Half a file is told from a whole one."""
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=name):
        Encoder.from_pretrained(saved, device="cpu")


def test_a_tensor_of_another_shape(saved: Path) -> None:
    """The weights have to fit what foresay.json says."""
    config = json.loads((saved / "foresay.json").read_text())
    (saved / "foresay.json").write_text(json.dumps(config | {"compression": 4}))
    with pytest.raises(CheckpointError, match="does not fit"):
        Encoder.from_pretrained(saved, device="cpu")


@pytest.mark.parametrize(("version", "repair"), [(99, "pip install -U foresay"), (2, "make it again")])
def test_another_format(saved: Path, version: int, repair: str) -> None:
    """Says what to do."""
    config = json.loads((saved / "foresay.json").read_text())
    (saved / "foresay.json").write_text(json.dumps(config | {"format_version": version}))
    with pytest.raises(CheckpointError, match=repair):
        Encoder.from_pretrained(saved, device="cpu")


def test_no_checkpoint_there(tmp_path: Path) -> None:
    """Neither a folder nor, offline, a hub model; nor an empty folder."""
    for path in (tmp_path / "nowhere", "someone/something"):
        with pytest.raises(CheckpointError, match="no such folder"):
            Encoder.from_pretrained(path)
    with pytest.raises(CheckpointError, match=r"foresay\.json"):
        Encoder.from_pretrained(tmp_path)


def test_the_backbone_is_gone(tmp_path: Path) -> None:
    """Names the place where it was."""
    home = make_folder("qwen3", tmp_path / "home")
    save_and_export(tmp_path / "c", make(Backbone.load(str(home), device="cpu")))
    home.rename(tmp_path / "moved")
    with pytest.raises(BackboneError, match="home, which is gone"):
        Encoder.from_pretrained(tmp_path / "c", device="cpu")
    moved = Backbone.load(str(tmp_path / "moved"), device="cpu")
    assert Encoder.from_pretrained(tmp_path / "c", backbone=moved).dim == 8


def test_the_backbone_is_another(backbone: Get, folder: Callable[[str], Path], saved: Path, tmp_path: Path) -> None:
    """Same shape, other weights; or another shape."""
    tuned = Backbone.load(str(folder("qwen3")), device="cpu")
    tuned.model.model.layers[0].mlp.up_proj.weight.data.mul_(1.1)
    for other in (tuned, backbone("llama")):
        with pytest.raises(BackboneError, match="is not the model this checkpoint was trained on"):
            Encoder.from_pretrained(saved, backbone=other)


def test_verify_fails_loudly(saved: Path) -> None:
    """A backend that computes something else is named."""
    golden = load_file(saved / "golden.safetensors")
    golden["embeddings"] = golden["embeddings"] * 1.01
    save_file(golden, saved / "golden.safetensors")
    with pytest.raises(VerifyError, match="sentence-transformers is off by 0.0099, allowed 0.0001"):
        verify(saved, device="cpu")


def test_verify_tells_damaged_files_of_the_plain_library(saved: Path, tmp_path: Path) -> None:
    """Missing or torn, whatever that library raises: the reason, and a command that writes them anew."""
    (saved / "router_config.json").write_text("{")
    said = (
        r"plain sentence-transformers are incomplete or damaged \(JSONDecodeError: .*foresay bundle .*checkpoint -o NEW"
    )
    with pytest.raises(CheckpointError, match=said):
        verify(saved, device="cpu")
    for name in ("router_config.json", "modules.json"):
        (saved / name).unlink()
        with pytest.raises(CheckpointError, match=r"damaged \(\w+\.json is missing\)"):
            verify(saved, device="cpu")
    bundle(saved, tmp_path / "new", device="cpu")
    assert len(verify(tmp_path / "new", device="cpu")) == 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(backbone: Get, saved: Path, dtype: str) -> None:
    """Loads, encodes and verifies in 16 bits, within the tolerance that verify allows."""
    encoder = Encoder.from_pretrained(saved, device="cpu", dtype=dtype)
    assert str(encoder.model.backbone.dtype) == f"torch.{dtype}"
    assert encoder.model.special_tokens.dtype.itemsize == 4
    assert len(verify(saved, device="cpu", dtype=dtype)) == 4


def test_a_bundled_backbone_moves_along(tmp_path: Path) -> None:
    """With the backbone inside, the original may go."""
    home = make_folder("llama", tmp_path / "home")
    encoder = make(Backbone.load(str(home), device="cpu"))
    save_and_export(tmp_path / "c", encoder, whole=True)
    home.rename(tmp_path / "gone")
    moved = (tmp_path / "c").rename(tmp_path / "elsewhere")
    again = Encoder.from_pretrained(moved, device="cpu")
    np.testing.assert_allclose(again.encode(SENTENCES), encoder.encode(SENTENCES), atol=1e-6)
    assert again.decode(SENTENCES[:2], max_new_tokens=5) == encoder.decode(SENTENCES[:2], max_new_tokens=5)
    assert len(verify(moved, device="cpu")) == 4


def test_bundle(saved: Path, tmp_path: Path) -> None:
    """The same vectors and the same record, with the backbone inside."""
    bundle(saved, tmp_path / "b", device="cpu")
    one, other = (Encoder.from_pretrained(path, device="cpu") for path in (saved, tmp_path / "b"))
    np.testing.assert_allclose(one.encode(SENTENCES), other.encode(SENTENCES), atol=1e-6)
    assert json.loads((tmp_path / "b" / "foresay.json").read_text())["backbone"]["bundled"]


def test_cuda_where_there_is_none(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names what there is."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError, match="'cuda' is not available"):
        Encoder.from_pretrained(saved, device="cuda")
    with pytest.raises(ForesayError, match="'gpu' is not available"):
        Encoder.from_pretrained(saved, device="gpu")
