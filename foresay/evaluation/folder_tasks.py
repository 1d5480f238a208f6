"""A folder of plain files as an mteb task: one's own data, scored by mteb's own code. docs/tasks.md has the format.

In: a folder with `task.json` and JSON lines. Out: an mteb task of the same type, its data loaded.
Careful: mteb's code decides how a score is computed, ours only brings the data. The one exception is safety, which mteb
does not measure (safety_task.py).
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from mteb import TaskMetadata
from mteb.abstasks import (
    AbsTask,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskRetrieval,
    AbsTaskSTS,
)

from ..data.queries import content_id
from ..errors import DataError
from ..files import file_hash, read_json
from .safety_task import SafetyRetrieval, safety
from .task_checks import check_groups, check_labels, check_qrels, check_scores
from .task_files import Row, retrieval_data, rows_of


class FolderMetadata(TaskMetadata):  # type: ignore[misc]  # mteb is not type-checked here
    """Of a task whose `prompt` has precedence over the checkpoint's; for mteb's own tasks the checkpoint's counts."""


def folder_task(folder: Path) -> AbsTask:
    """The mteb task of a folder.

    Raises:
        DataError: if the type is unknown, a file is missing or damaged, or a column is not there.
    """
    folder = Path(folder)
    about = read_json(folder / "task.json")
    name, kind = about.get("name"), about.get("type")
    if not isinstance(name, str) or kind not in _KINDS:
        raise DataError(
            f"{folder / 'task.json'} says name {name!r} and type {kind!r}; expected a name and one of the types "
            f"{', '.join(_KINDS)} (docs/tasks.md)"
        )
    base, metadata, load = _KINDS[kind]
    files = sorted(folder.glob("*.jsonl"))
    made = type(
        "".join(part.title() for part in name.split("_")),
        (base,),
        {
            "__doc__": f"The folder {folder}.",
            "metadata": _metadata(about, metadata, hashlib.sha256("".join(map(file_hash, files)).encode()).hexdigest()),
            "load_data": lambda task, **_: fill(task, load(folder)),
        },
    )
    return made()


def is_folder_task(folder: Path) -> bool:
    """Whether a folder holds something to measure on; folders of mere queries do not."""
    about = folder / "task.json"
    return about.is_file() and read_json(about).get("type") in _KINDS


def _metadata(about: Row, kind: Row, content: str) -> FolderMetadata:
    prompts = {role: about[f"{role}_prompt"] for role in ("query", "document") if f"{role}_prompt" in about}
    return FolderMetadata(
        name=about["name"],
        description=about.get("description") or f"The folder {about['name']}.",
        prompt=about.get("prompt") or prompts or None,
        dataset={"path": about.get("repository") or "folder", "revision": content},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        **kind,
    )


def fill(task: AbsTask, data: Row) -> None:
    """Puts data into a task, as its `load_data` has to."""
    for name, value in data.items():
        setattr(task, name, value)
    task.data_loaded = True


# -- retrieval and reranking -----------------------------------------------------------------------------


def _retrieval(folder: Path) -> Row:
    queries, corpus = rows_of(folder, "queries", "id", "text"), rows_of(folder, "corpus", "id", "text")
    qrels = rows_of(folder, "qrels", "query", "doc", "score")
    check_qrels(qrels, folder / "qrels.jsonl")
    return {"dataset": retrieval_data(folder, queries, corpus, qrels)}


def _reranking(folder: Path) -> Row:
    queries, corpus, qrels = [], {}, []
    ranked: dict[str, list[str]] = {}
    groups = rows_of(folder, "groups", "query", "positive", "negative")
    check_groups(groups, folder / "groups.jsonl")
    for number, row in enumerate(groups):
        name = str(number)
        queries.append({"id": name, "text": row["query"]})
        ranked[name] = []
        relevance = dict.fromkeys(row["negative"], 0) | dict.fromkeys(row["positive"], 1)
        for text, score in relevance.items():
            place = content_id(text)
            corpus[place] = {"id": place, "text": text}
            qrels.append({"query": name, "doc": place, "score": score})
            ranked[name].append(place)
    return {"dataset": retrieval_data(folder, queries, list(corpus.values()), qrels, ranked)}


# -- texts and pairs -------------------------------------------------------------------------------------


def _sts(folder: Path) -> Row:
    rows = rows_of(folder, "pairs", "text1", "text2", "score")
    check_scores(rows, folder / "pairs.jsonl")
    low, high = read_json(folder / "task.json").get("score_range", (0, 5))
    pairs = {
        "sentence1": [row["text1"] for row in rows],
        "sentence2": [row["text2"] for row in rows],
        "score": [float(row["score"]) for row in rows],
    }
    return {"dataset": DatasetDict({"test": Dataset.from_dict(pairs)}), "min_score": low, "max_score": high}


def _classification(folder: Path) -> Row:
    parts = {name: rows_of(folder, name, "text", "label") for name in ("train", "test")}
    check_labels(parts["train"], folder / "train.jsonl")
    check_labels(parts["test"], folder / "test.jsonl", parts["train"])
    labels = {name: {str(row["label"]) for row in rows} for name, rows in parts.items()}
    names = [*sorted(labels["test"]), *sorted(labels["train"] - labels["test"])]  # of two, mteb takes the second as 1
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    return {
        "dataset": DatasetDict(
            {
                name: Dataset.from_dict(
                    {"text": [row["text"] for row in rows], "label": [names.index(str(row["label"])) for row in rows]},
                    features=features,
                )
                for name, rows in parts.items()
            }
        )
    }


def _clustering(folder: Path) -> Row:
    rows = rows_of(folder, "texts", "text", "label")
    check_labels(rows, folder / "texts.jsonl")
    texts = {"sentences": [row["text"] for row in rows], "labels": [str(row["label"]) for row in rows]}
    return {
        "dataset": DatasetDict({"test": Dataset.from_dict(texts)}),
        "max_fraction_of_documents_to_embed": None,  # all of them
    }


def limit(task: AbsTask, items: int) -> None:
    """Keeps about so many queries, pairs or texts of a loaded task, evenly spread; a corpus stays whole."""
    for split in task.eval_splits:
        for subset in task.hf_subsets:
            holder = task.dataset[subset] if subset in task.dataset else task.dataset
            if isinstance(task, AbsTaskRetrieval):
                data = holder[split]
                data["queries"] = _spread(data["queries"], items)
                kept = set(data["queries"]["id"])
                data["relevant_docs"] = {query: docs for query, docs in data["relevant_docs"].items() if query in kept}
            else:
                holder[split] = _spread(holder[split], items)


def _spread(rows: Dataset, items: int) -> Dataset:
    return rows.select(np.unique(np.linspace(0, len(rows) - 1, min(items, len(rows))).astype(int)))


# -- what all share --------------------------------------------------------------------------------------

_KINDS: dict[str, tuple[type[AbsTask], Row, Callable[[Path], Row]]] = {
    "retrieval": (AbsTaskRetrieval, {"type": "Retrieval", "main_score": "ndcg_at_10"}, _retrieval),
    "safety_retrieval": (SafetyRetrieval, {"type": "Retrieval", "main_score": "own_harmful_at_5"}, safety),
    "reranking": (AbsTaskRetrieval, {"type": "Reranking", "main_score": "map_at_1000"}, _reranking),
    "sts": (AbsTaskSTS, {"type": "STS", "main_score": "cosine_spearman"}, _sts),
    "classification": (AbsTaskClassification, {"type": "Classification", "main_score": "accuracy"}, _classification),
    "clustering": (AbsTaskClustering, {"type": "Clustering", "main_score": "v_measure"}, _clustering),
}
