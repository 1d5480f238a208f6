"""What a teacher's two stages bought: retrieval, similarity and classification before, between and after.

    python benchmarks/teacher_quality.py --data FOLDER --teacher DIR [--teacher DIR …]

In: folders that `foresay teacher` made of one backbone, for instance with several seeds, and a folder of task
folders. Out: a Markdown table on stdout, each figure with its 95 % bootstrap interval over the test items.
What a reader would get wrong: no prompt stands before any text, and both sides of a retrieval task are embedded by
the same model, so these are figures of the embedder alone, not of LLM2Vec-Gen.

    medquad, wordnet_define   nDCG@10
    sts12, sts13, sts14       Spearman correlation of cosine and score
    banking77                 accuracy of a logistic regression as in mteb: 8 texts a label, 10 draws
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from foresay.backbone import Backbone
from foresay.bidirectional import Bidirectional
from foresay.config import TeachConfig
from foresay.evaluate import Task, interval, ndcg
from foresay.llm2vec import LLM2VecTeacher
from foresay.teach import SelfTeacher, Teacher

RETRIEVAL = ("medquad", "wordnet_define")
SIMILARITY = ("sts12", "sts13", "sts14")
CLASSIFICATION = ("banking77",)
DRAWS, PER_LABEL = 10, 8
Figure = tuple[float, float, float]
"""A score and the ends of its interval."""


def retrieval(teacher: Teacher, folder: Path) -> Figure:
    """Mean nDCG@10."""
    task = Task.load(folder)
    scores = ndcg(teacher.embed(task.queries), teacher.embed(task.documents), task)
    return float(scores.mean()), *interval(scores)


def similarity(teacher: Teacher, folder: Path, draws: int = 1000) -> Figure:
    """Spearman correlation of cosine and score; the bootstrap draws pairs."""
    rows = read(folder / "pairs.jsonl")
    one, other = (teacher.embed([str(row[side]) for row in rows]) for side in ("text1", "text2"))
    cosine = (unit(one) * unit(other)).sum(axis=1)
    score = np.array([float(row["score"]) for row in rows])
    picks = np.random.default_rng(0).integers(len(rows), size=(draws, len(rows)))
    drawn = [spearmanr(cosine[pick], score[pick]).statistic for pick in picks]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(spearmanr(cosine, score).statistic), float(low), float(high)


def classification(teacher: Teacher, folder: Path) -> Figure:
    """Mean accuracy over draws of the training rows; the bootstrap draws test rows."""
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
    return float(right.mean()), *interval(right)


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
            yield f"{name}, seed {options['seed']}", LLM2VecTeacher(reader, name, config)


def main() -> None:
    """Prints the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder of the task folders.")
    parser.add_argument("--teacher", type=Path, action="append", required=True, help="Made by foresay teacher.")
    arguments = parser.parse_args()
    kinds = [(retrieval, RETRIEVAL), (similarity, SIMILARITY), (classification, CLASSIFICATION)]
    tasks = [(score, name) for score, names in kinds for name in names]
    show("|".join(["", " ", *(f" {name} " for _, name in tasks), ""]))
    show("|" + "---|" * (len(tasks) + 1))
    for name, teacher in stages(arguments.teacher, TeachConfig()):
        figures = [score(teacher, arguments.data / task) for score, task in tasks]
        cells = [f"{value:.3f} ({low:.3f}–{high:.3f})" for value, low, high in figures]
        show(f"| {name} | " + " | ".join(cells) + " |")


def show(line: str) -> None:
    """Writes a line at once, so that a long run can be watched."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
