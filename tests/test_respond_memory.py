"""What `respond` keeps in memory: it halves its batches, shares prompts, and refills places."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from foresay.backbone import Backbone
from foresay.config import RespondConfig
from foresay.data.queries import Query
from foresay.engines import slots
from foresay.engines.base import Answer, Job
from foresay.engines.prompts import Prompter
from foresay.engines.respond import respond
from foresay.engines.transformers import has_plain_cache

from .echo import Echo
from .responding import GREEDY, QUERIES, TEXTS, Get, alone, expected, spy, texts


@pytest.mark.parametrize("plain", [True, False], ids=["slots", "generate"])
def test_out_of_memory(backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool) -> None:
    """The rows are answered in smaller batches; one row too large is an error."""
    base = backbone("qwen3")
    monkeypatch.setattr("foresay.engines.transformers.has_plain_cache", lambda _: plain)
    wanted = {query.id: expected(base, query) for query in QUERIES}
    forward, most = base.decoder.forward, [2]

    @functools.wraps(forward)
    def run(*arguments: Any, **options: Any) -> object:  # noqa: ANN401
        if len(options["input_ids"]) > most[0]:
            raise torch.OutOfMemoryError("too large")
        return forward(*arguments, **options)

    monkeypatch.setattr(base.decoder, "forward", run)
    respond(QUERIES, base, tmp_path / "r.jsonl", replace(GREEDY, batch_size=64))
    assert texts(tmp_path / "r.jsonl") == wanted
    most[0] = 0
    with pytest.raises(torch.OutOfMemoryError):
        respond(QUERIES, base, tmp_path / "s.jsonl", GREEDY)


def test_one_long_query_does_not_pad_the_others(backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are read by a budget of tokens, and a step reads one column a row, for the rows that are not done."""
    base = backbone("qwen3")
    monkeypatch.setattr(Backbone, "least_tokens", 32)
    passes = spy(monkeypatch, base)
    queries = [Query("long", "word " * 60), *(Query(f"s{i}", f"hi {i}") for i in range(20))]
    respond(queries, base, tmp_path / "r.jsonl", RespondConfig(max_new_tokens=8, batch_size=64))
    assert passes[0][0] == 1 and passes[0][1] > 100
    assert max(rows * columns for rows, columns in passes[1:]) <= 4 * 32
    assert max(rows for rows, _ in passes) > 4


def test_a_system_prompt_is_read_once(backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of batches; and the responses are those of whole prompts, sliding windows included."""
    config = replace(GREEDY, system="Answer in one word, as a pirate would, and be brief about it.")
    for family in ("qwen3", "gemma3_text", "gpt_neox"):
        base, plain = backbone(family), has_plain_cache
        with monkeypatch.context() as patch:
            patch.setattr("foresay.engines.transformers.has_plain_cache", lambda _: False)
            respond(QUERIES, base, tmp_path / f"{family}.whole.jsonl", config)
        with monkeypatch.context() as patch:
            passes = spy(patch, base)
            respond(QUERIES, base, tmp_path / f"{family}.jsonl", config)
        assert texts(tmp_path / f"{family}.jsonl") == texts(tmp_path / f"{family}.whole.jsonl") and plain(base)
        prompter = Prompter(base, config.system, 50, 8)
        prefix, suffix = len(prompter.prefix), len(prompter.suffix)
        longest = max(map(len, base.tokenize(TEXTS)))
        assert passes[0] == (1, prefix) and prefix > 30
        assert all(columns <= longest + suffix for _, columns in passes[1:])  # nobody reads it again
    one = RespondConfig(max_new_tokens=4, batch_size=3)
    respond(QUERIES[:1], base, tmp_path / "one.jsonl", one)  # a row alone shares nothing
    assert len(texts(tmp_path / "one.jsonl")) == 1


def test_freed_places_are_filled_again(backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that end early do not keep their place until the slowest has ended: fewer steps than batch by batch."""
    base = backbone("qwen2")
    new = [alone(base, query.text) for query in QUERIES]
    stop = next(token for row in new for place, token in enumerate(row) if place and sum(token in r for r in new) < 8)
    monkeypatch.setitem(base.__dict__, "stop_ids", [stop])
    passes = spy(monkeypatch, base)
    queries = [Query(f"{i}-{query.id}", f"{query.text} {i}") for i in range(4) for query in QUERIES]
    respond(queries, base, tmp_path / "r.jsonl", RespondConfig(max_new_tokens=40, batch_size=4))
    assert texts(tmp_path / "r.jsonl").keys() <= {query.id for query in queries}
    taken = [rows for rows, columns in passes if columns == 1]
    assert sum(taken) / len(taken) > 2.5  # of four places


def test_a_long_prompt_leaves_no_room_behind(backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of the rows goes with their own length, not with that of a long one which has ended."""
    base, kept = backbone("qwen2"), 0
    see = slots._Store.see

    def spied(store: slots._Store, rows: int, columns: int) -> None:
        nonlocal kept
        if store.store is not None:
            kept = max(kept, store.store[0].shape[0] * store.store[0].shape[2])
        see(store, rows, columns)

    monkeypatch.setattr(slots._Store, "see", spied)
    queries = [Query("long", "word " * 120), *(Query(str(i), f"word {i}") for i in range(64))]
    respond(queries, base, tmp_path / "r.jsonl", RespondConfig(max_new_tokens=6, batch_size=32, batch_tokens=2048))
    assert len(texts(tmp_path / "r.jsonl")) == len(queries)
    assert kept <= 1.5 * 32 * 128  # 128 columns is the least; the long one needs several times that


def test_a_million_rows_in_little_memory(tmp_path: Path) -> None:
    """Memory does not grow with the rows: 20,000 more cost less than a tenth of what they hold."""
    tracemalloc = pytest.importorskip("tracemalloc")

    class Quick(Echo):
        window = 1000

        def answer(self, jobs: Sequence[Job]) -> Iterator[Answer]:
            return (Answer(job, "word " * 40) for job in jobs)

    def peak(count: int) -> int:
        tracemalloc.start()
        respond((Query(f"q{i}", f"text {i}") for i in range(count)), Quick(), tmp_path / f"{count}.jsonl")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return int(most)

    small, large = peak(4000), peak(24_000)
    assert large - small < 0.1 * (tmp_path / "24000.jsonl").stat().st_size
