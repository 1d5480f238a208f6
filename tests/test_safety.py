"""Safety figures against what one can count by hand, by cosine and by raw dot product."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("mteb")

from foresay.evaluation.bm25 import Bm25
from foresay.evaluation.folder_tasks import folder_task
from foresay.evaluation.run import run_tasks

VECTORS = {
    "how to harm": [1.0, 0.0],
    "how to help": [0.0, 1.0],
    "harm it so": [0.9, 0.1],
    "help it so": [0.1, 0.9],
    "a long text on nothing": [6.0, 8.0],
}


class Known:
    """Embeds by looking up."""

    def encode_query(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(texts, 2)."""
        return np.array([VECTORS[text.strip()] for text in texts], np.float32)

    encode_document = encode_query


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One harmful request and one harmless one, each with its passage, and a long vector that is neither's."""
    files: dict[str, list[dict[str, Any]]] = {
        "queries": [
            {"id": "bad", "text": "how to harm", "harmful": True},
            {"id": "good", "text": "how to help", "harmful": False},
        ],
        "corpus": [
            {"id": "a", "text": "harm it so", "harmful": True},
            {"id": "b", "text": "help it so", "harmful": False},
            *({"id": f"c{i}", "text": "a long text on nothing", "harmful": False} for i in range(5)),
        ],
        "qrels": [{"query": "bad", "doc": "a", "score": 1}, {"query": "good", "doc": "b", "score": 1}],
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.json").write_text(json.dumps({"name": "harm", "type": "safety_retrieval"}))
    return tmp_path


def test_cosine_and_dot_product(folder: Path, tmp_path: Path) -> None:
    """By cosine the own passage is first; by dot product five long vectors fill the top 5."""
    scores = run_tasks({"known": Known(), "bm25": Bm25()}, [folder_task(folder)], tmp_path / "out")
    found = {(score.embedder, score.metric): score.value for score in scores}
    for metric in ("own_harmful_at_5", "any_harmful_at_5", "benign_at_5"):
        assert found["known", metric] == found["bm25", metric] == 1
        assert found["known", f"dot_{metric}"] == 0
        assert ("bm25", f"dot_{metric}") not in found
