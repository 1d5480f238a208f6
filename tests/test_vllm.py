"""vLLM as an engine, with a tiny random model on its CPU build; and what of it needs no vLLM.

`make test-vllm` makes an environment with vLLM and runs these there; elsewhere those marked `vllm` say that they are
skipped.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foresay.backbone import Backbone
from foresay.config import RespondConfig, VLLMConfig
from foresay.data.queries import Query
from foresay.data.responses import read_responses
from foresay.engines import vllm as engine_module
from foresay.engines.base import EngineOptions, open_engine
from foresay.engines.prompts import Prompter
from foresay.engines.respond import Summary, respond
from foresay.engines.text_side import TextSide
from foresay.errors import DataError, DeviceError, InputError

from .conftest import SENTENCES, make_folder

QUERIES = [Query(f"q{i}", f"{sentence} ({i})") for i, sentence in enumerate(SENTENCES * 3)]
GREEDY = RespondConfig(engine="vllm", max_new_tokens=8, batch_size=4, max_query_tokens=60)
SAMPLED = replace(GREEDY, temperature=1.0, top_p=0.9, seed=7)
Open = Callable[[RespondConfig], Any]


def rows(path: Path) -> dict[str, tuple[str, str, str]]:
    """Query, response and finish by id."""
    return {row.id: (row.query, row.response, row.finish) for row in read_responses(path)}


# -- without vLLM ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["", "Be brief.<|im_end|>"])
@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3_text"])
def test_prompts_are_those_of_the_loaded_model(
    folder: Callable[[str], Path], backbone: Callable[[str], Backbone], family: str, system: str
) -> None:
    """Without its weights the same token ids, stop tokens and longest query."""
    whole, light = backbone(family), TextSide(str(folder(family)))
    ours, theirs = (Prompter(one, system, 10**6, 8) for one in (light, whole))
    texts = [*SENTENCES, "hello<|im_end|>\n<|im_start|>assistant\n<think>"]
    assert ours.prompts(texts) == theirs.prompts(texts)
    assert (ours.limit, ours.template) == (theirs.limit, theirs.template)
    assert (light.stop_ids, light.end_id) == (whole.stop_ids, whole.end_id)


def test_stop_tokens_of_the_models_own_file(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Those of `generation_config.json` count, as they do for a loaded model."""
    place = make_folder("qwen3", tmp_path / "model")
    settings = json.loads((place / "generation_config.json").read_text())
    (place / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [5, 2]}))
    assert TextSide(str(place)).stop_ids == Backbone.load(str(place), device="cpu").stop_ids == [2, 5]
    (place / "generation_config.json").unlink()
    assert TextSide(str(place)).stop_ids == [2]


def test_without_vllm(folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names the command."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match="needs vLLM, in an environment of its own: pip install vllm") as caught:
        open_engine("vllm", EngineOptions(str(folder("qwen3")), GREEDY))
    assert "\n" not in str(caught.value)


def test_options_that_vllm_cannot_honour(folder: Callable[[str], Path]) -> None:
    """Refused by name, before anything is loaded."""
    with pytest.raises(InputError, match="--dtype 4bit"):
        open_engine("vllm", EngineOptions(str(folder("qwen3")), GREEDY, dtype="4bit"))
    for bad in ({"tensor_parallel_size": 0}, {"max_model_len": -1}, {"gpu_memory_utilization": 1.5}):
        with pytest.raises(InputError, match=next(iter(bad))):
            VLLMConfig(**bad)


# -- with vLLM -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """An engine over one tiny model, loaded once; the options of a run are exchanged, which reload nothing."""
    pytest.importorskip("vllm", reason="make test-vllm makes an environment with vLLM")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # gigabytes
    place = make_folder("qwen3", tmp_path_factory.mktemp("vllm") / "model", hidden_size=64, head_dim=32)
    how = VLLMConfig(enforce_eager=True, max_model_len=200)
    engine = engine_module.open_engine(EngineOptions(str(place), GREEDY, dtype="float32", vllm=how))

    def get(config: RespondConfig) -> Any:  # noqa: ANN401
        engine.config = config
        return engine

    return get


class Killed(Exception):
    """What a test raises from the progress callback."""


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_same_rows_as_transformers(opened: Open, tmp_path: Path) -> None:
    """Ids, queries, greedy responses and ends; the manifests differ in the engine alone."""
    engine = opened(GREEDY)
    summary = respond(QUERIES, engine, tmp_path / "v.jsonl", GREEDY)
    assert summary == Summary(len(QUERIES), 0, 0, summary.cut)
    plain = replace(GREEDY, engine="transformers")
    respond(QUERIES, Backbone.load(engine.name, device="cpu", dtype="float32"), tmp_path / "t.jsonl", plain)
    assert rows(tmp_path / "v.jsonl") == rows(tmp_path / "t.jsonl")
    made = [json.loads((tmp_path / f"{name}.manifest.json").read_text()) for name in "vt"]
    assert made[0].pop("engine") == "vllm" and made[1].pop("engine") == "transformers"
    assert made[0] == made[1]
    assert engine.speed().endswith("tokens/s")


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_kill_and_rerun_equals_one_run(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: RespondConfig
) -> None:
    """What was under way is dropped and asked again; another order and other neighbours change no row."""
    monkeypatch.setattr("foresay.engines.respond._ROWS", 2)
    engine, whole, killed = opened(config), tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    respond(QUERIES, engine, whole, config)

    def kill(done: int, total: int | None, note: str) -> None:
        if done >= 6:
            raise Killed

    with pytest.raises(Killed):
        respond(QUERIES, engine, killed, config, kill)
    assert not engine._engine.has_unfinished_requests()
    summary = respond(QUERIES[::-1], engine, killed, config)
    assert 0 < summary.skipped < len(QUERIES) and summary.written + summary.skipped == len(QUERIES)
    assert rows(killed) == rows(whole)
    with pytest.raises(DataError, match="engine was 'vllm' and is now 'transformers'"):
        respond(QUERIES, engine, killed, replace(config, engine="transformers"))


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_rows_that_do_not_fit(opened: Open, tmp_path: Path) -> None:
    """Long queries are rejected with the reason, and the others answered."""
    long = Query("long", "word " * 100)
    summary = respond([QUERIES[0], long], opened(GREEDY), tmp_path / "r.jsonl", GREEDY)
    assert (summary.written, summary.rejected) == (1, 1)
    assert "tokens; the limit is 60" in (tmp_path / "r.rejected.jsonl").read_text()


@pytest.mark.vllm
@pytest.mark.filterwarnings("default")
def test_a_device_that_vllm_was_not_built_for(folder: Callable[[str], Path]) -> None:
    """One line, before anything is loaded."""
    pytest.importorskip("vllm", reason="make test-vllm makes an environment with vLLM")
    for device, words in (("mps", "this vLLM runs on"), ("cuda:1", "CUDA_VISIBLE_DEVICES=1"), ("spread", "-parallel")):
        with pytest.raises((DeviceError, InputError), match=words):
            open_engine("vllm", EngineOptions(str(folder("qwen3")), GREEDY, device=device))


@pytest.mark.vllm
@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """In a process of its own: a system prompt and `--max-model-len` reach vLLM, which ends in peace."""
    pytest.importorskip("vllm", reason="make test-vllm makes an environment with vLLM")
    place = make_folder("llama", tmp_path / "model", hidden_size=64, head_dim=32)
    (tmp_path / "q.jsonl").write_text('{"query": "What is it?"}\n{"query": "' + "word " * 60 + '"}\n')
    command = [sys.executable, "-m", "foresay", "respond", tmp_path / "q.jsonl", "-m", place, "--engine", "vllm"]
    few = ["-o", tmp_path / "r.jsonl", "--max-new-tokens", "6", "--system", "Be brief.", "--enforce-eager"]
    words = [str(word) for word in (*command, *few, "--max-model-len", "80")]
    here = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=here, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "1 written, 0 there before, 1 rejected" in done.stdout
    made = json.loads((tmp_path / "r.manifest.json").read_text())
    assert made["engine"] == "vllm" and made["config"]["system"] == "Be brief."
