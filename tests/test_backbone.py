"""Backbones of many kinds: which run, which run in one pass, which are refused, and what damaged files lead to."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from foresay.backbone import Backbone
from foresay.checkpoints.save import save
from foresay.checkpoints.verify import verify
from foresay.cli.main import main
from foresay.encoder import Encoder
from foresay.errors import BackboneError, InputError
from foresay.model import Model
from foresay.reconstruction import generate

from .conftest import SENTENCES, make_folder, make_tokenizer, save_and_export

Get = Callable[[str], Path]
ATTENTION: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 64},
    "bloom": {},
    "phi3": {},
    "gpt_oss": {"head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 8},
    "mixtral": {"num_local_experts": 2, "num_experts_per_tok": 1},
}
STATE: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8},
    "mamba2": {"head_dim": 16, "num_heads": 4, "n_groups": 1, "state_size": 8, "expand": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "qwen3_5_text": {
        "head_dim": 16,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "num_local_experts": 0,
        "shared_intermediate_size": 64,
    },
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "opt": ({"word_embed_proj_dim": 16, "ffn_dim": 64}, "embeddings of width 16 and states of width 32"),
    "gemma4_text": ({"head_dim": 16, "hidden_size_per_layer_input": 8}, "fails on a short text"),
    "bart": (
        {"d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 64, "decoder_attention_heads": 2},
        "writes otherwise",
    ),
    "rwkv": ({"attention_hidden_size": 32}, "writes otherwise beside a longer text"),
    "llama4_text": ({"head_dim": 16, "num_local_experts": 2}, "fails on a short text"),
    "bert": ({"is_decoder": True}, "changes its logits"),
}


def made(kind: str, **settings: object) -> Backbone:
    """A tiny random model of a kind, straight from its configuration."""
    tokenizer = make_tokenizer()
    rows = len(tokenizer) + 48
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    more = {"num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2}
    if kind == "gemma4_text":
        settings["vocab_size_per_layer_input"] = rows
    config = AutoConfig.for_model(kind, **{"vocab_size": rows, **shape, **ids, **more, **settings})
    torch.manual_seed(0)
    return Backbone(AutoModelForCausalLM.from_config(config).float(), tokenizer, kind)


# -- architectures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "splits"), [*((k, True) for k in ATTENTION), *((k, False) for k in STATE)])
def test_every_way_gives_the_states_of_one_text_alone(kind: str, splits: bool) -> None:
    """One pass or two, with a shared beginning or without; the gradient too. Recurrent layers run in one pass."""
    base = made(kind, **{**ATTENTION, **STATE}[kind])
    assert base.splits is splits
    model = Model(base, thought=1, compression=3, dim=8)
    rows = [[*range(20, 30), *row] for row in model.rows(SENTENCES[:4], 64)[0]]
    alone = torch.cat([model.hidden([row]) for row in rows])
    split, run = model.hidden_split(rows), torch.empty(len(rows), 3, 32)
    model.run(rows, lambda hidden: hidden, [run])
    torch.testing.assert_close(split, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(run, alone.detach(), atol=1e-5, rtol=1e-4)
    pull = torch.randn(32)  # not the sum of squares, which a norm keeps as it is
    one, two = (torch.autograd.grad((states * pull).sum(), model.special_tokens)[0] for states in (alone, split))
    scale = one.abs().max()
    assert scale > 0
    torch.testing.assert_close(one / scale, two / scale, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "mamba", "qwen3_5_text"])
def test_a_soft_prompt_continues_as_one_pass_says(kind: str) -> None:
    """What `generate` writes with its cache or state is what the whole sequence, run anew for each token, gives."""
    base = made(kind, **{**ATTENTION, **STATE}[kind])
    inputs = torch.randn(2, 3, 32)
    base.stop_ids = [base.embedding.num_embeddings - 1]  # a spare row: nothing ends early
    ids = generate(base, inputs, 5)
    with torch.no_grad():
        for place in range(5):
            states = base.decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1]
            token = base.logits(states).argmax(dim=-1)
            assert token.tolist() == ids[:, place].tolist()
            inputs = torch.cat([inputs, base.embedding(token)[:, None]], dim=1)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_right_is_refused(kind: str) -> None:
    """In one line, whatever the model itself raises."""
    settings, message = REFUSED[kind]
    with pytest.raises(BackboneError, match=message) as caught:
        made(kind, **settings)
    assert "\n" not in str(caught.value) and kind in str(caught.value)


def test_a_backbone_that_cannot_write_from_embeddings_says_so() -> None:
    """Falcon-H1 embeds, but the library has no way to continue embeddings."""
    mamba = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
    base = made("falcon_h1", head_dim=16, **mamba)
    with pytest.raises(BackboneError, match="decoding needs another backbone"):
        generate(base, torch.zeros(1, 2, 32), 3)


# -- files -----------------------------------------------------------------------------------------------


@pytest.fixture
def copy(folder: Get, tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    return Path(shutil.copytree(folder("llama"), tmp_path / "model"))


def refused(path: Path, message: str) -> None:
    """Loading fails with our own error, in one line that names the folder."""
    with pytest.raises(BackboneError, match=message) as caught:
        Backbone.load(str(path), device="cpu")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_missing_weights_are_named(copy: Path) -> None:
    """The library would draw them at random and go on."""
    weights = load_file(copy / "model.safetensors")
    del weights["lm_head.weight"], weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    refused(copy, r"lacks 2 tensors of a LlamaForCausalLM.*: lm_head.weight, model.layers.1.mlp.up_proj.weight")


def test_weights_of_another_shape(copy: Path) -> None:
    """A config.json of another model."""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    refused(copy, r"lacks 6 tensors of .*or has them in another shape: model.layers.0.mlp.down_proj.weight, ")


def test_torn_weights(copy: Path) -> None:
    """A download that broke off."""
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(copy, "the weights of .* are damaged .*; get the files again")


def test_git_lfs_pointers(copy: Path) -> None:
    """A clone without the files."""
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refused(copy, "model.safetensors is a git-lfs pointer .* git -C .* lfs pull")


def test_a_vocabulary_smaller_than_the_tokenizers(copy: Path) -> None:
    """A tokenizer of another model would ask for rows that are not there."""
    weights = load_file(copy / "model.safetensors")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        weights[name] = weights[name][:250].clone()
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "vocab_size": 250}))
    refused(copy, "has 250 embeddings, and its tokenizer .* tokens beyond them")


def test_the_tokenizers_file_counts(folder: Get, tmp_path: Path) -> None:
    """A Qwen2 whose tokenizer.json keeps a space with its digit, where the library's own class takes it off."""
    path = make_folder("qwen2", tmp_path / "model")
    spec = json.loads((path / "tokenizer.json").read_text())
    spec["pre_tokenizer"] = json.loads(pre_tokenizers.ByteLevel(add_prefix_space=False).__getstate__())
    digit, pair = "Ġ3", ["Ġ", "3"]
    spec["model"]["vocab"][digit] = max(spec["model"]["vocab"].values()) + 20
    spec["model"]["merges"].append(pair)
    (path / "tokenizer.json").write_text(json.dumps(spec))
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "Qwen2Tokenizer"}))
    library = AutoTokenizer.from_pretrained(path)("a 3", add_special_tokens=False).input_ids
    file = Tokenizer.from_file(str(path / "tokenizer.json")).encode("a 3", add_special_tokens=False).ids
    assert library != file  # else this test tests nothing
    base = Backbone.load(str(path), device="cpu")
    assert base.tokenize(["a 3"]) == [file]
    assert base.frame("chat")[1], "the chat template is still there"


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's own call
def test_an_adapter_is_no_backbone(folder: Get, tmp_path: Path) -> None:
    """Its folder names what it changes; the message says how to merge the two."""
    base = AutoModelForCausalLM.from_pretrained(folder("llama"))
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    refused(tmp_path / "adapter", f"is an adapter of .*{folder('llama').name}.*merge_and_unload")
    with pytest.raises(BackboneError) as said:
        Backbone.load(str(tmp_path / "adapter"), device="cpu")
    (script,) = re.findall(r'python -c "(.*)"', str(said.value))
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    merged = Backbone.load(str(tmp_path / "merged"), device="cpu")
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder("llama")), tmp_path / "adapter")
    ids = torch.tensor([[7, 80, 300]])
    torch.testing.assert_close(merged.model(input_ids=ids).logits, expected(input_ids=ids).logits)
    shutil.copytree(folder("llama"), tmp_path / "both")
    for path in (tmp_path / "adapter").glob("adapter_*"):
        shutil.copy(path, tmp_path / "both")
    refused(tmp_path / "both", "is an adapter of")


# -- names and templates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("foresay.json", "is a checkpoint and no language model"),
        ("teacher.json", "is a teacher and no language model"),
        ("modules.json", "is an embedder and no language model"),
        ("notes.txt", "holds no config.json"),
    ],
)
def test_another_folder_is_no_backbone(tmp_path: Path, file: str, what: str) -> None:
    """What it is instead is said, where the library only misses a tokenizer."""
    (tmp_path / file).write_text("{}")
    with pytest.raises(BackboneError, match=f"{what}; expected a folder with a causal model"):
        Backbone.load(str(tmp_path), device="cpu")


def test_a_name_has_one_spelling(folder: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slash at the end, a relative path, a home directory: records hold the full path."""
    path = folder("qwen3")
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("HOME", str(path.parent))
    for name in (f"{path}/", path.name, f"./{path.name}", f"~/{path.name}/"):
        base = Backbone.load(name, device="cpu")
        assert base.name == base.address == str(path.resolve())


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "~/nowhere", "nowhere/model.gguf", ""])
def test_a_path_to_nothing_is_not_looked_up_on_the_hub(name: str) -> None:
    """One line that says what would be taken."""
    with pytest.raises(BackboneError, match="there is no .* expected a folder with a causal model, a GGUF file"):
        Backbone.load(name)


def test_control_tokens_of_every_template(folder: Get, backbone: Callable[[str], Backbone], tmp_path: Path) -> None:
    """Of several named templates, no text becomes a control token, nor one that a template puts together."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<tool>", "<|user|>", "<free>"])
    pieces = "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{{ m['content'] }}{% endfor %}"
    tokenizer.chat_template = {"default": pieces, "tools": "<tool>{{ messages[0]['content'] }}"}
    base = Backbone(backbone("qwen3").model, tokenizer, "named")
    (ids,) = base.tokenize(["a <tool> b <|user|> c <free>"])
    control = {tokenizer.convert_tokens_to_ids(token) for token in ("<tool>", "<|user|>")}
    assert not control & set(ids)
    assert tokenizer.convert_tokens_to_ids("<free>") in ids  # an added token that is text stays one token
    assert base.tokenizer.decode(ids) == "a <tool> b <|user|> c <free>"
    assert tokenizer.decode(base.frame("chat")[0]) == "<|user|>"
    tokenizer.chat_template = {"rag": pieces, "tools": pieces}
    with pytest.raises(BackboneError, match="chat templates rag, tools and none of them is the default"):
        Backbone(backbone("qwen3").model, tokenizer, "named").frame("chat")
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="has no chat template"):
        Backbone(backbone("qwen3").model, tokenizer, "named").frame("chat")


SYNTAX = "{% for m in messages %}{{ m['content'] }"
"""A template that was cut off, or typed wrongly."""


@pytest.mark.parametrize(
    ("template", "reason"),
    [(SYNTAX, "line 1: unexpected"), ("{{ messages[0]['content'] + 1 }}", "str"), ("{{ 1 / 0 }}", "division by zero")],
)
def test_a_template_with_a_mistake(folder: Get, tmp_path: Path, template: str, reason: str) -> None:
    """One line with the reason and what to do; with --template none the model works."""
    path = Path(shutil.copytree(folder("qwen3"), tmp_path / "model"))
    (path / "chat_template.jinja").write_text(template, encoding="utf-8")
    base = Backbone.load(str(path), device="cpu")
    with pytest.raises(BackboneError, match=f"the chat template of .* fails on a conversation.*{reason}.*mend it"):
        Model(base, thought=0, compression=2, dim=8, template="chat")
    assert Encoder(Model(base, thought=0, compression=2, dim=8, template="none")).encode(SENTENCES).shape == (6, 8)
    assert base.end_id == base.tokenizer.eos_token_id
    words = ["respond", str(path / "queries.txt"), "-m", str(path), "-o", str(path / "r.jsonl"), "--device", "cpu"]
    (path / "queries.txt").write_text("a\n", encoding="utf-8")
    for more in ([], ["--system", "Be brief."]):
        done = CliRunner().invoke(main, [*words, *more])
        assert done.exit_code == 1 and done.output.splitlines()[-1].startswith("error: the chat template of")


def test_a_config_that_asks_for_tuples(folder: Get, tmp_path: Path) -> None:
    """`"return_dict": false` changes nothing: the library's outputs keep their names, in its own folder layout too."""
    path = Path(shutil.copytree(folder("qwen3"), tmp_path / "model"))
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps({**config, "return_dict": False}), encoding="utf-8")
    vectors = [
        Encoder(Model(Backbone.load(str(place), device="cpu"), thought=0, compression=2, dim=8)).encode(SENTENCES)
        for place in (path, folder("qwen3"))
    ]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    model = Model(Backbone.load(str(path), device="cpu"), thought=0, compression=2, dim=8)
    save_and_export(tmp_path / "c", Encoder(model))
    plain = SentenceTransformer(str(tmp_path / "c"), device="cpu")
    np.testing.assert_allclose(plain.encode(SENTENCES, prompt_name="query"), vectors[0], atol=1e-5)


def test_a_template_that_holds_the_date(folder: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of Llama 3.2, Mistral and Granite: tomorrow the same checkpoint gives the same vectors."""
    path = Path(shutil.copytree(folder("qwen3"), tmp_path / "model"))
    dated = "{{ strftime_now('%d %b %Y') }} " + str(make_tokenizer().chat_template)
    (path / "chat_template.jinja").write_text(dated, encoding="utf-8")
    today = Backbone.load(str(path), device="cpu")
    encoder = Encoder(Model(today, thought=0, compression=2, dim=8, template="chat"))
    save_and_export(tmp_path / "c", encoder)
    expected = encoder.encode(SENTENCES)

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Tomorrow":
            return cls(2031, 5, 17)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Tomorrow)
    later = Backbone.load(str(path), device="cpu")
    assert later.frame("chat")[0] != encoder.model.prefix_ids  # or nothing is tested
    again = Encoder.from_pretrained(tmp_path / "c", device="cpu")
    np.testing.assert_array_equal(again.encode(SENTENCES), expected)
    assert all(verdict.distance < 1e-5 for verdict in verify(tmp_path / "c", device="cpu"))
    plain = SentenceTransformer(str(tmp_path / "c"), device="cpu")
    np.testing.assert_allclose(plain.encode(SENTENCES, prompt_name="query"), expected, atol=1e-5)


def test_a_moved_backbone(folder: Get, tmp_path: Path) -> None:
    """Gone from where the checkpoint says, it is named anew to verify, bundle and evaluate; another one is refused."""
    here = Path(shutil.copytree(folder("qwen3"), tmp_path / "here"))
    encoder = Encoder(Model(Backbone.load(str(here), device="cpu"), thought=0, compression=2, dim=8))
    save(tmp_path / "made", encoder)
    expected = encoder.encode(SENTENCES)
    here.rename(tmp_path / "there")
    run = CliRunner()
    for words in (["verify", "made"], ["bundle", "made", "-o", "whole"], ["evaluate", "made", "quick", "--limit", "2"]):
        words = [str(tmp_path / word) if word in ("made", "whole") else word for word in words]
        words += ["--device", "cpu"] + (["-o", str(tmp_path / "report")] if words[0] == "evaluate" else [])
        gone = run.invoke(main, words)
        assert gone.exit_code == 1 and "--backbone" in gone.output, gone.output
        found = run.invoke(main, [*words, "--backbone", str(tmp_path / "there")], catch_exceptions=False)
        assert found.exit_code == 0, found.output
    other = run.invoke(main, ["verify", str(tmp_path / "made"), "--backbone", str(folder("qwen2")), "--device", "cpu"])
    assert other.exit_code == 1 and "is not the model" in other.output
    (tmp_path / "there").rename(tmp_path / "nowhere")
    np.testing.assert_array_equal(Encoder.from_pretrained(tmp_path / "whole", device="cpu").encode(SENTENCES), expected)
