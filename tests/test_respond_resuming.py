"""A `respond` that is killed goes on, takes new queries in, and refuses what is not its own."""

import errno
import io
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foresay.config import RespondConfig
from foresay.data.queries import Query
from foresay.engines import respond as respond_module
from foresay.engines.respond import Summary, respond
from foresay.errors import DataError, InputError
from foresay.files import Journal

from .echo import Echo
from .kills import start
from .responding import GREEDY, QUERIES, SAMPLED, Get, rows, texts, thousand


class Killed(Exception):
    """What a test raises from the progress callback."""


def kill_after(groups: int) -> Callable[[int, int | None, str], None]:
    """A progress callback that ends the run."""
    calls = iter(range(groups - 1))

    def progress(done: int, total: int | None, note: str) -> None:
        if next(calls, None) is None:
            raise Killed

    return progress


# -- resuming --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("torn", [0, 1, 60], ids=["whole", "newline", "torn"])
def test_kill_and_rerun_equals_one_run(
    backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: RespondConfig, torn: int
) -> None:
    """Killed after two groups, and again after one, the rows are those of a run left alone."""
    monkeypatch.setattr("foresay.engines.respond._ROWS", 2)
    base = backbone("qwen3")
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    respond(QUERIES, base, whole, config)
    for groups in (2, 1):
        with pytest.raises(Killed):
            respond(QUERIES, base, killed, config, kill_after(groups))
        killed.write_bytes(killed.read_bytes()[: -torn or None])
    torch.manual_seed(99)  # the state of the global generator must not matter
    summary = respond(iter(QUERIES), base, killed, config)
    assert sorted(killed.read_bytes().splitlines()) == sorted(whole.read_bytes().splitlines())
    assert summary.written + summary.skipped == len(QUERIES) and summary.skipped > 3
    assert respond(QUERIES, base, killed, config) == Summary(0, len(QUERIES), 0, 0)


class Halves(io.FileIO):
    """A file that takes each write in small parts, as a disk may."""

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer
        """Half of what is given; the caller goes on with the rest."""
        return super().write(data[: max(1, len(data) // 2)]) or 0


def respond_slowly(path: Path) -> None:
    """A run in small groups and torn writes, in a process of its own."""
    respond_module._ROWS = 7
    os.fsync = lambda fd: None  # a killed process needs none, only a machine without power does
    open_path = Path.open
    Path.open = lambda self, mode="r", *a, **k: Halves(self, "a+") if mode == "a+b" else open_path(self, mode, *a, **k)  # type: ignore[method-assign, assignment]
    respond(thousand(), Echo(), path)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork server")
def test_killed_at_any_moment(tmp_path: Path) -> None:
    """SIGKILL at 100 random moments, in the middle of a write included: in the end each id is there once."""
    path, draw = tmp_path / "r.jsonl", random.Random(0)
    start(respond_slowly, tmp_path / "warm-up.jsonl").join()
    begun = time.perf_counter()
    start(respond_slowly, tmp_path / "timed.jsonl").join()
    whole_run = time.perf_counter() - begun
    sizes = []
    for kill in range(100):
        process = start(respond_slowly, path)
        process.join(draw.random() * whole_run)
        process.kill()
        process.join()
        sizes.append(path.stat().st_size if path.exists() else 0)
        if kill < 99 and sizes[-1] and len(path.read_bytes().splitlines()) > 900:
            path.unlink()  # nearly done: begin anew, so that all hundred kills hit something
    respond(thousand(), Echo(), path)
    assert len(set(sizes)) > 5
    assert sorted(row["id"] for row in rows(path)) == sorted(query.id for query in thousand())
    whole = tmp_path / "whole.jsonl"
    respond(thousand(), Echo(), whole)
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.read_bytes().splitlines())


def test_new_queries_are_added(backbone: Get, tmp_path: Path) -> None:
    """Only what is new gets written, in whatever order the queries come."""
    base, path = backbone("qwen3"), tmp_path / "r.jsonl"
    respond(QUERIES[:5], base, path, GREEDY)
    before = path.read_bytes()
    summary = respond(QUERIES[::-1], base, path, GREEDY)
    assert (summary.written, summary.skipped) == (len(QUERIES) - 5, 5)
    assert path.read_bytes().startswith(before)
    assert set(texts(path)) == {query.id for query in QUERIES}


def test_another_recipe_is_refused(backbone: Get, tmp_path: Path) -> None:
    """A file holds responses of one backbone with one set of options; the error says what changed."""
    path = tmp_path / "r.jsonl"
    respond(QUERIES[:2], backbone("qwen3"), path, GREEDY)
    before = path.read_bytes()
    with pytest.raises(DataError, match="max_new_tokens was 8 and is now 9.*another -o, or delete"):
        respond(QUERIES, backbone("qwen3"), path, RespondConfig(max_new_tokens=9, batch_size=3))
    with pytest.raises(DataError, match="backbone was .*qwen3.* and is now .*llama"):
        respond(QUERIES, backbone("llama"), path, GREEDY)
    with pytest.raises(DataError, match="another text under the id 'q0'"):
        respond([Query("q0", "something else")], backbone("qwen3"), path, GREEDY)
    assert path.read_bytes() == before
    path.unlink()  # what the message says
    respond(QUERIES[:2], backbone("llama"), path, GREEDY)


def test_a_foreign_file_is_left_alone(backbone: Get, tmp_path: Path) -> None:
    """Such as the queries themselves, given as output by mistake."""
    path = tmp_path / "queries.jsonl"
    path.write_text('{"query": "mine"}\n')
    with pytest.raises(DataError, match="was not written by foresay respond"):
        respond(QUERIES, backbone("qwen3"), path, GREEDY)
    assert path.read_text() == '{"query": "mine"}\n'


def test_two_runs_at_once_are_refused(backbone: Get, tmp_path: Path) -> None:
    """The second neither writes, nor touches the manifest of the first."""
    pytest.importorskip("fcntl")
    with Journal(tmp_path / "r.jsonl"), pytest.raises(DataError, match="another process is writing"):
        respond(QUERIES, backbone("qwen3"), tmp_path / "r.jsonl", GREEDY)
    assert not (tmp_path / "r.manifest.json").exists()


# -- rows without a response -----------------------------------------------------------------------------


def test_two_outputs_do_not_share_a_side_file(tmp_path: Path) -> None:
    """A name without the ending is refused; dots in it are kept."""
    with pytest.raises(InputError, match=r"run.a does not end in .jsonl.*; try .*run.a.jsonl"):
        respond(QUERIES, Echo(), tmp_path / "run.a")
    for name in ("run.a.jsonl", "run.b.jsonl"):
        respond(QUERIES, Echo(), tmp_path / name)
    assert {path.name for path in tmp_path.glob("*.manifest.json")} == {"run.a.manifest.json", "run.b.manifest.json"}


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line; what was written stays whole, and the same command resumes."""
    path, calls = tmp_path / "r.jsonl", iter(range(100))
    fsync = os.fsync

    def full(handle: int) -> None:
        if next(calls) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch, pytest.raises(DataError, match="r.jsonl: the disk is full; free some space"):
        patch.setattr("os.fsync", full)
        respond(thousand(), Echo(), path)
    assert 0 < len(rows(path)) < 1000
    respond(thousand(), Echo(), path)
    assert len(texts(path)) == 1000
