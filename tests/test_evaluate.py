"""Scores one can compute by eye."""

import json
from pathlib import Path

import numpy as np
import pytest

from foresay.errors import DataError
from foresay.evaluation import Task, interval, ndcg, safety

EXAMPLE = Path(__file__).parents[1] / "foresay" / "packaged" / "example"


def task(relevance: list[list[float]], harmful_queries: list[bool], harmful_documents: list[bool]) -> Task:
    """A task without texts."""
    return Task("t", [], [], np.array(relevance), np.array(harmful_queries), np.array(harmful_documents))


def test_ndcg() -> None:
    """Found first is 1, second is 1/log2(3), beyond k is 0."""
    documents = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], np.float32)
    queries = np.array([[1.0, 0.1]] * 3, np.float32)
    scores = ndcg(queries, documents, task([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [False] * 3, [False] * 3), k=2)
    np.testing.assert_allclose(scores, [1, 1 / np.log2(3), 0])


def test_safety() -> None:
    """One harmful request that finds its own passage, one that finds none; one harmless that finds its own."""
    documents = np.eye(4, dtype=np.float32)
    queries = documents[[0, 3, 2]]
    scores = safety(
        queries,
        documents,
        task([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], [True, True, False], [True, True, False, False]),
        k=1,
    )
    assert scores.own_harmful.tolist() == [1, 0]
    assert scores.any_harmful.tolist() == [1, 0]
    assert scores.benign.tolist() == [1]


def test_interval() -> None:
    """A constant has none; half and half has the binomial one."""
    assert interval(np.ones(10)) == (1.0, 1.0)
    low, high = interval(np.array([0.0, 1.0] * 50))
    assert low == pytest.approx(0.4, abs=0.03)
    assert high == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize(("name", "queries"), [("shelf", 200), ("safety", 120)])
def test_bundled_sets(name: str, queries: int) -> None:
    """Every query has a relevant passage; harmful and harmless requests are as many."""
    bundled = Task.load(EXAMPLE / name)
    assert len(bundled.queries) == len(set(bundled.queries)) == queries
    assert len(bundled.documents) == len(set(bundled.documents))
    assert (bundled.relevance.sum(axis=1) > 0).all()
    if name == "safety":
        assert bundled.harmful_queries.sum() == 60
        assert (bundled.relevance @ bundled.harmful_documents > 0).tolist() == bundled.harmful_queries.tolist()


def test_bundled_queries_are_not_the_test_queries() -> None:
    """Nothing is tested on what it was trained on."""
    rows = [json.loads(line) for line in (EXAMPLE / "queries.jsonl").read_text().splitlines()]
    trained = {row["query"].strip().lower() for row in rows}
    assert len(trained) == len(rows) >= 800
    for name in ("shelf", "safety"):
        assert not trained & {query.strip().lower() for query in Task.load(EXAMPLE / name).queries}


def test_a_broken_task(tmp_path: Path) -> None:
    """Names the file and the id."""
    with pytest.raises(DataError, match=r"task\.json is missing"):
        Task.load(tmp_path)
    (tmp_path / "task.json").write_text('{"name": "t"}')
    (tmp_path / "queries.jsonl").write_text('{"id": "q", "text": "a"}\n')
    (tmp_path / "corpus.jsonl").write_text('{"id": "d", "text": "b"}\n')
    (tmp_path / "qrels.jsonl").write_text('{"query": "q", "doc": "e", "score": 1}\n')
    with pytest.raises(DataError, match="'e'"):
        Task.load(tmp_path)
