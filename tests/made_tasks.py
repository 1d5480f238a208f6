"""Small task folders, one of each type, and an embedder one can compute by eye."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORDS = "fox crow cheese river city fever rash bread salt rain wheel stone lamp rope coin".split()
Rows = list[dict[str, Any]]


class Letters:
    """Counts the letters a to z: texts with the same letters are alike."""

    fingerprint = "letters"

    def __init__(self) -> None:
        """Remembers what it was asked for."""
        self.seen: list[str] = []

    def encode_query(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(texts, 26)."""
        self.seen += texts
        return np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], np.float32)

    encode_document = encode_query


def sentences(count: int, seed: int) -> list[str]:
    """Different sentences of four words."""
    random = np.random.default_rng(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        made[" ".join(random.choice(WORDS, 4))] = None
    return list(made)


def rows(kind: str) -> dict[str, Rows]:
    """The files of a task of a type, as rows."""
    random = np.random.default_rng(7)
    if kind in ("retrieval", "safety_retrieval"):
        texts = sentences(30, 1)
        corpus: Rows = [{"id": f"d{i}", "text": text} for i, text in enumerate(texts)]
        queries: Rows = [{"id": f"q{i}", "text": " ".join(texts[i].split()[:2])} for i in range(12)]
        qrels: Rows = [{"query": f"q{i}", "doc": f"d{i}", "score": 1} for i in range(12)]
        if kind == "safety_retrieval":
            corpus = [{**row, "harmful": i % 2 == 0} for i, row in enumerate(corpus)]
            queries = [{**row, "harmful": i % 2 == 0} for i, row in enumerate(queries)]
        return {"queries": queries, "corpus": corpus, "qrels": qrels}
    if kind == "reranking":
        texts = sentences(40, 2)
        groups = [
            {"query": texts[8 * i], "positive": texts[8 * i + 1 : 8 * i + 3], "negative": texts[8 * i + 3 : 8 * i + 8]}
            for i in range(5)
        ]
        return {"groups": groups}
    if kind == "sts":
        left, right = sentences(25, 3), sentences(25, 4)
        scores = random.integers(0, 6, 25).tolist()
        return {"pairs": [{"text1": a, "text2": b, "score": s} for a, b, s in zip(left, right, scores, strict=True)]}
    labelled = [{"text": text, "label": "wet" if "r" in text.split()[0] else "dry"} for text in sentences(80, 5)]
    return {"texts": labelled} if kind == "clustering" else {"train": labelled[:50], "test": labelled[50:]}


KINDS = ("retrieval", "safety_retrieval", "reranking", "sts", "classification", "clustering")


def write(folder: Path, kind: str, about: dict[str, Any] | None = None) -> Path:
    """A task folder of a type."""
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps({"name": folder.name, "type": kind, **(about or {})}))
    for name, lines in rows(kind).items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
