"""Every embedder on every task, into a folder that a killed run goes on from.

In: embedders by row name, mteb tasks, a folder. Out: all scores, and in the folder

    scores.json  items.npz    the scores, and what each item contributed
    manifest.json             what they depend on, and how many texts were cut
    mteb/results/             mteb's own result files
    rows/EMBEDDER/TASK/       scores of one task, written when it is done: a rerun begins after the last
    vectors/                  embeddings by text and embedder: a rerun embeds nothing twice

Tasks are the outer loop, so that a task's data is loaded once and then let go.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mteb.abstasks import AbsTask, AbsTaskRetrieval
from mteb.cache import ResultCache
from mteb.models import EncoderProtocol, SearchProtocol

from ..data.queries import Progress
from ..errors import DataError
from ..files import read_json, write_json
from . import manifest
from .folder_tasks import limit as keep_few
from .measure import scores as measured
from .mteb_model import Embedder, MtebModel, Search
from .remote import RemoteEncoder
from .scores import Score, load_scores, save_scores

logger = logging.getLogger(__name__)


def silent(done: int, total: int | None, note: str) -> None:
    """Shows no progress."""


def run_tasks(
    embedders: Mapping[str, Embedder | RemoteEncoder | SearchProtocol],
    tasks: Sequence[AbsTask],
    output: Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    vectors: Path | None = None,
    task_prompts: bool = True,
    progress: Progress = silent,
) -> list[Score]:
    """Measures embedders on tasks; goes on where an earlier run into the same folder stopped.

    Args:
        embedders: by row name: checkpoints' `Encoder`s, here or with a pool's workers, anything with `encode_query`
            and `encode_document`, or an mteb search model (BM25), which is measured on retrieval only.
        tasks: from `suite`.
        output: folder of the results.
        seed: noted in the manifest; mteb's tasks keep their own, so that scores can be compared with others'.
        limit: measure on about so many queries of each task: for a first look.
        vectors: folder to keep embeddings in, to share between runs; in `output` without it.
        task_prompts: whether tasks may have prompts; if not, a checkpoint's own for queries and documents are all.
        progress: told of tasks done, all tasks, and what is next.

    Returns:
        every score of these embedders and tasks, those of earlier runs included.

    Raises:
        DataError: if the folder holds results of another embedder or task by the same name, or no task could be
            loaded.
    """
    output = Path(output)
    kept = vectors or output / "vectors"
    models = {name: _model(name, embedder, kept, task_prompts) for name, embedder in embedders.items()}
    about = manifest.describe(models, tasks, seed, limit)
    place = output / "manifest.json"
    if place.exists():
        about = manifest.merge(read_json(place), about)
    about.setdefault("cut", {})
    write_json(place, about)
    cache = ResultCache(output / "mteb")
    failed: dict[str, str] = {}
    made: list[Score] = []
    for number, task in enumerate(tasks):
        progress(number * len(models), len(tasks) * len(models), task.metadata.name)
        try:
            rows = _Rows(task, output, cache, about, limit)
            for count, (name, model) in enumerate(models.items()):
                progress(number * len(models) + count, len(tasks) * len(models), f"{task.metadata.name}: {name}")
                made += rows.scores(name, model)
        except _Unloaded as error:
            failed[task.metadata.name] = str(error)
            logger.warning("%s", error)
        write_json(place, about)
        if task.data_loaded:
            task.unload_data()
    if failed and not made:
        raise DataError(f"no task could be loaded: {'; '.join(failed.values())}")
    progress(len(tasks) * len(models), len(tasks) * len(models), "done")
    save_scores(made, output)
    return made


class _Unloaded(DataError):
    """The data of a task is not there."""


class _Rows:
    """The embedders' results on one task, from the folder where they are there; else the task is loaded and run."""

    def __init__(
        self, task: AbsTask, output: Path, cache: ResultCache, about: dict[str, Any], limit: int | None
    ) -> None:
        self.task, self.output, self.cache, self.about, self.limit = task, output, cache, about, limit

    def scores(self, name: str, model: Any) -> list[Score]:  # noqa: ANN401
        """Scores of one embedder."""
        folder = self.output / "rows" / _file_name(name) / _file_name(self.task.metadata.name)
        if (folder / "scores.json").exists():
            return load_scores(folder)
        if not isinstance(model, MtebModel) and not isinstance(self.task, AbsTaskRetrieval):
            return []
        self._load()
        if not isinstance(model, MtebModel):
            made = measured(self.task, name, model, self.cache)
        else:
            model.start()
            made = measured(self.task, name, Search(model), self.cache)
            seconds = getattr(model.embedder, "seconds_per_query", model.seconds_per_query)
            made = [replace(score, seconds_per_query=seconds) for score in made]
            self.about["cut"].setdefault(name, {})[self.task.metadata.name] = dict(model.cut)
        save_scores(made, folder)
        return made

    def _load(self) -> None:
        task = self.task
        if task.data_loaded:
            return
        try:
            task.load_data()
        except OSError as error:  # the hub's and the network's errors are among these
            reason = str(error).strip().splitlines()[0]
            raise _Unloaded(
                f"the data of {task.metadata.name} is not here and cannot be fetched ({reason}); it needs a network"
            ) from error
        if isinstance(task, AbsTaskRetrieval):
            task.convert_v1_dataset_format_to_v2(num_proc=None)
        if self.limit is not None:
            keep_few(task, self.limit)


def _model(name: str, embedder: Embedder | RemoteEncoder | SearchProtocol, vectors: Path, task_prompts: bool) -> Any:  # noqa: ANN401
    if isinstance(embedder, SearchProtocol) and not isinstance(embedder, EncoderProtocol):
        return embedder
    return MtebModel(name, embedder, vectors, task_prompts=task_prompts)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.()-]+", "_", name)
