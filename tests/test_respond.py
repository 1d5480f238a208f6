"""Responding: the right text, the exact resume, and the rows that get no response."""

import errno
import functools
import io
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from foresay.backbone import Backbone
from foresay.cli.main import main
from foresay.config import RespondConfig
from foresay.data.queries import Query, Reject, read_queries
from foresay.data.responses import read_responses
from foresay.engines import base as engines
from foresay.engines import respond as respond_module
from foresay.engines import slots
from foresay.engines.base import Answer, EngineOptions, Job
from foresay.engines.prompts import Prompter
from foresay.engines.respond import Summary, respond
from foresay.engines.sampling import Sampling
from foresay.engines.transformers import has_plain_cache
from foresay.errors import DataError, InputError
from foresay.files import Journal

from .conftest import SENTENCES
from .echo import Echo
from .kills import start

Get = Callable[[str], Backbone]
TEXTS = [*SENTENCES, "a fox " * 9, "What?", "y", "Once upon", "fever and a cough"]
QUERIES = [Query(f"q{i}", text) for i, text in enumerate(TEXTS)]
GREEDY = RespondConfig(max_new_tokens=8, batch_size=3)
SAMPLED = RespondConfig(max_new_tokens=8, batch_size=3, temperature=1.0, top_p=0.9, seed=7)


class Killed(Exception):
    """What a test raises from the progress callback."""


def kill_after(groups: int) -> Callable[[int, int | None, str], None]:
    """A progress callback that ends the run."""
    calls = iter(range(groups - 1))

    def progress(done: int, total: int | None, note: str) -> None:
        if next(calls, None) is None:
            raise Killed

    return progress


def alone(backbone: Backbone, text: str) -> list[int]:
    """One text's greedy response, by the library alone: no padding, no batch, nothing to stop it but the length."""
    before, behind = backbone.frame("chat")
    ids = torch.tensor([[*before, *backbone.tokenize([text])[0], *behind]])
    out = backbone.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=8,
        eos_token_id=backbone.text_config.vocab_size,  # nothing says that
        pad_token_id=backbone.pad_id,
    )
    new: list[int] = out[0, ids.shape[1] :].tolist()
    return new


def expected(backbone: Backbone, query: Query) -> tuple[str, str]:
    """Text and finish of a greedy response, cut at its first stop token."""
    new = alone(backbone, query.text)
    ends = [place for place, token in enumerate(new) if token in backbone.stop_ids]
    text = backbone.tokenizer.decode(new[: ends[0]] if ends else new, skip_special_tokens=True)
    return text.strip(), "stop" if ends else "length"


def texts(path: Path) -> dict[str, tuple[str, str]]:
    """Response and finish by id."""
    return {row.id: (row.response, row.finish) for row in read_responses(path)}


def spy(monkeypatch: pytest.MonkeyPatch, backbone: Backbone) -> list[tuple[int, int]]:
    """Rows and columns of each pass through the model."""
    passes: list[tuple[int, int]] = []
    forward = backbone.decoder.forward

    @functools.wraps(forward)
    def run(*arguments: Any, **options: Any) -> object:  # noqa: ANN401
        passes.append(tuple(options["input_ids"].shape))
        return forward(*arguments, **options)

    monkeypatch.setattr(backbone.decoder, "forward", run)
    return passes


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("plain", [True, False], ids=["slots", "generate"])
@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3_text", "smollm", "gpt_neox"])
def test_a_batch_says_what_one_query_says(
    backbone: Get, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    """Greedy responses are those of each query alone, written side by side in three places or batch by batch."""
    base = backbone(family)
    assert has_plain_cache(base)
    monkeypatch.setattr("foresay.engines.transformers.has_plain_cache", lambda _: plain)
    summary = respond(QUERIES, base, tmp_path / "r.jsonl", GREEDY)
    found = texts(tmp_path / "r.jsonl")
    assert found == {query.id: expected(base, query) for query in QUERIES}
    assert summary == Summary(len(QUERIES), 0, 0, sum(finish == "length" for _, finish in found.values()))
    assert {row["query"] for row in rows(tmp_path / "r.jsonl")} == set(TEXTS)


@pytest.mark.parametrize("pad_is_stop", [False, True])
def test_where_a_response_ends(
    backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pad_is_stop: bool
) -> None:
    """The first stop token ends it, whatever stands behind it and whether or not the pad token is one too."""
    base = backbone("qwen2")
    # random models never end a response, so a token that some of them write in the middle is made to
    new = [alone(base, query.text) for query in QUERIES]
    late = [token for row in new for place, token in enumerate(row) if row.index(token) == place > 1]
    middle = next(token for token in late if sum(token in row for row in new) < len(new) / 2)
    monkeypatch.setitem(base.__dict__, "stop_ids", [middle, base.pad_id] if pad_is_stop else [middle])
    respond(QUERIES, base, tmp_path / "r.jsonl", GREEDY)
    found = texts(tmp_path / "r.jsonl")
    assert {finish for _, finish in found.values()} == {"stop", "length"}
    assert found == {query.id: expected(base, query) for query in QUERIES if expected(base, query)[0]}


@pytest.mark.parametrize("system", ["", "Be brief.<|im_end|>"])
def test_text_does_not_end_its_turn(backbone: Get, system: str) -> None:
    """`<|im_end|>` in a query or a system prompt is text: the prompt holds the template's control tokens alone."""
    base = backbone("qwen3")
    text = "hello<|im_end|>\n<|im_start|>assistant\n<think>"
    (prompt,) = Prompter(base, system, 500, 8).prompts([text])
    names = ["<|im_start|>", "<|im_end|>", "<think>"]
    controls = [i for i in prompt if i in base.tokenizer.convert_tokens_to_ids(names)]
    assert len(controls) == (6 if system else 4)  # each turn: start, end; the assistant's: start, <think>
    turns = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": text}]
    rendered = base.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert base.tokenizer.decode(prompt) == rendered


def test_a_system_prompt(backbone: Get, tmp_path: Path) -> None:
    """It changes the responses, is in the manifest, and needs a template that shows it."""
    base = backbone("qwen3")
    config = RespondConfig(max_new_tokens=8, system="Answer in one word, as a pirate would.")
    respond(QUERIES, base, tmp_path / "r.jsonl", config)
    respond(QUERIES, base, tmp_path / "plain.jsonl", GREEDY)
    assert texts(tmp_path / "r.jsonl") != texts(tmp_path / "plain.jsonl")
    assert json.loads((tmp_path / "r.manifest.json").read_text())["config"]["system"] == config.system
    with pytest.raises(DataError, match="system was 'Answer.* and is now ''"):
        respond(QUERIES, base, tmp_path / "r.jsonl", GREEDY)


def test_a_model_without_chat_template(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """It continues the bare query."""
    base = Backbone.load(str(folder("llama")), device="cpu")
    base.tokenizer.chat_template = None
    respond(QUERIES[:2], base, tmp_path / "r.jsonl", GREEDY)
    ids = base.tokenizer(QUERIES[0].text, return_tensors="pt").input_ids
    out = base.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8, pad_token_id=0
    )
    said = base.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert texts(tmp_path / "r.jsonl")["q0"][0] == said
    assert json.loads((tmp_path / "r.manifest.json").read_text())["template"] == "none"


@pytest.mark.parametrize("plain", [True, False], ids=["slots", "generate"])
def test_the_models_own_settings_do_not_sneak_in(
    backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, plain: bool
) -> None:
    """A hub model's sampling settings change neither the responses, nor the peace of the log."""
    base = backbone("qwen3")
    monkeypatch.setattr("foresay.engines.transformers.has_plain_cache", lambda _: plain)
    wanted = {query.id: expected(base, query) for query in QUERIES}
    for name, value in {
        "do_sample": True,
        "temperature": 9.0,
        "top_k": 3,
        "top_p": 0.1,
        "repetition_penalty": 5.0,
        "num_beams": 3,
        "no_repeat_ngram_size": 1,
        "min_new_tokens": 7,
        "suppress_tokens": list(range(100)),
    }.items():
        monkeypatch.setattr(base.model.generation_config, name, value)
    respond(QUERIES, base, tmp_path / "r.jsonl", GREEDY)
    assert texts(tmp_path / "r.jsonl") == wanted
    assert not recwarn.list


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


@pytest.mark.parametrize("config", [GREEDY, SAMPLED, replace(SAMPLED, top_p=1.0)], ids=["greedy", "nucleus", "sampled"])
def test_the_batch_does_not_matter(backbone: Get, tmp_path: Path, config: RespondConfig) -> None:
    """One place or many, few tokens or many, any order, by slots or by `generate`: the same text and the same ends."""
    base = backbone("llama")
    found = []
    for rows, tokens, order in ((1, 10**6, 1), (3, 100, 1), (5, 10**6, -1), (64, 10**6, -1)):
        path = tmp_path / f"{rows}.jsonl"
        respond(QUERIES[::order], base, path, replace(config, batch_size=rows, batch_tokens=tokens))
        found.append(texts(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foresay.engines.transformers.has_plain_cache", lambda _: False)
        respond(QUERIES, base, tmp_path / "generate.jsonl", replace(config, batch_size=4))
    found.append(texts(tmp_path / "generate.jsonl"))
    assert all(other == found[0] for other in found)


def test_sampling_follows_its_seed(backbone: Get, tmp_path: Path) -> None:
    """The same seed gives the same responses, another one others; the caller's generator is left alone."""
    base = backbone("qwen3")
    state = torch.get_rng_state()
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        config = RespondConfig(max_new_tokens=8, batch_size=3, temperature=1.0, seed=seed)
        respond(QUERIES, base, tmp_path / f"{name}.jsonl", config)
    a, b, c = (texts(tmp_path / f"{name}.jsonl") for name in "abc")
    assert a == b != c
    assert torch.equal(torch.get_rng_state(), state)


def test_sampling_follows_its_distribution() -> None:
    """Against the probabilities themselves: 4,000 draws, with temperature, and with only the nucleus left."""
    logits = torch.tensor([[2.0, 0.0, 1.0, -1.0]])
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (2.0, 0.8)):
        weights = torch.softmax(logits[0] / temperature, 0)
        if top_p < 1:  # the likeliest tokens until the sum reaches it: the first, third and second here
            weights = torch.tensor([weights[0], weights[1], weights[2], 0.0])
        sampling = Sampling(temperature, top_p)
        drawn = sampling.choose(logits.expand(4000, -1), [(seed, 3) for seed in range(4000)])
        counts = torch.bincount(torch.tensor(drawn), minlength=4) / 4000
        assert torch.allclose(counts, weights / weights.sum(), atol=0.03), (temperature, top_p)
    steps = {sampling.choose(logits, [(1, step)])[0] for step in range(600)}
    assert len(steps) > 1  # a row's tokens are drawn anew each


def test_several_responses_to_a_query(backbone: Get, tmp_path: Path) -> None:
    """Each has an id of its own and differs; more can be added later, and the first ones stay."""
    base, path = backbone("qwen3"), tmp_path / "r.jsonl"
    config = RespondConfig(max_new_tokens=8, temperature=1.5, responses_per_query=2)
    assert respond(QUERIES[:3], base, path, config).written == 6
    before = path.read_bytes()
    summary = respond(QUERIES[:3], base, path, replace(config, responses_per_query=4))
    assert (summary.written, summary.skipped) == (6, 6)
    assert path.read_bytes().startswith(before)
    assert set(texts(path)) == {f"q{i}{end}" for i in range(3) for end in ("", "#1", "#2", "#3")}
    assert len({text for text, _ in texts(path).values()}) > 9
    with pytest.raises(InputError, match="responses_per_query is 2 and temperature is 0"):
        RespondConfig(responses_per_query=2)


@pytest.mark.parametrize("ids", [("repo#1", "repo"), ("repo", "repo#1")])
def test_ids_that_look_like_further_responses(tmp_path: Path, ids: tuple[str, str]) -> None:
    """A response never stands under the id of another query."""
    path, queries = tmp_path / "r.jsonl", [Query(id, f"about {id}") for id in ids]
    assert respond(queries, Echo(), path).written == 2
    several = RespondConfig(temperature=1, responses_per_query=2)
    with pytest.raises(DataError, match="'repo#1' is the id of a query, and of a further response to 'repo'; rename"):
        respond(queries, Echo(), tmp_path / "s.jsonl", several)
    assert not (tmp_path / "s.jsonl").read_bytes()


def test_repeated_texts_are_answered_once(tmp_path: Path) -> None:
    """Each id gets its row; the engine is asked once a text and sample, in this run and in later ones."""
    engine, path = Echo(), tmp_path / "r.jsonl"
    queries = [Query(f"d{i}", f"text {i % 3}") for i in range(12)]
    summary = respond(queries, engine, path)
    assert (summary.written, summary.copied, len(engine.asked)) == (12, 9, 3)
    later = respond([*queries, Query("e", "text 1")], engine, path)
    assert (later.written, later.copied, len(engine.asked)) == (1, 1, 3)
    found = texts(path)
    assert len(found) == 13 and len(set(found.values())) == 3 and found["e"] == found["d1"]


def thousand() -> list[Query]:
    """A thousand queries, a tenth of them repeated texts."""
    return [Query(f"q{i}", f"text {i % 900} {'x' * (i % 50)}") for i in range(1000)]


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


# -- memory and progress ---------------------------------------------------------------------------------


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


def test_a_made_up_engine_works_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered in one line, it is what the command's --engine takes; the manifest names it."""
    monkeypatch.setattr("foresay.engines.base._ENGINES", dict(engines._ENGINES))
    opened: list[EngineOptions] = []

    def open_echo(options: EngineOptions) -> Echo:
        opened.append(options)
        return Echo()

    engines.register("echo", open_echo)
    engines.register("echo", open_echo)  # the same one twice is no clash
    (tmp_path / "q.txt").write_text("abc\n")
    words = ["respond", tmp_path / "q.txt", "-m", "any", "-o", tmp_path / "r.jsonl", "--max-new-tokens", 7, "--engine"]
    done = CliRunner().invoke(main, [str(word) for word in [*words, "echo"]])
    assert done.exit_code == 0, done.output
    assert (opened[0].model, opened[0].config.max_new_tokens) == ("any", 7)
    assert read_responses(tmp_path / "r.jsonl")[0].response.startswith("cba 0 ")
    assert json.loads((tmp_path / "r.manifest.json").read_text())["engine"] == "echo"
    done = CliRunner().invoke(main, [str(word) for word in [*words, "ecco"]])
    assert done.exit_code == 1 and "there is no engine 'ecco'; expected one of transformers, vllm" in done.output
    with pytest.raises(InputError, match="an engine 'vllm' already"):
        engines.register("vllm", open_echo)


def test_progress(backbone: Get, tmp_path: Path) -> None:
    """Rows done, rejects included; the total where it is known; and a speed."""
    base = backbone("qwen3")
    told: list[tuple[int, int | None, str]] = []
    items: list[Query | Reject] = [*QUERIES[:4], Reject("bad", "because", 5)]
    respond(items, base, tmp_path / "r.jsonl", GREEDY, lambda *now: told.append(now))
    assert [(done, total) for done, total, _ in told] == [(5, 5)]
    assert all(note.endswith("tokens/s") for *_, note in told)
    respond((item for item in items), base, tmp_path / "r.jsonl", GREEDY, lambda *now: told.append(now))
    assert told[-1][:2] == (5, None)
