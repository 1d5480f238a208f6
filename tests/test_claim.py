"""Nothing of the user's is lost: what may be written where, and what a full disk or a kill leaves behind."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from foresay.backbone import Backbone
from foresay.checkpoints.bundle import bundle
from foresay.checkpoints.folder import appear, claim
from foresay.checkpoints.record import Record, Training
from foresay.checkpoints.save import save
from foresay.cli.main import main
from foresay.config import FitConfig, TeacherConfig, TrainConfig
from foresay.data.pairs import Pairs
from foresay.encoder import Encoder
from foresay.errors import CheckpointError, DataError, ForesayError, InputError
from foresay.model import Model
from foresay.teachers.make import make_teacher
from foresay.training.fit import fit
from foresay.training.metrics import Event
from foresay.training.train import train

from .conftest import SENTENCES, save_and_export

Get = Callable[[str], Backbone]
THEIRS = {"README.md": "mine", "document/thesis.txt": "years of work", "notes.txt": "also mine"}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with somebody's work in it."""
    folder = tmp_path / "project"
    for name, text in THEIRS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def encoder(backbone: Get) -> Encoder:
    """A small untrained encoder."""
    return Encoder(Model(backbone("qwen3"), thought=0, compression=2, dim=8), max_tokens=60)


@pytest.fixture
def pairs() -> Pairs:
    """A few rows."""
    return Pairs(SENTENCES, SENTENCES, np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32))


FIT = FitConfig(compression=2, documents="checkpoint", held_out=0)
TRAIN = TrainConfig(compression=2, documents="checkpoint", held_out=0, steps=1, batch_size=2, start="random")


def commands(encoder: Encoder, pairs: Pairs, source: Path) -> dict[str, Callable[[Path], object]]:
    """All that writes a folder of ours, by name."""
    base = encoder.model.backbone
    teacher = TeacherConfig(mntp_steps=1, simcse_steps=0, mntp_batch_size=2)
    return {
        "fit": lambda folder: fit(pairs, base, folder, FIT),
        "train": lambda folder: train(pairs, base, folder, TRAIN),
        "bundle": lambda folder: bundle(source, folder, device="cpu"),
        "teacher": lambda folder: make_teacher(SENTENCES, base, folder, teacher),
        "save": lambda folder: save(folder, encoder),
    }


@pytest.mark.parametrize("name", ["fit", "train", "bundle", "teacher", "save"])
def test_what_is_not_ours_stays(
    name: str, encoder: Encoder, pairs: Pairs, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before any work, by its path and by the dot; nothing is touched, nothing is left."""
    save_and_export(tmp_path / "source", encoder)
    before, beside = tree(project), sorted(os.listdir(tmp_path))
    run = commands(encoder, pairs, tmp_path / "source")[name]
    monkeypatch.setattr(Model, "run", lambda *_: pytest.fail("it worked before it looked")) if name != "save" else None
    with pytest.raises(ForesayError, match=r"README\.md|document"):
        run(project)
    monkeypatch.chdir(project)
    with pytest.raises(ForesayError, match="another -o"):
        run(Path("."))
    assert tree(project) == before
    assert sorted(os.listdir(tmp_path)) == beside


def test_files_with_other_names_may_be_there(encoder: Encoder, pairs: Pairs, tmp_path: Path) -> None:
    """They stay, through two saves."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.txt").write_text("mine")
    for _ in range(2):
        fit(pairs, encoder.model.backbone, tmp_path / "c", FIT)
    assert (tmp_path / "c" / "notes.txt").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["c"]


def test_a_checkpoint_is_not_replaced_unasked(encoder: Encoder, pairs: Pairs, tmp_path: Path) -> None:
    """fit over a trained one, train over a fitted one, bundle over anything; asked for, each goes through."""
    base, trained, fitted = encoder.model.backbone, tmp_path / "trained", tmp_path / "fitted"
    train(pairs, base, trained, TRAIN)
    fit(pairs, base, fitted, FIT)
    before = tree(trained)
    with pytest.raises(CheckpointError, match="training, .*--overwrite"):
        fit(pairs, base, trained, FIT)
    with pytest.raises(CheckpointError, match="closed form, .*--overwrite"):
        train(pairs, base, fitted, TRAIN)
    with pytest.raises(CheckpointError, match="--overwrite"):
        bundle(fitted, trained, device="cpu")
    with pytest.raises(CheckpointError, match="the checkpoint itself"):
        bundle(fitted, fitted, device="cpu", overwrite=True)
    assert tree(trained) == before
    train(pairs, base, trained, TRAIN)  # its own run, which is done
    bundle(fitted, trained, device="cpu", overwrite=True)
    assert Record.load(trained).training.method == "closed form"
    assert (trained / "training" / "metrics.jsonl").read_bytes() == before["training/metrics.jsonl"]


def test_a_kill_in_the_middle_of_replacing(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it hits, the next save goes through, and what is not the checkpoint's stays."""
    folder = tmp_path / "c"
    save_and_export(folder, encoder)
    (folder / "notes.txt").write_text("mine")
    replaced = os.replace
    for deadline in range(1, 12):
        left = deadline

        def replace(source: Path, target: Path) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            replaced(source, target)

        with monkeypatch.context() as patch:
            patch.setattr("foresay.checkpoints.folder.os.replace", replace)
            try:
                save(folder, encoder)
            except KeyboardInterrupt:
                assert not (folder / "foresay.json").exists() or Record.load(folder)
        claim(folder, "foresay fit", overwrite=True)
    save_and_export(folder, encoder)
    assert Encoder.from_pretrained(folder, backbone=encoder.model.backbone).dim == 8
    assert (folder / "notes.txt").read_text() == "mine"
    assert not [name for name in os.listdir(tmp_path) if name != "c"]


def test_appear_refuses_before_it_touches(encoder: Encoder, tmp_path: Path) -> None:
    """A file that came while the work went on."""
    save(tmp_path / "c", encoder)
    before = tree(tmp_path / "c")
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "extra.txt").write_text("ours")
    (tmp_path / "c" / "extra.txt").write_text("theirs")
    with pytest.raises(CheckpointError, match=r"extra\.txt"):
        appear(tmp_path / "draft", tmp_path / "c")
    assert tree(tmp_path / "c") == {**before, "extra.txt": b"theirs"}


def test_a_record_cannot_name_files_elsewhere(encoder: Encoder, tmp_path: Path) -> None:
    """A checkpoint from somebody else does not choose what is deleted."""
    (tmp_path / "precious.txt").write_text("mine")
    record = save(tmp_path / "c", encoder)
    for name in ("../precious.txt", "..", str(tmp_path / "precious.txt"), "."):
        text = (tmp_path / "c" / "foresay.json").read_text()
        (tmp_path / "c" / "foresay.json").write_text(text.replace('"foresay.json"', f'"foresay.json", "{name}"', 1))
        save(tmp_path / "c", encoder, Training())
    assert (tmp_path / "precious.txt").read_text() == "mine"
    assert record.files == Record.load(tmp_path / "c").files


def test_a_file_is_no_folder(encoder: Encoder, pairs: Pairs, tmp_path: Path) -> None:
    """In one line, and the file stays."""
    (tmp_path / "c").write_text("mine")
    with pytest.raises(CheckpointError, match="is a file; .*another -o"):
        fit(pairs, encoder.model.backbone, tmp_path / "c", FIT)
    with pytest.raises(CheckpointError, match="is a file; .*another -o"):
        train(pairs, encoder.model.backbone, tmp_path / "c", TRAIN)
    assert (tmp_path / "c").read_text() == "mine"


def test_a_teacher_of_another_backbone(backbone: Get, tmp_path: Path) -> None:
    """The word self means the backbone that made the targets; said before the first step."""
    origin = {"teacher": f"self:{backbone('llama').name}", "revision": None, "max_tokens": 9}
    rows = Pairs(SENTENCES, SENTENCES, np.zeros((6, 32), np.float32), origin)
    with pytest.raises(InputError, match="another backbone than the one given"):
        train(rows, backbone("qwen3"), tmp_path / "c", TrainConfig(compression=2, steps=1, held_out=0))


# -- encode ----------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(encoder: Encoder, tmp_path: Path) -> Path:
    """A saved one, and a file with a repeated line."""
    save(tmp_path / "c", encoder)
    (tmp_path / "texts.txt").write_text("a fox\na crow\na fox\ncheese\n")
    return tmp_path / "c"


def run(*words: object) -> str:
    """A command's output."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


def test_encode_keeps_every_line(checkpoint: Path, encoder: Encoder, tmp_path: Path) -> None:
    """One row, one vector, in order; a file of ids for each output; folders are made."""
    for name in ("run.a.npy", "run.b.npy", "deep/v.npy"):
        run("encode", checkpoint, tmp_path / "texts.txt", "-o", tmp_path / name, "--device", "cpu")
        vectors = np.load(tmp_path / name)
        expected = encoder.encode_query(["a fox", "a crow", "a fox", "cheese"])
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert (tmp_path / "run.a.ids.json").is_file() and (tmp_path / "run.b.ids.json").is_file()
    assert (tmp_path / "deep" / "v.ids.json").is_file()


def test_encode_looks_before_it_works(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder as output is said before anything is loaded."""
    monkeypatch.setattr("foresay.cli.embedding.load_encoder", lambda *_, **__: pytest.fail("it loaded a model first"))
    (tmp_path / "folder").mkdir()
    printed = run("encode", checkpoint, tmp_path / "texts.txt", "-o", tmp_path / "folder")
    assert "it is a folder" in printed and printed.count("\n") == 1


HELD = "another process is writing .*out; wait for it or stop it"


def test_one_at_a_time(checkpoint: Path, encoder: Encoder, pairs: Pairs, tmp_path: Path) -> None:
    """While one command is at work, another that would write the same folder ends at once, and changes nothing."""
    base, refused = encoder.model.backbone, []

    def meanwhile(_: Event) -> None:
        for name, command in commands(encoder, pairs, checkpoint).items():
            with pytest.raises(DataError, match=HELD), ThreadPoolExecutor(1) as pool:
                pool.submit(command, tmp_path / "out").result()
            refused.append(name)
        assert not list((tmp_path / "out").glob("*"))

    fit(pairs, base, tmp_path / "out", FIT, meanwhile)
    assert len(set(refused)) == 5 and Record.load(tmp_path / "out").training.method == "closed form"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "out", "texts.txt"]


def test_vectors_and_ids_are_of_one_call(
    checkpoint: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second `encode` with the same output ends at once; before, it could write between the first one's files."""
    words = ("encode", checkpoint, tmp_path / "texts.txt", "-o", tmp_path / "v.npy", "--device", "cpu")
    said = []

    def late(*_: object, **__: object) -> Encoder:
        monkeypatch.undo()
        said.append(run(*words))
        return encoder

    monkeypatch.setattr("foresay.cli.embedding.load_encoder", late)
    assert "4 embeddings" in run(*words)
    assert said[0].startswith(f"error: another process is writing {tmp_path / 'v.npy'}; ")


def test_a_full_disk(checkpoint: Path, encoder: Encoder, small_disk: Path, tmp_path: Path) -> None:
    """encode and save end in one line, leave what was there, and go through when there is room."""
    run("encode", checkpoint, tmp_path / "texts.txt", "-o", small_disk / "v.npy", "--device", "cpu")
    before = tree(small_disk)
    (small_disk / "filler").write_bytes(b"0" * shutil.disk_usage(small_disk).free)
    printed = run("encode", checkpoint, tmp_path / "texts.txt", "-o", small_disk / "v.npy", "--device", "cpu")
    assert printed.startswith("error: ") and printed.count("\n") == 1
    with pytest.raises(ForesayError, match="disk|space") as caught:
        save(small_disk / "c", encoder)
    assert "\n" not in str(caught.value)
    (small_disk / "filler").unlink()
    assert tree(small_disk) == before
    save(small_disk / "c", encoder)
    assert Record.load(small_disk / "c").dim == 8


def fill(disk: Path, pages: int) -> None:
    """Leaves so many pages of a file system free."""
    (disk / "filler").write_bytes(b"0" * (shutil.disk_usage(disk).free - pages * 4096))


@pytest.mark.parametrize("small_disk", ["4m"], indirect=True)
def test_whole_commands_on_a_full_disk(small_disk: Path, folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Wherever the disk fills up: one line, and the same command ends as on a roomy disk once there is space."""
    roomy = tmp_path / "roomy"
    roomy.mkdir()
    (tmp_path / "queries.txt").write_text("\n".join(f"What is number {i}?" for i in range(40)))
    where, shape = ["-m", folder("qwen3"), "--device", "cpu"], ["--compression", 2]
    steps = ["--steps", 4, "--batch-size", 4, "--evaluate-every", 2, "--max-response-tokens", 8]
    learned = [roomy / "r.jsonl", roomy / "t"]
    commands: list[tuple[str, str, list[object]]] = [
        ("respond", "r.jsonl", [tmp_path / "queries.txt", *where, "--max-new-tokens", 8, "--batch-size", 8]),
        ("teach", "t", [roomy / "r.jsonl", "-t", "self", *where, "--batch-size", 8]),
        ("fit", "f", [*learned, *where, *shape]),
        ("train", "c", [*learned, *where, *shape, *steps]),
    ]
    for command, name, words in commands:
        run(command, *words, "-o", roomy / name)
        failures = 0
        for pages in (0, 1, 9, 40):
            fill(small_disk, pages)
            printed = run(command, *words, "-o", small_disk / name).strip().splitlines()
            failures += printed[-1].startswith("error: ")
            assert "Traceback" not in "".join(printed)
            (small_disk / "filler").unlink()
        assert failures, f"{command} found room everywhere, so nothing was tested"
        last = run(command, *words, "-o", small_disk / name)
        assert "error: " not in last, last
        if command == "respond":
            rows = [sorted((place / name).read_text().splitlines()) for place in (roomy, small_disk)]
            assert rows[0] == rows[1] and len(rows[0]) == 40
        elif command == "teach":
            np.testing.assert_array_equal(*(np.load(place / name / "vectors.npy") for place in (roomy, small_disk)))
        else:
            vectors = [
                Encoder.from_pretrained(place / name, device="cpu").encode(SENTENCES) for place in (roomy, small_disk)
            ]
            np.testing.assert_array_equal(vectors[0], vectors[1])
        shutil.rmtree(small_disk / name, ignore_errors=True)
