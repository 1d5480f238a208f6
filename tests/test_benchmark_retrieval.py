"""The benchmark of an index runs at a tiny size: drawn rows are near real ones, and a killed run goes on."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from click.testing import CliRunner

import retrieval_system
from foresay import Encoder
from foresay.backbone import Backbone
from foresay.checkpoints.save import save
from foresay.embedded import unit
from foresay.model import Model

from .conftest import SENTENCES


def test_rows_are_drawn_around_real_ones() -> None:
    """Each is nearer to its own than to the others, and the same number gives the same row."""
    real = unit(np.random.default_rng(0).normal(size=(12, 64)).astype(np.float32))
    around = retrieval_system.Around([f"{SENTENCES[i % 4]} {i}" for i in range(12)], real)
    documents = [around.document(i) for i in range(60)]
    vectors = around.embed([document.text for document in documents])
    assert [(vectors[i] @ real.T).argmax() for i in range(60)] == [i % 12 for i in range(60)]
    assert len({document.text for document in documents}) == 60
    assert len(np.unique(vectors.round(5), axis=0)) > 50  # of twelve, two may be drawn twice
    np.testing.assert_array_equal(around.embed([around.document(7).text])[0], vectors[7])


def test_the_table(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """One line a size; of the second run, which finds everything there, too."""
    model = Model(Backbone.load(str(folder("qwen3")), device="cpu"), thought=0, compression=2, dim=16)
    save(tmp_path / "checkpoint", Encoder(model, max_tokens=64))
    for name, key in (("documents", "text"), ("queries", "query")):
        rows = [json.dumps({"id": f"{i}", key: f"{SENTENCES[i % 4]} {i}"}) for i in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    words = ["size", tmp_path / "documents.jsonl", tmp_path / "queries.jsonl", "--rows", 700, "--ann", 500]
    words += ["--checkpoint", tmp_path / "checkpoint", "--work", tmp_path / "work", "-o", tmp_path / "out.md"]
    for _ in range(2):
        result = CliRunner().invoke(retrieval_system.main, list(map(str, words)))
        assert result.exit_code == 0, result.output
        line = (tmp_path / "out.md").read_text().splitlines()[4]
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        assert len(cells) == len(retrieval_system.COLUMNS) and cells[0] == "700" and 0.5 < float(cells[-1]) <= 1
