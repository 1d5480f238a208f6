"""One embedder on one task: mteb measures, and we note what each item contributed to the figure.

In: an mteb task with its data loaded, and an mteb model. Out: mteb's result, and `Score`s with items.
What a reader would get wrong: mteb returns only averages. So a copy of the task tells us what it hands to its own
scoring functions; nothing is scored a second time, and `value` is always mteb's.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass, field
from random import Random
from typing import Any
from unittest.mock import patch

import mteb
import numpy as np
from mteb.abstasks import AbsTask, AbsTaskClassification, AbsTaskClustering, AbsTaskRetrieval, AbsTaskSTS, clustering
from mteb.cache import ResultCache
from mteb.results import TaskResult
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from .folder_tasks import SafetyRetrieval
from .scores import Score

Items = dict[str, NDArray[Any]]
_SHOWN = tuple(f"{before}{name}_at_5" for before in ("", "dot_") for name in ("own_harmful", "any_harmful", "benign"))
_TREC = {
    "ndcg_at": "ndcg_cut",
    "map_at": "map_cut",
    "recall_at": "recall",
    "precision_at": "P",
    "hit_rate_at": "success",
}
"""mteb's names of retrieval metrics, and trec_eval's, which mteb computes them with."""


@dataclass
class _Notes:
    """What the copy of a task told: by split and subset, the items that its main score is made of."""

    statistic: str = "none"
    place: tuple[str, str] = ("", "")
    items: dict[tuple[str, str], Items] = field(default_factory=dict)
    rows: list[NDArray[Any]] = field(default_factory=list)


def measure(task: AbsTask, model: Any, cache: ResultCache) -> TaskResult:  # noqa: ANN401
    """What mteb makes of a model on a task whose data is loaded, also stored as mteb's own result file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # mteb stops logistic regression after 100 steps
        result = mteb.evaluate(
            model,
            task,
            cache=cache,
            overwrite_strategy="always",
            co2_tracker=False,
            show_progress_bar=False,
            encode_kwargs={"batch_size": 512, "show_progress_bar": False},
        )
    return result.task_results[0]


def scores(task: AbsTask, name: str, model: Any, cache: ResultCache) -> list[Score]:  # noqa: ANN401
    """The figures of a model on a task.

    Args:
        task: its data loaded; it is not changed, so every model meets the same random samples.
        name: of the embedder.
        model: as mteb takes it.
        cache: where mteb's result file goes.

    Returns:
        a score for each subset; of a safety task one for each of its figures at 5. Who knows how long embedding
        took fills in `seconds_per_query`.
    """
    task = copy(task)
    task.rng_state, task.np_rng = deepcopy(task.rng_state), deepcopy(task.np_rng)
    with _noting(task) as notes:
        result = measure(task, model, cache)
    if isinstance(task, SafetyRetrieval):
        return _safety_scores(task, name)
    return _main_scores(task, name, result, notes)


def _safety_scores(task: SafetyRetrieval, name: str) -> list[Score]:
    return [
        Score(
            task=task.metadata.name,
            kind=kind(task),
            metric=metric,
            embedder=name,
            value=float(np.mean(list(per_query.values()))),
            statistic="mean",
            items={"score": np.array(list(per_query.values()))},
            seconds_per_query=float("nan"),
            higher_is_better="benign" in metric,
        )
        for metric, per_query in task.per_query.items()
        if metric in _SHOWN
    ]


def _main_scores(task: AbsTask, name: str, result: TaskResult, notes: _Notes) -> list[Score]:
    subsets = list(dict.fromkeys(row["hf_subset"] for rows in result.scores.values() for row in rows))
    made = []
    for subset in subsets:
        values = [row["main_score"] for rows in result.scores.values() for row in rows if row["hf_subset"] == subset]
        items = _joined([notes.items.get((split, subset), {}) for split in result.scores], notes.statistic)
        made.append(
            Score(
                task=task.metadata.name if len(subsets) == 1 else f"{task.metadata.name}/{subset}",
                kind=kind(task),
                metric=task.metadata.main_score,
                embedder=name,
                value=float(np.mean(values)),
                statistic=notes.statistic if items else "none",
                items=items,
                seconds_per_query=float("nan"),
                higher_is_better=True,
            )
        )
    return made


def kind(task: AbsTask) -> str:
    """`retrieval`, `sts`, `pair_classification`, …"""
    if isinstance(task, SafetyRetrieval):
        return "safety_retrieval"
    name = str(task.metadata.type)
    words = "".join(f" {letter}" if letter.isupper() else letter for letter in name).split()
    return name.lower() if name.isupper() else "_".join(words).lower()


def _joined(parts: list[Items], statistic: str) -> Items:
    """The items of several splits as those of one. mteb averages splits, so a small split's items count for more."""
    if not all(parts):
        return {}
    if len(parts) == 1:
        return parts[0]
    if statistic != "mean":
        return {}
    total = sum(len(part["score"]) for part in parts)
    return {"score": np.concatenate([part["score"] * (total / len(parts) / len(part["score"])) for part in parts])}


# -- what tasks hand to their scoring functions ------------------------------------------------------------


@contextmanager
def _noting(task: AbsTask) -> Iterator[_Notes]:
    """Listens to a task while it is evaluated."""
    notes = _Notes()
    evaluate = task._evaluate_subset

    def listened(model: Any, data: Any, **options: Any) -> Any:  # noqa: ANN401
        notes.place, notes.rows = (options["hf_split"], options["hf_subset"]), []
        scores = evaluate(model, data, **options)
        finish(task, notes)
        return scores

    task._evaluate_subset = listened
    listen, finish = _LISTENERS.get(_base(task), (_ignore, _ignore))
    listen(task, notes)
    if isinstance(task, AbsTaskClustering):
        task.rng_state = drawn = _Draws(task.rng_state)
        original = clustering.v_measure_score

        def v_measure(labels: Any, clusters: Any) -> Any:  # noqa: ANN401
            codes = np.unique(labels, return_inverse=True)[1]
            notes.rows.append(np.stack([codes, np.asarray(clusters), np.asarray(drawn.last)]))
            return original(labels, clusters)

        # mteb keeps the labels of its samples to itself; this is where it hands them to scikit-learn
        with patch.object(clustering, "v_measure_score", v_measure):
            yield notes
        return
    yield notes


class _Draws(Random):
    """The same random numbers, and the last sample that was drawn: which texts are clustered."""

    def __init__(self, like: Random) -> None:
        super().__init__()
        self.setstate(like.getstate())
        self.last: list[int] = []

    def choices(self, population: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        self.last = super().choices(population, *args, **options)
        return self.last


def _base(task: AbsTask) -> type | None:
    bases = (AbsTaskRetrieval, AbsTaskSTS, AbsTaskClassification, AbsTaskClustering)
    return next((base for base in bases if isinstance(task, base)), None)


def _ignore(task: AbsTask, notes: _Notes) -> None:
    """Of other types only mteb's average is known."""


def _listen_retrieval(task: AbsTask, notes: _Notes) -> None:
    given, _, k = task.metadata.main_score.rpartition("_")
    column = f"{_TREC.get(given)}_{k}"
    specific = task.task_specific_scores

    def listened(scores: Any, qrels: Any, results: Any, **options: Any) -> Any:  # noqa: ANN401
        if given in _TREC:
            notes.statistic = "mean"
            per_query = [scores.get(query, {}).get(column, 0.0) for query in results]
            notes.items[notes.place] = {"score": np.array(per_query)}
        return specific(scores, qrels, results, **options)

    task.task_specific_scores = listened


def _listen_sts(task: AbsTask, notes: _Notes) -> None:
    calculate = task._calculate_scores

    def listened(scores: Any, gold: Any) -> Any:  # noqa: ANN401
        if task.metadata.main_score == "cosine_spearman":
            notes.statistic = "spearman"
            cosine = np.asarray(scores["cosine_scores"], np.float64)
            notes.items[notes.place] = {"cosine": cosine, "gold": np.asarray(gold, np.float64)}
        return calculate(scores, gold)

    task._calculate_scores = listened


def _listen_classification(task: AbsTask, notes: _Notes) -> None:
    calculate = task._calculate_scores

    def listened(truth: Any, guess: Any) -> Any:  # noqa: ANN401
        notes.rows.append(np.asarray(truth) == np.asarray(guess))
        return calculate(truth, guess)

    task._calculate_scores = listened


def _finish_classification(task: AbsTask, notes: _Notes) -> None:
    """Over mteb's repeats with other training samples, the share in which a text was classified right."""
    if task.metadata.main_score == "accuracy" and len({len(row) for row in notes.rows}) == 1:
        notes.statistic = "mean"
        notes.items[notes.place] = {"score": np.mean(notes.rows, axis=0)}


def _finish_clustering(task: AbsTask, notes: _Notes) -> None:
    if task.metadata.main_score == "v_measure" and notes.rows:
        notes.statistic = "v_measure"
        label, cluster, item = np.stack(notes.rows, axis=1).astype(np.int32)
        notes.items[notes.place] = {"label": label, "cluster": cluster, "item": item}


_Listener = Callable[[AbsTask, _Notes], None]
_LISTENERS: dict[type | None, tuple[_Listener, _Listener]] = {
    AbsTaskRetrieval: (_listen_retrieval, _ignore),
    AbsTaskSTS: (_listen_sts, _ignore),
    AbsTaskClassification: (_listen_classification, _finish_classification),
    AbsTaskClustering: (_ignore, _finish_clustering),
}
