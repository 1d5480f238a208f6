"""An index under other weights: migrated by embedding anew, reheaded from the states it keeps, and killed meanwhile."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from foresay import Encoder, Index, IndexConfig, migrate, rehead
from foresay.backbone import Backbone
from foresay.checkpoints.save import save
from foresay.cli.main import main
from foresay.embedded import Array, unit
from foresay.errors import DataError, InputError
from foresay.model import Model
from foresay.retrieval import index as index_module
from foresay.retrieval import rewriting
from foresay.retrieval import store as store_module
from foresay.retrieval.chunks import Chunk
from foresay.retrieval.documents import Document
from foresay.retrieval.parts import Part, table_of
from foresay.retrieval.states import Keeping
from foresay.retrieval.store import Store, schema

from .conftest import SENTENCES
from .indexing import Hashed, make, some

Get = Callable[[str], Backbone]
LONG = Document("long", " ".join(f"{sentence} measles." for sentence in SENTENCES * 3), {"year": 1})


def same_tokens(encoder: Encoder, seed: int, **changes: object) -> Encoder:
    """An encoder with other maps behind the same special tokens."""
    other = make(encoder.model.backbone, seed, **{"prompts": encoder.prompts, **changes})
    other.model.special_tokens.data.copy_(encoder.model.special_tokens.data)
    return other


def vectors_of(index: Index) -> dict[tuple[str, int], Array]:
    """The vector of each chunk, by its document and place."""
    rows = index._store.head(["id", "start", "vector"], 10_000).to_pylist()
    made = {(row["id"], row["start"]): np.asarray(row["vector"], np.float32) for row in rows}
    assert len(made) == len(rows)
    return made


def alike(found: Index, expected: Index, tolerance: float = 1e-5) -> None:
    """The same chunks with the same vectors."""
    left, right = vectors_of(found), vectors_of(expected)
    assert left.keys() == right.keys()
    for place in left:
        np.testing.assert_allclose(left[place], right[place], atol=tolerance)


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


# -- states ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("storage", "readout", "tolerance"),
    [
        ("float16", "mean", 3e-3),
        ("int8", "tokens", 3e-2),
        ("float16", "layers", 3e-3),
    ],
)
def test_rehead_makes_the_vectors_of_the_new_maps(
    storage: str, readout: str, tolerance: float, backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And runs the language model on a handful of texts alone."""

    def build(seed: int) -> Encoder:
        model = Model(backbone("qwen3"), thought=1, compression=3, dim=12, seed=seed, readout=readout)
        model.special_tokens.data.copy_(Model(backbone("qwen3"), thought=1, compression=3, dim=12).special_tokens.data)
        return Encoder(model, max_tokens=64, prompts={"document": "D: "})

    config = IndexConfig(states=storage, chunk_tokens=20)  # type: ignore[arg-type]
    index = Index.create(tmp_path / "index", build(1), config)
    index.add([LONG, *some(30)])
    cosine = index.states_cosine()
    assert cosine is not None and 1 - tolerance**2 < cosine <= 1.000001
    rows: list[int] = []
    run = Model.run

    def counts(self: Model, given: Sequence[Any], *rest: Any) -> None:  # noqa: ANN401
        rows.append(len(given))
        run(self, given, *rest)

    monkeypatch.setattr(Model, "run", counts)
    made = rehead(tmp_path / "index", build(2))
    assert sum(rows) <= 8
    fresh = Index.create(tmp_path / "fresh", build(2), config)
    fresh.add([LONG, *some(30)])
    alike(made, fresh, tolerance)
    assert made.add(some(31)).new == 1
    again = rehead(tmp_path / "index", build(1))
    alike(again, _alone(tmp_path / "again", build(1), config), tolerance)


def _alone(path: Path, encoder: Encoder, config: IndexConfig) -> Index:
    index = Index.create(path, encoder, config)
    index.add([LONG, *some(31)])
    return index


def test_what_cannot_be_reheaded_says_why(encoder: Encoder, backbone: Get, tmp_path: Path) -> None:
    """No states, states of other tokens, prompts or backbones, documents of a teacher."""
    Index.create(tmp_path / "none", encoder).add(some(3))
    with pytest.raises(DataError, match="keeps no states .*--states float16"):
        rehead(tmp_path / "none", encoder)
    kept = IndexConfig(states="float16")
    Index.create(tmp_path / "index", encoder, kept).add(some(9))
    for other in (
        make(backbone("qwen3"), seed=1, prompts=encoder.prompts),
        same_tokens(encoder, 1, prompts={"document": "Measles! "}),
        make(backbone("llama"), prompts=encoder.prompts),
    ):
        with pytest.raises(DataError, match=r"median cosine of -?0\.\d+ .*; use foresay migrate"):
            rehead(tmp_path / "index", other)
    wide = Encoder(Model(backbone("qwen3"), thought=1, compression=4, dim=12), max_tokens=64)
    with pytest.raises(DataError, match=r"shape \(3, 32\), the checkpoint has \(4, 32\)"):
        rehead(tmp_path / "index", wide)
    taught = encoder.with_document_teacher(Hashed())
    with pytest.raises(InputError, match="hashed, which has no states to keep"):
        Index.create(tmp_path / "other", taught, kept)
    Index.create(tmp_path / "taught", taught).add(some(3))
    with pytest.raises(DataError, match="embedded by hashed: a checkpoint of that teacher searches it as it is"):
        rehead(tmp_path / "taught", taught)
    assert len(rehead(tmp_path / "index", same_tokens(encoder, 5))) == 9


def test_hits_are_decoded_from_their_states(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As their texts would be, within half precision; without states that is refused."""
    index = Index.create(tmp_path / "index", encoder, IndexConfig(states="float16", chunk_tokens=12))
    index.add([LONG, *some(5)])
    hits = index.search("measles", 4)
    given: list[Array] = []

    def decode(self: Encoder, *, soft_prompts: Array, max_new_tokens: int) -> list[str]:
        given.append(soft_prompts)
        return ["read"] * len(soft_prompts)

    assert len(index.read(hits, max_new_tokens=4)) == len(hits) == 4
    monkeypatch.setattr(Encoder, "decode", decode)
    assert index.read(hits) == ["read"] * 4
    prompts = encoder.soft_prompts([hit.text for hit in hits], prompt_name="document")
    np.testing.assert_allclose(given[0], prompts, atol=2e-3 * np.abs(prompts).max())
    states = np.random.default_rng(0).normal(size=(5, 3, 32)).astype(np.float32) * 30
    for storage, error in (("float16", 1e-3), ("int8", 1e-2)):
        one = Keeping(storage, (3, 32))
        packed = pa.table(one.pack(states), schema=pa.schema(one.fields()))
        assert np.abs(one.unpack(packed) - states).max() < error * np.abs(states).max()
    with pytest.raises(DataError, match="too large for float16"):
        Keeping("float16", (3, 32)).pack(states * 1e5)
    with pytest.raises(InputError, match="keeps no states to decode"):
        Index.create(tmp_path / "none", encoder).read(hits)


# -- the vector index ------------------------------------------------------------------------------------


@pytest.mark.parametrize("graphs", [1, 29])
def test_a_vector_index_finds_nearly_what_an_exact_search_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graphs: int
) -> None:
    """In all its graphs, and rows that came later; exactly what NumPy finds when it is passed over."""
    monkeypatch.setattr(store_module, "_GRAPH", 2900 // graphs)
    random = np.random.default_rng(0)
    vectors = unit(random.normal(size=(3000, 24)).astype(np.float32))
    columns = schema(24, {})
    store = Store.create(tmp_path, "rows-1", 24, {})

    def rows(start: int, end: int) -> pa.Table:
        parts = [Part(f"d{i}", 0, Chunk(f"text {i}", 0, 6), "{}", str(i)) for i in range(start, end)]
        return table_of(parts, vectors[start:end], {}, columns)

    store.append(rows(0, 2900))
    store.finish(5000)
    assert not store.is_approximate()
    store.finish(2000)
    assert store.is_approximate()
    store.append(rows(2900, 3000))
    queries = unit(random.normal(size=(40, 24)).astype(np.float32))
    found = 0
    for query in queries:
        best = [f"d{i}" for i in np.argsort(-(vectors @ query))[:10]]
        assert [row.id for row in store.exactly().nearest(query, 10, None)] == best
        found += len(set(best) & {row.id for row in store.nearest(query, 10, None)})
    assert found / 400 > 0.97
    assert store.nearest(vectors[2950], 1, None)[0].id == "d2950"


def test_a_few_more_rows_do_not_build_the_vector_index_again(tmp_path: Path) -> None:
    """They are found beside it, by vector and by word; at a twentieth of all it is made anew and knows them."""
    random = np.random.default_rng(1)
    vectors = unit(random.normal(size=(1100, 16)).astype(np.float32))
    columns = schema(16, {})
    store = Store.create(tmp_path, "rows-1", 16, {})

    def add(start: int, end: int) -> None:
        parts = [Part(f"d{i}", 0, Chunk(f"word{i}", 0, 6), "{}", str(i)) for i in range(start, end)]
        store.append(table_of(parts, vectors[start:end], {}, columns))
        store.finish(500)

    def known() -> tuple[int, int]:
        stats = store.table.index_stats("vector_idx")
        return stats.num_indexed_rows, stats.num_unindexed_rows

    add(0, 1000)
    assert known() == (1000, 0)
    add(1000, 1040)
    assert known() == (1000, 40)
    assert store.nearest(vectors[1030], 1, None)[0].id == "d1030"
    assert [row.id for row in store.words("word1030", 3, None)] == ["d1030"]
    store.delete(["d1030"])
    store.finish(500)
    assert store.nearest(vectors[1030], 1, None)[0].id != "d1030"
    add(1040, 1100)
    assert known() == (1099, 0)
    assert store.nearest(vectors[1090], 1, None)[0].id == "d1090"
    assert [row.id for row in store.words("word1090", 3, None)] == ["d1090"]


def test_recall_and_exact_search(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured by the index itself; None where the search is exact anyway."""

    def hashed(self: Encoder, texts: Sequence[str], **_: object) -> Array:
        return unit(Hashed().embed(texts))

    monkeypatch.setattr(Encoder, "encode_document", hashed)
    index = Index.create(tmp_path / "index", encoder, IndexConfig(ann_rows=400))
    index.add(some(300))
    assert index.recall() is None
    few = Index.create(tmp_path / "few", encoder, IndexConfig(ann_rows=2))
    few.add(some(3))
    assert few.recall() == 1
    index.add(Document(f"e{i}", f"more words {i} {i * i}") for i in range(300))
    recall = index.recall()
    assert recall is not None and recall > 0.8
    asked = index.recall(["measles", "fever"])
    assert asked is not None and asked > 0.8
    index.exact = True
    vectors = {place[0]: vector for place, vector in vectors_of(index).items()}
    query = unit(encoder.encode_query("measles"))
    order = sorted(vectors, key=lambda name: -float(vectors[name] @ query))
    hits = index.search("measles", 10, mode="dense")
    assert [hit.score for hit in hits] == pytest.approx([float(vectors[name] @ query) for name in order[:10]], abs=1e-5)


# -- kills -----------------------------------------------------------------------------------------------

RACE = """
import hashlib, sys, time
import numpy as np
from foresay import Index, IndexConfig, migrate
from foresay.backbone import Backbone
from foresay.encoder import Encoder
from foresay.model import Model
from foresay.retrieval import index, rewriting
from foresay.retrieval.documents import Document
place, folder, what = sys.argv[1:]
backbone = Backbone.load(folder, device="cpu")
encoders = [Encoder(Model(backbone, thought=1, compression=3, dim=12, seed=seed), max_tokens=64) for seed in (0, 1)]
for module in (index, rewriting):
    module.BLOCK, module.TIDY = 8, 3

def embed(self, texts, **_):
    time.sleep(0.06)
    seeds = [hashlib.sha256(f"{self is encoders[1]}{text}".encode()).digest()[:8] for text in texts]
    return np.stack([np.random.default_rng(int.from_bytes(s)).normal(size=12).astype(np.float32) for s in seeds])

Encoder.encode_document = embed
items = [Document(f"d{i}", f"text {i} version {'two' if i % 3 else 'one'} " * (1 + i % 5)) for i in range(96)]
print("ready", flush=True)
if what == "create":
    import os
    if not os.path.exists(place + "/index.json"):
        Index.create(place, encoders[0], IndexConfig(chunk_tokens=12)).add(
            Document(f"d{i}", f"text {i} version one " * (1 + i % 5)) for i in range(0, 96, 2))
    Index.open(place, encoders[0]).add(items)
else:
    migrate(place, encoders[1])
"""


def race(command: Sequence[str], kills: int) -> int:
    """Runs a command again and again, killed at random moments, the last time to its end: how often it was killed.

    Each run is a process of its own: a fork of one that has loaded torch and LanceDB can wait for ever for a lock that
    a thread held.
    """
    rng, killed = np.random.default_rng(7), 0
    for attempt in range(kills + 1):
        process = subprocess.Popen(
            command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        if attempt < kills:
            time.sleep(rng.uniform(0, 0.5))
            process.kill()
        _, said = process.communicate(timeout=120)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, said
        killed += 1
    return killed


@pytest.mark.slow
def test_kills_at_random_moments_lose_and_double_nothing(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """While an index is made and filled, and while it is migrated: every document once, in its last version."""
    place = tmp_path / "index"
    for what in ("create", "migrate"):
        command = [sys.executable, "-c", RACE, str(place), str(folder("qwen3")), what]
        assert race(command, kills=3) >= 2, "killed too rarely to show anything"
        name = "rows-1" if what == "create" else "rows-2"
        rows = Store.open(place / "tables", name).head(["id", "chunk", "start", "text"], 10_000).to_pylist()
        assert len({(row["id"], row["chunk"]) for row in rows}) == len(rows)
        assert {row["id"] for row in rows} == {f"d{i}" for i in range(96)}
        for i in range(96):
            found = sorted((row["start"], row["chunk"], row["text"]) for row in rows if row["id"] == f"d{i}")
            assert [chunk for _, chunk, _ in found] == list(range(len(found)))
            whole = (f"text {i} version {'two' if i % 3 else 'one'} " * (1 + i % 5)).split()
            assert " ".join(text for _, _, text in found).split() == whole
    assert Store.names(place / "tables") == ["rows-2"]


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
