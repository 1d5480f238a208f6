"""What a teacher's two stages bought: retrieval, similarity and classification before, between and after.

    python benchmarks/teacher_quality.py --data FOLDER --teacher DIR [--teacher DIR …]

In: folders that `foresay teacher` made of one backbone with several seeds, and a folder of task folders.
Out: a Markdown table on stdout, each figure the mean over the seeds, with its 95 % interval; then each seed's own.
There are no prompts, and the same model embeds both sides of a retrieval task: these are scores of the embedder alone,
not of LLM2Vec-Gen.

    medquad, wordnet_define   nDCG@10
    sts12, sts13, sts14       Spearman correlation of cosine and score
    banking77                 accuracy of a logistic regression as in mteb: 8 texts a label, 10 draws

The interval is from 1,000 draws. Each draws test items with replacement, the same for all seeds, and takes the mean
over the seeds; to it is added their standard error times a draw from Student's t with seeds - 1 degrees of freedom:
three seeds tell little about how far seeds spread, and t says so. Of one seed, it is the bootstrap over items alone.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from foresay.backbone import Backbone
from foresay.config import TeachConfig
from foresay.evaluation import Task, ndcg
from foresay.teachers.base import Teacher
from foresay.teachers.bidirectional import Bidirectional
from foresay.teachers.llm2vec import LLM2VecTeacher
from foresay.teachers.pooled import SelfTeacher

RETRIEVAL = ("medquad", "wordnet_define")
SIMILARITY = ("sts12", "sts13", "sts14")
CLASSIFICATION = ("banking77",)
DRAWS, PER_LABEL = 10, 8
BOOTSTRAP = 1000
Picks = NDArray[np.intp]
Figure = tuple[float, float, float]
"""A score and the ends of its interval."""


@dataclass(frozen=True)
class Outcome:
    """How one embedder did on the items of a task: `score` of any choice of them, as often as they are named."""

    items: int
    score: Callable[[Picks], float]

    @property
    def whole(self) -> float:
        """The score of all items."""
        return self.score(np.arange(self.items))


def figure(seeds: Sequence[Outcome]) -> Figure:
    """Mean of the same embedder trained with several seeds, and its interval as described on top."""
    random, items = np.random.default_rng(0), seeds[0].items
    picks = random.integers(items, size=(BOOTSTRAP, items))
    drawn = np.array([np.mean([outcome.score(pick) for outcome in seeds]) for pick in picks])
    whole = [outcome.whole for outcome in seeds]
    if len(seeds) > 1:
        error = np.std(whole, ddof=1) / np.sqrt(len(seeds))
        drawn += error * random.standard_t(len(seeds) - 1, size=BOOTSTRAP)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(np.mean(whole)), float(low), float(high)


def retrieval(teacher: Teacher, folder: Path) -> Outcome:
    """nDCG@10; the items are queries."""
    task = Task.load(folder)
    return mean_of(ndcg(teacher.embed(task.queries), teacher.embed(task.documents), task))


def similarity(teacher: Teacher, folder: Path) -> Outcome:
    """Spearman correlation of cosine and score; the items are pairs."""
    rows = read(folder / "pairs.jsonl")
    one, other = (teacher.embed([str(row[side]) for row in rows]) for side in ("text1", "text2"))
    cosine = (unit(one) * unit(other)).sum(axis=1)
    score = np.array([float(row["score"]) for row in rows])
    return Outcome(len(rows), lambda pick: float(spearmanr(cosine[pick], score[pick]).statistic))


def classification(teacher: Teacher, folder: Path) -> Outcome:
    """Mean accuracy over draws of the training rows; the items are test rows."""
    train, test = read(folder / "train.jsonl"), read(folder / "test.jsonl")
    labels = np.array([str(row["label"]) for row in train])
    expected = np.array([str(row["label"]) for row in test])
    random = np.random.default_rng(0)
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    drawn = [np.concatenate([random.permutation(of)[:PER_LABEL] for of in places]) for _ in range(DRAWS)]
    used = np.unique(np.concatenate(drawn))
    known = dict(zip(used, teacher.embed([str(train[i]["text"]) for i in used]), strict=True))
    vectors = teacher.embed([str(row["text"]) for row in test])
    right = np.zeros(len(test))
    for rows in drawn:
        model = LogisticRegression(max_iter=100).fit(np.stack([known[i] for i in rows]), labels[rows])
        right += (model.predict(vectors) == expected) / DRAWS
    return mean_of(right)


def mean_of(scores: NDArray[np.float64]) -> Outcome:
    """An outcome whose score is the mean of its items'."""
    return Outcome(len(scores), lambda pick: float(scores[pick].mean()))


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of length 1."""
    scaled: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def stages(folders: list[Path], config: TeachConfig) -> Iterator[tuple[str, Teacher]]:
    """The backbone as it is, the same with full attention, and each teacher after stage 1 and after stage 2."""
    about = json.loads((folders[0] / "teacher.json").read_text())["backbone"]
    backbone = Backbone.load(about["name"], revision=about["revision"], device="cpu", dtype=about["dtype"])
    yield "backbone, causal", SelfTeacher(backbone, config)
    yield "both directions, untrained", LLM2VecTeacher(Bidirectional(backbone), "untrained", config)
    for folder in folders:
        options = json.loads((folder / "teacher.json").read_text())["training"]["config"]
        first = folder / "training" / f"step-{options['mntp_steps']:06d}"
        for name, adapter in (("after stage 1", first), ("after stage 2", folder / "adapter")):
            reader = Bidirectional(backbone)
            reader.load_adapter(adapter)
            yield name, LLM2VecTeacher(reader, name, config)


TASKS = [(retrieval, name) for name in RETRIEVAL]
TASKS += [(similarity, name) for name in SIMILARITY]
TASKS += [(classification, name) for name in CLASSIFICATION]


def main() -> None:
    """Measures, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder of the task folders.")
    parser.add_argument("--teacher", type=Path, action="append", required=True, help="Made by foresay teacher.")
    arguments = parser.parse_args()
    rows: dict[str, list[list[Outcome]]] = {}
    for name, teacher in stages(arguments.teacher, TeachConfig()):
        rows.setdefault(name, []).append([score(teacher, arguments.data / task) for score, task in TASKS])
        sys.stderr.write(f"{name}: measured {len(rows[name])}\n")
    sys.stdout.write(table(rows))


def table(rows: dict[str, list[list[Outcome]]]) -> str:
    """The figures as Markdown: rows hold, for each seed, an outcome for each task."""
    lines = ["|".join(["", " ", *(f" {name} " for _, name in TASKS), ""]), "|" + "---|" * (len(TASKS) + 1)]
    for name, seeds in rows.items():
        figures = [figure(outcomes) for outcomes in zip(*seeds, strict=True)]
        cells = [f"{value:.3f} ({low:.3f}–{high:.3f})" for value, low, high in figures]
        lines.append(f"| {name}{', mean' if len(seeds) > 1 else ''} | " + " | ".join(cells) + " |")
    for name, seeds in rows.items():
        for i, outcomes in enumerate(seeds if len(seeds) > 1 else []):
            lines.append(f"| {name}, teacher {i} | " + " | ".join(f"{one.whole:.3f}" for one in outcomes) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
