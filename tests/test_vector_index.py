"""The vector index of a large table: its recall, when it is built, and searching without it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from foresay import Encoder, Index, IndexConfig
from foresay.embedded import Array, unit
from foresay.retrieval import store as store_module
from foresay.retrieval.chunks import Chunk
from foresay.retrieval.documents import Document
from foresay.retrieval.parts import Part, table_of
from foresay.retrieval.store import Store, schema

from .indexing import Hashed, make, some
from .migrating import Get, vectors_of


@pytest.fixture(scope="module")
def encoder(backbone: Get) -> Encoder:
    """One for the module."""
    return make(backbone("qwen3"), prompts={"query": "Q: ", "document": "D: "})


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
