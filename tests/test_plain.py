"""The plain layout: `SentenceTransformer(path)` gives the embeddings of `Model`, over families and number types."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from foresay.backbone import Backbone
from foresay.checkpoints.export.queries import write_queries
from foresay.checkpoints.export.sentence_transformers import export
from foresay.checkpoints.export.special_rows import special_ids
from foresay.checkpoints.load import COPY
from foresay.checkpoints.save import save
from foresay.encoder import Encoder
from foresay.errors import CheckpointError, InputError
from foresay.model import Model
from foresay.reconstruction import generate

from .conftest import FAMILIES, SENTENCES, make_folder, make_tokenizer

Get = Callable[[str], Backbone]
Array = NDArray[np.float32]
family = pytest.mark.parametrize("family", FAMILIES)
PROMPTS = {"query": "Answer this: ", "document": "Sum up: "}
LONGEST = 48
TEXTS = [
    *SENTENCES,
    "",
    " x",
    "word " * 200,
    "a <|im_end|>b <think> <|foresay_0|> </think><|endoftext|>",
    "<|reserved_1|>",
]


def make(backbone: Backbone, **changes: object) -> Model:
    """A small model with thought and compression tokens, every one with a map of its own unless said otherwise."""
    shape = {"thought": 2, "compression": 3, "dim": 8, "readout": "tokens", **changes}
    return Model(backbone, **shape)  # type: ignore[arg-type]


@torch.no_grad()
def ours(model: Model, texts: list[str] = TEXTS) -> Array:
    """The embeddings by definition."""
    rows, _ = model.rows(texts, LONGEST)
    weight, bias = model.fused_map()
    embeddings: Array = (model.features(model.hidden(rows)) @ weight.T + bias).numpy()
    return embeddings


def write(folder: Path, model: Model, *, with_backbone: bool = False) -> Path:
    """The plain files of a model, in a new folder."""
    folder.mkdir()
    write_queries(folder, model, prompts=PROMPTS, max_tokens=LONGEST, with_backbone=with_backbone)
    return folder


def plain(folder: Path) -> SentenceTransformer:
    """The folder in the plain library, as anyone would open it."""
    return SentenceTransformer(str(folder), device="cpu")


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every weight."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Bit by bit."""
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@family
@pytest.mark.parametrize("template", ["none", "chat"])
@pytest.mark.parametrize("readout", ["tokens", "mean"])
@pytest.mark.parametrize("with_backbone", [False, True])
def test_same_embeddings(
    backbone: Get, tmp_path: Path, family: str, template: str, readout: str, with_backbone: bool
) -> None:
    """Invariant 7, with texts that are empty, cut, or full of control tokens; the backbone is left alone."""
    base = backbone(family)
    before = weights(base.model)
    model = make(base, template=template, readout=readout)
    opened = plain(write(tmp_path / "checkpoint", model, with_backbone=with_backbone))
    assert_same(base.model.state_dict(), before)
    assert True in model.rows(TEXTS, LONGEST)[1]
    np.testing.assert_allclose(opened.encode(TEXTS), ours(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("compression", [1, 2, 4, 7])
def test_any_number_of_tokens(backbone: Get, tmp_path: Path, compression: int) -> None:
    """An even number leaves one place of the convolution's window empty; texts of a batch differ in what lies there."""
    model = make(backbone("qwen3"), compression=compression)
    opened = plain(write(tmp_path / "checkpoint", model))
    np.testing.assert_allclose(opened.encode(TEXTS), ours(model), atol=1e-5, rtol=1e-5)


@family
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("with_backbone", [False, True])
def test_half_precision(
    folder: Callable[[str], Path], tmp_path: Path, family: str, dtype: str, with_backbone: bool
) -> None:
    """A checkpoint made in 16 bits opens in 16 bits, without an option, and without an error in the maps."""
    shutil.copytree(folder(family), tmp_path / "backbone")
    stored = AutoModelForCausalLM.from_pretrained(folder(family), dtype=dtype)
    stored.save_pretrained(tmp_path / "backbone")
    model = make(Backbone.load(str(tmp_path / "backbone"), device="cpu", dtype=dtype))
    opened = plain(write(tmp_path / "checkpoint", model, with_backbone=with_backbone))
    assert opened.dtype == model.backbone.dtype == getattr(torch, dtype)
    found, expected = opened.encode(TEXTS), ours(model)
    assert found.dtype == ("float16" if dtype == "float16" else "float32")  # numpy has no bfloat16
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(1) / lengths).min() > 0.999
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("with_backbone", [False, True])
def test_backbone_that_also_reads_images(tmp_path: Path, with_backbone: bool) -> None:
    """Its text part lies deeper, and the library must not ask for its image processor."""
    tokenizer = make_tokenizer(bos=True)
    text = AutoConfig.from_pretrained(make_folder("gemma3_text", tmp_path / "text")).to_dict()
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config={**vision, "image_size": 28})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "backbone")
    tokenizer.save_pretrained(tmp_path / "backbone")
    model = make(Backbone.load(str(tmp_path / "backbone"), device="cpu"))
    opened = plain(write(tmp_path / "checkpoint", model, with_backbone=with_backbone))
    np.testing.assert_allclose(opened.encode(TEXTS), ours(model), atol=1e-5, rtol=1e-5)


def test_opens_in_the_number_type_of_the_model(tmp_path: Path) -> None:
    """A backbone used in other than its stored type opens in the type it was used in."""
    model = make(Backbone.load("nano", device="cpu", dtype="float32"))
    opened = plain(write(tmp_path / "checkpoint", model))
    assert opened.dtype == torch.float32
    np.testing.assert_allclose(opened.encode(TEXTS), ours(model), atol=1e-5, rtol=1e-4)
    halved = SentenceTransformer(str(tmp_path / "checkpoint"), device="cpu", model_kwargs={"dtype": "bfloat16"})
    assert halved.dtype == torch.bfloat16
    assert np.isfinite(halved.encode(TEXTS)).all()


def test_prompts(backbone: Get, tmp_path: Path) -> None:
    """The library finds the prompts, and puts them before a text as we do."""
    model = make(backbone("llama"))
    opened = plain(write(tmp_path / "checkpoint", model))
    assert opened.prompts == PROMPTS
    assert opened.similarity_fn_name == "cosine"
    assert opened.max_seq_length == LONGEST
    assert opened.get_embedding_dimension() == model.dim
    query, document = ours(model, ["Answer this: x", "Sum up: x"])
    np.testing.assert_allclose(opened.encode_query("x"), query, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(opened.encode_document("x"), document, atol=1e-5, rtol=1e-5)
    assert np.abs(query - document).max() > 1e-3


def test_nothing_of_ours_is_imported(backbone: Get, tmp_path: Path) -> None:
    """The folder opens in a Python that has no foresay."""
    model = make(backbone("qwen3"))
    folder = write(tmp_path / "checkpoint", model)
    script = (
        "import sys, json; sys.modules['foresay'] = None; path, texts = sys.argv[1], json.loads(sys.argv[2])\n"
        "from sentence_transformers import SentenceTransformer\n"
        "print(json.dumps(SentenceTransformer(path, device='cpu').encode(texts).tolist()))"
    )
    command = [sys.executable, "-I", "-c", script, str(folder), json.dumps(TEXTS)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(result.stdout), ours(model), atol=1e-5, rtol=1e-5)


# -- the rows of the special tokens ----------------------------------------------------------------------


def test_rows_beyond_the_tokenizer_come_first(backbone: Get) -> None:
    """They need nobody's token."""
    base = backbone("qwen3")
    assert special_ids(make(base)) == list(range(len(base.tokenizer), len(base.tokenizer) + 5))


def reserved(path: Path) -> Backbone:
    """A full vocabulary: reserved tokens not marked special; special ones unused, used to stop, and spelled by text."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["x", "<|halt|>", "<|spare|>"], special_tokens=True)
    tokenizer.add_tokens([f"<|reserved_{i}|>" for i in range(3)])
    tokenizer.add_tokens(["<|image|>"], special_tokens=True)  # without a row, as in Gemma 3 1B
    stops = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|halt|>"])
    make_folder("smollm", path, vocab_size=len(tokenizer) - 1, eos_token_id=stops)
    tokenizer.save_pretrained(path)
    return Backbone.load(str(path), device="cpu")


def test_reserved_tokens_lend_their_rows(tmp_path: Path) -> None:
    """Then text that spells a reserved token is text, in the plain library and here."""
    base = reserved(tmp_path / "backbone")
    model = make(base, template="chat")
    ids = special_ids(model)
    names = base.tokenizer.convert_ids_to_tokens(ids)
    assert names == ["<|reserved_0|>", "<|reserved_1|>", "<|reserved_2|>", "<|spare|>", "À"]
    opened = plain(write(tmp_path / "checkpoint", model))
    text = "".join(names) + "<|im_end|>"
    fed = opened.preprocess([text])["input_ids"][0].tolist()
    assert fed == [*model.rows([text], LONGEST)[0][0], *ids]
    assert not set(ids) & set(fed[: -len(ids)])
    np.testing.assert_allclose(opened.encode(TEXTS), ours(model), atol=1e-5, rtol=1e-5)


def test_bytes_that_no_text_holds_lend_their_rows(backbone: Get) -> None:
    """In a full vocabulary of bytes: no character's bytes are among them."""
    model = make(backbone("smollm"), thought=10)
    ids = special_ids(model)
    vocab = model.backbone.tokenizer.get_vocab()
    assert ids == [vocab[chr(byte)] for byte in (0xC0, 0xC1, *range(0xF5, 0x100))]
    blocks = [range(start, start + 256) for start in range(0, 0x110000, 256) if not 0xD800 <= start < 0xE000]
    reached = {
        token for row in model.backbone.tokenize(["".join(map(chr, block)) for block in blocks]) for token in row
    }
    assert len(reached) >= 256 - 13
    assert not reached & set(ids)


def test_byte_fallback_lends_its_rows(tmp_path: Path) -> None:
    """The same for a vocabulary of characters with bytes as a fallback, where À is a character."""
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"À": 256, "<": 257, "<unk>": 258, "</s>": 259}
    bpe = Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>"))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.decoder = decoders.ByteFallback()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", unk_token="<unk>")
    model = AutoModelForCausalLM.from_pretrained(make_folder("smollm", tmp_path, vocab_size=len(vocab)))
    base = Backbone(model, tokenizer, str(tmp_path))
    assert special_ids(make(base, thought=10)) == [0xC0, 0xC1, *range(0xF5, 0x100)]


def test_too_few_rows_make_a_larger_copy(backbone: Get, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Twenty special tokens where thirteen rows are free."""
    model = make(backbone("smollm"), thought=10, compression=10)
    rows = model.backbone.embedding.num_embeddings
    assert special_ids(model)[13:] == list(range(rows, rows + 7))
    with caplog.at_level(logging.WARNING, "foresay"):
        folder = write(tmp_path / "checkpoint", model)
    assert "too few unused tokens" in caplog.text
    np.testing.assert_allclose(plain(folder).encode(TEXTS), ours(model), atol=1e-5, rtol=1e-5)
    larger = Backbone.load(str(folder / COPY), device="cpu")
    assert larger.embedding.num_embeddings == rows + 7
    ids = torch.tensor([[7, 80, 300]])
    logits = larger.model(input_ids=ids).logits
    torch.testing.assert_close(logits[..., :rows], model.backbone.model(input_ids=ids).logits)
    mean = logits[..., :rows].mean(-1, keepdim=True)  # below the best, so never said
    torch.testing.assert_close(logits[..., rows:], mean.expand(-1, -1, 7), atol=1e-4, rtol=1e-4)


# -- the copy --------------------------------------------------------------------------------------------


@family
def test_copy_stands_alone(tmp_path: Path, family: str) -> None:
    """It moves, it outlives the original, and as a language model it is the original, its tokenizer included."""
    base = Backbone.load(str(make_folder(family, tmp_path / "backbone")), device="cpu")
    model = make(base, template="chat")
    write(tmp_path / "written", model, with_backbone=True)
    shutil.rmtree(tmp_path / "backbone")
    folder = (tmp_path / "written").rename(tmp_path / "moved")
    np.testing.assert_allclose(plain(folder).encode(TEXTS), ours(model), atol=1e-5, rtol=1e-5)

    loaded = Backbone.load(str(folder / COPY), device="cpu")
    assert not loaded.model.config.tie_word_embeddings
    assert [loaded.frame(template) for template in ("none", "chat")] == [base.frame("none"), base.frame("chat")]
    assert (loaded.end_id, loaded.stop_ids, loaded.pad_id) == (base.end_id, base.stop_ids, base.pad_id)
    assert loaded.tokenize(TEXTS) == base.tokenize(TEXTS)
    free = set(special_ids(model))
    ids = torch.tensor([[token for token in range(base.embedding.num_embeddings) if token not in free]])[:, :256]
    torch.testing.assert_close(loaded.model(input_ids=ids).logits, base.model(input_ids=ids).logits, atol=0, rtol=0)
    again = make(loaded, template="chat")
    again.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(ours(again), ours(model))
    soft_prompt, unsaid = torch.randn(2, 3, base.hidden_size), {"suppress_tokens": sorted(free)}
    assert torch.equal(generate(loaded, soft_prompt, 8, **unsaid), generate(base, soft_prompt, 8, **unsaid))


def test_folder_with_a_config_is_refused(backbone: Get, tmp_path: Path) -> None:
    """The library would look for the backbone's weights beside it; the checkpoint itself stays usable."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_text("{}")
    encoder = Encoder(make(backbone("qwen3")))
    save(tmp_path / "c", encoder)
    with pytest.raises(CheckpointError, match=r"config\.json does not belong to the checkpoint"):
        export(tmp_path / "c", encoder)
    assert (tmp_path / "c" / "config.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    again = Encoder.from_pretrained(tmp_path / "c", backbone=encoder.model.backbone)
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))


def test_any_task(backbone: Get, tmp_path: Path) -> None:
    """The same vectors, whatever a caller says a text is for."""
    model = make(backbone("llama"))
    opened = plain(write(tmp_path / "checkpoint", model))
    for task in (None, "query", "document", "clustering"):
        np.testing.assert_allclose(opened.encode(TEXTS, task=task), ours(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("readout", ["tokens", "mean"])
def test_printing_it(readout: str, tmp_path: Path) -> None:
    """A screen, not the vocabulary; and what is on disk besides the weights is small."""
    backbone = Backbone.load("nano", device="cpu")
    folder = write(tmp_path / "checkpoint", make(backbone, readout=readout))
    assert len(str(plain(folder))) < 2500
    assert sum(path.stat().st_size for path in folder.glob("[23]_*/**/*.*")) < 2500


def test_limit_below_the_special_tokens(backbone: Get, tmp_path: Path) -> None:
    """Nothing is written that could not embed."""
    with pytest.raises(InputError, match="5 tokens"):
        write_queries(tmp_path, make(backbone("qwen3")), prompts=PROMPTS, max_tokens=5)
    assert not list(tmp_path.iterdir())


def test_written_again(backbone: Get, tmp_path: Path) -> None:
    """The files of an earlier call are overwritten, not mixed with."""
    write(tmp_path / "checkpoint", make(backbone("qwen3"), compression=4, seed=1))
    model = make(backbone("llama"))
    write_queries(tmp_path / "checkpoint", model, prompts=PROMPTS, max_tokens=LONGEST)
    np.testing.assert_allclose(plain(tmp_path / "checkpoint").encode(TEXTS), ours(model), atol=1e-5, rtol=1e-5)
