"""A training run that is stopped, killed, or done: it goes on as if nothing had been, and ends with its best step."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foresay.backbone import Backbone
from foresay.encoder import Encoder
from foresay.errors import InputError
from foresay.training.loop import row_order
from foresay.training.metrics import Event, Step
from foresay.training.stopping import Stopped
from foresay.training.train import train

from .making import killed_config, noting, pairs, small

Get = Callable[[str], Backbone]


def test_the_best_step_is_the_result(backbone: Get, tmp_path: Path) -> None:
    """A run that gets worse gives the step before it did."""
    config = small(steps=6, held_out=2, evaluate_every=1, learning_rate=3.0)
    encoder = train(pairs(), backbone("qwen3"), tmp_path / "run", config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "training" / "metrics.jsonl").read_text().splitlines()]
    best = min(lines, key=lambda row: row["held_out_loss"])["step"]
    assert best < 6
    kept = Encoder.from_pretrained(tmp_path / "run" / "training" / f"step-{best:06d}", backbone=backbone("qwen3"))
    assert torch.equal(kept.model.special_tokens, encoder.model.special_tokens)
    assert json.loads((tmp_path / "run" / "foresay.json").read_text())["training"]["step"] == best


@pytest.mark.parametrize("reconstruction", [1.0, 0.0])
def test_four_steps_are_two_a_kill_and_two_more(backbone: Get, tmp_path: Path, reconstruction: float) -> None:
    """Invariant 6, bit for bit: weights, optimiser, metrics, best step; also with maps that no loss reads."""
    config = small(steps=4, held_out=2, reconstruction_weight=reconstruction)
    whole = train(pairs(), backbone("qwen3"), tmp_path / "whole", config)

    class Killed(Exception):
        pass

    def kill(event: Event) -> None:
        if isinstance(event, Step) and event.step == 3:  # one step behind the last save: it has to be done again
            raise Killed

    with pytest.raises(Killed):
        train(pairs(), backbone("qwen3"), tmp_path / "killed", config, kill)
    steps: list[int] = []
    resumed = train(pairs(), backbone("qwen3"), tmp_path / "killed", config, noting(steps))
    assert steps == [3, 4]
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    logs = []
    for run in ("whole", "killed"):
        lines = (tmp_path / run / "training" / "metrics.jsonl").read_text().splitlines()
        logs.append([{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines])
    assert logs[0] == logs[1]
    assert [row["step"] for row in logs[0]] == [1, 2, 3, 4]


def test_a_finished_run_is_not_done_again(backbone: Get, tmp_path: Path) -> None:
    """The same command once more: no step, the same checkpoint."""
    config = small(steps=2)
    first = train(pairs(), backbone("qwen3"), tmp_path / "run", config)
    again = train(pairs(), backbone("qwen3"), tmp_path / "run", config, lambda *_: pytest.fail("a step ran"))
    assert torch.equal(first.model.special_tokens, again.model.special_tokens)


def test_another_run_in_the_same_folder_is_refused(backbone: Get, tmp_path: Path) -> None:
    """Other options never go on from a foreign state; the message names them."""
    train(pairs(), backbone("qwen3"), tmp_path / "run", small(steps=2))
    with pytest.raises(InputError, match=r"config\.learning_rate"):
        train(pairs(), backbone("qwen3"), tmp_path / "run", small(steps=2, learning_rate=1e-2))
    with pytest.raises(InputError, match="another backbone"):
        train(pairs(), backbone("qwen2"), tmp_path / "run", small(steps=2))
    other = pairs()
    for changed in (replace(other, targets=other.targets[::-1]), replace(other, queries=other.queries[::-1])):
        with pytest.raises(InputError, match="another pairs_content"):
            train(changed, backbone("qwen3"), tmp_path / "run", small(steps=2))
    base = backbone("qwen3")
    weight = next(w for name, w in base.model.named_parameters() if "q_proj" in name)
    weight.data.mul_(-1)
    try:
        with pytest.raises(InputError, match="another backbone_weights"):
            train(pairs(), base, tmp_path / "run", small(steps=2))
    finally:
        weight.data.mul_(-1)


def test_sigterm_saves_and_goes_on(backbone: Get, tmp_path: Path) -> None:
    """A polite kill loses no step."""

    def terminate(event: Event) -> None:
        if isinstance(event, Step) and event.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    config = small(steps=6, evaluate_every=100)
    with pytest.raises(Stopped, match="step 2"):
        train(pairs(), backbone("qwen3"), tmp_path / "run", config, terminate)
    steps: list[int] = []
    train(pairs(), backbone("qwen3"), tmp_path / "run", config, noting(steps))
    assert steps == [3, 4, 5, 6]


def test_row_order_is_a_shuffle_a_pass() -> None:
    """Each pass holds every row once, in another order."""
    order = row_order(3, 5)
    first, second = ([next(order) for _ in range(5)] for _ in range(2))
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4]
    assert first != second


KILLED = """
import os, signal, sys
from pathlib import Path
from foresay.backbone import Backbone
from foresay.training.train import train
from tests.making import killed_config, pairs

def kill(event):
    if getattr(event, "step", 0) == 5:
        os.kill(os.getpid(), signal.SIGKILL)

train(pairs(), Backbone.load(sys.argv[1], device="cpu"), Path(sys.argv[2]), killed_config(), kill)
"""


def test_sigkill_costs_nothing(folder: Callable[[str], Path], backbone: Get, tmp_path: Path) -> None:
    """Invariant 6 with a real kill: weights, metrics and the best step come out bit for bit the same."""
    whole = train(pairs(), backbone("qwen3"), tmp_path / "whole", killed_config())
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", KILLED, str(folder("qwen3")), str(tmp_path / "killed")]
    done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    folder_of = tmp_path / "killed" / "training"
    assert (folder_of / "step-000004" / "state.json").is_file()
    with (folder_of / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "alig')  # a line torn by the kill
    steps: list[int] = []
    resumed = train(pairs(), backbone("qwen3"), tmp_path / "killed", killed_config(), noting(steps))
    assert steps == [5, 6]
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    logs = []
    for run in ("whole", "killed"):
        lines = (tmp_path / run / "training" / "metrics.jsonl").read_text().splitlines()
        logs.append([{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines])
    assert logs[0] == logs[1]
    moments = [
        load_file(tmp_path / run / "training" / "step-000006" / "optimizer.safetensors") for run in ("whole", "killed")
    ]
    assert all(torch.equal(tensor, moments[1][name]) for name, tensor in moments[0].items())


def test_the_last_states_and_the_best_are_kept(backbone: Get, tmp_path: Path) -> None:
    """Also when the best is long past; a draft that a kill left behind goes."""
    config = small(steps=8, held_out=2, evaluate_every=1, learning_rate=3.0, keep=2)
    draft = tmp_path / "run" / "training" / ".step-000003.saving"
    draft.mkdir(parents=True)
    train(pairs(), backbone("qwen3"), tmp_path / "run", config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "training" / "metrics.jsonl").read_text().splitlines()]
    best = min(lines, key=lambda row: row["held_out_loss"])["step"]
    kept = sorted(path.name for path in (tmp_path / "run" / "training").glob("*step-*"))
    assert kept == sorted({f"step-{step:06d}" for step in (best, 7, 8)})


def test_patience_ends_a_run_that_gets_no_better(backbone: Get, tmp_path: Path) -> None:
    """Three looks without a lower loss; the same command again does no further step."""
    config = small(steps=50, held_out=2, evaluate_every=1, learning_rate=3.0, patience=3)
    train(pairs(), backbone("qwen3"), tmp_path / "run", config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "training" / "metrics.jsonl").read_text().splitlines()]
    best = min(lines, key=lambda row: row["held_out_loss"])["step"]
    assert len(lines) == best + 3 < 50
    train(pairs(), backbone("qwen3"), tmp_path / "run", config, lambda *_: pytest.fail("a step ran"))


def test_a_stop_out_of_turn_changes_nothing(backbone: Get, tmp_path: Path) -> None:
    """SIGTERM between two looks at the held-out rows: the run that goes on is the run that was not stopped."""

    def terminate(event: Event) -> None:
        if isinstance(event, Step) and event.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    config = small(steps=4, evaluate_every=4, held_out=2)
    with pytest.raises(Stopped, match="step 3"):
        train(pairs(), backbone("qwen3"), tmp_path / "run", config, terminate)
    stopped = train(pairs(), backbone("qwen3"), tmp_path / "run", config)
    whole = train(pairs(), backbone("qwen3"), tmp_path / "whole", config)
    assert torch.equal(stopped.model.special_tokens, whole.model.special_tokens)
    logs = [(tmp_path / run / "training" / "metrics.jsonl").read_text().splitlines() for run in ("run", "whole")]
    assert [sorted(json.loads(line)) for line in logs[0]] == [sorted(json.loads(line)) for line in logs[1]]


@pytest.mark.parametrize(("select", "least"), [("embedding", "held_out_alignment"), ("loss", "held_out_loss")])
def test_the_best_step_by_what_it_is_for(backbone: Get, tmp_path: Path, select: str, least: str) -> None:
    """Reconstruction that still falls does not choose a worse embedding."""
    config = small(steps=12, held_out=2, evaluate_every=1, keep=12, learning_rate=2e-2, select=select)
    train(pairs(), backbone("qwen3"), tmp_path / "run", config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "training" / "metrics.jsonl").read_text().splitlines()]
    best = min(lines, key=lambda row: (row[least], -row["step"]))["step"]
    assert json.loads((tmp_path / "run" / "foresay.json").read_text())["training"]["step"] == best
