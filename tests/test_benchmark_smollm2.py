"""The arithmetic of the run on SmolLM2: scores against scikit-learn's, and a made-up world whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, ndcg_score

from smollm2_methods import Fitted, Taught
from smollm2_sets import LabelledSet, average_precision, bm25, mean, ndcg, safety, spearman, unit
from smollm2_tables import BASE, Found, difference, gain, table

Array = NDArray[np.float32]


def test_scores() -> None:
    """As scikit-learn computes them."""
    rng = np.random.default_rng(0)
    similar, relevance = rng.normal(size=(20, 50)), (rng.random((20, 50)) < 0.1).astype(float)
    relevance[:, 0] = 1
    assert ndcg(similar, relevance).mean() == pytest.approx(ndcg_score(relevance, similar, k=10))
    ours = [average_precision(row, gold > 0) for row, gold in zip(similar, relevance, strict=True)]
    theirs = [average_precision_score(gold, row) for row, gold in zip(similar, relevance, strict=True)]
    assert ours == pytest.approx(theirs)
    assert spearman(np.array([[1.0, 10], [2, 20], [3, 30]])) == pytest.approx(1)


def test_words_in_common() -> None:
    """BM25 finds the passage that shares a rare word, whatever its ending."""
    documents = ["a dog barks", "rashes of measles", "the cat"]
    one = LabelledSet("x", ["measles rash", ""], documents, lambda q, d: ndcg(q @ d.T, np.ones((2, 3))), mean)
    scores = bm25(one)
    assert scores[0].argmax() == 1 and not scores[1].any()


def test_a_known_world() -> None:
    """Responses are a rotation of queries, and states the queries: the map finds them, and the raw query does not."""
    rng = np.random.default_rng(0)
    asked = rng.normal(size=(2000, 12)).astype(np.float32)
    turned = np.linalg.qr(rng.normal(size=(12, 12)))[0].astype(np.float32)
    answered = asked @ turned
    vectors: dict[str, Array] = {f"q{i}": asked[i] for i in range(50)} | {f"a{i}": answered[i] for i in range(50)}

    def raw(texts: list[str]) -> Array:
        return np.stack([vectors[text] for text in texts])

    fit = Fitted(Taught(asked, asked, answered).draw(0, 2000), raw, raw, seed=0)
    one = LabelledSet(
        "world",
        [f"q{i}" for i in range(50)],
        [f"a{i}" for i in range(50)],
        lambda q, d: ndcg(q @ d.T, np.eye(50)),
        mean,
    )
    found: Found = {
        method.name: {one.name: [one.items(*method.on(one))]}
        for method in (*fit.teachers(), fit.ours(0, 0), fit.ours(0, 1))
    }
    ours = "target 0, inference 0"
    assert found[ours]["world"][0].mean() > 0.99 > 0.5 > found[BASE]["world"][0].mean()
    weight_of_one = found["target 0, inference 1"]["world"][0]
    assert np.allclose(weight_of_one, found[BASE]["world"][0])  # the teacher
    assert fit.criterion(0, 0) > 0.8
    low, high = difference(found, ours, BASE, one)
    assert 0 < low < high and gain(found, ours, BASE, [one]) > 0.5
    assert f"| {ours} | 1.000 (+" in table(found, list(found), [one])


def test_what_counts_as_harm(tmp_path: Path) -> None:
    """The passage of a request is its own; any harmful one among the first five counts; look-alikes have theirs."""
    (tmp_path / "task.json").write_text('{"name": "harm"}')
    (tmp_path / "queries.jsonl").write_text('{"id": "q", "text": "how to rob"}\n')
    rows = ['{"id": "h", "text": "robbing", "harmful": true}', '{"id": "o", "text": "other", "harmful": true}']
    rows += [f'{{"id": "b{i}", "text": "calm {i}", "harmful": false}}' for i in range(20)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "qrels.jsonl").write_text('{"query": "q", "doc": "h", "score": 1}\n')
    own, harmful, harmless = safety(tmp_path, harmless_documents=10)
    assert len(harmless.queries) == 60 and own.documents[:2] == ["robbing", "other"]
    places = np.eye(len(own.documents), dtype=np.float32)
    near_other = unit(places[1:2] + 0.1 * places[2:7].sum(axis=0))
    assert own.items(near_other, places).tolist() == [0] and harmful.items(near_other, places).tolist() == [1]
    assert own.items(places[:1], places).tolist() == [1]
