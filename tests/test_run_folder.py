"""What a run leaves on disk: one run at a time, whole after a full disk, resumed with what it had."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from foresay.backbone import Backbone
from foresay.checkpoints.verify import verify
from foresay.config import FitConfig, TeacherConfig
from foresay.errors import DataError, InputError
from foresay.teachers.make import make_teacher
from foresay.training.fit import fit
from foresay.training.metrics import Event, Step
from foresay.training.run_folder import STATE, RunFolder
from foresay.training.train import train

from .conftest import SENTENCES
from .making import noting, pairs, small

Get = Callable[[str], Backbone]


def state(folder: RunFolder, step: int) -> None:
    """Saves a state with one file."""

    def write(path: Path) -> None:
        path.mkdir()
        (path / STATE).write_text(json.dumps({"step": step}))

    folder.save(step, [], write)


def test_a_second_training_is_refused_and_touches_nothing(backbone: Get, tmp_path: Path) -> None:
    """One line; the first goes on, and each of its steps is in the metrics once."""
    base, config = backbone("qwen3"), small(steps=4, held_out=2)
    refusals: list[str] = []

    def second(event: Event) -> None:
        if isinstance(event, Step) and event.step == 3:
            with pytest.raises(DataError) as refused:
                train(pairs(), base, tmp_path / "run", config)
            refusals.append(str(refused.value))

    train(pairs(), base, tmp_path / "run", config, second)
    assert refusals == [f"another process is writing {tmp_path / 'run'}; wait for it or stop it, or use another -o"]
    lines = (tmp_path / "run" / "training" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    train(pairs(), base, tmp_path / "run", config, lambda _: pytest.fail("a step ran"))  # and it is free again


def test_a_second_teacher_is_refused(backbone: Get, tmp_path: Path) -> None:
    """The same lock."""
    config = TeacherConfig(mntp_steps=2, simcse_steps=0, mntp_batch_size=2, mntp_max_tokens=8)

    def second(event: Event) -> None:
        with pytest.raises(DataError, match="another process is writing"):
            make_teacher(SENTENCES, backbone("qwen3"), tmp_path / "t", config)

    make_teacher(SENTENCES, backbone("qwen3"), tmp_path / "t", config, second)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 600 KB, where the system lets us mount one; else a skip."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_damages_nothing(backbone: Get, small_disk: Path, tmp_path: Path) -> None:
    """One line; with room made, the same command resumes and ends as the run that never stopped."""
    base, config = backbone("qwen3"), small(steps=6, held_out=2, keep=5, evaluate_every=1)
    whole = train(pairs(), base, tmp_path / "whole", config)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"0" * 300_000)
    with pytest.raises(DataError, match="the disk is full; free some space, then repeat the command"):
        train(pairs(), base, small_disk / "run", config)
    training = small_disk / "run" / "training"
    done = max(int(path.name[-6:]) for path in training.glob("step-*"))
    assert done >= 1
    assert not list(training.glob(".*"))
    ballast.unlink()
    for old in sorted(training.glob("step-*"))[:-1]:  # and what else the user finds to delete
        if not json.loads((training / f"step-{done:06d}" / STATE).read_text())["best"]["step"] == int(old.name[-6:]):
            subprocess.run(["rm", "-r", str(old)], check=True)
    steps: list[int] = []
    resumed = train(pairs(), base, small_disk / "run", small(**{**vars(config), "keep": 1}), noting(steps))
    assert steps == list(range(done + 1, 7))
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("taken", [560_000, 600_000])
def test_a_full_disk_under_fit(backbone: Get, small_disk: Path, taken: int) -> None:
    """One line, whether saving or exporting found it full; with room made, the same command makes a whole one."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"0" * taken)
    config = FitConfig(compression=3, documents="checkpoint", held_out=2)
    with pytest.raises(DataError, match="the disk is full; free some space, then repeat the command"):
        fit(pairs(), backbone("qwen3"), small_disk / "c", config)
    ballast.unlink()
    fit(pairs(), backbone("qwen3"), small_disk / "c", config)
    assert all(verdict.agrees for verdict in verify(small_disk / "c", device="cpu"))
    assert sorted(path.name for path in small_disk.iterdir()) == ["c"]


@pytest.mark.parametrize("where", ["log", "save"])
def test_what_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Also where safetensors tells it in its own way; the draft goes, the last state stays."""
    with RunFolder(tmp_path / "training") as folder:
        assert folder.open({"rows": 1}) is None
        folder.log(1, {"loss": 1.0})
        state(folder, 1)

        def full(path: Path) -> None:
            (tmp_path / "training" / ".step-000002.saving").mkdir()
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        def no_sync(handle: int) -> None:
            raise OSError(28, "No space left on device")

        if where == "log":
            monkeypatch.setattr("os.fsync", no_sync)
        with pytest.raises(DataError, match="the disk is full"):
            folder.log(2, {"loss": 0.5}) if where == "log" else folder.save(2, [], full)
    monkeypatch.undo()
    with RunFolder(tmp_path / "training") as folder:
        assert folder.open({"rows": 1}) == {"step": 1}
        assert sorted(path.name for path in folder.folder.iterdir()) == ["metrics.jsonl", "run.json", "step-000001"]
        assert [json.loads(line) for line in folder.metrics.read_text().splitlines()] == [{"step": 1, "loss": 1.0}]


def test_an_error_of_safetensors_that_is_not_the_disk(tmp_path: Path) -> None:
    """It is not called a full disk."""
    with RunFolder(tmp_path / "training") as folder:
        folder.open({})
        with pytest.raises(SafetensorError, match="some tensors share memory"), folder.writing():
            raise SafetensorError("some tensors share memory")


def test_the_output_is_checked_before_the_first_second(backbone: Get, tmp_path: Path) -> None:
    """A file in its way, for both ways to a checkpoint: nothing is read or trained."""
    (tmp_path / "file").write_text("mine")
    never = lambda _: pytest.fail("work was done")  # noqa: E731
    base, place, said = backbone("qwen3"), tmp_path / "file" / "c", "cannot write .* a part of the path is a file"
    with pytest.raises(DataError, match=said):
        fit(pairs(), base, place, FitConfig(documents="checkpoint"), never)
    with pytest.raises(DataError, match=said):
        train(pairs(), base, place, small(steps=2), never)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("verb", [fit, train])
def test_the_teacher_is_checked_before_the_first_second(
    backbone: Get, tmp_path: Path, verb: Callable[..., object]
) -> None:
    """Targets of the teacher `self` of another backbone: refused with what to do, before a row is read."""
    made = pairs(32)
    origin = {"teacher": "self:another", "revision": None, "max_tokens": 64}
    object.__setattr__(made, "origin", origin)
    config = FitConfig(compression=3) if verb is fit else small(steps=2, documents="teacher")
    with pytest.raises(InputError, match="another backbone than the one given.*--documents checkpoint"):
        verb(made, backbone("qwen3"), tmp_path / "c", config, lambda _: pytest.fail("work was done"))


def test_a_run_names_what_changed(tmp_path: Path) -> None:
    """Old and new value; options that change no metric may change."""
    with RunFolder(tmp_path / "training") as folder:
        folder.open({"config": {"rate": 1, "keep": 2}})
        state(folder, 1)
    changed = r"config\.rate \(1 there, 2 now\)"
    with RunFolder(tmp_path / "training") as folder, pytest.raises(InputError, match=changed):
        folder.open({"config": {"rate": 2, "keep": 3}}, free=("config.keep",))
    with RunFolder(tmp_path / "training") as folder:
        assert folder.open({"config": {"rate": 1, "keep": 3}}, free=("config.keep",)) == {"step": 1}


def test_a_kill_unlocks(tmp_path: Path) -> None:
    """The lock goes with its process, however that ends."""
    code = (
        "import os, sys; from pathlib import Path; from foresay.training.run_folder import RunFolder;"
        "RunFolder(Path(sys.argv[1])).open({}); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "training")], cwd=root, check=False, timeout=120)
    with RunFolder(tmp_path / "training") as folder:
        assert folder.open({}) is None
