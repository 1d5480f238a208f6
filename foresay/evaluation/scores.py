"""One figure of one embedder on one task, with what every single item contributed to it.

In: what `run.py` measured. Out: `Score`, and a folder of them: `scores.json` and the items in `items.npz`.
The items of a task come in the same order for every embedder, so two scores of the same task and metric are paired,
and a difference is bootstrapped over pairs.
"""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..files import read_json, write_json

STATISTICS = {"mean": {"score"}, "spearman": {"cosine", "gold"}, "v_measure": {"label", "cluster"}, "none": set()}
"""How items make a value, and which arrays that takes."""


@dataclass(frozen=True)
class Score:
    """What an embedder reached on a task.

    Attributes:
        task: name of the task.
        kind: retrieval, safety_retrieval, reranking, sts, classification, clustering.
        metric: `ndcg_at_10`, `cosine_spearman`, `accuracy`, `v_measure`, `map_at_1000`, `any_harmful_at_5`, …
        embedder: name of the row, such as `foresay`, `teacher`, `hyde`.
        value: as mteb computes it.
        statistic: how the items make the value: `mean`, `spearman`, `v_measure`; `none` where mteb only says the
            value (pair classification, summarization), which then has no interval.
        items: of a mean {"score": (n,)}; of spearman {"cosine": (n,), "gold": (n,)}; of v_measure
            {"label": (repeats, n), "cluster": (repeats, n), "item": (repeats, n)}: mteb clusters several samples,
            the value is the mean over them, and `item` says which text stands where; of none nothing.
        seconds_per_query: what embedding a query took; NaN where the vectors came from the disk.
        higher_is_better: False for what harmful requests find.
    """

    task: str
    kind: str
    metric: str
    embedder: str
    value: float
    statistic: str
    items: dict[str, NDArray[Any]]
    seconds_per_query: float
    higher_is_better: bool

    @property
    def key(self) -> str:
        """Names this score among others of a run."""
        return f"{self.embedder}/{self.task}/{self.metric}"


def save_scores(scores: Iterable[Score], folder: Path) -> None:
    """Writes `scores.json`, and `items.npz` beside it; each is replaced in one move."""
    scores, folder = list(scores), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"{score.key}/{name}": array for score in scores for name, array in score.items.items()}
    part = folder / "items.tmp.npz"
    np.savez_compressed(part, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its options
    os.replace(part, folder / "items.npz")
    rows = [{**asdict(score), "items": sorted(score.items)} for score in scores]
    for row in rows:  # JSON has no NaN
        row["seconds_per_query"] = row["seconds_per_query"] if np.isfinite(row["seconds_per_query"]) else None
    write_json(folder / "scores.json", {"scores": rows})


def load_scores(folder: Path) -> list[Score]:
    """Reads what `save_scores` wrote.

    Raises:
        DataError: if a file is missing or damaged, or the two do not belong together.
    """
    folder = Path(folder)
    rows = read_json(folder / "scores.json")["scores"]
    try:
        with np.load(folder / "items.npz", allow_pickle=False) as arrays:
            return [_read(row, arrays) for row in rows]
    except (OSError, EOFError, BadZipFile, ValueError, KeyError) as error:
        raise DataError(
            f"{folder / 'items.npz'} does not belong to scores.json ({error}); repeat foresay evaluate"
        ) from error


def _read(row: dict[str, Any], arrays: Any) -> Score:  # noqa: ANN401  # an open npz file
    key = f"{row['embedder']}/{row['task']}/{row['metric']}"
    seconds = float("nan") if row["seconds_per_query"] is None else row["seconds_per_query"]
    items = {name: arrays[f"{key}/{name}"] for name in row["items"]}
    return Score(**{**row, "items": items, "seconds_per_query": seconds})
