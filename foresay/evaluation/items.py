"""What each item of a task contributes to its score, from the predictions that mteb writes.

In: a task with its data loaded, mteb's result, and its predictions by subset and split. Out: arrays, one entry an item:

    retrieval, reranking   score of each query, by the same trec_eval measure
    similarity             cosine and gold score of each pair
    classification         share of mteb's repeats in which a text is classified right
    clustering             label, cluster and text of each draw of mteb's samples

mteb does not say which texts its clustering samples hold; they are drawn again from the random state that it drew from.
Whatever does not average to mteb's own value is left out.
"""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import numpy as np
import pytrec_eval
from mteb.abstasks import AbsTask, AbsTaskClassification, AbsTaskClustering, AbsTaskRetrieval, AbsTaskSTS
from mteb.results import TaskResult
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import v_measure_score

Items = dict[str, NDArray[Any]]
Place = tuple[str, str]
"""Split and subset."""
_SAME = 1e-3
"""Largest distance of the items' average from mteb's value, which it rounds."""
_TREC = {
    "ndcg_at": "ndcg_cut",
    "map_at": "map_cut",
    "recall_at": "recall",
    "precision_at": "P",
    "hit_rate_at": "success",
}
"""mteb's names of retrieval metrics, and trec_eval's, which mteb computes them with."""


def items_of(
    task: AbsTask, result: TaskResult, predictions: Mapping[str, Any], random: Random
) -> tuple[str, dict[Place, Items]]:
    """The items behind the main scores of a task.

    Args:
        task: its data loaded.
        result: what mteb made of it.
        predictions: by subset, then split, as mteb writes them.
        random: the task's random state before mteb evaluated it; it is used up.

    Returns:
        the statistic that makes the score of its items, `none` where they are unknown; and the items.
    """
    fits = (found for base, found in _READERS.items() if isinstance(task, base))
    statistic, read = next(fits, ("none", _unknown))
    made: dict[Place, Items] = {}
    for split, rows in result.scores.items():
        for row in rows:
            subset = row["hf_subset"]
            predicted = predictions.get(subset, {}).get(split)
            if predicted is None:
                continue
            data = task.dataset[subset] if subset in task.dataset else task.dataset  # one subset alone has no name
            items = read(task, data, split, predicted, random)
            if items and abs(_STATISTICS[statistic](items) - row["main_score"]) < _SAME:
                made[split, subset] = items
    return statistic, made


def _unknown(task: AbsTask, data: Any, split: str, predicted: Any, random: Random) -> Items:  # noqa: ANN401
    """Of other types only mteb's average is known."""
    return {}


def _retrieval(task: AbsTask, data: Any, split: str, predicted: Any, random: Random) -> Items:  # noqa: ANN401
    given, _, k = task.metadata.main_score.rpartition("_")
    if given not in _TREC:
        return {}
    judged = {query: dict(relevant) for query, relevant in data[split]["relevant_docs"].items()}
    scored = pytrec_eval.RelevanceEvaluator(judged, {f"{_TREC[given]}.{k}"}).evaluate(predicted)
    return {"score": np.array([scored.get(query, {}).get(f"{_TREC[given]}_{k}", 0.0) for query in predicted])}


def _sts(task: AbsTask, data: Any, split: str, predicted: Any, random: Random) -> Items:  # noqa: ANN401
    if task.metadata.main_score != "cosine_spearman":
        return {}
    cosine = np.asarray(predicted["cosine_scores"], np.float64)
    return {"cosine": cosine, "gold": np.asarray(data[split]["score"], np.float64)}


def _classification(task: AbsTask, data: Any, split: str, predicted: Any, random: Random) -> Items:  # noqa: ANN401
    if task.metadata.main_score != "accuracy" or len({len(row) for row in predicted}) != 1:
        return {}
    truth = np.asarray(data[split][task.label_column_name])
    return {"score": np.mean(np.asarray(predicted) == truth, axis=0)} if len(truth) == len(predicted[0]) else {}


def _clustering(task: AbsTask, data: Any, split: str, predicted: Any, random: Random) -> Items:  # noqa: ANN401
    """The samples of `mteb.abstasks.clustering`, drawn as it draws them; labels of one level alone are items."""
    texts = list(range(len(data[split])))
    most = task.max_document_to_embed
    if task.max_fraction_of_documents_to_embed is not None:
        most = int(task.max_fraction_of_documents_to_embed * len(texts))
    if most is not None:
        texts = random.sample(range(len(texts)), k=min(most, len(texts)))
    if task.metadata.main_score != "v_measure" or len(predicted) != 1:
        return {}
    given = [data[split][task.label_column_name][text] for text in texts]
    labels = [label[0] if isinstance(label, list) else label for label in given]
    codes = np.unique(labels, return_inverse=True)[1]
    (draws,) = predicted.values()
    drawn = np.array([random.choices(range(len(texts)), k=len(draw)) for draw in draws])
    return {
        "label": codes[drawn].astype(np.int32),
        "cluster": np.asarray(draws, np.int32),
        "item": np.asarray(texts)[drawn].astype(np.int32),
    }


def _mean(items: Items) -> float:
    return float(items["score"].mean())


def _spearman(items: Items) -> float:
    return float(spearmanr(items["cosine"], items["gold"])[0])


def _v_measure(items: Items) -> float:
    return float(np.mean([v_measure_score(*pair) for pair in zip(items["label"], items["cluster"], strict=True)]))


_STATISTICS: dict[str, Callable[[Items], float]] = {"mean": _mean, "spearman": _spearman, "v_measure": _v_measure}
_READERS: dict[type, tuple[str, Callable[[AbsTask, Any, str, Any, Random], Items]]] = {
    AbsTaskRetrieval: ("mean", _retrieval),
    AbsTaskSTS: ("spearman", _sts),
    AbsTaskClassification: ("mean", _classification),
    AbsTaskClustering: ("v_measure", _clustering),
}
