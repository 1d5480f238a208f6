"""Embeddings that may be shortened, and documents by the teacher."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from foresay.backbone import Backbone
from foresay.checkpoints.verify import verify
from foresay.config import FitConfig, TeachConfig
from foresay.data.pairs import Pairs
from foresay.encoder import Array, Encoder
from foresay.errors import CheckpointError, InputError
from foresay.integrations.sentence_transformers import as_sentence_transformer
from foresay.teachers.base import Teacher
from foresay.teachers.load import load_teacher
from foresay.teachers.pooled import SelfTeacher
from foresay.training.fit import fit
from foresay.training.matryoshka import principal_axes

from .conftest import SENTENCES

Get = Callable[[str], Backbone]
TEXTS = [f"{text} {number}" for number in range(5) for text in SENTENCES]


def taught(base: Backbone) -> tuple[Pairs, Teacher]:
    """Texts as their own responses, and targets by the backbone itself."""
    teacher = load_teacher("self", base, "cpu", TeachConfig())
    origin = {"teacher": teacher.name, "revision": teacher.revision, "max_tokens": teacher.max_tokens}
    return Pairs(TEXTS, TEXTS, teacher.embed(TEXTS), origin), teacher


def test_principal_axes_are_the_best_k_numbers() -> None:
    """By the singular vectors of numpy; and they only turn."""
    random = np.random.default_rng(0)
    vectors = (random.normal(size=(200, 6)) @ random.normal(size=(6, 6)) + 1).astype(np.float32)
    axes = principal_axes(vectors, np.arange(0, 200, 2))
    np.testing.assert_allclose(axes.T @ axes, np.eye(6), atol=1e-5)
    left = np.square(vectors[::2] @ axes[:, 2:]).sum()
    singular = np.linalg.svd(vectors[::2], compute_uv=False)
    assert left == pytest.approx(np.square(singular[2:]).sum(), rel=1e-3)


def test_shortened_embeddings(backbone: Get, tmp_path: Path) -> None:
    """Cosines of the full length are those of an unturned checkpoint; the plain library shortens to the same."""
    base = backbone("qwen3")
    pairs, _ = taught(base)
    whole = fit(pairs, base, tmp_path / "whole", FitConfig(compression=3))
    encoder = fit(pairs, base, tmp_path / "short", FitConfig(compression=3, dims=(4, 16)))
    turned, plain = encoder.encode(TEXTS), whole.encode(TEXTS)
    np.testing.assert_allclose(Encoder.similarity(turned, turned), Encoder.similarity(plain, plain), atol=1e-3)
    assert np.square(turned[:, :4]).sum() > np.square(plain[:, :4]).sum()

    again = Encoder.from_pretrained(tmp_path / "short", backbone=base)
    short = again.encode_query(TEXTS, truncate_dim=4, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-5)
    library = SentenceTransformer(str(tmp_path / "short"), device="cpu", truncate_dim=4)
    np.testing.assert_allclose(library.encode_query(TEXTS, normalize_embeddings=True), short, atol=1e-5)
    with pytest.raises(InputError, match="4, 16, 32, not 5"):
        again.encode(TEXTS, truncate_dim=5)
    with pytest.raises(InputError, match="width 32"):
        fit(pairs, base, tmp_path / "no", FitConfig(dims=(32,)))


@pytest.mark.parametrize("dims", [(), (8,)])
def test_documents_by_the_teacher(
    backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dims: tuple[int, ...]
) -> None:
    """They are the teacher's own vectors up to the turn, survive saving, and are verified."""
    base = backbone("qwen3")
    pairs, teacher = taught(base)
    config = FitConfig(compression=3, documents="teacher", dims=dims)
    fit(pairs, base, tmp_path / "c", config)
    encoder = Encoder.from_pretrained(tmp_path / "c", backbone=base)
    documents = encoder.encode_document(TEXTS)
    own: Array = teacher.embed(TEXTS)
    np.testing.assert_allclose(Encoder.similarity(documents, documents), Encoder.similarity(own, own), atol=1e-4)
    assert np.allclose(documents, own, atol=1e-5) == (not dims)
    assert encoder.encode_document(TEXTS[0], truncate_dim=dims[0] if dims else None).ndim == 1
    assert any(verdict.way == "foresay, documents" for verdict in verify(tmp_path / "c", device="cpu"))
    assert "`self:" in (tmp_path / "c" / "README.md").read_text()

    other = SelfTeacher(base)
    other.revision = "newer"
    monkeypatch.setattr("foresay.teachers.load.load_teacher", lambda *_: other)
    with pytest.raises(CheckpointError, match="newer"):
        Encoder.from_pretrained(tmp_path / "c", backbone=base).encode_document(TEXTS)


def test_a_teacher_handed_in(backbone: Get, tmp_path: Path) -> None:
    """Any checkpoint can search an index of its teacher's; a stranger is refused by its width."""
    base = backbone("qwen3")
    pairs, teacher = taught(base)
    encoder = fit(pairs, base, tmp_path / "c", FitConfig(compression=3, documents="checkpoint"))
    with_teacher = encoder.with_document_teacher(teacher)
    np.testing.assert_array_equal(with_teacher.encode_document(TEXTS), teacher.embed(TEXTS))
    assert encoder.document_teacher is None
    own = with_teacher.with_document_teacher(None)
    np.testing.assert_array_equal(own.encode_document(TEXTS), encoder.encode_document(TEXTS))
    stranger = SelfTeacher(base)
    stranger.dim = 7
    with pytest.raises(InputError, match="width 7"):
        encoder.with_document_teacher(stranger)


@pytest.mark.parametrize("documents", ["checkpoint", "teacher"])
def test_as_sentence_transformer(backbone: Get, tmp_path: Path, documents: str) -> None:
    """What plain sentence-transformers cannot open has its interface all the same."""
    base = backbone("qwen3")
    pairs, _ = taught(base)
    config = FitConfig(compression=3, readout="layers", documents=documents, dims=(8,), query_prompt="Say: ")  # type: ignore[arg-type]
    encoder = fit(pairs, base, tmp_path / "c", config)
    model = as_sentence_transformer(encoder)
    np.testing.assert_allclose(model.encode_query(TEXTS), encoder.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(model.encode_document(TEXTS), encoder.encode_document(TEXTS), atol=1e-5)
    task = {"task": "query"} if documents == "teacher" else {}
    np.testing.assert_allclose(model.encode(TEXTS[0], **task), encoder.encode(TEXTS[0]), atol=1e-5)
    if task:
        with pytest.raises(InputError, match="embeds this checkpoint's documents, so say what these are: encode_query"):
            model.encode(TEXTS)
    short = encoder.encode_query(TEXTS, truncate_dim=8, normalize_embeddings=True)
    np.testing.assert_allclose(model.encode_query(TEXTS, truncate_dim=8, normalize_embeddings=True), short, atol=1e-5)
    assert model.get_embedding_dimension() == 32
    with pytest.raises(InputError, match="copy its folder"):
        model.save(str(tmp_path / "saved"))
