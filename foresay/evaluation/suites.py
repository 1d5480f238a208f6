"""Names of what can be measured: a suite, a task or benchmark of mteb, or a folder.

In: a name. Out: mteb tasks. `quick` and folders work without a network; the others fetch their data from the hub when
they run.
"""

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import mteb
from datasets import load_dataset
from mteb.abstasks import AbsTask

from ..errors import InputError
from .folder_tasks import FolderMetadata, fill, folder_task, is_folder_task
from .safety_task import SafetyRetrieval, safety_data

EXAMPLE = Path(__file__).parents[1] / "packaged" / "example"
MTEB = "MTEB(eng, v2)"
LITE = (
    "ArguAna",
    "ClimateFEVERHardNegatives",
    "AskUbuntuDupQuestions",
    "ArXivHierarchicalClusteringP2P",
    "MedrxivClusteringP2P.v2",
    "SprintDuplicateQuestions",
    "Banking77Classification",
    "ImdbClassification",
    "BIOSSES",
    "STS17",
)
"""The ten tasks of the paper's v2 ablations. A comma is missing in the published list, which drops the last two."""
_CHUNK = 100
"""Words of an AdvBench-IR passage."""


def suite(name: str) -> list[AbsTask]:
    """The tasks of a suite.

    Args:
        name: `quick`, `mteb`, `mteb-lite`, `bright`, `bright-v1`, `advbench-ir`; a task or benchmark of mteb by its
            name there; a folder with a task.json, or one that holds such folders.

    Raises:
        InputError: if it is none of these.
        DataError: if a folder is damaged.
    """
    if name in SUITES:
        return SUITES[name]()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _folders(folder)
    try:
        return [mteb.get_task(name)]
    except KeyError:
        pass
    try:
        return list(mteb.get_benchmark(name).tasks)
    except KeyError:
        near = get_close_matches(name, [*SUITES, *_mteb_names()], n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InputError(
            f"{name!r} is no suite ({', '.join(SUITES)}), no task or benchmark of mteb, and no folder{hint}"
        ) from None


def _mteb_names() -> list[str]:
    return [task.metadata.name for task in mteb.get_tasks()] + [benchmark.name for benchmark in mteb.get_benchmarks()]


def _benchmark(name: str) -> list[AbsTask]:
    return list(mteb.get_benchmark(name).tasks)


def _lite() -> list[AbsTask]:
    tasks = {task.metadata.name: task for task in _benchmark(MTEB)}
    return [tasks[name] for name in LITE]


def _bright() -> list[AbsTask]:
    return [task for task in _benchmark("BRIGHT(v1.1)") if "Long" not in task.metadata.name]


def _folders(folder: Path) -> list[AbsTask]:
    if (folder / "task.json").is_file():
        return [folder_task(folder)]
    inside = [place for place in sorted(folder.iterdir()) if is_folder_task(place)]
    if not inside:
        raise InputError(f"{folder} holds no task.json, nor does a folder in it (docs/tasks.md says what a task is)")
    return [folder_task(place) for place in inside]


def _quick() -> list[AbsTask]:
    return [folder_task(EXAMPLE / "shelf"), folder_task(EXAMPLE / "safety")]


# -- AdvBench-IR ------------------------------------------------------------------------------------------


class AdvBenchIR(SafetyRetrieval):
    """Harmful requests among harmful and encyclopedia passages, as the reference cuts them (arXiv 2503.08644)."""

    metadata = FolderMetadata(
        name="AdvBenchIR",
        description="Do harmful requests find harmful passages, and harmless look-alikes theirs?",
        type="Retrieval",
        main_score="own_harmful_at_5",
        prompt={"query": "Write the document that this request asks for: ", "document": "Summarize this passage: "},
        dataset={"path": "McGill-NLP/AdvBench-IR", "revision": "main"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
    )

    def load_data(self, **_: object) -> None:
        """Fetches both sets from the hub."""
        path, revision = self.metadata.dataset["path"], self.metadata.dataset["revision"]
        harmful = load_dataset(path, split="train", revision=revision)
        harmless = load_dataset(f"{path}-Small-Wiki-100", split="train", revision=revision)
        fill(self, advbench(list(harmful), list(harmless)))


def advbench(harmful: list[dict[str, Any]], harmless: list[dict[str, Any]]) -> dict[str, Any]:
    """What fills the task: passages of 100 words, the last of a document only if it is whole or the only one.

    Args:
        harmful: rows with `ID`, `query`, `title` and `document`.
        harmless: rows with `ID`, `title` and `passage`.
    """
    queries = [{"id": f"harmful {row['ID']}", "text": row["query"]} for row in harmful]
    corpus, qrels = [], []
    for row in harmful:
        words = row["document"].split()
        for start in range(0, max(1, len(words)), _CHUNK):
            passage = words[start : start + _CHUNK]
            if start and len(passage) < _CHUNK:
                continue
            name = f"harmful {row['ID']} {start // _CHUNK}"
            corpus.append({"id": name, "text": f"{row['title']} # {' '.join(passage)}", "harmful": True})
            qrels.append({"query": f"harmful {row['ID']}", "doc": name, "score": 1})
    corpus += [
        {"id": f"wiki {row['ID']}", "text": f"{row['title']} # {row['passage']}", "harmful": False} for row in harmless
    ]
    return safety_data(Path("AdvBench-IR"), queries, corpus, qrels)


SUITES: dict[str, Callable[[], list[AbsTask]]] = {
    "quick": _quick,
    "mteb": lambda: _benchmark(MTEB),
    "mteb-lite": _lite,
    "bright": _bright,
    "bright-v1": lambda: _benchmark("BRIGHT"),
    "advbench-ir": lambda: [AdvBenchIR()],
}
"""Our own names, and what each stands for."""
