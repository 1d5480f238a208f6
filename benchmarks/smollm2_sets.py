"""Labelled sets, each as texts to embed and a score that can be resampled.

In: folders of labelled data. Out: `LabelledSet`s, which turn vectors of their texts into items, and items into a score.
Larger sets are cut at random under a fixed seed. No prompt is put before any text.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import v_measure_score

from foresay.evaluation import Task

Array = NDArray[np.float32]
Items = NDArray[np.float64]
Statistic = Callable[[Items], float]
LOOK_ALIKES = Path(__file__).parents[1] / "foresay" / "packaged" / "example" / "safety"


@dataclass(frozen=True)
class LabelledSet:
    """One column of a table.

    Attributes:
        name: of the column.
        queries: texts that the method embeds.
        documents: texts that the teacher embeds; empty where only `queries` are compared with one another.
        items: of vectors (queries, dim) and (documents, dim), the items (n, ...) that the statistic is of.
        statistic: one number of some items.
        items_of: of similarities (queries, documents) instead, for BM25; None where it has no say.
    """

    name: str
    queries: list[str]
    documents: list[str]
    items: Callable[[Array, Array], Items]
    statistic: Statistic
    items_of: Callable[[NDArray[Any]], Items] | None = None


def mean(items: Items) -> float:
    """The mean of the items."""
    return float(items.mean())


def spearman(items: Items) -> float:
    """Rank correlation of the two columns."""
    first, second = rankdata(items[:, 0]), rankdata(items[:, 1])
    return float(np.corrcoef(first, second)[0, 1])


def v_measure(items: Items) -> float:
    """Agreement of labels and clusters."""
    return float(v_measure_score(items[:, 0], items[:, 1]))


def unit(vectors: Array) -> Array:
    """Each of length 1."""
    scaled: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return scaled


def ndcg(similar: NDArray[Any], relevance: NDArray[np.float64], k: int = 10) -> Items:
    """nDCG@k of each query; one without a relevant document scores 0."""
    top = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    discount = 1 / np.log2(np.arange(top.shape[1]) + 2)
    found = (np.take_along_axis(relevance, top, axis=1) * discount).sum(axis=1)
    ideal = (-np.sort(-relevance, axis=1)[:, :k] * discount).sum(axis=1)
    scores: Items = found / np.where(ideal > 0, ideal, 1)
    return scores


def average_precision(similar: NDArray[Any], relevant: NDArray[np.bool_]) -> float:
    """Of one query's candidates."""
    hits = relevant[np.argsort(-similar, kind="stable")]
    places = np.flatnonzero(hits) + 1
    return float((np.arange(1, len(places) + 1) / places).mean())


def retrieval(folder: Path, only: Sequence[int] | None = None) -> LabelledSet:
    """Scored by nDCG@10; `only` some of the queries."""
    task = Task.load(folder)
    rows = list(range(len(task.queries))) if only is None else list(only)
    relevance = task.relevance[rows]
    queries = [task.queries[row] for row in rows]

    def items_of(similar: NDArray[Any]) -> Items:
        return ndcg(similar, relevance)

    return LabelledSet(task.name, queries, task.documents, lambda q, d: items_of(q @ d.T), mean, items_of)


def safety(folder: Path, harmless_documents: int = 2000) -> list[LabelledSet]:
    """Harmful requests, and harmless ones that look alike: shares with a passage among the first five.

    Three columns: harmful requests find their own passage, any harmful passage; harmless ones find their own.
    """
    task, alike = Task.load(folder), Task.load(LOOK_ALIKES)
    keep = np.flatnonzero(task.harmful_documents)
    calm = np.flatnonzero(~task.harmful_documents)
    keep = np.concatenate([keep, np.random.default_rng(0).choice(calm, harmless_documents, replace=False)])
    asked = np.flatnonzero(~alike.harmful_queries)
    answers = np.flatnonzero(alike.relevance[asked].sum(axis=0))
    documents = [task.documents[i] for i in keep] + [alike.documents[i] for i in answers]
    more = np.zeros((len(task.queries), len(answers)))
    own = np.hstack([task.relevance[:, keep], more])
    bad = np.concatenate([task.harmful_documents[keep], np.zeros(len(answers), bool)])
    theirs = np.hstack([np.zeros((len(asked), len(keep))), alike.relevance[np.ix_(asked, answers)]])

    def found(relevance: NDArray[Any]) -> Callable[[Array, Array], Items]:
        def items(queries: Array, documents: Array) -> Items:
            top = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :5]
            hits: Items = (np.take_along_axis(relevance, top, axis=1) > 0).any(axis=1).astype(float)
            return hits

        return items

    every = np.repeat(bad[None].astype(float), len(task.queries), axis=0)
    calm_queries = [alike.queries[i] for i in asked]
    return [
        LabelledSet("harmful finds its own", task.queries, documents, found(own), mean),
        LabelledSet("harmful finds harmful", task.queries, documents, found(every), mean),
        LabelledSet("harmless finds its own", calm_queries, documents, found(theirs), mean),
    ]


def similarity(folder: Path, most: int = 1000) -> LabelledSet:
    """Pairs, by the rank correlation of cosine and label."""
    rows = _sample(_rows(folder / "pairs.jsonl"), most)
    texts = [row["text1"] for row in rows] + [row["text2"] for row in rows]
    gold = np.array([row["score"] for row in rows], float)

    def items(vectors: Array, _: Array) -> Items:
        half = len(vectors) // 2
        return np.stack([gold, (vectors[:half] * vectors[half:]).sum(axis=1)], axis=1).astype(float)

    return LabelledSet(folder.name, texts, [], items, spearman)


def classification(folder: Path, train_per_label: int, most: int = 1500) -> LabelledSet:
    """Accuracy of a logistic regression on a few labelled vectors."""
    train = _rows(folder / "train.jsonl")
    by_label: dict[str, list[str]] = {}
    for row in _sample(train, len(train)):
        by_label.setdefault(row["label"], []).append(row["text"])
    seen = [(text, label) for label, texts in by_label.items() for text in texts[:train_per_label]]
    test = _sample(_rows(folder / "test.jsonl"), most)
    truth = np.array([row["label"] for row in test])

    def items(vectors: Array, _: Array) -> Items:
        model = LogisticRegression(max_iter=300).fit(vectors[: len(seen)] * 5, [label for _, label in seen])
        right: Items = (model.predict(vectors[len(seen) :] * 5) == truth).astype(float)
        return right

    return LabelledSet(folder.name, [text for text, _ in seen] + [row["text"] for row in test], [], items, mean)


def clustering(folder: Path, most: int = 2000) -> LabelledSet:
    """V-measure of k-means with as many clusters as labels."""
    rows = _sample(_rows(folder / "texts.jsonl"), most)
    labels = np.unique([row["label"] for row in rows], return_inverse=True)[1]

    def items(vectors: Array, _: Array) -> Items:
        found = KMeans(int(labels.max()) + 1, n_init=3, random_state=0).fit_predict(vectors)
        return np.stack([labels, found], axis=1).astype(float)

    return LabelledSet(folder.name, [row["text"] for row in rows], [], items, v_measure)


def reranking(folder: Path) -> LabelledSet:
    """Mean average precision over each query's own candidates."""
    groups = _rows(folder / "groups.jsonl")
    documents = [text for group in groups for text in (*group["positive"], *group["negative"])]
    edges = np.cumsum([0, *(len(group["positive"]) + len(group["negative"]) for group in groups)])
    relevance = np.zeros((len(groups), len(documents)))
    for row, group in enumerate(groups):
        relevance[row, edges[row] : edges[row] + len(group["positive"])] = 1

    def items_of(similar: NDArray[Any]) -> Items:
        return np.array(
            [
                average_precision(similar[row, low:high], relevance[row, low:high] > 0)
                for row, (low, high) in enumerate(zip(edges, edges[1:], strict=False))
            ]
        )

    queries = [group["query"] for group in groups]
    return LabelledSet(folder.name, queries, documents, lambda q, d: items_of(q @ d.T), mean, items_of)


def bm25(one: LabelledSet) -> NDArray[Any]:
    """Similarity of each query and document by their words: (queries, documents)."""
    stemmer = Stemmer.Stemmer("english")
    index = bm25s.BM25()
    index.index(
        bm25s.tokenize(one.documents, stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False
    )
    asked = bm25s.tokenize(one.queries, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)
    return np.stack([index.get_scores(words) if words else np.zeros(len(one.documents)) for words in asked])


def all_sets(data: Path) -> list[LabelledSet]:
    """Every set that is measured, in the order of the tables."""
    return [
        *(retrieval(data / name) for name in ("theoremqa", "wordnet_define", "medquad", "entailment_bank")),
        reranking(data / "trecqa"),
        *(similarity(data / name) for name in ("sts12", "sts13", "sts14")),
        classification(data / "banking77", 20),
        classification(data / "sst2", 500),
        clustering(data / "stackoverflow"),
        *safety(data / "advbench_ir"),
    ]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _sample(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    order = np.random.default_rng(0).permutation(len(rows))[:most]
    return [rows[i] for i in order]
