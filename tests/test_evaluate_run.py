"""Runs: items make the values, a kill costs little, a folder refuses what it was not made of."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from click.testing import CliRunner
from mteb.mocks.mock_tasks import (
    MockClassificationTask,
    MockMultilingualClusteringFastTask,
    MockPairClassificationTask,
    MockRerankingTask,
    MockRetrievalTask,
    MockSTSTask,
    MockSummarizationTask,
)
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sklearn.metrics import v_measure_score

from foresay.backbone import Backbone
from foresay.checkpoints.record import Training
from foresay.cli.main import main
from foresay.config import EvaluateConfig
from foresay.encoder import Encoder
from foresay.errors import DataError
from foresay.evaluation import load_scores, save_scores
from foresay.evaluation import mteb_model as embedding
from foresay.evaluation.baseline_embedders import TeacherEmbedder
from foresay.evaluation.evaluate import evaluate
from foresay.evaluation.folder_tasks import folder_task
from foresay.evaluation.mteb_model import MtebModel
from foresay.evaluation.run import run_tasks
from foresay.evaluation.scores import Score
from foresay.evaluation.suites import suite
from foresay.model import Model
from foresay.prompts import EVALUATION
from foresay.teachers.pooled import SelfTeacher

from .conftest import save_and_export
from .made_tasks import KINDS, Letters, rows, write

Get = Callable[[str], Backbone]
MOCKS = (
    MockClassificationTask,
    MockMultilingualClusteringFastTask,
    MockPairClassificationTask,
    MockRerankingTask,
    MockRetrievalTask,
    MockSTSTask,
    MockSummarizationTask,
)


def by_items(score: Score) -> float:
    """The value again, from the items alone."""
    items = score.items
    if score.statistic == "mean":
        return float(items["score"].mean())
    if score.statistic == "spearman":
        return float(spearmanr(items["cosine"], items["gold"])[0])
    return float(np.mean([v_measure_score(*pair) for pair in zip(items["label"], items["cluster"], strict=True)]))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A task of each type."""
    for kind in KINDS:
        write(tmp_path / "tasks" / kind, kind)
    return tmp_path / "tasks"


def test_items_make_the_value(folders: Path, tmp_path: Path) -> None:
    """Of every type; and they can be written and read."""
    made = run_tasks({"letters": Letters()}, suite(str(folders)), tmp_path / "out")
    assert {score.kind for score in made} == set(KINDS)
    assert {score.statistic for score in made} == {"mean", "spearman", "v_measure"}
    for score in made:
        assert by_items(score) == pytest.approx(score.value, abs=1e-5), score.key
    assert next(score for score in made if score.kind == "sts").seconds_per_query > 0
    harmful = [score for score in made if score.kind == "safety_retrieval"]
    assert {score.metric for score in harmful if score.higher_is_better} == {"benign_at_5", "dot_benign_at_5"}
    assert len(harmful) == 6
    clustered = next(score for score in made if score.kind == "clustering")
    names = [row["label"] for row in rows("clustering")["texts"]]
    dry = {"dry": 0, "wet": 1}
    assert [dry[names[i]] for i in clustered.items["item"][0]] == clustered.items["label"][0].tolist()
    again = load_scores(tmp_path / "out")
    assert [score.key for score in again] == [score.key for score in made]
    for old, new in zip(made, again, strict=True):
        assert (old.value, old.metric) == (new.value, new.metric)
        assert all(np.array_equal(old.items[name], new.items[name]) for name in old.items)


def test_scores_know_what_was_not_measured(tmp_path: Path) -> None:
    """NaN survives JSON, and files of two runs do not go together."""
    score = Score("t", "sts", "ap", "a/b", 0.5, "none", {}, float("nan"), True)
    save_scores([score], tmp_path)
    assert np.isnan(load_scores(tmp_path)[0].seconds_per_query)
    save_scores([Score("t", "x", "m", "e", 1, "mean", {"score": np.ones(2)}, 1, True)], tmp_path / "other")
    (tmp_path / "items.npz").write_bytes((tmp_path / "other" / "items.npz").read_bytes())
    (tmp_path / "other" / "items.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"items\.npz does not belong"):
        load_scores(tmp_path / "other")


@pytest.mark.filterwarnings("ignore:.*precision:Warning")
@pytest.mark.filterwarnings("ignore:.*constant:Warning")
@pytest.mark.parametrize("task", MOCKS)
def test_mtebs_mock_tasks(task: Callable[[], Any], tmp_path: Path) -> None:
    """mteb's own tasks run offline, whatever their type, and its result file is there."""
    (score, *_) = run_tasks({"letters": Letters()}, [task()], tmp_path)
    (file,) = (tmp_path / "mteb" / "results").rglob("Mock*.json")
    assert json.loads(file.read_text())["scores"]["test"][0]["main_score"] == pytest.approx(score.value, nan_ok=True)
    if score.items:
        assert by_items(score) == pytest.approx(score.value, abs=1e-5)
    else:
        assert score.statistic == "none"


class Dies(Letters):
    """Embedder some texts, then is killed."""

    def __init__(self, after: int) -> None:
        """Dies in the call that would be the next after so many."""
        super().__init__()
        self.after = after

    def encode_query(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As long as it lives."""
        if not self.after:
            raise KeyboardInterrupt
        self.after -= 1
        return super().encode_query(texts)

    encode_document = encode_query


def test_a_killed_run_goes_on(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is embedded twice, over a kill in the middle of a task; the scores are those of one run."""
    monkeypatch.setattr(embedding, "_BLOCK", 8)
    once, killed, after = Letters(), Dies(7), Letters()
    whole = run_tasks({"letters": once}, suite(str(folders)), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_tasks({"letters": killed}, suite(str(folders)), tmp_path / "out")
    made = run_tasks({"letters": after}, suite(str(folders)), tmp_path / "out")
    assert [(score.key, score.value) for score in made] == [(score.key, score.value) for score in whole]
    assert killed.seen and after.seen
    assert sorted(killed.seen + after.seen) == sorted(once.seen)
    last = Letters()
    assert len(run_tasks({"letters": last}, suite(str(folders)), tmp_path / "out")) == len(whole)
    assert not last.seen


def test_vectors_serve_another_task(tmp_path: Path) -> None:
    """They are found by text: the same texts in another run cost nothing, and then no time is known."""
    write(tmp_path / "a", "retrieval")
    write(tmp_path / "b", "retrieval", {"type": "retrieval"})
    letters = Letters()
    run_tasks({"x": letters}, [folder_task(tmp_path / "a")], tmp_path / "1", vectors=tmp_path / "vectors")
    seen = len(letters.seen)
    (score,) = run_tasks({"y": letters}, [folder_task(tmp_path / "b")], tmp_path / "2", vectors=tmp_path / "vectors")
    assert len(letters.seen) == seen > 0
    assert np.isnan(score.seconds_per_query)


def test_a_folder_refuses_what_it_was_not_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another embedder or task by the same name, and says in what; another version or seed is said aloud."""
    task, letters = write(tmp_path / "t", "sts"), Letters()
    run_tasks({"x": letters}, [folder_task(task)], tmp_path / "out")
    run_tasks({"x": letters, "y": Letters()}, [folder_task(task)], tmp_path / "out", seed=3)
    assert "seed was 0 and is now 3" in caplog.text
    letters.fingerprint = "other"
    with pytest.raises(DataError, match="embedder x is not the one.*fingerprint was 'letters' and is now 'other'"):
        run_tasks({"x": letters}, [folder_task(task)], tmp_path / "out")
    with pytest.raises(DataError, match="task t is not the one.*limit was None and is now 5"):
        run_tasks({"y": Letters()}, [folder_task(task)], tmp_path / "out", limit=5)
    with (task / "pairs.jsonl").open("a") as file:
        file.write('{"text1": "a", "text2": "b", "score": 1}\n')
    with pytest.raises(DataError, match="task t is not the one.*revision was"):
        run_tasks({"y": Letters()}, [folder_task(task)], tmp_path / "out")


def test_a_task_that_cannot_be_fetched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Is named; the others are measured. With nothing measured it is an error."""
    sts = folder_task(write(tmp_path / "t", "sts"))
    hub = suite("BIOSSES")
    assert len(run_tasks({"x": Letters()}, [*hub, sts], tmp_path / "out")) == 1
    assert "the data of BIOSSES is not here" in caplog.text
    with pytest.raises(DataError, match="no task could be loaded: the data of BIOSSES"):
        run_tasks({"x": Letters()}, hub, tmp_path / "other")


def test_similarities_come_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the corpus: what exists together is bounded, and the scores are the same."""
    folder = write(tmp_path / "t", "retrieval")
    whole = run_tasks({"x": Letters()}, [folder_task(folder)], tmp_path / "whole")
    monkeypatch.setattr(embedding, "_SCORES_AT_ONCE", 12 * 7)
    shapes: list[tuple[int, int]] = []
    similarity = embedding.MtebModel.similarity

    def watched(self: embedding.MtebModel, left: Any, right: Any) -> Any:  # noqa: ANN401
        shapes.append((len(left), len(right)))
        return similarity(self, left, right)

    monkeypatch.setattr(embedding.MtebModel, "similarity", watched)
    made = run_tasks({"x": Letters()}, [folder_task(folder)], tmp_path / "blocks")
    assert shapes == [(12, 7)] * 4 + [(12, 2)]
    assert [score.value for score in made] == [score.value for score in whole]


# -- checkpoints ------------------------------------------------------------------------------------------


@pytest.fixture
def encoder(backbone: Get) -> Encoder:
    """A small untrained one."""
    model = Model(backbone("qwen3"), thought=1, compression=2, dim=8, seed=1)
    return Encoder(model, prompts={**EVALUATION, "query": "Q: ", "document": "D: "}, max_tokens=90)


@pytest.mark.filterwarnings("ignore:The fill_missing parameter:DeprecationWarning")  # mteb's own calls
@pytest.mark.filterwarnings("ignore:The `get_sentence_embedding_dimension`:FutureWarning")
@pytest.mark.parametrize(
    ("name", "kind"), [("STS12", "sts"), ("ArguAna", "retrieval"), ("Banking77Classification", "classification")]
)
@pytest.mark.parametrize("documents", ["checkpoint", "teacher"])
def test_the_plain_folder_scores_the_same(
    name: str, kind: str, documents: str, encoder: Encoder, tmp_path: Path
) -> None:
    """In plain sentence-transformers, by mteb alone, with the prompts that the checkpoint brings."""
    if documents == "teacher":
        base = encoder.model.backbone
        wide = Encoder(Model(base, thought=1, compression=2, dim=32, seed=1), prompts=encoder.prompts, max_tokens=90)
        encoder = wide.with_document_teacher(SelfTeacher(base))
    save_and_export(tmp_path / "c", encoder)
    task = folder_task(write(tmp_path / name, kind))
    (ours,) = run_tasks({"foresay": Encoder.from_pretrained(tmp_path / "c", device="cpu")}, [task], tmp_path / "out")
    model = SentenceTransformer(str(tmp_path / "c"), device="cpu")
    symmetric = kind != "retrieval"  # its texts do not say which side they are on
    options = {"encode_kwargs": {"task": "query"}} if symmetric else {}
    plain = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False, **options)
    assert ours.value == pytest.approx(plain.task_results[0].get_score(), abs=1e-6)
    bare = Encoder(encoder.model, max_tokens=90)
    wrapped = embedding.MtebModel("bare", bare)
    wrapped.prompts = {}
    without = mteb.evaluate(embedding.Search(wrapped), task, cache=None, co2_tracker=False, show_progress_bar=False)
    assert without.task_results[0].get_score() != pytest.approx(ours.value, abs=1e-6)


def test_prompts_by_role(encoder: Encoder, tmp_path: Path) -> None:
    """A folder's own first, then the checkpoint's by task, then by role; texts without a role get none."""
    role = mteb.types.PromptType
    wrapped = embedding.MtebModel("foresay", encoder)
    arguana, sts, other = (suite(name)[0].metadata for name in ("ArguAna", "STS12", "NFCorpus"))
    assert wrapped.prompt(arguana, role.query) == EVALUATION["ArguAna-query"]
    assert wrapped.prompt(sts, None) == EVALUATION["STS12"]
    assert (wrapped.prompt(other, role.query), wrapped.prompt(other, role.document)) == ("Q: ", "D: ")
    own = folder_task(write(tmp_path / "own", "retrieval", {"query_prompt": "Own: "})).metadata
    assert (wrapped.prompt(own, role.query), wrapped.prompt(own, role.document)) == ("Own: ", "D: ")
    alike = folder_task(write(tmp_path / "alike", "sts", {"prompt": "Like: "})).metadata
    assert wrapped.prompt(alike, None) == "Like: "
    assert embedding.MtebModel("letters", Letters()).prompt(arguana, role.query) == ""
    served = embedding.MtebModel("foresay", encoder, task_prompts=False)
    for metadata in (arguana, own, sts):
        assert (served.prompt(metadata, role.query), served.prompt(metadata, role.document)) == ("Q: ", "D: ")
    assert served.prompt(sts, None) == served.prompt(alike, None) == ""


def test_documents_by_the_teacher(
    encoder: Encoder, backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its vectors of the bare texts; another fingerprint, since another index."""
    teacher = SelfTeacher(backbone("qwen3"))
    model = Model(backbone("qwen3"), thought=0, compression=2, dim=teacher.dim, seed=1)
    encoder = Encoder(model, prompts=encoder.prompts)
    taught = embedding.MtebModel("foresay", encoder.with_document_teacher(teacher), tmp_path)
    plain = embedding.MtebModel("foresay", encoder, tmp_path)
    np.testing.assert_array_equal(taught.embed(["a fox", "rain"], "document", "D: "), teacher.embed(["a fox", "rain"]))
    np.testing.assert_array_equal(taught.embed(["a fox"], "query", "Q: "), plain.embed(["a fox"], "query", "Q: "))
    assert taught.fingerprint != plain.fingerprint
    assert taught.cut == {"document": 0, "query": 0}
    asked: list[str] = []
    embed = teacher.embed

    def watched(texts: Sequence[str]) -> NDArray[np.float32]:
        asked.extend(texts)
        return embed(texts)

    monkeypatch.setattr(teacher, "embed", watched)
    other = Encoder(Model(backbone("qwen3"), thought=0, compression=2, dim=teacher.dim, seed=2))
    for name, one in (("seed", other.with_document_teacher(teacher)), ("teacher", TeacherEmbedder(teacher))):
        np.testing.assert_array_equal(
            embedding.MtebModel(name, one, tmp_path).embed(["a fox", "rain"], "document", ""), embed(["a fox", "rain"])
        )
    assert not asked  # embedded once, for the checkpoint, its other seed and the teacher itself


def test_cut_texts_are_counted(encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also when their vectors come from the disk; in the manifest, not in a thousand warnings."""
    caplog.set_level(logging.WARNING)
    folder = write(tmp_path / "t", "sts")
    lines = [{"text1": "word " * 200, "text2": "a", "score": 1}, {"text1": "b", "text2": "c", "score": 2}]
    lines += [{"text1": "word " * 200, "text2": "d", "score": 3}]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("one", "two"):
        run_tasks({"foresay": encoder}, [folder_task(folder)], tmp_path / name, vectors=tmp_path / "vectors")
        about = json.loads((tmp_path / name / "manifest.json").read_text())
        assert about["cut"] == {"foresay": {"t": {"text": 2}}}
    assert about["embedders"]["foresay"]["prompts"]["STS12"] == EVALUATION["STS12"]
    assert about["embedders"]["foresay"]["backbone"]["dtype"] == "float32"
    assert "cut" not in caplog.text


def test_the_command(encoder: Encoder, tmp_path: Path) -> None:
    """Seeds, baselines, tables, pictures; and errors in one line."""
    for name, seed in (("a", 1), ("b", 2)):
        model = Model(encoder.model.backbone, thought=1, compression=2, dim=8, seed=seed)
        save_and_export(tmp_path / name, Encoder(model))
    write(tmp_path / "tasks" / "sts", "sts")
    write(tmp_path / "tasks" / "retrieval", "retrieval")
    output = str(tmp_path / "out")
    words = ["evaluate", str(tmp_path / "a"), str(tmp_path / "tasks"), "--also", str(tmp_path / "b"), "-o", output]
    words += ["--against", "mean", "--against", "bm25", "--prompts", "checkpoint", "--device", "cpu"]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "nDCG@10" in done.output
    shown = (tmp_path / "out" / "results.md").read_text()
    assert "mean of 2 checkpoints" in shown
    assert "Prompt for retrieval, sts: none." in shown
    names = {score.embedder for score in load_scores(tmp_path / "out")}
    assert names == {"foresay 1", "foresay 2", "mean", "bm25"}
    about = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert set(about["embedders"]["foresay 1"]["prompts"]) == {"query", "document"}
    wrong = CliRunner().invoke(main, ["evaluate", str(tmp_path / "a"), "nowhere", "-o", output])
    assert wrong.exit_code == 1
    assert "error: 'nowhere' is no suite" in wrong.output


def test_the_report_names_the_prompt_behind_each_score(encoder: Encoder, tmp_path: Path) -> None:
    """A task's own prompt is said in words; the packaged sets have none, so every command agrees on them."""
    save_and_export(tmp_path / "c", encoder)
    asked = {"query_prompt": "Answer this: ", "document_prompt": "Repeat: "}
    write(tmp_path / "task", "retrieval", asked)
    as_published = EvaluateConfig(prompts="task")
    report = evaluate(str(tmp_path / "c"), str(tmp_path / "task"), tmp_path / "out", config=as_published)
    assert report.prompts == {"task": "'Answer this: ' before a query, 'Repeat: ' before a document"}
    plain = MtebModel("foresay", Encoder(encoder.model))
    assert {plain.prompt_words(task) for task in suite("quick")} == {"none"}


@pytest.mark.parametrize("made", ["checkpoint", "teacher"])
def test_who_embeds_documents(made: str, encoder: Encoder, tmp_path: Path) -> None:
    """Either side on request, whatever the checkpoint's own habit, which counts otherwise."""
    base = encoder.model.backbone
    teacher = SelfTeacher(base)
    own = Encoder(Model(base, thought=1, compression=2, dim=teacher.dim, seed=1))
    record = Training(pairs={"teacher": teacher.name, "revision": None, "max_tokens": teacher.max_tokens})
    save_and_export(tmp_path / "c", own.with_document_teacher(teacher if made == "teacher" else None), record)
    write(tmp_path / "task", "retrieval")
    for asked in (None, "checkpoint", "teacher"):
        output = tmp_path / str(asked)
        words = ["evaluate", str(tmp_path / "c"), str(tmp_path / "task"), "-o", str(output), "--device", "cpu"]
        words += [] if asked is None else ["--documents", asked]
        assert CliRunner().invoke(main, words, catch_exceptions=False).exit_code == 0
        about = json.loads((output / "manifest.json").read_text())["embedders"]["foresay"]["documents"]
        assert about.split()[0] == (asked or made)
