"""Rows that `respond` cannot answer, and answers that say little: each is noted with its reason."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from foresay.config import RespondConfig
from foresay.data.queries import read_queries
from foresay.engines.base import Answer, Job
from foresay.engines.respond import respond
from foresay.errors import InputError

from .echo import Echo
from .responding import GREEDY, QUERIES, TEXTS, Get, alone, expected, rows, spy, texts, thousand


def test_rejects(backbone: Get, tmp_path: Path) -> None:
    """Bad rows and long queries go to the side file with line and reason, once, and can be repaired."""
    base, source, path = backbone("qwen3"), tmp_path / "q.jsonl", tmp_path / "r.jsonl"
    config = RespondConfig(max_new_tokens=4, batch_size=2, max_query_tokens=50)
    source.write_text('{"query": "fine"}\n{"query": null}\n{"torn\n{"id": "long", "query": "' + "word " * 40 + '"}\n')
    for written in (1, 0):
        summary = respond(read_queries(source), base, path, config)
        assert (summary.written, summary.rejected) == (written, 3)
    side = rows(tmp_path / "r.rejected.jsonl")
    assert [row["line"] for row in side] == [2, 3, None]
    assert "missing" in side[0]["reason"] and "JSON" in side[1]["reason"]
    assert "tokens; the limit is 50" in side[2]["reason"] and '"id": "long"' in side[2]["row"]
    source.write_text('{"query": "fine"}\n{"id": "long", "query": "short"}\n')
    assert respond(read_queries(source), base, path, config).written == 1


def test_rejects_under_ids_that_are_numbers(tmp_path: Path) -> None:
    """As they were read: an id that is no string, a query that is null or a list; they leave when they are answered."""
    source, path = tmp_path / "q.jsonl", tmp_path / "r.jsonl"
    source.write_text(
        '{"id": 1, "query": "a"}\n{"id": 2, "query": " "}\n{"id": 1, "query": null}\n{"id": 3, "query": []}\n'
    )
    for _ in range(2):
        assert respond(read_queries(source), Echo(), path).rejected == 3
    source.write_text('{"id": 2, "query": "b"}\n{"id": 4, "query": "c"}\n')
    assert respond(read_queries(source), Echo(), path).written == 2
    side = tmp_path / "r.rejected.jsonl"
    side.write_text(json.dumps({"row": '{"id": 4, "query": "c"}', "reason": "it was bad", "line": None}) + "\n")
    respond(read_queries(source), Echo(), path)
    assert not side.exists()


def test_bare_texts(tmp_path: Path) -> None:
    """As `read_queries` reads them from a file; anything else is refused, not passed over."""
    source = tmp_path / "q.txt"
    source.write_text("one\ntwo\n")
    respond(read_queries(source), Echo(), tmp_path / "file.jsonl")
    assert respond(["one", "two", " "], Echo(), str(tmp_path / "bare.jsonl")).rejected == 1
    assert (tmp_path / "bare.jsonl").read_bytes() == (tmp_path / "file.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"a query is \('id', 'one'\); expected a string, or a Query"):
        respond([("id", "one")], Echo(), tmp_path / "x.jsonl")  # type: ignore[list-item]


def test_empty_responses(backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that says nothing leaves no row and no silence; and is not asked again."""
    base, path = backbone("qwen3"), tmp_path / "r.jsonl"
    silent = alone(base, QUERIES[0].text)[0]
    monkeypatch.setitem(base.__dict__, "stop_ids", [silent])  # so the first query's response ends before it begins
    summaries = [respond(QUERIES, base, path, GREEDY)]
    passes = spy(monkeypatch, base)
    summaries.append(respond(QUERIES, base, path, GREEDY))
    assert not passes
    quiet = {query.text for query in QUERIES if not expected(base, query)[0]}
    assert 0 < len(quiet) < len(QUERIES)
    assert [summary.rejected for summary in summaries] == [len(quiet)] * 2
    side = rows(tmp_path / "r.rejected.jsonl")
    assert {json.loads(row["row"])["query"] for row in side} == quiet and len(side) == len(quiet)
    assert {row["reason"] for row in side} == {f"{base.name} answered nothing"}
    path.unlink()
    monkeypatch.undo()
    assert respond(QUERIES, base, path, GREEDY).written == len(QUERIES)  # a new start asks them all


def test_rejected_rows_are_tried_again_on_request(tmp_path: Path) -> None:
    """Those that succeed leave the file of rejects; the run goes on past each."""
    engine, path = Echo(), tmp_path / "r.jsonl"
    engine.bad = {TEXTS[1], TEXTS[3]}
    assert respond(QUERIES, engine, path).rejected == 2
    assert len(engine.asked) == len(QUERIES)
    assert {row["reason"] for row in rows(tmp_path / "r.rejected.jsonl")} == {"it is bad"}
    assert respond(QUERIES, engine, path).rejected == 2 and len(engine.asked) == len(QUERIES)
    engine.bad = {TEXTS[3]}
    again = respond(QUERIES, engine, path, RespondConfig(retry_rejected=True))
    assert (again.written, again.rejected) == (1, 1)
    assert [json.loads(row["row"])["query"] for row in rows(tmp_path / "r.rejected.jsonl")] == [TEXTS[3]]
    engine.bad = set()
    assert respond(QUERIES, engine, path, RespondConfig(retry_rejected=True)).rejected == 0
    assert not (tmp_path / "r.rejected.jsonl").exists() and len(texts(path)) == len(QUERIES)


def test_near_identical_responses_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With numbers, at the end of the run."""

    class Refuses(Echo):
        def answer(self, jobs: Sequence[Job]) -> Iterator[Answer]:
            return (Answer(job, f"I cannot help with that, since it is about {job.text}.") for job in jobs)

    respond(thousand(), Refuses(), tmp_path / "r.jsonl")
    assert "1000 of 1000 responses looked at begin like another one" in caplog.text
    assert "and 1000 refuse" in caplog.text


def test_no_rejects_no_side_file(backbone: Get, tmp_path: Path) -> None:
    """What is on disk: the responses and their manifest."""
    respond(QUERIES[:2], backbone("qwen3"), tmp_path / "r.jsonl", GREEDY)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r.jsonl", "r.manifest.json"]
    manifest = json.loads((tmp_path / "r.manifest.json").read_text())
    assert manifest["template"] == "chat" and manifest["config"]["max_new_tokens"] == 8 and manifest["version"]


def test_no_room_for_a_query(backbone: Get, tmp_path: Path) -> None:
    """A response as long as the model's positions is refused before anything is written."""
    with pytest.raises(InputError, match="max_new_tokens is 600.*512 positions"):
        respond(QUERIES, backbone("qwen3"), tmp_path / "r.jsonl", RespondConfig(max_new_tokens=600))
    assert not list(tmp_path.iterdir())
