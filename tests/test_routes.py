"""A checkpoint whose documents a teacher embeds, in plain sentence-transformers: both sides of one folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from foresay.backbone import Backbone
from foresay.checkpoints.bundle import bundle
from foresay.checkpoints.load import DOCUMENT, QUERY
from foresay.checkpoints.verify import verify
from foresay.config import TeachConfig
from foresay.encoder import Encoder
from foresay.errors import CheckpointError, InputError
from foresay.teachers.load import load_teacher
from foresay.teachers.sentence_transformers import SentenceTransformerTeacher

from .taught import KINDS, TEXTS, can_save, encoder_folder, fitted, taught

Get = Callable[[str], Backbone]
kinds = pytest.mark.parametrize("kind", KINDS)


def assert_both_sides(folder: Path, encoder: Encoder) -> None:
    """The plain library's vectors are the encoder's; a text that does not say its side is refused, not guessed."""
    plain = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(plain.encode_query(TEXTS), encoder.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(plain.encode_document(TEXTS), encoder.encode_document(TEXTS), atol=1e-5)
    np.testing.assert_allclose(plain.encode(TEXTS, task="query"), encoder.encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(
        plain.encode(TEXTS, task="query", prompt_name="STS12"), encoder.encode(TEXTS, prompt_name="STS12"), atol=1e-5
    )
    np.testing.assert_allclose(plain.encode(TEXTS, task="document"), encoder.encode_document(TEXTS), atol=1e-5)
    for wrong in ({}, {"prompt_name": "query"}, {"prompt_name": "document"}):
        with pytest.raises(ValueError, match="task|prompt"):
            plain.encode(TEXTS, **wrong)
    assert plain.get_embedding_dimension() == encoder.dim
    assert not [name for name in plain.prompts if name.endswith("-document")]


@kinds
@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("dims", [(), (8,)])
def test_both_sides(backbone: Get, tmp_path: Path, kind: str, family: str, dims: tuple[int, ...]) -> None:
    """By name: no weight of the teacher is in the folder but its adapter; a leading token and axes of one's own too."""
    base = backbone(family)
    teacher = taught(kind, base, tmp_path)
    encoder = fitted(tmp_path / "c", base, teacher, dims=dims)
    assert_both_sides(tmp_path / "c", encoder)
    assert not (tmp_path / "c" / DOCUMENT / "model.safetensors").exists()
    ways = {verdict.way: verdict.distance for verdict in verify(tmp_path / "c", device="cpu")}
    assert ways["sentence-transformers, documents"] < 1e-5
    assert "model.encode_document" in (tmp_path / "c" / "README.md").read_text()


@kinds
@pytest.mark.parametrize("dims", [(), (8,)])
def test_a_bundle_holds_the_teacher(backbone: Get, tmp_path: Path, kind: str, dims: tuple[int, ...]) -> None:
    """Moved, with backbone and teacher gone, both libraries open it."""
    home = shutil.copytree(backbone("qwen3").name, tmp_path / "backbone")
    base = Backbone.load(str(home), device="cpu")
    encoder = fitted(tmp_path / "c", base, taught(kind, base, tmp_path), dims=dims)
    bundle(tmp_path / "c", tmp_path / "b", device="cpu")
    moved = (tmp_path / "b").rename(tmp_path / "moved")
    for gone in ("backbone", "teacher", "bare", "encoder", "c"):
        shutil.rmtree(tmp_path / gone, ignore_errors=True)
    again = Encoder.from_pretrained(moved, device="cpu")
    np.testing.assert_allclose(again.encode_query(TEXTS), encoder.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(again.encode_document(TEXTS), encoder.encode_document(TEXTS), atol=1e-5)
    assert_both_sides(moved, again)
    assert all(verdict.distance < 1e-4 for verdict in verify(moved, device="cpu"))
    bundle(moved, tmp_path / "again", device="cpu")  # not turned twice
    assert_both_sides(tmp_path / "again", again)


@kinds
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_bundle_survives_the_librarys_own_saving(
    folder: Callable[[str], Path], tmp_path: Path, kind: str, dtype: str
) -> None:
    """Opened, saved and opened again by plain sentence-transformers, bit for bit; its card has no more to say of it."""
    base = Backbone.load(str(folder("llama")), device="cpu", dtype=dtype)
    fitted(tmp_path / "c", base, taught(kind, base, tmp_path))
    assert "save_pretrained" in (tmp_path / "c" / "README.md").read_text(encoding="utf-8")
    bundle(tmp_path / "c", tmp_path / "b", device="cpu")
    assert "save_pretrained" not in (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    first = SentenceTransformer(str(tmp_path / "b"), device="cpu")
    first.save_pretrained(str(tmp_path / "again"))
    second = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    np.testing.assert_array_equal(second.encode_query(TEXTS), first.encode_query(TEXTS))
    np.testing.assert_array_equal(second.encode_document(TEXTS), first.encode_document(TEXTS))


@can_save
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize("kind", [*KINDS, "checkpoint"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_by_the_library_by_name(
    folder: Callable[[str], Path], tmp_path: Path, kind: str, dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Bit for bit, or not at all: it would load the backbone in its stored dtype again, and reading one way only."""
    base = Backbone.load(str(folder("llama")), device="cpu", dtype=dtype)
    changes = {"documents": "checkpoint", "query_prompt": ""} if kind == "checkpoint" else {}
    fitted(tmp_path / "c", base, taught("self" if kind == "checkpoint" else kind, base, tmp_path), **changes)
    first, again = SentenceTransformer(str(tmp_path / "c"), device="cpu"), tmp_path / "again"
    if dtype == "bfloat16" or kind in ("llm2vec", "whitened"):
        with pytest.raises(ValueError, match="copy the checkpoint's folder instead, or run `foresay bundle"):
            first.save_pretrained(str(again))
        assert not (again / "modules.json").exists()
    else:
        first.save_pretrained(str(again))
        second = SentenceTransformer(str(again), device="cpu")
        np.testing.assert_array_equal(second.encode_query(TEXTS), first.encode_query(TEXTS))
        np.testing.assert_array_equal(second.encode_document(TEXTS), first.encode_document(TEXTS))
    assert "chat" not in caplog.text  # the template that makes it fail is not talked about


@kinds
def test_printing_it(backbone: Get, tmp_path: Path, kind: str) -> None:
    """A screen for each side, and no vocabulary; this backbone puts a token before a text, which does not count."""
    base = backbone("llama")
    fitted(tmp_path / "c", base, taught(kind, base, tmp_path))
    assert len(str(SentenceTransformer(str(tmp_path / "c"), device="cpu"))) < 5000
    configs = [path.read_text(encoding="utf-8") for path in (tmp_path / "c").rglob("*_MultiVectorMask/config.json")]
    words = {word for config in configs for word in json.loads(config)["skiplist_words"]}
    assert words == (set() if kind == "sentence-transformers" else {"<|endoftext|>"})


def test_half_precision(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Each side opens in its own number type, and no module trips over the other's."""
    base = Backbone.load(str(folder("llama")), device="cpu", dtype="bfloat16")
    for kind in KINDS:
        home = tmp_path / kind
        encoder = fitted(home / "c", base, taught(kind, base, home), dims=(8,))
        plain = SentenceTransformer(str(home / "c"), device="cpu")
        for found, expected in (
            (plain.encode_query(TEXTS), encoder.encode_query(TEXTS)),
            (plain.encode_document(TEXTS), encoder.encode_document(TEXTS)),
        ):
            assert np.diag(Encoder.similarity(found, expected)).min() > 0.999


def test_a_teacher_that_is_gone(backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before anything is learned, and when documents come; a relative name is found from anywhere."""
    base = backbone("qwen3")
    encoder_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    teacher = load_teacher("encoder", base, "cpu", TeachConfig(max_tokens=32))
    fitted(tmp_path / "c", base, teacher)
    monkeypatch.chdir("/")
    assert Encoder.from_pretrained(tmp_path / "c", backbone=base).encode_document("x").shape == (24,)
    (tmp_path / "encoder").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"{tmp_path / 'encoder'}, which is gone; .* --documents checkpoint"):
        fitted(tmp_path / "d", base, teacher)
    with pytest.raises(CheckpointError, match="with_document_teacher"):
        Encoder.from_pretrained(tmp_path / "c", backbone=base).encode_document("x")


def test_a_teacher_that_cannot_go_along(backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries alone, and the library says so when it gets a document; so does the card."""
    base = backbone("qwen3")
    teacher = load_teacher(str(encoder_folder(tmp_path)), base, "cpu", TeachConfig(max_tokens=32))
    assert isinstance(teacher, SentenceTransformerTeacher)
    # as if it lay deeper in a repository
    monkeypatch.setattr(
        "foresay.teachers.sentence_transformers.weights_of", lambda name: None
    )  # as if it lay deeper in a repository
    encoder = fitted(tmp_path / "c", base, teacher)
    assert (tmp_path / "c" / QUERY).is_dir() and not (tmp_path / "c" / DOCUMENT).exists()
    plain = SentenceTransformer(str(tmp_path / "c"), device="cpu")
    np.testing.assert_allclose(plain.encode_query(TEXTS), encoder.encode_query(TEXTS), atol=1e-5)
    with pytest.raises(ValueError, match="No route found for task type 'document'"):
        plain.encode_document(TEXTS)
    ways = {verdict.way for verdict in verify(tmp_path / "c", device="cpu")}
    assert {"foresay, documents", "sentence-transformers"} <= ways
    assert "sentence-transformers, documents" not in ways
    card = (tmp_path / "c" / "README.md").read_text()
    assert "embeds queries alone" in card and "model.encode_document" not in card


def test_a_bundle_takes_no_adapter_for_a_whole_model(backbone: Get, tmp_path: Path) -> None:
    """A sentence-transformers model that is an adapter would leave its base model behind."""
    base = backbone("qwen3")
    fitted(tmp_path / "c", base, taught("sentence-transformers", base, tmp_path))
    adapter = SentenceTransformerTeacher(str(tmp_path / "c" / DOCUMENT), "cpu")
    for whole in (False, True):
        assert not adapter.export(tmp_path / "d", None, whole=whole)
    assert not (tmp_path / "d").exists()
    fitted(tmp_path / "e", base, adapter)
    for name, kept in (("e", False), ("c", True)):
        assert bundle(tmp_path / name, tmp_path / f"{name}-bundle", device="cpu") is kept


def test_an_adapter_on_weights_of_its_own(backbone: Get, tmp_path: Path) -> None:
    """A teacher of another model than the checkpoint's has its adapter merged in memory, and goes by name too."""
    taught("llm2vec", backbone("qwen3"), tmp_path)
    teacher = load_teacher(str(tmp_path / "teacher"), None, "cpu", TeachConfig(max_tokens=32))
    (tmp_path / "d").mkdir()
    assert teacher.export(tmp_path / "d", None, whole=False)
    plain = SentenceTransformer(str(tmp_path / "d"), device="cpu")
    np.testing.assert_allclose(plain.encode(TEXTS), teacher.embed(TEXTS), atol=1e-5)
