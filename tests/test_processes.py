"""Several processes are one: the same rows, the same metrics, the same weights; and they fail together."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

from foresay.backbone import Backbone
from foresay.config import TrainConfig
from foresay.data.pairs import Pairs
from foresay.errors import InputError
from foresay.teachers.load import load_teacher
from foresay.teachers.teach import teach
from foresay.training.distributed import Processes
from foresay.training.train import train

ROOT = Path(__file__).parents[1]
CONFIG = TrainConfig(
    compression=3,
    steps=4,
    batch_size=5,
    warmup_steps=1,
    evaluate_every=2,
    micro_batch_tokens=300,
    held_out=2,
    contrast_weight=0.5,
    dims=(8, 16),
)
OPTIONS = (
    "--compression 3 --steps 4 --batch-size 5 --warmup-steps 1 --evaluate-every 2 --micro-batch-tokens 300 "
    "--held-out 2 --contrast-weight 0.5 --dims 8,16 --device cpu"
)


def launch(count: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs the command line in several processes, as a user would."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*launcher, "-m", "foresay", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)


def test_two_processes_are_one(
    folder: Callable[[str], Path], backbone: Callable[[str], Backbone], tmp_path: Path
) -> None:
    """Invariant 5: batches of 5 rows over 2 processes; metrics to 1e-4, weights to a hundredth of what they moved."""
    rows = [{"id": str(i), "query": f"What is {i}?", "response": f"It is {i}. " * (1 + i % 4)} for i in range(24)]
    responses, targets = tmp_path / "responses.jsonl", tmp_path / "teacher"
    responses.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = backbone("qwen3")
    teach(responses, load_teacher("self", base, "cpu"), targets)
    pairs = Pairs.load(responses, targets)
    train(pairs, Backbone.load(str(folder("qwen3")), device="cpu"), tmp_path / "one", CONFIG)

    command = ["train", str(responses), str(targets), "-m", str(folder("qwen3")), *OPTIONS.split()]
    done = launch(2, [*command, "-o", str(tmp_path / "two")])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained; try") == 1
    metrics = []
    for run in ("one", "two"):
        lines = (tmp_path / run / "training" / "metrics.jsonl").read_text().splitlines()
        metrics.append([{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines])
    assert len(metrics[0]) == len(metrics[1]) == 4
    for alone, together in zip(*metrics, strict=True):
        assert together == pytest.approx(alone, rel=1e-4)
    one, two = (load_file(tmp_path / run / "foresay.safetensors") for run in ("one", "two"))
    moved = 4 * CONFIG.learning_rate
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=moved / 100, rtol=1e-5)


def test_shares_are_the_batch_and_even() -> None:
    """Every row once; no process gets much more to do than another."""
    sizes = np.random.default_rng(0).integers(10, 500, size=64).tolist()
    shares = []
    for rank in range(3):
        one = Processes()
        one.count, one.rank = 3, rank
        shares.append(one.share(sizes))
    assert sorted(sum(shares, [])) == list(range(64))
    loads = [sum(sizes[i] for i in share) for share in shares]
    assert max(loads) < 1.1 * min(loads)


def test_a_process_without_rows(
    backbone: Callable[[str], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before anything runs."""
    pairs = Pairs(["a", "b"], ["c", "d"], np.eye(2, 8, dtype=np.float32))

    def three(self: Processes, device: object) -> None:
        self.count, self.rank = 3, 0

    monkeypatch.setattr(Processes, "__init__", three)
    with pytest.raises(InputError, match="2 for 3 processes"):
        train(pairs, backbone("qwen3"), tmp_path, TrainConfig(batch_size=2))


def test_an_error_of_the_first_is_everybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the others may wait for what will never come."""
    told: list[object] = []
    monkeypatch.setattr(distributed, "broadcast_object_list", lambda values, **_: told.extend(values))
    first = Processes()
    first.count = 2

    def fail() -> None:
        raise InputError("no such run")

    with pytest.raises(InputError, match="no such run"):
        first.from_first(fail)
    assert isinstance(told[1], InputError)

    other = Processes()
    other.count, other.rank = 2, 1
    monkeypatch.setattr(distributed, "broadcast_object_list", lambda values, **_: values.__setitem__(1, told[1]))
    with pytest.raises(InputError, match="no such run"):
        other.from_first(lambda: pytest.fail("only the first makes it"))
