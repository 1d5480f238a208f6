"""Shards: a row's part follows from its id; joined, they are what one machine would have written. And looking."""

import json
from pathlib import Path
from typing import Any

import pytest

from foresay.config import RespondConfig
from foresay.data.look import look
from foresay.data.merge import merge
from foresay.data.responses import read_responses
from foresay.data.shards import QueryFile, Shard
from foresay.engines.respond import respond
from foresay.errors import DataError, InputError

from .echo import Echo


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Sixty queries and a row that is none."""
    path = tmp_path / "q.jsonl"
    rows = [json.dumps({"id": f"q{i}", "query": f"text {i}"}) for i in range(60)]
    path.write_text("\n".join([*rows[:30], "torn", *rows[30:]]) + "\n")
    return path


def answered(source: Path, count: int, config: RespondConfig | None = None) -> list[Path]:
    """The shards' files."""
    paths = []
    for number in range(1, count + 1):
        shard = Shard(number, count)
        paths.append(shard.name(source.with_name("r.jsonl")))
        respond(QueryFile(source, shard=shard), Echo(), paths[-1], config)
    return paths


def test_parts() -> None:
    """Every id is in one part, parts are of like size, and the text of an option is checked."""
    parts = [[i for i in range(3000) if Shard(k, 3).holds(f"q{i}")] for k in (1, 2, 3)]
    assert sorted(sum(parts, [])) == list(range(3000)) and min(map(len, parts)) > 900
    assert Shard.parse("2/3") == Shard(2, 3) and Shard(2, 3).name(Path("a/r.x.jsonl")) == Path("a/r.x-2-of-3.jsonl")
    for text in ("0/3", "4/3", "x", "1/0", "1"):
        with pytest.raises(InputError, match="expected K/N"):
            Shard.parse(text)


def test_merged_shards_are_one_run(source: Path, tmp_path: Path) -> None:
    """The same rows, rejects and manifest; a file from a copied shard is counted, not doubled."""
    paths = answered(source, 3)
    respond(QueryFile(source), Echo(), tmp_path / "whole.jsonl")
    done = merge(paths, tmp_path / "m.jsonl", QueryFile(source))
    assert (done.rows, done.repeated, done.gaps, done.rejected) == (60, 0, 0, 1)
    for ending in ("jsonl", "rejected.jsonl"):
        found, whole = (sorted((tmp_path / f"{name}.{ending}").read_bytes().splitlines()) for name in ("m", "whole"))
        assert found == whole
    assert (tmp_path / "m.manifest.json").read_bytes() == (tmp_path / "whole.manifest.json").read_bytes()
    assert respond(QueryFile(source), Echo(), tmp_path / "m.jsonl").skipped == 60  # and can be added to
    doubled = merge([*paths, tmp_path / "whole.jsonl"], tmp_path / "d.jsonl")
    assert (doubled.rows, doubled.repeated) == (60, 60)


def test_gaps_and_differences(source: Path, tmp_path: Path) -> None:
    """A missing shard, other settings, two responses under an id, an output that is there: nothing is written."""
    paths, out = answered(source, 3), tmp_path / "m.jsonl"
    with pytest.raises(DataError, match="shard 2 of 3 is missing"):
        merge([paths[0], paths[2]], out)
    lines = paths[0].read_text().splitlines(keepends=True)
    paths[0].write_text("".join(lines[1:]))
    assert merge(paths, tmp_path / "gap.jsonl", QueryFile(source)).gaps == 1
    paths[0].write_text("".join(lines))
    row = json.loads(lines[0])
    paths[1].write_text(paths[1].read_text() + json.dumps({**row, "response": "else"}) + "\n")
    with pytest.raises(DataError, match=f"the id {row['id']!r} has another response in an earlier shard"):
        merge(paths, out)
    (tmp_path / "other").mkdir()
    others = answered(source.rename(tmp_path / "other" / "q.jsonl"), 3, RespondConfig(seed=1))
    with pytest.raises(DataError, match="made otherwise than .*: seed was 0 and is now 1"):
        merge([paths[0], others[1], paths[2]], out)
    assert not out.exists() and not list(tmp_path.glob("m.*"))
    with pytest.raises(InputError, match="is there already"):
        merge(paths, paths[0])


def test_a_missing_file_is_named_and_nothing_is_written(source: Path, tmp_path: Path) -> None:
    """Queries, read last, or a shard: the call can be repeated with the right name."""
    paths, out = answered(source, 2), tmp_path / "m.jsonl"
    with pytest.raises(DataError, match=r"wrong\.jsonl"):
        merge(paths, out, QueryFile(tmp_path / "wrong.jsonl"))
    with pytest.raises(DataError, match=r"there is no .*nope\.jsonl; write it with: foresay respond"):
        merge([*paths, tmp_path / "nope.jsonl"], out)
    assert not list(tmp_path.glob("m.*"))
    assert merge(paths, out, QueryFile(source)).gaps == 0


def test_look(tmp_path: Path, figures: list[Any]) -> None:
    """Counts, shares and lengths, by hand; and a picture."""
    said = ["I\u2019m sorry, but I can't help with that.", "As an AI language model, I cannot do so.", "No."]
    texts = [*said, *(f"answer {i} " + "word " * i for i in range(37))]
    path = tmp_path / "r.jsonl"
    lines = [
        {"id": str(i), "query": "q", "response": t.strip(), "finish": "length" if i % 4 else "stop"}
        for i, t in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = look(path)
    assert (found.rows, found.cut, found.short, found.likeness.refusals) == (40, 30, 2, 2)
    assert len(found.examples) == 10 and set(found.examples) <= set(read_responses(path))
    report = "\n".join(found.lines())
    assert "40 responses, a median of 19 words, 38 at most" in report and "30 of 40 (75.0%) stopped by" in report
    assert sum(int(line.split()[-1]) for line in found.lines() if "–" in line) == 40
    found.plot(tmp_path / "lengths.png")
    (axes,) = figures[0].axes
    assert sum(bar.get_height() for bar in axes.patches) == 40 and axes.get_xlim()[1] > 38
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")
