"""The arithmetic of the run on SmolLM2: scores against scikit-learn's, and a made-up world whose answer is known."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, ndcg_score

import smollm2_penalty as penalty
import weight_rules as weights
import weight_sources as sources
from foresay.backbone import Backbone
from foresay.engines.prompts import Prompter
from foresay.training.closed_form import PENALTIES
from smollm2_methods import Fitted, Taught
from smollm2_refusals import Asked
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


def test_rules_for_the_penalty() -> None:
    """By the mean; nearly as good by how far rows scatter; paired, by how far their differences do."""
    rows = np.linspace(0.2, 0.8, 101)  # scatter far more than penalties differ
    noise = 0.01 * np.sin(np.arange(101))
    cosines = np.array([rows - 0.02, rows, rows - 0.0005 + noise, rows - 0.01, rows - 0.1], np.float32)
    assert penalty.best(cosines) == 1
    assert penalty.one_standard_error(cosines) == 3, "0.01 is within 0.175 / 10"
    assert penalty.paired(cosines) == 2, "only 0.0005 is within what the differences scatter"


def test_penalty_paths_solve_ridge_regression() -> None:
    """The map of each penalty is the textbook's, on the rows that are not held out."""
    random = np.random.default_rng(0)
    states, wide = random.normal(size=(60, 4)).astype(np.float32), random.normal(size=(4, 3))
    targets, held = (states @ wide + 0.1 * random.normal(size=(60, 3))).astype(np.float32), np.arange(0, 60, 6)
    solved, rest = penalty.Ridge(states, held).solve(targets), np.setdiff1d(np.arange(60), held)
    x = (states - states[rest].mean(axis=0)) / states[rest].std(axis=0)
    for strength, to in zip(PENALTIES, solved.maps, strict=True):
        gram = x[rest].T @ x[rest] / len(rest) + strength * np.eye(4)
        centred = targets[rest] - targets[rest].mean(axis=0)
        weight = np.linalg.solve(gram, x[rest].T @ centred / len(rest))
        assert to(states) == pytest.approx(x @ weight + targets[rest].mean(axis=0), abs=1e-4)


def test_shares_by_thirds() -> None:
    """The lowest third gets the most of the question."""
    shares = weights.thirds(np.array([5.0, 1.0, 3.0, 6.0, 2.0, 4.0], np.float32))
    assert shares[:, 0].tolist() == [0.25, 0.75, 0.5, 0.25, 0.75, 0.5]


def test_likelihood_is_the_models_own(backbone: Callable[[str], Backbone]) -> None:
    """The mean log-probability of the response, as the library's own loss has it."""
    llm = backbone("qwen3")
    prompt, answer = Prompter(llm, "", 256, 96).prompts(["why"])[0], llm.tokenize(["because it rains"])[0]
    labels = torch.tensor([[-100] * len(prompt) + answer])
    loss = llm.model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss
    assert sources.likelihood(llm, ["why\0because it rains"])[0, 0] == pytest.approx(-float(loss), rel=1e-4)


def test_the_wish_to_refuse(backbone: Callable[[str], Backbone]) -> None:
    """What comes before every request is read once and changes nothing: likelihoods are those of `generate`."""
    model = backbone("smollm")
    asked = Asked(model, "Be kind.", [("Why?", "Because.")])
    whole = asked.ids("What does frugal mean?")
    assert whole[: len(asked.shared)] == asked.shared and len(asked.shared) > 10
    how = {"max_new_tokens": 3, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    answer = model.model.generate(torch.tensor([whole]), **how)
    likely = sum(scores[0].log_softmax(-1).max().item() for scores in answer.scores)
    said = answer.sequences[0, len(whole) :].tolist()
    wish, likeliest = asked.wish("What does frugal mean?", said)
    assert wish == pytest.approx(likely, abs=1e-4) and likeliest
    assert not asked.wish("What does frugal mean?", [*said[:2], (said[2] + 1) % len(model.tokenizer)])[1]
