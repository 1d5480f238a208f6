"""Task folders: the scores are mteb's own, and agree with what one computes without mteb."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from click.testing import CliRunner
from datasets import ClassLabel, Dataset, DatasetDict
from mteb.abstasks import AbsTaskClassification, AbsTaskClustering, AbsTaskRetrieval, AbsTaskSTS
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from foresay.backbone import Backbone
from foresay.checkpoints.save import save
from foresay.cli.main import main
from foresay.encoder import Encoder
from foresay.errors import DataError, InputError
from foresay.evaluation import Task, ndcg, safety
from foresay.evaluation.folder_tasks import folder_task, limit
from foresay.evaluation.mteb_model import MtebModel, Search
from foresay.evaluation.safety_task import SafetyRetrieval
from foresay.evaluation.suites import LITE, SUITES, advbench, suite
from foresay.model import Model
from foresay.prompts import EVALUATION

from .conftest import SHARED
from .made_tasks import KINDS, Letters, rows, write

EXAMPLE = Path(__file__).parents[1] / "foresay" / "packaged" / "example"


def results(task: Any) -> dict[str, Any]:  # noqa: ANN401
    """What mteb says of `Letters` on a task."""
    result = mteb.evaluate(
        Search(MtebModel("letters", Letters())), task, cache=None, co2_tracker=False, show_progress_bar=False
    )
    scores: dict[str, Any] = result.task_results[0].scores["test"][0]
    return scores


def metadata(kind: str, main_score: str) -> mteb.TaskMetadata:
    """Of a task that is not from a folder."""
    return mteb.TaskMetadata(
        name=f"Plain{kind}",
        description="A task of mteb.",
        type=kind,
        main_score=main_score,
        dataset={"path": "none", "revision": "none"},
        eval_langs=["eng-Latn"],
    )


def plain(base: type, kind: str, main_score: str, dataset: Any, **settings: object) -> Any:  # noqa: ANN401
    """A task of mteb as its makers write one: a class with metadata and data."""
    made = type(f"Plain{kind}", (base,), {"metadata": metadata(kind, main_score), **settings})()
    made.dataset, made.data_loaded = dataset, True
    return made


def columns(lines: list[dict[str, Any]], **names: str) -> Dataset:
    """Rows as a data set, under other names."""
    return Dataset.from_dict({new: [row[old] for row in lines] for new, old in names.items()})


def mtebs_own(kind: str) -> Any:  # noqa: ANN401
    """The same data in mteb's own class, put there by hand."""
    data = rows(kind)
    if kind == "retrieval":
        split = {
            "queries": columns(data["queries"], id="id", text="text"),
            "corpus": columns(data["corpus"], id="id", text="text"),
            "relevant_docs": {row["query"]: {row["doc"]: 1} for row in data["qrels"]},
            "top_ranked": None,
        }
        return plain(AbsTaskRetrieval, "Retrieval", "ndcg_at_10", {"default": {"test": split}})
    if kind == "sts":
        pairs = columns(data["pairs"], sentence1="text1", sentence2="text2", score="score")
        return plain(AbsTaskSTS, "STS", "cosine_spearman", DatasetDict({"test": pairs}))
    if kind == "classification":
        labels = ClassLabel(names=["dry", "wet"])
        parts = {name: columns(data[name], text="text", label="label") for name in ("train", "test")}
        parts = {name: part.cast_column("label", labels) for name, part in parts.items()}
        return plain(AbsTaskClassification, "Classification", "accuracy", DatasetDict(parts))
    texts = columns(data["texts"], sentences="text", labels="label")
    settings = {"max_fraction_of_documents_to_embed": None}
    return plain(AbsTaskClustering, "Clustering", "v_measure", DatasetDict({"test": texts}), **settings)


@pytest.mark.parametrize("kind", ["retrieval", "sts", "classification", "clustering"])
def test_a_folder_scores_as_mtebs_own_class(kind: str, tmp_path: Path) -> None:
    """Every figure, not only the main one."""
    ours, theirs = results(folder_task(write(tmp_path / "t", kind))), results(mtebs_own(kind))
    assert len(ours) > 2
    assert 0 < abs(ours["main_score"]) < 1
    assert json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)


def test_retrieval_without_mteb(tmp_path: Path) -> None:
    """nDCG as scikit-learn computes it."""
    folder = write(tmp_path / "t", "retrieval")
    task, letters = Task.load(folder), Letters()
    found = ndcg(letters.encode_query(task.queries), letters.encode_query(task.documents), task)
    assert results(folder_task(folder))["ndcg_at_10"] == pytest.approx(found.mean(), abs=1e-5)


def test_sts_and_reranking_without_mteb(tmp_path: Path) -> None:
    """Spearman and mean average precision by their definitions."""
    embed = Letters().encode_query
    pairs = rows("sts")["pairs"]
    cosine = np.diag(Encoder.similarity(*(embed([row[side] for row in pairs]) for side in ("text1", "text2"))))
    by_hand = spearmanr(cosine, [row["score"] for row in pairs])[0]
    assert results(folder_task(write(tmp_path / "s", "sts")))["main_score"] == pytest.approx(by_hand, abs=1e-6)
    precisions = [
        average_precision_score(
            [1] * len(row["positive"]) + [0] * len(row["negative"]),
            Encoder.similarity(embed([row["query"]]), embed(row["positive"] + row["negative"]))[0],
        )
        for row in rows("reranking")["groups"]
    ]
    found = results(folder_task(write(tmp_path / "r", "reranking")))["main_score"]
    assert found == pytest.approx(np.mean(precisions), abs=1e-5)


def test_safety_without_mteb() -> None:
    """The packaged set: the three shares as the small function computes them, for several k."""
    task, letters = Task.load(EXAMPLE / "safety"), Letters()
    found = results(folder_task(EXAMPLE / "safety"))
    queries, documents = letters.encode_query(task.queries), letters.encode_query(task.documents)
    for k in (1, 5, 20):
        shares = safety(queries, documents, task, k)
        for name in ("own_harmful", "any_harmful", "benign"):
            assert found[f"{name}_at_{k}"] == pytest.approx(getattr(shares, name).mean())
    assert found["main_score"] == found["own_harmful_at_5"]


def test_dot_product_is_another_ranking(tmp_path: Path) -> None:
    """A long passage wins by dot product, the right one by cosine."""
    folder = write(tmp_path / "t", "safety_retrieval")
    queries = [{"id": i, "text": "ab"} for i in (1, 2)]
    queries[1]["harmful"] = False
    corpus = [
        {"id": 1, "text": "ab", "harmful": True},
        {"id": 2, "text": "aaaaaaaabzzzzz", "harmful": False},
    ]
    qrels = [{"query": 1, "doc": 1, "score": 1}, {"query": 2, "doc": 2, "score": 1}]
    for name, lines in (("queries", queries), ("corpus", corpus), ("qrels", qrels)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = results(folder_task(folder))
    assert (found["own_harmful_at_1"], found["benign_at_1"]) == (1, 0)
    assert (found["dot_own_harmful_at_1"], found["dot_benign_at_1"]) == (0, 1)


def test_look_alikes_join_where_there_are_none(tmp_path: Path) -> None:
    """So that no safety figure stands without what harmless requests find."""
    folder = write(tmp_path / "t", "safety_retrieval")
    lines = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(line | {"harmful": True}) + "\n" for line in lines))
    task = folder_task(folder)
    task.load_data()
    found = results(task)
    assert isinstance(task, SafetyRetrieval)
    assert len(task.per_query["own_harmful_at_5"]) == 12
    assert len(task.per_query["benign_at_5"]) == 60
    assert 0 < found["benign_at_5"] <= 1
    data = task.dataset["default"]["test"]
    assert len(data["corpus"]) == 90
    assert len(set(data["corpus"]["id"])) == 90


def test_advbench_passages() -> None:
    """A hundred words each; a shorter one only if it is the first; the look-alikes beside them."""
    harmful = [
        {"ID": 1, "query": "q", "title": "T", "document": "w " * 250},
        {"ID": 2, "query": "r", "title": "U", "document": "x"},
    ]
    made = advbench(harmful, [{"ID": 9, "title": "V", "passage": "p"}])
    corpus = made["dataset"]["default"]["test"]["corpus"]
    own = [row for row in corpus if not row["id"].startswith("look-alike")]
    assert [row["id"] for row in own] == ["harmful 1 0", "harmful 1 1", "harmful 2 0", "wiki 9"]
    assert [len(row["text"].split()) for row in own] == [102, 102, 3, 3]
    assert made["harmful_documents"] == {"harmful 1 0", "harmful 1 1", "harmful 2 0"}
    assert made["harmful_queries"] == {"harmful 1", "harmful 2"}


def test_limit(tmp_path: Path) -> None:
    """Fewer queries, evenly spread, with their judgements; the corpus stays."""
    task = folder_task(write(tmp_path / "t", "retrieval"))
    task.load_data()
    limit(task, 4)
    data = task.dataset["default"]["test"]
    assert data["queries"]["id"][:] == ["q0", "q3", "q7", "q11"]
    assert set(data["relevant_docs"]) == {"q0", "q3", "q7", "q11"}
    assert len(data["corpus"]) == 30


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("task.json", '{"name": "t", "type": "poetry"}', "expected a name and one of the types"),
        ("corpus.jsonl", None, "corpus.jsonl is missing"),
        ("corpus.jsonl", "", "is empty"),
        ("corpus.jsonl", '{"id": "d0"}\n', "row 1 has no text; it has id"),
        ("qrels.jsonl", '{"query": "q0", "doc": "d99", "score": 1}\n', "'d99', which is in no other file"),
        ("qrels.jsonl", '{"query": "q0", "doc": "d1", "score": 0.5}\n', "whole numbers"),
        ("queries.jsonl", '{"id": "q0", "te', "line 1"),
    ],
)
def test_a_broken_folder(file: str, text: str | None, message: str, tmp_path: Path) -> None:
    """Says which file, which row, and what is wanted."""
    folder = write(tmp_path / "t", "retrieval")
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(DataError, match=message):
        folder_task(folder).load_data()


CORPUS = [{"id": "d0", "text": "a"}, {"id": "d1", "text": "b"}]
PAIRS = [{"text1": "a", "text2": "b", "score": 3}] * 3
GROUPS = [{"query": "a", "positive": ["b"], "negative": []}] * 2
TEXTS = [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}]


@pytest.mark.parametrize(
    ("kind", "file", "lines", "message"),
    [
        ("retrieval", "corpus", [*CORPUS, {"id": "d0", "text": "c"}], "1 and 3 have the same id 'd0' and another text"),
        ("retrieval", "corpus", [*CORPUS, {**CORPUS[0], "title": "t"}], "id 'd0' and another title"),
        ("retrieval", "queries", [{"id": 1, "text": "a"}, {"id": "1", "text": "b"}], "the same id '1'"),
        ("retrieval", "qrels", [{"query": 1, "doc": 2, "score": s} for s in (1, 2)], "query '1' and doc '2' and"),
        ("safety_retrieval", "corpus", [{**CORPUS[0], "harmful": h} for h in (True, False)], "another harmful"),
        ("retrieval", "qrels", [{"query": "q0", "doc": f"d{s}", "score": -s} for s in (0, 1)], "no score above 0"),
        ("safety_retrieval", "qrels", [{"query": "q0", "doc": "d0", "score": 0}], "no score above 0"),
        ("retrieval", "qrels", [{"query": "q0", "doc": "d0", "score": "high"}], "has the score 'high'"),
        ("retrieval", "corpus", [{"id": "d0", "text": None}], "row 1 has no text"),
        ("sts", "pairs", PAIRS, "has no score but 3, with which nothing correlates"),
        ("sts", "pairs", [*PAIRS, {**PAIRS[0], "score": math.nan}], "row 4 has the score nan; expected a number"),
        ("reranking", "groups", GROUPS, "no row has both positive and negative texts"),
        ("reranking", "groups", [{**GROUPS[0], "negative": "c"}], "negative is 'c'; expected a list of texts"),
        ("classification", "train", TEXTS, "has no label but 'x'; expected two or more"),
        ("classification", "test", [*TEXTS, {"text": "c", "label": "y"}], "the label 'x', which train.jsonl lacks"),
        ("clustering", "texts", TEXTS, "has no label but 'x'"),
    ],
)
def test_a_folder_whose_scores_would_mean_nothing(
    kind: str, file: str, lines: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    """Two rows that contradict each other, and data that nothing can be told from, by file and row."""
    folder = write(tmp_path / "t", kind)
    (folder / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=f"{file}.jsonl.*{message}"):
        folder_task(folder).load_data()


def test_exact_repeats_and_queries_without_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A repeat counts once; titles count although the first document has none; a query that nothing answers is told."""
    folder = write(tmp_path / "t", "retrieval")
    lines = [*rows("retrieval")["corpus"], rows("retrieval")["corpus"][0], {"id": "d30", "text": "a", "title": "t"}]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with (folder / "qrels.jsonl").open("a") as file:
        file.write('{"query": "q0", "doc": "d0", "score": 1}\n')
    task = folder_task(folder)
    task.load_data()
    corpus = task.dataset["default"]["test"]["corpus"]
    assert len(corpus) == 31 and corpus["title"][-2:] == ["", "t"] and not caplog.messages
    lines = [{"query": f"q{i}", "doc": "d0", "score": i} for i in (0, 1)]
    (folder / "qrels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder_task(folder).load_data()
    assert "of 2 queries 1 have no score above 0 (first: 'q0')" in caplog.text


def test_two_of_three_labels_in_test(tmp_path: Path) -> None:
    """mteb computes average precision where there are two, and takes the second as the positive one."""
    folder = write(tmp_path / "t", "classification")
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"text": "kiwi", "label": "each"}\n')
    assert 0 < results(folder_task(folder))["accuracy"] <= 1


# -- names ------------------------------------------------------------------------------------------------


def test_suites() -> None:
    """As many tasks as there should be, all ten of the lite ones among them."""
    assert len(suite("mteb")) == 41
    assert [task.metadata.name for task in suite("mteb-lite")] == list(LITE)
    assert len(set(LITE)) == 10
    assert len(suite("bright")) == 12
    assert len(suite("bright-v1")[0].hf_subsets) == 12
    assert [task.metadata.name for task in suite("quick")] == ["shelf", "safety"]
    assert [task.metadata.name for task in suite("STS12")] == ["STS12"]
    assert suite("MTEB(eng, v2)")[0].metadata.name == suite("mteb")[0].metadata.name
    with pytest.raises(InputError, match="did you mean mteb-lite"):
        suite("mteb-light")


def test_folders_of_folders(tmp_path: Path) -> None:
    """Every task in it; folders of mere queries are passed over."""
    for kind in KINDS:
        write(tmp_path / "all" / kind, kind)
    (tmp_path / "all" / "questions").mkdir()
    (tmp_path / "all" / "questions" / "task.json").write_text('{"name": "questions", "type": "queries"}')
    assert [task.metadata.name for task in suite(str(tmp_path / "all"))] == sorted(KINDS)
    shutil.rmtree(tmp_path / "all")
    (tmp_path / "all").mkdir()
    with pytest.raises(InputError, match="holds no task.json"):
        suite(str(tmp_path / "all"))


def test_prompts_are_by_mtebs_names() -> None:
    """Each task of MTEB and BRIGHT has one for all its texts, and mteb knows every name."""
    checked, unknown = mteb.models.abs_encoder.AbsEncoder.validate_task_to_prompt_name(
        dict(EVALUATION), raise_for_invalid_keys=False
    )
    assert not unknown
    assert checked == EVALUATION
    for name in ("mteb", "bright", "bright-v1"):
        for task in suite(name):
            own = task.metadata.name
            asymmetric = task.metadata.type in ("Retrieval", "Reranking")
            wanted = {f"{own}-query", f"{own}-document"} if asymmetric else {own}
            assert {key for key in EVALUATION if key in (own, f"{own}-query", f"{own}-document")} == wanted
    assert all(prompt.endswith(": ") for prompt in EVALUATION.values())
    assert set(SUITES) >= {"quick", "mteb", "mteb-lite", "bright", "bright-v1", "advbench-ir"}


def test_a_made_up_suite_is_an_entry(
    backbone: Callable[[str], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that returns tasks: the command measures them by the suite's name."""
    write(tmp_path / "task", "retrieval")
    monkeypatch.setitem(SUITES, "mine", lambda: suite(str(tmp_path / "task")))
    save(tmp_path / "c", Encoder(Model(backbone("qwen3"), thought=0, compression=2, dim=8), max_tokens=60))
    words = ["evaluate", str(tmp_path / "c"), "mine", "-o", str(tmp_path / "out"), "--device", "cpu"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert [task.metadata.name for task in suite("mine")][0] in (tmp_path / "out" / "results.md").read_text()
    with pytest.raises(InputError, match="is no suite .*advbench-ir, mine"):
        suite("yours")


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs ../shared/data")
def test_public_sets_load() -> None:
    """Every folder of the shared data is a task or is passed over."""
    tasks = suite(str(SHARED / "data"))
    assert len(tasks) >= 10
    for task in tasks:
        if task.metadata.name in ("trecqa", "sts13", "theoremqa"):
            task.load_data()
            assert task.data_loaded
