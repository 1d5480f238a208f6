"""`respond`: a batch says what each query says alone, greedy and sampled; where a response ends; other engines."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from foresay.backbone import Backbone
from foresay.cli.main import main
from foresay.config import RespondConfig
from foresay.data.queries import Query, Reject
from foresay.data.responses import read_responses
from foresay.engines import base as engines
from foresay.engines.base import EngineOptions
from foresay.engines.prompts import Prompter
from foresay.engines.respond import Summary, respond
from foresay.engines.sampling import Sampling
from foresay.engines.transformers import has_plain_cache
from foresay.errors import DataError, InputError

from .echo import Echo
from .responding import GREEDY, QUERIES, SAMPLED, TEXTS, Get, alone, expected, rows, texts


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


@pytest.mark.parametrize("config", [GREEDY, SAMPLED, replace(SAMPLED, top_p=1.0)], ids=["greedy", "nucleus", "sampled"])
def test_the_batch_does_not_matter(backbone: Get, tmp_path: Path, config: RespondConfig) -> None:
    """One place or many, few tokens or many, any order, by slots or by `generate`: the same text and the same ends."""
    base = backbone("llama")
    found = []
    for size, tokens, order in ((1, 10**6, 1), (3, 100, 1), (5, 10**6, -1), (64, 10**6, -1)):
        path = tmp_path / f"{size}.jsonl"
        respond(QUERIES[::order], base, path, replace(config, batch_size=size, batch_tokens=tokens))
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


# -- memory and progress ---------------------------------------------------------------------------------


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
