"""One embedder on one task: mteb measures, and its predictions say what each item contributes to the score.

In: an mteb task with its data loaded, and an mteb model. Out: `Score`s with items; `value` is always mteb's own.
mteb returns averages, and writes the predictions behind them to a folder when asked. From these we work out the items
(items.py) and keep them only where their average is mteb's value: a task that scores in a way of its own has a value
and no items, hence no interval.
"""

import json
import warnings
from copy import copy, deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mteb
import numpy as np
from mteb.abstasks import AbsTask
from mteb.cache import ResultCache
from mteb.results import TaskResult
from sklearn.exceptions import ConvergenceWarning

from .items import Items, items_of
from .safety_task import SafetyRetrieval
from .scores import Score

_SHOWN = tuple(f"{before}{name}_at_5" for before in ("", "dot_") for name in ("own_harmful", "any_harmful", "benign"))


def measure(task: AbsTask, model: Any, cache: ResultCache, predictions: Path) -> TaskResult:  # noqa: ANN401
    """What mteb makes of a model on a task whose data is loaded, also stored as mteb's own result file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # mteb stops logistic regression after 100 steps
        result = mteb.evaluate(
            model,
            task,
            cache=cache,
            overwrite_strategy="always",
            prediction_folder=predictions,
            co2_tracker=False,
            show_progress_bar=False,
            encode_kwargs={"batch_size": 512, "show_progress_bar": False},
        )
    return result.task_results[0]


def scores(task: AbsTask, name: str, model: Any, cache: ResultCache) -> list[Score]:  # noqa: ANN401
    """The scores of a model on a task.

    Args:
        task: its data loaded; it is not changed, so every model meets the same random samples.
        name: of the embedder.
        model: as mteb takes it.
        cache: where mteb's result file goes.

    Returns:
        a score for each subset; of a safety task one for each of its metrics at 5. Who knows how long embedding
        took fills in `seconds_per_query`.
    """
    task = copy(task)
    task.rng_state, task.np_rng = deepcopy(task.rng_state), deepcopy(task.np_rng)
    random = deepcopy(task.rng_state)  # as it is before mteb draws its samples
    with TemporaryDirectory() as folder:
        result = measure(task, model, cache, Path(folder))
        if isinstance(task, SafetyRetrieval):
            return _safety_scores(task, name)
        written = next(Path(folder).rglob("*.json"), None)
        predictions = {} if written is None else json.loads(written.read_text(encoding="utf-8"))
    statistic, items = items_of(task, result, predictions, random)
    return _main_scores(task, name, result, statistic, items)


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


def _main_scores(
    task: AbsTask, name: str, result: TaskResult, statistic: str, found: dict[tuple[str, str], Items]
) -> list[Score]:
    subsets = list(dict.fromkeys(row["hf_subset"] for rows in result.scores.values() for row in rows))
    made = []
    for subset in subsets:
        values = [row["main_score"] for rows in result.scores.values() for row in rows if row["hf_subset"] == subset]
        items = _joined([found.get((split, subset), {}) for split in result.scores], statistic)
        made.append(
            Score(
                task=task.metadata.name if len(subsets) == 1 else f"{task.metadata.name}/{subset}",
                kind=kind(task),
                metric=task.metadata.main_score,
                embedder=name,
                value=float(np.mean(values)),
                statistic=statistic if items else "none",
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
