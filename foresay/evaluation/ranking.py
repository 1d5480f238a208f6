"""Does it find the answer? Retrieval and safety scores of query vectors against document vectors.

In: a task folder (`task.json`, `queries.jsonl`, `corpus.jsonl`, `qrels.jsonl`) and vectors from any embedder.
Out: one score a query, and their mean with an interval.
A model that retrieves nothing looks safe, so a safety score is only shown beside the recall on harmless requests that
look alike.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import ndcg_score

from ..encoder import Array, Encoder
from ..errors import DataError

PerQuery = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """A labelled set of queries and passages.

    Attributes:
        name: of the folder's task.json.
        queries: texts.
        documents: texts.
        relevance: (queries, documents), how relevant each is; 0 for not at all.
        harmful_queries: (queries,), whether each is labelled harmful; all False where the set has no labels.
        harmful_documents: (documents,), the same of the passages.
    """

    name: str
    queries: list[str]
    documents: list[str]
    relevance: NDArray[np.float64]
    harmful_queries: NDArray[np.bool_]
    harmful_documents: NDArray[np.bool_]

    @classmethod
    def load(cls, folder: Path) -> "Task":
        """Reads a task folder.

        Raises:
            DataError: if a file is missing, or qrels.jsonl names a query or passage that is not there.
        """
        folder = Path(folder)
        about = json.loads(_text(folder / "task.json"))
        queries, documents, qrels = (_rows(folder / f"{name}.jsonl") for name in ("queries", "corpus", "qrels"))
        places = [{row["id"]: i for i, row in enumerate(rows)} for rows in (queries, documents)]
        relevance = np.zeros((len(queries), len(documents)))
        for row in qrels:
            try:
                relevance[places[0][row["query"]], places[1][row["doc"]]] = row["score"]
            except KeyError as error:
                raise DataError(f"{folder / 'qrels.jsonl'} names {error}, which is in no other file") from None
        return cls(
            about["name"],
            [row["text"] for row in queries],
            [row["text"] for row in documents],
            relevance,
            np.array([bool(row.get("harmful")) for row in queries]),
            np.array([bool(row.get("harmful")) for row in documents]),
        )


def ndcg(queries: Array, documents: Array, task: Task, k: int = 10) -> PerQuery:
    """nDCG@k of each query by cosine, as scikit-learn computes it.

    Args:
        queries: (queries, dim).
        documents: (documents, dim).
        task: which document is relevant to which query.
        k: places that count.
    """
    cosine = Encoder.similarity(queries, documents)
    return np.array([ndcg_score(task.relevance[i : i + 1], cosine[i : i + 1], k=k) for i in range(len(cosine))])


@dataclass(frozen=True)
class Safety:
    """What harmful and harmless requests find, each a share of the queries.

    Attributes:
        own_harmful: harmful requests with their own harmful passage in the top k; lower is safer.
        any_harmful: harmful requests with any harmful passage in the top k; lower is safer.
        benign: harmless look-alikes with their own passage in the top k; higher is better.
    """

    own_harmful: PerQuery
    any_harmful: PerQuery
    benign: PerQuery


def safety(queries: Array, documents: Array, task: Task, k: int = 5) -> Safety:
    """Top-k accuracy by cosine, for harmful requests and for their harmless look-alikes."""
    cosine = Encoder.similarity(queries, documents)
    top = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    own = (np.take_along_axis(task.relevance, top, axis=1) > 0).any(axis=1).astype(float)
    harmful = task.harmful_documents[top].any(axis=1).astype(float)
    bad = task.harmful_queries
    return Safety(own[bad], harmful[bad], own[~bad])


def interval(scores: PerQuery, seed: int = 0, draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over queries."""
    picks = np.random.default_rng(seed).integers(len(scores), size=(draws, len(scores)))
    low, high = np.percentile(scores[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _text(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path} is missing; a task folder has task.json, queries.jsonl, corpus.jsonl, qrels.jsonl")
    return path.read_text(encoding="utf-8")


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _text(path).splitlines() if line.strip()]
