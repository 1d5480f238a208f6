"""What is deployed is measured: an index in `evaluate`, against its own hits."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from foresay import EvaluateConfig, Index, evaluate
from foresay.backbone import Backbone
from foresay.checkpoints.save import save
from foresay.errors import DataError
from foresay.evaluation.scores import load_scores
from foresay.retrieval.documents import Document, read_documents

from .indexing import make
from .made_tasks import rows, write


def test_each_mode_of_an_index_is_measured(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """nDCG@10 by hand, from what the index itself finds; documents that are missing are named."""
    encoder = make(Backbone.load(str(folder("qwen3")), device="cpu"))
    save(tmp_path / "checkpoint", encoder)
    task, made = write(tmp_path / "mine", "retrieval"), rows("retrieval")
    index = Index.create(tmp_path / "index", encoder)
    index.add(Document(row["id"], row["text"]) for row in made["corpus"][1:])
    config = EvaluateConfig(index=str(index.path), device="cpu")
    with pytest.raises(DataError, match="lacks 1 of 30 documents of mine .first: 'd0'.; index that task's own"):
        evaluate(str(tmp_path / "checkpoint"), str(task), tmp_path / "first", config)
    index.add([Document("d0", made["corpus"][0]["text"])])
    evaluate(str(tmp_path / "checkpoint"), str(task), tmp_path / "scores", config)
    scores = {score.embedder: score.value for score in load_scores(tmp_path / "scores")}
    assert scores.keys() == {"foresay", "index, dense", "index, words", "index, hybrid"}
    right = {row["query"]: row["doc"] for row in made["qrels"]}
    for mode in ("dense", "words", "hybrid"):
        total = 0.0
        for row in made["queries"]:
            found = [hit.id for hit in index.search(row["text"], 10, mode=mode)]
            if right[row["id"]] in found:
                total += 1 / math.log2(found.index(right[row["id"]]) + 2)
        assert scores[f"index, {mode}"] == pytest.approx(total / len(made["queries"]), abs=2e-3), mode
    assert scores["index, dense"] == pytest.approx(scores["foresay"], abs=2e-3)
    assert "--index" in (tmp_path / "scores" / "results.md").read_text()
    assert json.loads((tmp_path / "scores" / "manifest.json").read_text())["embedders"]["index, dense"]["fingerprint"]


def test_titles_count_in_an_index_as_without_one(
    folder: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What `foresay index` makes of the task's own corpus scores the same; an index without the titles is told of."""
    encoder = make(Backbone.load(str(folder("qwen3")), device="cpu"))
    save(tmp_path / "checkpoint", encoder)
    task, texts = write(tmp_path / "mine", "retrieval"), rows("retrieval")["corpus"]
    lines = [{**row, "title": texts[-i]["text"]} if i % 2 and i != 15 else row for i, row in enumerate(texts)]
    (task / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, titles in (("with", True), ("without", False)):
        index = Index.create(tmp_path / name, encoder)
        index.add(d for d in read_documents(task / "corpus.jsonl", titles=titles) if isinstance(d, Document))
        config = EvaluateConfig(index=str(index.path), device="cpu")
        evaluate(str(tmp_path / "checkpoint"), str(task), tmp_path / f"{name}-scores", config)
        scores = {score.embedder: score.value for score in load_scores(tmp_path / f"{name}-scores")}
        same = scores["index, dense"] == pytest.approx(scores["foresay"], abs=2e-3)
        told = "holds other texts than mine for 14 of 30 documents (first: 'd1')" in caplog.text
        assert (same, told) == (titles, not titles)
