"""An index under other weights: migrated by embedding anew, also when it is stopped on the way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from foresay import Encoder, Index, IndexConfig, migrate
from foresay.backbone import Backbone
from foresay.checkpoints.save import save
from foresay.cli.main import main
from foresay.errors import DataError
from foresay.retrieval import index as index_module
from foresay.retrieval import rewriting
from foresay.retrieval.documents import Document
from foresay.retrieval.store import Store

from .indexing import make, some
from .migrating import LONG, Get, alike, same_tokens, vectors_of


@pytest.fixture(scope="module")
def encoder(backbone: Get) -> Encoder:
    """One for the module."""
    return make(backbone("qwen3"), prompts={"query": "Q: ", "document": "D: "})


def test_a_migrated_index_is_one_of_the_new_checkpoint(encoder: Encoder, backbone: Get, tmp_path: Path) -> None:
    """Vectors, metadata and filters; documents in several files; who has it open meanwhile is told."""
    old = Index.create(tmp_path / "index", encoder, IndexConfig(chunk_tokens=20))
    old.add([LONG, *some(12)])
    old.add([Document("d3", "changed", {"year": 1999}), Document("late", "a zebra")])
    old.delete(["d5"])
    other = make(backbone("llama"), seed=3)
    moved = migrate(tmp_path / "index", other)
    fresh = Index.create(tmp_path / "fresh", other, IndexConfig(chunk_tokens=20))
    fresh.add([LONG, *some(3), Document("d3", "changed", {"year": 1999})])
    fresh.add([d for d in some(12) if d.id not in ("d0", "d1", "d2", "d3", "d5")] + [Document("late", "a zebra")])
    assert {name for name, _ in vectors_of(moved)} == {name for name, _ in vectors_of(fresh)}
    short = {place: v for place, v in vectors_of(moved).items() if place[0] != "long"}
    for place, vector in short.items():
        np.testing.assert_allclose(vector, vectors_of(fresh)[place], atol=1e-5)
    for place in (place for place in vectors_of(moved) if place[0] == "long"):
        (row,) = moved._store.table.search().where(f"id = 'long' AND start = {place[1]}").to_list()
        assert LONG.text[row["start"] : row["end"]] == row["text"]
    assert moved.search("zebra", mode="words")[0].id == "late"
    assert moved.search("x", where="json_get_int(metadata, 'year') = 1999", mode="dense")[0].id == "d3"
    assert Store.names(tmp_path / "index" / "tables") == ["rows-2"]
    with pytest.raises(DataError, match="has been migrated"):
        old.search("x")
    with pytest.raises(DataError, match="has been migrated"):
        old.add(some(1))
    with pytest.raises(DataError, match="foresay migrate CHECKPOINT"):
        Index.open(tmp_path / "index", encoder)
    assert moved.add(some(12)).kept == 10


def test_chunks_that_the_new_checkpoint_cannot_read_are_cut(encoder: Encoder, tmp_path: Path) -> None:
    """They lose nothing."""
    index = Index.create(tmp_path / "index", encoder)
    index.add([LONG])
    before = index._store.count()
    narrow = make(encoder.model.backbone, prompts={"document": "D: "})
    narrow.max_tokens = 40
    moved = migrate(tmp_path / "index", narrow)
    rows = sorted(moved._store.head(["chunk", "start", "end", "text"], 99).to_pylist(), key=lambda row: row["chunk"])
    assert len(rows) > before + 3 and len(moved) == 1
    assert [row["chunk"] for row in rows] == list(range(len(rows)))
    assert [row["start"] for row in rows] == sorted(row["start"] for row in rows)
    assert all(LONG.text[row["start"] : row["end"]] == row["text"] for row in rows)
    assert "".join("".join(row["text"].split()) for row in rows) == "".join(LONG.text.split())


class Stop(BaseException):
    """As a kill, it passes by everything that repairs."""


def test_a_stopped_migration_goes_on(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It embeds nothing twice; what changed meanwhile counts; another checkpoint begins anew."""
    monkeypatch.setattr(rewriting, "BLOCK", 4)
    index = Index.create(tmp_path / "index", encoder)
    index.add([*some(20), LONG])
    other = make(encoder.model.backbone, seed=3)
    append, calls = Store.append, []

    def stops(self: Store, rows: pa.Table) -> None:
        append(self, rows)
        calls.append(rows.num_rows)
        if len(calls) == 3:
            raise Stop

    monkeypatch.setattr(Store, "append", stops)
    with pytest.raises(Stop):
        migrate(tmp_path / "index", other)
    assert len(Index.open(tmp_path / "index", encoder).search("measles")) == 10  # as before
    index.add([Document("d1", "changed"), Document("new", "new")])
    index.delete(["d2"])
    before = len(calls)
    moved = migrate(tmp_path / "index", other)
    assert sum(calls[before:]) < 12 + 4 * 3
    fresh = Index.create(tmp_path / "fresh", other)
    kept = [d for d in some(20) if d.id not in ("d1", "d2")]
    fresh.add([*kept, LONG, Document("d1", "changed"), Document("new", "new")])
    alike(moved, fresh)
    calls.clear()
    alike(migrate(tmp_path / "index", other), fresh)
    assert not calls
    with pytest.raises(Stop):
        migrate(tmp_path / "index", encoder)
    alike(migrate(tmp_path / "index", make(encoder.model.backbone, seed=4)), _indexed(tmp_path, 4, fresh))


def _indexed(place: Path, seed: int, like: Index) -> Index:
    """The documents of an index in another, of one chunk each but for the long one."""
    fresh = Index.create(place / f"fresh-{seed}", make(like.encoder.model.backbone, seed=seed))
    kept = [d for d in some(20) if d.id not in ("d1", "d2")]
    fresh.add([*kept, LONG, Document("d1", "changed"), Document("new", "new")])
    return fresh


def test_a_killed_create_is_made_again(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has to be deleted by hand; a folder with other files is left alone."""

    def stops(path: Path, what: dict[str, Any]) -> None:
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(index_module, "write_pointer", stops)
        Index.create(tmp_path / "index", encoder)
    with pytest.raises(DataError, match="whose making was stopped"):
        Index.open(tmp_path / "index", encoder)
    assert Index.create(tmp_path / "index", encoder).add(some(2)).new == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match=r"mine holds thesis\.txt, which foresay did not write"):
        Index.create(tmp_path / "mine", encoder)


# -- kills -----------------------------------------------------------------------------------------------


def test_the_commands(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """index with states, rehead, migrate; what was measured is said; decoded hits with --explain."""
    backbone = Backbone.load(str(folder("qwen3")), device="cpu")
    first = make(backbone)
    save(tmp_path / "a", first)
    save(tmp_path / "b", same_tokens(first, 4))
    save(tmp_path / "c", make(backbone, seed=6))
    source = tmp_path / "documents.jsonl"
    source.write_text("".join(f'{{"id": "{d.id}", "text": "{d.text}"}}\n' for d in some(8)))

    def run(*words: object, code: int = 0) -> str:
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == code, result.output
        return result.output

    place = tmp_path / "index"
    made = run("index", tmp_path / "a", source, "-o", place, "--states", "int8")
    assert "states kept as int8: vectors made from them have a cosine of 0.999" in made
    explained = run("search", tmp_path / "a", place, "fever", "--explain", "--top", 2)
    assert "what the hits stand for, decoded:" in explained
    assert f"8 documents, now of {tmp_path / 'b'}" in run("rehead", tmp_path / "b", place)
    assert "use foresay migrate" in run("rehead", tmp_path / "c", place, code=1)
    assert f"8 documents, now of {tmp_path / 'c'}" in run("migrate", tmp_path / "c", place)
    assert "another model made the vectors" in run("search", tmp_path / "a", place, "fever", code=1)
    assert len(run("search", tmp_path / "c", place, "fever", "--top", 3, "--exact").splitlines()) == 3
