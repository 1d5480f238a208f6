"""Queries out of files of every format: what is read, what is repaired, what is refused."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foresay.data.queries import Query, Reject, content_id, read_queries
from foresay.data.responses import read_responses
from foresay.data.shards import QueryFile, Shard
from foresay.errors import DataError
from foresay.retrieval.documents import read_documents

from .making import write_jsonl

TEXTS = ["What is a fox?", 'She said "no", twice', "Ça coûte 3 €\u2028日本語 🙂", "<|im_end|> \\n is text"]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A CSV file with a byte order mark, as spreadsheets write it."""
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_tsv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A TSV file with Windows' line ends; quotes mean nothing in it."""
    lines = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    path.write_bytes("".join("\t".join(line) + "\r\n" for line in lines).encode("utf-8-sig"))
    return path


def write_array(path: Path, rows: list[dict[str, Any]]) -> Path:
    """One JSON array over several lines."""
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


def write_gzip(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A gzipped JSON lines file."""
    path.write_bytes(gzip.compress(write_jsonl(path.with_suffix(".part"), rows).read_bytes()))
    return path


def write_folder(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A folder of Parquet files, a row in each."""
    path.mkdir()
    for i, row in enumerate(rows):
        write_parquet(path / f"part-{i}.parquet", [row])
    (path / "README.md").write_text("no data")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A Parquet file of the rows."""
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    ".jsonl": write_jsonl,
    ".ndjson": write_jsonl,
    ".json": write_array,
    ".csv": write_csv,
    ".tsv": write_tsv,
    ".parquet": write_parquet,
    ".jsonl.gz": write_gzip,
    "-folder": write_folder,
}


def queries(source: Path, **options: Any) -> list[Query]:  # noqa: ANN401
    """The queries of a file that has no bad row."""
    items = list(read_queries(source, **options))
    assert not [item for item in items if isinstance(item, Reject)]
    return [item for item in items if isinstance(item, Query)]


@pytest.mark.parametrize("ending", WRITERS)
def test_every_format_reads_the_same(tmp_path: Path, ending: str) -> None:
    """The same rows, with numbers as ids, whatever the file."""
    path = WRITERS[ending](tmp_path / f"q{ending}", [{"id": i, "query": text} for i, text in enumerate(TEXTS)])
    assert queries(path) == [Query(str(i), text) for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("ending", [*WRITERS, ".txt"])
def test_without_ids_the_text_is_the_id(tmp_path: Path, ending: str) -> None:
    """Each text once, in any order; a hash of the text stands for it in every format."""
    texts = [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[3]]
    path = tmp_path / f"q{ending}"
    if ending == ".txt":
        path.write_text("\n\n".join(texts), encoding="utf-8")
    else:
        WRITERS[ending](path, [{"query": text} for text in texts])
    assert queries(path) == [Query(content_id(text), text) for text in (TEXTS[0], TEXTS[1], TEXTS[3])]
    assert len(content_id(TEXTS[0])) == 16


def test_column(tmp_path: Path) -> None:
    """The first known name is the text's; --column overrules; a miss lists what there is."""
    path = write_jsonl(tmp_path / "q.jsonl", [{"note": "n", "prompt": "p", "text": "t"}])
    assert [query.text for query in queries(path)] == ["t"]
    assert [query.text for query in queries(path, column="note")] == ["n"]
    with pytest.raises(DataError, match="note, prompt, text; expected 'body'.*--column"):
        list(read_queries(path, column="body"))
    with pytest.raises(DataError, match="columns body; expected query or text.*--column"):
        list(read_queries(write_jsonl(tmp_path / "r.jsonl", [{"body": "b"}])))


def test_one_id_with_two_texts_is_refused(tmp_path: Path) -> None:
    """The same row twice is one row; the same id for something else is a mistake in the data."""
    row = {"id": "a", "query": "one"}
    assert queries(write_jsonl(tmp_path / "q.jsonl", [row, row])) == [Query("a", "one")]
    with pytest.raises(DataError, match="two texts under the id 'a'"):
        list(read_queries(write_jsonl(tmp_path / "q.jsonl", [row, {"id": "a", "query": "two"}])))


def test_bad_rows_are_values(tmp_path: Path) -> None:
    """A bad row comes out with its line and its reason, and the rows around it are read."""
    path = tmp_path / "q.jsonl"
    lines = [
        b'{"query": "first"}',
        b'{"query": "torn',
        b"[1]",
        b'{"query": null}',
        b'{"query": 7}',
        b'{"query": " "}',
        b'{"query": "\\ud800"}',
        b'{"query": "\xff"}',
        b'{"query": "x", "id": [1]}',
        b"",
        b'{"query": "last"}',
    ]
    path.write_bytes(b"\n".join(lines))
    items = list(read_queries(path))
    assert [item.text for item in items if isinstance(item, Query)] == ["first", "last"]
    rejects = [item for item in items if isinstance(item, Reject)]
    assert [reject.line for reject in rejects] == [2, 3, 4, 5, 6, 7, 8, 9]
    words = ["JSON object", "JSON object", "missing", "int", "empty", "surrogate", "UTF-8", "id is not a string"]
    assert all(word in reject.reason for word, reject in zip(words, rejects, strict=True))
    assert rejects[0].row == '{"query": "torn'
    for reject in rejects:
        reject.row.encode()  # can be written to any file


def test_byte_order_mark(tmp_path: Path) -> None:
    """What a Windows editor puts before the first line is not part of it."""
    for name, line in (("q.jsonl", '{"query": "one"}'), ("q.txt", "one")):
        (tmp_path / name).write_text(line, encoding="utf-8-sig")
        assert queries(tmp_path / name) == [Query(content_id("one"), "one")]


def test_a_comma_outside_quotes_is_rejected(tmp_path: Path) -> None:
    """A CSV reader would silently keep `Hello` and drop the rest."""
    path = tmp_path / "q.csv"
    path.write_text("id,query\n1,Hello, world\n2,fine\n3\n")
    items = list(read_queries(path))
    assert items[1] == Query("2", "fine")
    assert isinstance(items[0], Reject) and "more cells" in items[0].reason and "world" in items[0].row
    assert isinstance(items[2], Reject) and "missing" in items[2].reason


def test_a_tsv_has_no_quoting(tmp_path: Path) -> None:
    """A quote opened in one row and never closed is a character; no row is swallowed."""
    path = tmp_path / "q.tsv"
    texts = ["Who sang it?", '"Purple Rain was sung by whom?', "What is a fjord?", 'Who painted "The Scream"?']
    write_tsv(path, [{"id": i, "query": text} for i, text in enumerate(texts)])
    assert queries(path) == [Query(str(i), text) for i, text in enumerate(texts)]


@pytest.mark.parametrize("end", ["", '4,Who painted "The Scream"?\n', '4,"quoted, well",\n', '4,"x" y\n'])
def test_an_unclosed_quote_in_a_csv_is_an_error(tmp_path: Path, end: str) -> None:
    """It names the line where the row begins, however far the quote has reached."""
    path = tmp_path / "q.csv"
    path.write_text('id,query\n1,"two\nlines"\n2,"Purple Rain was sung by whom?\n3,What is a fjord?\n' + end)
    with pytest.raises(DataError, match=r"q.csv, line 4: the quotes of this row do not match .*close the quote"):
        list(read_queries(path))
    path.write_text('id,query\n1,"two\nlines"\n3,What is "a" fjord?\n')
    assert [query.text for query in queries(path)] == ["two\nlines", 'What is "a" fjord?']


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("ending", [".txt", ".csv", ".jsonl", ".json"])
def test_encodings_with_a_byte_order_mark(tmp_path: Path, encoding: str, ending: str) -> None:
    """What the mark says is how the file is read; without one, UTF-16 is refused in words."""
    path = tmp_path / f"q{ending}"
    rows = [{"id": "a", "query": TEXTS[2]}, {"id": "b", "query": "two"}]
    lines = {".txt": "query\n", ".csv": "id,query\n"}
    for row in rows:
        lines[".txt"] += row["query"] + "\n"
        lines[".csv"] += ",".join(row.values()) + "\n"
    lines |= {".jsonl": "".join(json.dumps(row) + "\n" for row in rows), ".json": json.dumps(rows)}
    marked = "" if encoding in ("utf-16", "utf-32", "utf-8-sig") else "\ufeff"
    path.write_bytes((marked + lines[ending]).encode(encoding))
    assert [query.text for query in queries(path)][-2:] == [row["query"] for row in rows]
    if marked:
        path.write_bytes(lines[ending].encode(encoding))
        with pytest.raises(DataError, match="not UTF-8 text; if it is UTF-16, convert it"):
            list(read_queries(path))


def test_half_a_character_of_utf_16(tmp_path: Path) -> None:
    """One line instead of the codec's own error."""
    path = tmp_path / "q.jsonl"
    path.write_bytes('{"query": "a"}\n'.encode("utf-16") + b"x")
    with pytest.raises(DataError, match="q.jsonl is not whole utf-16.* text .truncated data.; convert it to UTF-8"):
        queries(path)


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv"])
def test_a_torn_or_damaged_gzip(tmp_path: Path, ending: str) -> None:
    """Half of a copied file, or a flipped bit far in it, is an error that names the file; alone and in a folder."""
    path = tmp_path / f"q{ending}.gz"
    texts = [f"What is {i * 7919 % 1000003}?" for i in range(3000)]
    lines = (
        [json.dumps({"id": text, "query": text, "response": text}) for text in texts]
        if ending == ".jsonl"
        else ["query", *texts]
    )
    whole = gzip.compress("\n".join(lines).encode())
    damaged = whole[:4000] + b"\0\xff\0\xff" + whole[4004:]
    for content in (whole[:-9], whole[: len(whole) // 2], damaged):
        path.write_bytes(content)
        for source in (path, tmp_path):
            with pytest.raises(DataError, match=r"q\..*\.gz is torn or damaged"):
                list(read_queries(source))
            if ending == ".jsonl":
                with pytest.raises(DataError, match="is torn or damaged|not a whole JSON object"):
                    read_responses(path)


@pytest.mark.parametrize(("name", "text"), [("q.csv", "query,query\na,b\n"), ("q.tsv", "query\tquery\na\tb\n")])
def test_two_columns_of_one_name(tmp_path: Path, name: str, text: str) -> None:
    """One of the two would silently not be read."""
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="two columns called 'query'; rename one"):
        list(read_queries(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("q.csv", "id;query\n1;Who, then?\n", "one column, 'id;query', as if semicolons separated .* expected commas"),
        ("q.tsv", "id,query\n1,Who?\n", "as if commas separated its cells; expected tabs"),
        ("q.csv", "id, query\n1,Who?\n", "columns id,  query; expected .*; ' query' is not 'query': mend the header"),
        ("q.csv", "id,Text\n1,Who?\n", "'Text' is not 'text'"),
    ],
)
def test_the_likely_cause_in_a_header(tmp_path: Path, name: str, text: str, told: str) -> None:
    """Another separator, white space, capitals."""
    (tmp_path / name).write_text(text)
    for read in (read_queries, read_documents):
        with pytest.raises(DataError, match=told):
            list(read(tmp_path / name))


def test_arguments_in_another_order(tmp_path: Path) -> None:
    """A checkpoint is no folder of texts, and a folder no file of responses."""
    (tmp_path / "foresay.json").write_text("{}")
    with pytest.raises(DataError, match="is a checkpoint; expected texts: the checkpoint goes first"):
        list(read_queries(tmp_path))
    with pytest.raises(DataError, match="is a folder; expected the file that foresay respond wrote"):
        read_responses(tmp_path)


def test_a_long_cell(tmp_path: Path) -> None:
    """Longer than what the csv module reads by itself."""
    path = write_csv(tmp_path / "q.csv", [{"query": text} for text in ("a", "word " * 60_000, "b")])
    assert [len(query.text) for query in queries(path)] == [1, 300_000, 1]


def test_ids_by_other_names_and_of_other_types(tmp_path: Path) -> None:
    """BEIR's `_id`, and numbers as they are written; what is no id is rejected."""
    rows: list[Any] = [{"_id": "q0", "text": "a"}, {"_id": 1.5, "text": "b"}, {"_id": 2, "text": "c"}]
    assert [query.id for query in queries(write_jsonl(tmp_path / "q.jsonl", rows))] == ["q0", "1.5", "2"]
    bad = list(read_queries(write_jsonl(tmp_path / "b.jsonl", [*rows, {"_id": True, "text": "d"}])))
    assert isinstance(bad[-1], Reject) and "id is not a string but of type bool" in bad[-1].reason


def test_repeats(tmp_path: Path) -> None:
    """Every row in order, for those who want a vector a row."""
    path = tmp_path / "q.txt"
    path.write_text("a\nb\na\n")
    assert [query.text for query in queries(path)] == ["a", "b"]
    assert [query.text for query in queries(path, repeats=True)] == ["a", "b", "a"]


def test_repeats_are_counted(tmp_path: Path) -> None:
    """So that a run can say why it has fewer rows than the file; in shards, each counts its own."""
    (tmp_path / "q.txt").write_text("a\nb\na\nc\na\nb\n")
    assert (QueryFile(tmp_path / "q.txt").rows, QueryFile(tmp_path / "q.txt").repeated) == (3, 3)
    parts = [QueryFile(tmp_path / "q.txt", shard=Shard(number, 3)) for number in (1, 2, 3)]
    assert sum(part.repeated for part in parts) == 3 and sum(part.rows or 0 for part in parts) == 3


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tilde that the shell has left alone is the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_jsonl(tmp_path / "q.jsonl", [{"query": "a"}])
    assert queries(Path("~/q.jsonl"))


def test_nothing_to_read(tmp_path: Path) -> None:
    """No file, an unknown kind, an empty file, and one in which no row can be used."""
    with pytest.raises(DataError, match=r"there is no .*gone\.jsonl; expected a file ending in \.jsonl"):
        list(read_queries(tmp_path / "gone.jsonl"))
    with pytest.raises(DataError, match="holds no file that can be read; expected files of one kind"):
        list(read_queries(tmp_path))
    (tmp_path / "q.doc").write_text("x")
    with pytest.raises(DataError, match="unknown ending; expected .jsonl"):
        list(read_queries(tmp_path / "q.doc"))
    (tmp_path / "q.txt.gz").write_text("x")
    with pytest.raises(DataError, match="is not gzipped"):
        list(read_queries(tmp_path / "q.txt.gz"))
    with pytest.raises(DataError, match="holds no row"):
        list(read_queries(write_jsonl(tmp_path / "q.jsonl", [])))
    with pytest.raises(DataError, match="no row that can be used .*not a JSON object"):
        list(read_queries(write_jsonl(tmp_path / "q.jsonl", ["text", "text"])))
    (tmp_path / "q.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="not a Parquet file"):
        list(read_queries(tmp_path / "q.parquet"))


def test_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without a known ending is a hub data set, streamed; a failure says what was expected."""
    asked = {}

    def load_dataset(name: str, **options: object) -> list[dict[str, str]]:
        asked[name] = options
        if name == "org/gone":
            raise FileNotFoundError("no such data set")
        return [{"prompt": "one"}, {"prompt": ""}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    query, reject = read_queries("org/name", split="test")
    assert query == Query(content_id("one"), "one")
    assert isinstance(reject, Reject) and reject.line == 2
    assert asked == {"org/name": {"split": "test", "streaming": True}}
    with pytest.raises(DataError, match="'org/gone', split 'train': no such data set .expected"):
        list(read_queries("org/gone"))
