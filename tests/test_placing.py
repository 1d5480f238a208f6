"""Where a backbone's weights are and in how many bits: what can be seen without a GPU."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from transformers import AutoModelForCausalLM

from foresay import devices as placing
from foresay.backbone import Backbone, same_backbone
from foresay.config import TrainConfig
from foresay.devices import keep_together, pick_device
from foresay.encoder import Encoder
from foresay.errors import BackboneError, InputError
from foresay.model import Model
from foresay.training.distributed import Processes
from foresay.training.step import gradient
from foresay.training.train import train

from .conftest import SENTENCES, save_and_export
from .making import pairs, small


def test_a_device_map_changes_nothing(
    folder: Callable[[str], Path], backbone: Callable[[str], Backbone], tmp_path: Path
) -> None:
    """The same run, bit for bit, and frozen weights that stay."""
    mapped = Backbone.load(str(folder("qwen3")), device_map={"": "cpu"})
    assert not mapped.spread
    before = {name: weight.clone() for name, weight in mapped.model.state_dict().items()}
    ours = train(pairs(), mapped, tmp_path / "mapped", small(steps=2))
    plain = train(pairs(), backbone("qwen3"), tmp_path / "plain", small(steps=2))
    assert torch.equal(ours.model.special_tokens, plain.model.special_tokens)
    assert all(torch.equal(weight, before[name]) for name, weight in mapped.model.state_dict().items())


def test_a_model_that_fits_no_gpu(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Weights that would be fetched for every pass are refused, with what helps."""
    layers = {f"model.layers.{i}": "cpu" for i in range(2)}
    place: dict[str, Any] = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", **layers}
    place |= {"lm_head": "cpu", "model.layers.1": "disk"}
    with pytest.raises(BackboneError, match="parts of it would be on the cpu and disk; .* --dtype 4bit"):
        Backbone.load(str(folder("qwen2")), device_map=place)


def test_states_and_logits_come_back(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Each part of a spread model notes where its input was and returns there, and the run is the same.

    There is one device here, so this sees the library's own hooks set and passed, and not a move.
    """
    found = Backbone.load(str(folder("qwen2")), device="cpu")
    plain = train(pairs(), found, tmp_path / "plain", small(steps=2, readout="layers"))
    model = AutoModelForCausalLM.from_pretrained(folder("qwen2"))
    dispatch_model(model, {"model": "cpu", "lm_head": "cpu"}, force_hooks=True)
    model.hf_device_map = {"model": 0, "lm_head": 1}
    keep_together(model, "it")
    assert model.model._hf_hook.io_same_device
    assert model.lm_head._hf_hook.io_same_device
    spread = Backbone(model, found.tokenizer, found.name)
    assert spread.spread
    run = train(pairs(), spread, tmp_path / "spread", small(steps=2, readout="layers"))
    assert torch.equal(run.model.special_tokens, plain.model.special_tokens)

    whole = AutoModelForCausalLM.from_pretrained(folder("qwen2"))  # no hook of the library's on the decoder itself
    whole.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    keep_together(whole, "it")
    again = train(
        pairs(), Backbone(whole, found.tokenizer, found.name), tmp_path / "own", small(steps=2, readout="layers")
    )
    assert torch.equal(again.model.special_tokens, plain.model.special_tokens)


def test_a_spread_backbone_is_for_one_process(
    backbone: Callable[[str], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes would each take all GPUs."""
    monkeypatch.setattr(Backbone, "spread", True)

    def two(self: Processes, device: object) -> None:
        self.count, self.rank = 2, 0

    monkeypatch.setattr(Processes, "__init__", two)
    with pytest.raises(InputError, match="2 processes would each do so"):
        train(pairs(), backbone("qwen3"), tmp_path, TrainConfig(batch_size=2))


@pytest.mark.parametrize("dtype", ["8bit", "4bit"])
def test_few_bits_need_their_library(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, with the command; before anything is loaded."""
    monkeypatch.setattr(placing, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=f"{dtype} needs bitsandbytes.*pip install bitsandbytes"):
        Backbone.load("nano", device="cpu", dtype=dtype)


def test_few_bits_are_recorded_and_recognised(backbone: Callable[[str], Backbone]) -> None:
    """A checkpoint says in how many bits it was made; the same model in more bits is the same model."""
    plain = backbone("qwen3")
    few = SimpleNamespace(load_in_4bit=True)
    stand_in = SimpleNamespace(
        model=SimpleNamespace(is_quantized=True, config=SimpleNamespace(quantization_config=few))
    )
    assert Backbone.dtype_name.fget(stand_in) == "4bit"  # type: ignore[attr-defined]
    assert plain.dtype_name == "float32"
    sample = plain.sample()
    same_backbone(plain, "it", torch.where(torch.arange(len(sample)) < 6, torch.nan, sample))
    with pytest.raises(BackboneError, match="its weights differ"):
        same_backbone(plain, "it", torch.where(torch.arange(len(sample)) < 6, torch.nan, sample + 1))


def test_each_process_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its number on this machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:3")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("dtype", "least"), [("8bit", 0.95), ("4bit", 0.5)])
def test_gradients_go_through_few_bits(dtype: str, least: float, tmp_path: Path) -> None:
    """They point where those through float32 weights do (unrelated ones have a cosine of .01); and it opens again."""
    found = []
    for kind in ("float32", dtype):
        model = Model(Backbone.load("nano", device="cpu", dtype=kind), thought=0, compression=4, dim=8)
        rows, _ = model.rows(SENTENCES[:3], 64)
        answers = model.backbone.tokenize(SENTENCES[3:])
        gradient(model, rows, answers, torch.zeros(3, 8), TrainConfig())
        assert model.special_tokens.grad is not None
        found.append(model.special_tokens.grad.flatten())
    assert torch.cosine_similarity(found[0], found[1], dim=0) > least
    encoder = Encoder(model)
    save_and_export(tmp_path / "few", encoder)
    again = Encoder.from_pretrained(tmp_path / "few", device="cpu")
    assert again.model.backbone.dtype_name == dtype
    assert (again.encode(SENTENCES) == encoder.encode(SENTENCES)).all()


@pytest.mark.parametrize(
    ("has", "stored", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "bfloat16", "float32"),
        ({"avx2": True, "avx512_bw": True}, "bfloat16", "bfloat16"),
        ({"amx_bf16": True}, "bfloat16", "bfloat16"),
        ({"avx2": True, "avx512_fp16": False, "avx512_bw": True}, "float16", "float32"),
        ({"avx2": True}, "float32", "float32"),
        ({}, "bfloat16", "bfloat16"),
    ],
)
def test_auto_is_a_dtype_that_the_cpu_computes_with(
    folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    has: dict[str, bool],
    stored: str,
    expected: str,
) -> None:
    """Of a model and of a checkpoint; one that is asked for by name is taken."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    AutoModelForCausalLM.from_pretrained(folder("qwen3"), dtype=stored).save_pretrained(tmp_path / "model")
    shutil.copytree(
        folder("qwen3"),
        tmp_path / "model",
        ignore=shutil.ignore_patterns("*.safetensors", "config.json"),
        dirs_exist_ok=True,
    )
    name = str(tmp_path / "model")
    assert Backbone.load(name).dtype_name == expected
    asked = Backbone.load(name, dtype=stored)
    assert asked.dtype_name == stored
    train(pairs(), asked, tmp_path / "checkpoint", small(steps=2))
    assert Encoder.from_pretrained(tmp_path / "checkpoint").model.backbone.dtype_name == expected
    assert Encoder.from_pretrained(tmp_path / "checkpoint", dtype=stored).model.backbone.dtype_name == stored
