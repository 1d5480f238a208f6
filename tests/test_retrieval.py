"""An index against an exact search in NumPy, and against repeats, other models and bad documents."""

import json
import math
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytrec_eval
from click.testing import CliRunner

from foresay import Encoder, Index, IndexConfig
from foresay.backbone import Backbone
from foresay.checkpoints.save import save
from foresay.cli.main import main
from foresay.embedded import unit
from foresay.errors import DataError, InputError
from foresay.files import locked
from foresay.retrieval.chunks import Chunker
from foresay.retrieval.documents import Document, Hit, Reject, read_documents
from foresay.retrieval.numbers import Known
from foresay.retrieval.ranking import fuse
from foresay.retrieval.store import Store
from foresay.retrieval.trec import write_run

from .conftest import SENTENCES
from .indexing import make, some

Get = Callable[[str], Backbone]


@pytest.fixture(scope="module")
def encoder(backbone: Get) -> Encoder:
    """One for the module."""
    return make(backbone("qwen3"), prompts={"query": "Q: ", "document": "D: "})


def test_dense_hits_are_those_of_an_exact_search(encoder: Encoder, tmp_path: Path) -> None:
    """Order, scores, texts and metadata."""
    documents = some()
    index = Index.create(tmp_path / "index", encoder)
    assert index.add(documents).new == len(index) == 40
    query = "What is measles?"
    cosines = unit(encoder.encode([d.text for d in documents], prompt="D: ")) @ unit(
        encoder.encode(query, prompt="Q: ")
    )
    hits = index.search(query, 5, mode="dense")
    order = np.argsort(-cosines)[:5]
    assert [hit.id for hit in hits] == [documents[i].id for i in order]
    np.testing.assert_allclose([hit.score for hit in hits], cosines[order], atol=1e-5)
    best = documents[order[0]]
    assert (hits[0].text, dict(hits[0].metadata), hits[0].end) == (best.text, best.metadata, len(best.text))


def test_words_and_filters(encoder: Encoder, tmp_path: Path) -> None:
    """BM25 finds a literal word, also one added later; a filter holds in every mode; a bad one is refused."""
    index = Index.create(tmp_path / "index", encoder)
    index.add(some())
    assert index.search("number17", mode="words")[0].id == "d17"
    index.add([Document("new", "a zebra", {"year": 2030})])
    assert [hit.id for hit in index.search("zebras", mode="words")] == ["new"]
    for mode in ("dense", "words", "hybrid"):
        hits = index.search("fever and cheese", 40, mode=mode, where="json_get_int(metadata, 'year') < 1990")
        assert hits and all(hit.metadata["year"] < 1990 for hit in hits), mode
    with pytest.raises(InputError, match="filter 'year >>> 3' cannot be used"):
        index.search("x", where="year >>> 3")
    with pytest.raises(InputError, match="it holds a ;"):
        index.search("x", where="1 = 1; drop table x")
    for bad in ("id = 'd1' id = 'd2'", "true ORDER BY id LIMIT 2", "id = 'd1' GROUP BY id", 5):
        with pytest.raises(InputError, match="the filter"):
            index.search("x", where=bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="top is 1.5; expected a whole number"):
        index.search("x", 1.5)  # type: ignore[arg-type]
    index.add([Document("old", "a zebra", {"author": "Nellie; Bly"})])
    where = "json_get_bool(metadata, 'even') AND json_get_float(metadata, 'year') > 2014.5"
    assert {hit.id for hit in index.search("x", 40, where=where)} == {"d36", "d38"}
    for where in ("json_get_string(metadata, 'author') = 'Nellie; Bly'", "id = 'old'"):
        assert [hit.id for hit in index.search("zebras", where=where)] == ["old"]
    with pytest.raises(InputError, match="mode is 'sparse'"):
        index.search("x", mode="sparse")
    index.add([Document("undated", "a zebra", {"year": "n.d."})])
    with pytest.raises(InputError, match="used .some document has a value of another type there."):
        index.search("x", where="json_get_int(metadata, 'year') > 1990")
    assert index.search('it\'s "quoted" AND (odd) id:x*~', mode="hybrid")


def test_hybrid_is_the_sum_of_reciprocal_ranks(encoder: Encoder, tmp_path: Path) -> None:
    """Computed by hand from the two rankings."""
    index = Index.create(tmp_path / "index", encoder)
    index.add(some())
    query = "a crow and a river"
    ranks = [{h.id: r for r, h in enumerate(index.search(query, 40, mode=mode), 1)} for mode in ("dense", "words")]
    expected = {name: sum(1 / (60 + rank[name]) for rank in ranks if name in rank) for name in ranks[0]}
    hits = index.search(query, 5)
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected.values(), reverse=True)[:5])
    assert all(expected[hit.id] == pytest.approx(hit.score) for hit in hits)
    assert [hit.id for hit in fuse([[Hit("a", 1, ""), Hit("b", 1, "")], [Hit("b", 1, "")]], 2)] == ["b", "a"]


def test_upsert_and_delete(encoder: Encoder, tmp_path: Path) -> None:
    """What is the same is not embedded again; a shorter text leaves no old chunk; ids may hold quotes."""
    index = Index.create(tmp_path / "index", encoder, IndexConfig(chunk_tokens=20))
    long = Document("it's", " ".join(SENTENCES * 3))
    index.add([long, *some(3)])
    chunks = index._store.count()
    assert chunks > 4 and len(index) == 4
    again = index.add([long, *some(3)])
    assert (again.new, again.changed, again.kept) == (0, 0, 4)
    changed = index.add([Document("it's", "short"), Document("d0", some(1)[0].text, {"year": 1})])
    assert (changed.new, changed.changed) == (0, 2)
    cut = Chunker(encoder, 20)
    assert len(index) == 4 and index._store.count() == 1 + sum(len(cut(item.text)) for item in some(3))
    assert index.search("short", mode="words")[0].text == "short"
    assert index.add([Document("twice", "one"), Document("twice", "two")]).new == 1
    assert [hit.text for hit in index.search("one two", mode="words")] == ["two"]
    assert index.delete(["it's", "absent"]) == 1 and len(index) == 4


def test_hits_are_documents_not_chunks(encoder: Encoder, tmp_path: Path) -> None:
    """A document of many chunks is one hit, by its best chunk; places are those in the text."""
    index = Index.create(tmp_path / "index", encoder, IndexConfig(chunk_tokens=12))
    long = " ".join(f"{sentence} measles." for sentence in SENTENCES * 20)
    index.add([Document("long", long), *some(6)])
    for mode in ("dense", "words", "hybrid"):
        hits = index.search("measles fever", 7, mode=mode)
        assert len({hit.id for hit in hits}) == len(hits)
    assert len(index.search("measles", 7, mode="dense")) == 7
    (hit,) = [hit for hit in index.search("measles", 7, mode="dense") if hit.id == "long"]
    assert long[hit.start : hit.end] == hit.text


@pytest.mark.parametrize("text", ["word " * 60_000, "x" * 50_000, "\n".join(SENTENCES * 900)])
def test_chunks_of_very_long_texts(encoder: Encoder, text: str) -> None:
    """Nothing but white space is lost, places are right, and every chunk fits."""
    chunker = Chunker(encoder, 40)
    chunks = chunker(text)
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(text.split())
    counts = [len(row) for row in encoder.tokenize([chunk.text for chunk in chunks])]
    assert max(counts) <= 40
    assert encoder.embed([chunk.text for chunk in chunks[:9]], prompt_name="document").cut == []


def test_another_model_is_refused_and_the_same_in_another_place_is_not(
    backbone: Get, encoder: Encoder, tmp_path: Path
) -> None:
    """By vectors where the fingerprint differs: other weights, prompts and widths are refused in words."""
    Index.create(tmp_path / "index", encoder).add(some(9))
    with pytest.raises(DataError, match=r"another model .* its weights differ; .* median cosine of -?0\.\d+"):
        Index.open(tmp_path / "index", make(backbone("qwen3"), seed=1, prompts=encoder.prompts))
    with pytest.raises(DataError, match="another model .* document was 'D: ' and is now"):
        Index.open(tmp_path / "index", make(backbone("qwen3"), prompts={"query": "Q: ", "document": "Measles! "}))
    with pytest.raises(DataError, match="another model .* backbone was"):
        Index.open(tmp_path / "index", make(backbone("llama"), prompts=encoder.prompts))
    moved = make(backbone("qwen3"), prompts={"query": "Other: ", "document": "D: "})
    assert len(Index.open(tmp_path / "index", moved)) == 9


def test_bad_documents_and_places(encoder: Encoder, tmp_path: Path) -> None:
    """One clear line each; what was there stays."""
    index = Index.create(tmp_path / "index", encoder)
    index.add(some(3))
    for bad in (
        Document("a", " "),
        Document("", "x"),
        Document("a", "x", {"n": float("nan")}),
        Document("a", "\ud800"),
        Document("a", "x", {"author": "\ud800"}),
        Document("a", "x", {"n": 2**63}),
        Document("a", "x", {"inner": [{1: "one"}]}),
        Document("a", "x", None),  # type: ignore[arg-type]
    ):
        with pytest.raises(DataError, match="cannot be indexed"):
            index.add([bad])
    with pytest.raises(DataError, match="an index holds foresay.Document values, found dict: {'id': 'a'"):
        index.add([{"id": "a", "text": "x"}])  # type: ignore[list-item]
    assert index.add(Document("one", "alone")).new == 1 and index.holds("one") == {"one"}
    with locked(tmp_path / "index" / "writing.lock"), pytest.raises(DataError, match="another process is writing"):
        index.add(some(1))
    with pytest.raises(DataError, match="is there already"):
        Index.create(tmp_path / "index", encoder)
    with pytest.raises(DataError, match="there is no index at"):
        Index.open(tmp_path / "none", encoder)
    for options, message in (
        (IndexConfig(chunk_tokens=999), "chunk_tokens is 999"),
        (IndexConfig(overlap=99), "overlap"),
    ):
        with pytest.raises(InputError, match=message):
            Index.create(tmp_path / "other", encoder, options)
    assert not (tmp_path / "other").exists()
    pointer = tmp_path / "index" / "index.json"
    pointer.write_text(json.dumps({**json.loads(pointer.read_text()), "format_version": 99}))
    with pytest.raises(DataError, match="index version 99"):
        Index.open(tmp_path / "index", encoder)


def test_vectors_that_are_not_finite(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused by the document's id, and nothing of the block is written."""
    index = Index.create(tmp_path / "index", encoder)
    monkeypatch.setattr(
        Encoder, "encode_document", lambda self, texts, **_: np.full((len(texts), 12), np.nan, np.float32)
    )
    with pytest.raises(DataError, match="not finite for 3 documents .*'d0'"):
        index.add(some(3))
    assert len(index) == 0


def test_reading_documents(tmp_path: Path) -> None:
    """Other columns are metadata, and a title begins the text; a row without text is passed on."""
    path = tmp_path / "documents.jsonl"
    rows = [{"_id": 7, "text": "a", "title": "t", "none": None}, {"id": "b"}, {"text": "c"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    first, second, third = read_documents(path)
    assert first == Document("7", "t a", {"title": "t"})
    assert next(read_documents(path, titles=False)) == Document("7", "a", {"title": "t"})
    assert next(read_documents(path, column="title")) == Document("7", "t", {"text": "a"})
    assert isinstance(second, Reject) and second.line == 2 and "missing" in second.reason
    assert isinstance(third, Document) and len(third.id) == 16
    path.write_text('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n')
    with pytest.raises(DataError, match="two documents under the id 'a'"):
        list(read_documents(path))


def test_columns_of_parquet_are_metadata(tmp_path: Path) -> None:
    """Dates, decimals and missing numbers too; what JSON cannot hold is refused by its name, the first row first."""
    path = tmp_path / "documents.parquet"
    day, share = date(2024, 5, 1), Decimal("1.5")
    rows = {"id": [1.0, math.nan], "text": ["a", "b"], "day": [day, day], "share": [share, None], "tags": [[day], []]}
    pq.write_table(pa.table({**rows, "size": [math.nan, 2.0]}), path)
    first, second = read_documents(path)
    assert first == Document("1.0", "a", {"day": "2024-05-01", "share": 1.5, "tags": ["2024-05-01"]})
    assert isinstance(second, Reject) and "id" in second.reason
    pq.write_table(pa.table({"text": ["a", "b"], "id": ["1", "2"], "photo": [b"x", b"y"]}), path)
    with pytest.raises(DataError, match="no row that can be used .*'1' cannot be indexed: 'photo' in its metadata"):
        list(read_documents(path))


def commit_every(documents: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, and small files that may be joined after each."""
    for place in ("index", "rewriting"):
        monkeypatch.setattr(f"foresay.retrieval.{place}.BLOCK", documents)
    monkeypatch.setattr("foresay.retrieval.rewriting.JOIN_EVERY", 1)


def test_what_is_known_of_documents_is_what_a_dict_would_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is added in whatever order, the last digest of an id counts."""
    monkeypatch.setattr("foresay.retrieval.numbers._RECENT", 7)
    random, expected = np.random.default_rng(0), dict[str, str]()
    known = Known([("a", "0"), ("b", "1"), ("a", "2")])
    expected |= {"a": "2", "b": "1"}
    for name, digest in random.integers(60, size=(500, 2)).astype(str).tolist():
        known.add(name, digest)
        expected[name] = digest
        assert known.has(name, digest) and not known.has(name, digest + "x")
    names = ["a", "b", *map(str, range(100))]
    assert [name in known for name in names] == [name in expected for name in names]
    assert all(known.has(name, digest) for name, digest in expected.items())
    assert len(known) == len(expected)


def test_the_indexes_are_made_when_all_rows_are_there(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the way, whoever searches finds words all the same, in the rows that are there."""
    commit_every(8, monkeypatch)
    seen: list[tuple[int, int]] = []
    index = Index.create(tmp_path / "index", encoder)

    def look(*_: object) -> None:
        table = lancedb.connect(tmp_path / "index" / "tables").open_table("rows-1")
        hits = Index.open(tmp_path / "index", encoder).search("paragraph", top=50, mode="words")
        seen.append((len(table.list_indices()), len(hits)))

    index.add([Document(str(i), f"a paragraph of number {i}") for i in range(24)], look)
    assert seen == [(0, 8), (0, 16), (0, 24)]
    table = lancedb.connect(tmp_path / "index" / "tables").open_table("rows-1")
    assert [found.columns for found in table.list_indices()] == [["text"]]


def test_one_graph_for_all_rows_of_an_add(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vector index is built when all rows are there: one built on the way would become a graph for each joining."""
    commit_every(8, monkeypatch)
    index = Index.create(tmp_path / "index", encoder, IndexConfig(ann_rows=16))
    index.add(some())
    table = lancedb.connect(tmp_path / "index" / "tables").open_table("rows-1")
    stats = table.index_stats("vector_idx")
    assert (stats.num_indices, stats.num_indexed_rows) == (1, 40)
    assert index.recall() == 1


def test_a_growing_table_is_written_again_a_few_times_only(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small files are joined as the table grows by half: what is written grows with the rows, not with their square."""
    commit_every(4, monkeypatch)
    join, sizes = Store.join, list[int]()

    def noting(store: Store) -> None:
        sizes.append(store.count())
        join(store)

    monkeypatch.setattr(Store, "join", noting)
    index = Index.create(tmp_path / "index", encoder)
    index.add(some(200))
    assert 5 < len(sizes) < 15 and sum(sizes) < 4 * 200
    sizes.clear()
    index.add([Document("one", "more")])
    assert sizes == [201]


def test_the_commands(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """index, again, search as text, JSON and a run file, explain, and errors in one line."""
    save(tmp_path / "checkpoint", make(Backbone.load(str(folder("qwen3")), device="cpu")))
    source, queries = tmp_path / "documents.jsonl", tmp_path / "queries.jsonl"
    source.write_text("".join(json.dumps({"id": d.id, "text": d.text, **d.metadata}) + "\n" for d in some(12)))
    queries.write_text('{"id": "q1", "query": "number3"}\n{"id": "q2", "query": "number4"}\n')

    def run(*words: object, code: int = 0) -> str:
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == code, result.output
        return result.output

    place, checkpoint = tmp_path / "index", tmp_path / "checkpoint"
    assert "12 documents (12 new, 0 replaced, 0 there already)" in run("index", checkpoint, source, "-o", place)
    assert "12 documents (0 new, 0 replaced, 12 there already)" in run("index", checkpoint, source, "-o", place)
    (tmp_path / "empty.jsonl").write_text("")
    for none in ("empty.jsonl", "none.jsonl"):
        run("index", checkpoint, tmp_path / none, "-o", tmp_path / "nothing", code=1)
        assert not (tmp_path / "nothing").exists()
    other = run("index", checkpoint, source, "-o", place, "--chunk-tokens", 9, code=1)
    assert "was made with other options: chunk_tokens was 0 and is now 9; give the same options" in other
    ask = ("search", checkpoint, place)
    first = run(*ask, "number3", "--mode", "words").splitlines()
    assert first[0].split()[1] == "d3"
    found = json.loads(run(*ask, "number3", "--json", "--top", 2, "--where", "json_get_int(metadata, 'year') < 1985"))
    assert [len(found["hits"]), found["hits"][0]["id"]] == [2, "d3"]
    run(*ask, "-f", queries, "--trec", tmp_path / "run.txt", "--mode", "words")
    lines = [line.split() for line in (tmp_path / "run.txt").read_text().splitlines()]
    assert [line[:4] for line in lines] == [["q1", "Q0", "d3", "1"], ["q2", "Q0", "d4", "1"]]
    explained = run(*ask, "number3", "--explain", "--top", 2)
    assert "what the model thinks is asked: " in explained and "hits of the checkpoint as documents" in explained
    for words in (("--json", "--explain"), ("--trec", "x", "--json"), ("--trec", "x", "--explain")):
        assert "give one of --json, --explain and --trec" in run(*ask, "number3", *words, code=1)
    assert "give either a QUERY or -f FILE" in run(*ask, "number3", "-f", queries, code=1)
    assert "the query is empty" in run(*ask, " ", code=1)
    assert run(*ask, "number3", "--where", "id = 'nobody'") == "no document fits\n"
    steering = tmp_path / "steering.jsonl"
    steering.write_text(json.dumps({"id": "d\x07", "text": "number99 \x1b]0;mine\x07 \u202e"}))
    run("index", checkpoint, steering, "-o", place)
    shown = run(*ask, "number99", "--mode", "words", "--top", 1)
    assert "number99" in shown and shown.count("\ufffd") == 4 and not set(shown) & set("\x07\x1b\u202e")
    assert "error: there is no index at" in run("search", checkpoint, tmp_path / "none", "x", code=1)


def test_trec_eval_reads_our_order(tmp_path: Path) -> None:
    """Equal scores too, which trec_eval would order by id, and those that single precision cannot tell apart."""
    scores = [0.5, 0.5, 0.5, 0.25 + 1e-12, 0.25, 0.0, 0.0, -1.0]
    names = ["a", "z", "m", "b", "y", "c", "x", "d"]
    write_run(tmp_path / "run.txt", {"q": [Hit(n, s, "") for n, s in zip(names, scores, strict=True)], "empty": []})
    with (tmp_path / "run.txt").open() as file:
        run = pytrec_eval.parse_run(file)
    assert sorted(run["q"], key=run["q"].__getitem__, reverse=True) == names
    assert list(run["q"].values()) == pytest.approx(scores, abs=1e-6)
    for place, name in enumerate(names, 1):
        found = pytrec_eval.RelevanceEvaluator({"q": {name: 1}}, {"recip_rank"}).evaluate(run)
        assert found["q"]["recip_rank"] == pytest.approx(1 / place)


def test_run_files_refuse_ids_with_white_space(tmp_path: Path) -> None:
    """A TREC run has no quoting."""
    with pytest.raises(InputError, match="'a b' holds white space"):
        write_run(tmp_path / "run.txt", {"q": [Hit("a b", 1.0, "")]})
