"""LLM2Vec's two stages: what they learn, and a killed run that goes on."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from foresay.cli.main import main
from foresay.config import TeacherConfig
from foresay.errors import BackboneError, InputError
from foresay.teachers.bidirectional import Bidirectional
from foresay.teachers.load import load_teacher
from foresay.teachers.make import make_teacher, schedule
from foresay.teachers.objectives import SCALE, blank, mntp_gradient, simcse_gradient
from foresay.training.metrics import Event, Step
from foresay.training.stopping import Stopped

from .conftest import SENTENCES
from .llm2vec_made import SMALL, TEXTS, Get, made, randomise
from .making import noting

# -- stage 1 ---------------------------------------------------------------------------------------------


def test_blank() -> None:
    """A fifth of the tokens, never the first, at least one where there is one to take."""
    rows = [list(range(10, 1010)), [7, 8], [9], []]
    blanked, places = blank(rows, 3, np.random.default_rng(0))
    assert 150 < sum(i == 0 for i, _, _ in places) < 250
    assert [(at, label) for i, at, label in places if i == 1] == [(1, 8)]
    assert blanked[1:] == [[7, 3], [9], []] and blanked[0][0] == 10
    for i, at, label in places:
        assert blanked[i][at] == 3 and rows[i][at] == label
    assert sum(token == 3 for token in blanked[0]) == sum(i == 0 for i, _, _ in places)


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_stage_1_is_cross_entropy_before_the_blanks(backbone: Get, family: str) -> None:
    """The plain loss with full logits gives the same figure and gradient, however the batch is cut."""
    base = backbone(family)
    reader = Bidirectional(base)
    reader.new_adapter(4, seed=0)
    weights = randomise(reader)
    rows, places = blank(base.tokenize(TEXTS[:6]), 3, np.random.default_rng(0))
    total = torch.zeros(())
    for i, at, label in places:
        state = reader.states([rows[i]])[0, at - 1]
        total = total + torch.nn.functional.cross_entropy(base.logits(state), torch.tensor(label))
    plain = torch.autograd.grad(total / len(places), weights)
    nats = float(total.detach()) / len(places)
    for limit in (1, 40, 10_000):
        reader.model.zero_grad()
        assert mntp_gradient(reader, rows, places, limit) == pytest.approx(nats, rel=1e-5)
        for weight, expected in zip(weights, plain, strict=True):
            torch.testing.assert_close(weight.grad, expected, atol=1e-5, rtol=1e-3)


# -- stage 2 ---------------------------------------------------------------------------------------------


def test_stage_2_is_simcse(backbone: Get) -> None:
    """Without dropout, the plain loss gives the same figure and gradient, however the batch is cut."""
    reader = Bidirectional(backbone("llama"))
    reader.new_adapter(4, seed=0)
    weights = randomise(reader)
    rows = reader.backbone.tokenize([f"{'so ' * i}{SENTENCES[1]}" for i in range(6)])
    vectors = torch.nn.functional.normalize(torch.cat([reader.mean([row]) for row in rows]), dim=-1)
    loss = torch.nn.functional.cross_entropy(SCALE * vectors @ vectors.T, torch.arange(6))
    plain = torch.autograd.grad(loss, weights)
    for limit in (1, 60, 10_000):
        reader.model.zero_grad()
        assert simcse_gradient(reader, rows, 0, limit) == pytest.approx(float(loss.detach()), rel=1e-5)
        for weight, expected in zip(weights, plain, strict=True):
            torch.testing.assert_close(weight.grad, expected, atol=2e-5, rtol=1e-3)


def test_dropout_is_the_same_in_both_passes(backbone: Get) -> None:
    """Where a batch does not fit, it runs twice; the second time with the dropout of the first."""
    reader = Bidirectional(backbone("qwen2"))
    reader.new_adapter(4, seed=0)
    weights = randomise(reader)
    reader.set_attention_dropout(0.3)
    reader.model.train()
    rows = [list(range(i, i + 10)) for i in range(20, 24)]
    seen: list[tuple[float, list[Tensor]]] = []
    for limit in (40, 80, 80):  # one pass a view either way; 2 × 40 tokens fit in 80
        reader.model.zero_grad()
        loss = simcse_gradient(reader, rows, len(seen) // 2, limit)
        seen.append((loss, [weight.grad.clone() for weight in weights if weight.grad is not None]))
    assert seen[0][0] == seen[1][0] != seen[2][0]
    for one, other in zip(seen[0][1], seen[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_a_model_without_dropout_has_no_stage_2(backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told before anything is trained."""
    monkeypatch.setattr(Bidirectional, "set_attention_dropout", lambda *_: None)
    with pytest.raises(BackboneError, match="no attention dropout.*--simcse-steps 0"):
        made(backbone("qwen3"), tmp_path / "t", mntp=0)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, without the times."""
    lines = (folder / "training" / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


# -- the run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mntp", "simcse"), [(12, 0), (0, 12)])
def test_each_stage_learns(backbone: Get, tmp_path: Path, mntp: int, simcse: int) -> None:
    """Either alone; its loss falls."""
    losses: list[Event] = []
    config = TeacherConfig(mntp_steps=mntp, simcse_steps=simcse, **{**SMALL, "mntp_batch_size": 8})
    make_teacher(TEXTS, backbone("gpt_neox"), tmp_path / "t", config, losses.append)
    rows = metrics(tmp_path / "t")
    assert {row["stage"] for row in rows} == {"mntp" if mntp else "simcse"}
    assert np.mean([row["loss"] for row in rows[-4:]]) < 0.9 * np.mean([row["loss"] for row in rows[:4]])
    last = losses[-1]
    assert isinstance(last, Step)
    assert (last.step, last.total, last.stage, last.metrics["loss"]) == (12, 12, rows[-1]["stage"], rows[-1]["loss"])


@pytest.mark.parametrize("killed", [3, 5, 7])
def test_a_killed_run_goes_on(backbone: Get, tmp_path: Path, killed: int) -> None:
    """In stage 1, at the start of stage 2 and within it: bit for bit the run that was not killed."""
    whole = made(backbone("qwen3"), tmp_path / "whole", mntp=4, simcse=4)
    config = TeacherConfig(mntp_steps=4, simcse_steps=4, **SMALL)

    class Killed(Exception):
        pass

    def kill(event: Event) -> None:
        if isinstance(event, Step) and event.step == killed:
            raise Killed

    with pytest.raises(Killed):
        make_teacher(TEXTS, backbone("qwen3"), tmp_path / "killed", config, kill)
    torch.manual_seed(99)  # whatever else drew random numbers meanwhile
    with (tmp_path / "killed" / "training" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "sta')  # torn by the kill
    steps: list[int] = []
    resumed = make_teacher(TEXTS, backbone("qwen3"), tmp_path / "killed", config, noting(steps))
    assert steps == list(range(killed // 2 * 2 + 1, 9))
    for name, weight in whole.reader.trained().items():
        assert torch.equal(weight, resumed.reader.trained()[name]), name
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "killed")
    before = (tmp_path / "killed" / "teacher.json").read_bytes()
    make_teacher(TEXTS, backbone("qwen3"), tmp_path / "killed", config, lambda *_: pytest.fail("a step ran"))
    assert (tmp_path / "killed" / "teacher.json").read_bytes() == before


def test_sigterm_saves_and_goes_on(backbone: Get, tmp_path: Path) -> None:
    """A polite kill loses no step, and leaves no teacher."""

    def terminate(event: Event) -> None:
        if isinstance(event, Step) and event.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    config = TeacherConfig(mntp_steps=3, simcse_steps=0, **{**SMALL, "save_every": 100})
    with pytest.raises(Stopped, match="saved at step 2"):
        make_teacher(TEXTS, backbone("qwen3"), tmp_path / "t", config, terminate)
    assert not (tmp_path / "t" / "teacher.json").exists()
    steps: list[int] = []
    make_teacher(TEXTS, backbone("qwen3"), tmp_path / "t", config, noting(steps))
    assert steps == [3]


def test_options_that_cannot_work(backbone: Get, tmp_path: Path) -> None:
    """Said before anything runs."""
    with pytest.raises(InputError, match="both 0; nothing to train"):
        TeacherConfig(mntp_steps=0, simcse_steps=0)
    with pytest.raises(InputError, match="the other texts are the negatives"):
        TeacherConfig(simcse_batch_size=1)
    for bad in ({"mntp_learning_rate": -1.0}, {"simcse_learning_rate": float("nan")}, {"seed": -1}):
        with pytest.raises(InputError, match=f"{next(iter(bad))} is"):
            TeacherConfig(**bad)
    with pytest.raises(InputError, match="1 texts; a teacher needs at least 2"):
        make_teacher(["one"], backbone("qwen3"), tmp_path / "t")
    with pytest.raises(InputError, match="24 texts do not fill a batch of 128 .* lower --simcse-batch-size"):
        make_teacher(TEXTS, backbone("qwen3"), tmp_path / "t")


def test_schedule() -> None:
    """A rise over the first tenth, then a straight fall."""
    rates = [schedule(20).share(step) for step in range(20)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-1] == pytest.approx(1 / 18)


def test_the_command(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Texts from a file, a teacher in a folder; a row without text is left out and said."""
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, ""]))
    options = "--mntp-steps 1 --mntp-batch-size 2 --mntp-max-tokens 8 --simcse-steps 1 --simcse-batch-size 2"
    more = "--simcse-max-tokens 8 --micro-batch-tokens 16 --save-every 1 --device cpu --dtype float32 --seed 3"
    command = [
        "teacher",
        str(texts),
        "-m",
        str(folder("smollm")),
        "-o",
        str(tmp_path / "t"),
        *options.split(),
        *more.split(),
    ]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "1 rows hold no text" in result.output and "foresay teach responses.jsonl -t" in result.output
    assert max(row["tokens"] for row in metrics(tmp_path / "t")) <= 16
    assert load_teacher(str(tmp_path / "t"), device="cpu").dim == 32
