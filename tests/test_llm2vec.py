"""The folder of an LLM2Vec teacher: what is in it, who opens it, and who is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

from foresay.backbone import Backbone
from foresay.config import TeachConfig, TeacherConfig
from foresay.errors import BackboneError, InputError
from foresay.teachers.bidirectional import Bidirectional
from foresay.teachers.llm2vec import LLM2VecTeacher
from foresay.teachers.load import load_teacher
from foresay.teachers.make import make_teacher
from foresay.teachers.packaged import FOLDERS, NANO_TEACHER
from foresay.teachers.sentence_transformers import SentenceTransformerTeacher

from .conftest import FAMILIES, SENTENCES
from .llm2vec_made import SMALL, TEXTS, Get, made, randomise

HARD = [*SENTENCES, "A text that holds <|im_end|> and <think> is a text."]


@pytest.fixture(scope="module")
def teachers(backbone: Get, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny teacher of a family, made once."""
    folders: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp("teachers") / family
            made(backbone(family), folders[family])
        return folders[family]

    return get


# -- the run ---------------------------------------------------------------------------------------------


def test_another_run_in_the_same_folder_is_refused(backbone: Get, teachers: Callable[[str], Path]) -> None:
    """Other options, or other texts."""
    folder, base = teachers("qwen3"), backbone("qwen3")
    with pytest.raises(InputError, match=r"another config\.mntp_steps \(2 there, 1 now\); give the same options"):
        made(base, folder, mntp=1)
    config = TeacherConfig(mntp_steps=2, simcse_steps=2, **SMALL)
    with pytest.raises(InputError, match="another texts_sha256"):
        make_teacher([*TEXTS[1:], "other"], base, folder, config)


# -- the folder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_opens_everywhere(backbone: Get, teachers: Callable[[str], Path], family: str) -> None:
    """As a teacher over shared weights, as one of its own, and in the plain library: the same vectors."""
    folder = teachers(family)
    shared = load_teacher(str(folder), backbone(family), "cpu")
    own = load_teacher(str(folder), device="cpu", config=TeachConfig(batch_size=2))
    assert isinstance(shared, LLM2VecTeacher) and isinstance(own, LLM2VecTeacher)
    assert shared.reader.backbone is backbone(family) is not own.reader.backbone
    vectors = shared.embed(HARD)
    assert not np.allclose(vectors, LLM2VecTeacher(Bidirectional(backbone(family)), "untrained").embed(HARD), atol=1e-2)
    np.testing.assert_allclose(own.embed(HARD), vectors, atol=1e-5)
    plain = SentenceTransformerTeacher(str(folder), "cpu")
    np.testing.assert_allclose(plain.embed(HARD), vectors, atol=1e-5)
    np.testing.assert_allclose(np.stack([shared.embed([text])[0] for text in HARD]), vectors, atol=1e-5)
    assert (own.dim, own.pooling, own.max_tokens) == (
        32,
        "mean",
        plain.max_tokens - len(own.reader.backbone.leading_ids),
    )
    assert own.revision == shared.revision and len(str(own.revision)) == 16


def test_half_the_backbone(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """A bfloat16 backbone is trained with float32 weights on top; merging rounds them, and so does use beside it."""
    base = Backbone.load(str(folder("qwen3")), device="cpu", dtype="bfloat16")
    teacher = made(base, tmp_path / "t")
    assert {weight.dtype for weight in teacher.reader.trained().values()} == {torch.float32}
    assert teacher.reader.backbone.dtype == torch.bfloat16
    own, shared = load_teacher(str(tmp_path / "t"), device="cpu"), load_teacher(str(tmp_path / "t"), base)
    assert own.revision == teacher.revision == shared.revision
    one = teacher.embed(SENTENCES)
    for other in (own.embed(SENTENCES), shared.embed(SENTENCES)):
        assert (np.linalg.norm(one - other, axis=1) < 0.05 * np.linalg.norm(one, axis=1)).all()
    assert isinstance(shared, LLM2VecTeacher) and shared.reader.backbone is base
    assert {weight.dtype for weight in shared.reader.trained().values()} == {torch.bfloat16}


@pytest.mark.parametrize("adapters", [1, 2])
def test_short_products_are_those_of_peft(backbone: Get, adapters: int) -> None:
    """For use beside the backbone; several adapters on each other, and scaled."""
    reader = Bidirectional(backbone("qwen3"))
    for seed in range(adapters):
        reader.new_adapter(3 + seed, seed)
        randomise(reader)
    rows = [[5, 6, 7], [9, 10, 11, 12, 13, 14]]
    with torch.no_grad():
        expected = reader.mean(rows)
        reader.narrow()
        found = reader.mean(rows)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    layers = [module for module in reader.model.modules() if isinstance(module, LoraLayer)]
    assert layers and all("forward" in vars(layer) for layer in layers)


def test_the_folder_says_what_made_it(teachers: Callable[[str], Path]) -> None:
    """The card, and no pickle."""
    folder = teachers("llama")
    card = (folder / "README.md").read_text()
    assert "A teacher made of llama" in card and "| training: mntp_steps | 2 |" in card
    assert 'SentenceTransformer("PATH")' in card
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kinds == {".json", ".jsonl", ".safetensors", ".md"}


def test_another_backbone_is_refused(
    folder: Callable[[str], Path], teachers: Callable[[str], Path], tmp_path: Path
) -> None:
    """Under the right name, by its numbers; of another shape, by its adapter."""
    copy = tmp_path / "t"
    shutil.copytree(teachers("qwen3"), copy)
    about = json.loads((copy / "teacher.json").read_text())
    about["backbone"]["name"] = str(folder("qwen2"))
    (copy / "teacher.json").write_text(json.dumps(about))
    with pytest.raises(BackboneError, match="not the model this"):
        load_teacher(str(copy), device="cpu")
    with pytest.raises(InputError, match="does not fit"):
        Bidirectional(Backbone.load(str(folder("gpt_neox")), device="cpu")).load_adapter(copy / "training/step-000004")


def test_a_newer_format_is_refused(teachers: Callable[[str], Path], tmp_path: Path) -> None:
    """With what repairs it."""
    shutil.copytree(teachers("qwen3"), tmp_path / "t")
    path = tmp_path / "t" / "teacher.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(InputError, match="pip install -U foresay"):
        load_teacher(str(tmp_path / "t"), device="cpu")


# -- the packaged one ------------------------------------------------------------------------------------


def test_the_nano_teacher() -> None:
    """Small, of the packaged backbone, with no path of a machine in it, and nearer in meaning than in words."""
    files = [path for path in FOLDERS[NANO_TEACHER].rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4 << 20
    assert not any(b"/work" in path.read_bytes() or b"/home" in path.read_bytes() for path in files)
    teacher = load_teacher(NANO_TEACHER, device="cpu")
    assert isinstance(teacher, LLM2VecTeacher) and teacher.name == "nano-teacher" and teacher.dim == 256
    texts = ["Measles is a disease with fever and a rash.", "A child with spots and a high temperature is ill."]
    vectors = teacher.embed([*texts, "The capital of Chad is N'Djamena."])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.05
