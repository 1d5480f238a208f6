"""`fit` on a checkpoint: all of it stays but the alignment map, which is scikit-learn's ridge regression."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from foresay.backbone import Backbone
from foresay.checkpoints.record import Record, Training
from foresay.checkpoints.verify import verify
from foresay.cli.main import main
from foresay.config import FitConfig
from foresay.encoder import Encoder
from foresay.errors import CheckpointError, InputError
from foresay.model import Model
from foresay.teachers.load import load_teacher
from foresay.teachers.teach import teach
from foresay.training import closed_form as ridge
from foresay.training.fit import fit
from foresay.training.metrics import Event, Read
from foresay.training.refit import shape_of
from foresay.training.train import train

from .conftest import SENTENCES, save_and_export
from .making import QUERIES, RESPONSES, pairs, small

Get = Callable[[str], Backbone]
PENALTY = 0.3
TRAINED = Training("training", {"seed": 3, "held_out": 2}, {"responses": "short"}, 7, {"held_out_reconstruction": 2.5})


def a_checkpoint(backbone: Backbone, folder: Path, **changes: Any) -> Encoder:  # noqa: ANN401
    """One whose weights are all drawn at random, as if trained; its template is one of another day."""
    settings = {"thought": 1, "compression": 3, "dim": 8, "template": "chat", "reconstruct": "tokens", **changes}
    model = Model(backbone, readout=str(settings.pop("readout", "tokens")), seed=5, **settings)
    model.prefix_ids = [*model.prefix_ids, 17]
    if model.adapter is not None:
        torch.manual_seed(1)
        for weight in model.adapter.weights.values():
            torch.nn.init.normal_(weight, std=0.1)
    encoder = Encoder(model, prompts={"query": "Q: ", "document": "D: ", "Banking77-query": "Which?"}, max_tokens=60)
    save_and_export(folder, encoder, TRAINED)
    return encoder


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"reconstruct": "one"},
        {"reconstruct": "one", "readout": "mean"},
        {"readout": "layers"},
        {"reconstruct": "one", "lora_rank": 2},
    ],
    ids=["tokens", "one", "published", "layers", "adapter"],
)
def test_only_the_alignment_map_is_found_anew(
    backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: dict[str, Any]
) -> None:
    """The embeddings are the regression on what the map reads; what decodes is bit for bit the checkpoint's."""
    monkeypatch.setattr(ridge, "PENALTIES", (PENALTY,))
    monkeypatch.setattr(ridge, "_BLOCK", 7)
    base = backbone("qwen3")
    old = a_checkpoint(base, tmp_path / "c", **shape)
    rows = pairs(dim=5)
    seen: list[Event] = []
    fit(
        rows,
        base,
        tmp_path / "r",
        replace(shape_of(tmp_path / "c"), held_out=0),
        seen.append,
        checkpoint=tmp_path / "c",
    )
    assert seen[-1] == Read(len(QUERIES), len(QUERIES))
    new = Encoder.from_pretrained(tmp_path / "r", backbone=base)

    read = _read(old, QUERIES)
    scaler = StandardScaler().fit(read)
    expected = Ridge(alpha=PENALTY * len(QUERIES)).fit(scaler.transform(read), rows.targets)
    np.testing.assert_allclose(new.encode(QUERIES), expected.predict(scaler.transform(read)), atol=2e-4)

    np.testing.assert_array_equal(new.soft_prompts(SENTENCES), old.soft_prompts(SENTENCES))
    assert new.decode(SENTENCES, max_new_tokens=5) == old.decode(SENTENCES, max_new_tokens=5)
    before, after = (load_file(tmp_path / name / "foresay.safetensors") for name in ("c", "r"))
    kept = [name for name in before if not name.startswith(("align", "center", "spread"))]
    assert "special_tokens" in kept and all(torch.equal(before[name], after[name]) for name in kept)
    record = Record.load(tmp_path / "r")
    assert record.prefix_ids == tuple(old.model.prefix_ids) and record.dim == 5 and record.max_tokens == 60
    assert record.prompts == old.prompts and record.lora_rank == shape.get("lora_rank", 0)
    assert all(verdict.agrees for verdict in verify(tmp_path / "r", device="cpu"))


def _read(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """What the alignment map reads of texts, written down by hand."""
    model = encoder.model
    rows, _ = model.rows(texts, encoder.max_tokens)
    with torch.no_grad():
        states = torch.cat([model.hidden([row]) for row in rows])
        if model.every_layer:
            parts = states.mean(dim=2)
        elif model.readout == "mean":
            parts = model.reconstruct(states).mean(dim=1)
        else:
            parts = states if model.by_token else model.reconstruct(states)
    return np.asarray(parts.flatten(1).numpy())


def test_what_it_says_of_itself(backbone: Get, tmp_path: Path) -> None:
    """How the tokens were made and what the map was found for; again from a refitted one, the first still counts."""
    base = backbone("qwen3")
    a_checkpoint(base, tmp_path / "c")
    fit(pairs(dim=5), base, tmp_path / "r", checkpoint=tmp_path / "c")
    training = Record.load(tmp_path / "r").training
    assert training.method == "refit" and training.before == TRAINED and training.pairs == {"responses": "made up"}
    assert training.config["seed"] == 3 and training.metrics["held_out_rows"] == 2
    card = (tmp_path / "r" / "README.md").read_text()
    assert (
        "maps, trained, on a" in card and "off\nthe subject" not in card and "found afterwards, in closed form" in card
    )
    assert "| special tokens made from: responses | short |" in card and "| made from: responses | made up |" in card
    assert "| 2.5 | reconstruction loss of held-out rows" in card and "ridge penalty" in card
    again = fit(pairs(dim=6), None, tmp_path / "s", checkpoint=tmp_path / "r", device="cpu")
    assert again.dim == 6 and Record.load(tmp_path / "s").training.before == TRAINED


def test_rows_that_were_held_out_choose_the_penalty(backbone: Get, tmp_path: Path) -> None:
    """Those that the checkpoint's training held out; the recorded cosine is the one of its embeddings."""
    base, rows = backbone("qwen3"), pairs(dim=5)
    a_checkpoint(base, tmp_path / "c")
    encoder = fit(rows, base, tmp_path / "r", checkpoint=tmp_path / "c")
    _, held = rows.split(FitConfig(seed=3, held_out=2))
    cosine = np.diag(Encoder.similarity(encoder.encode([QUERIES[i] for i in held]), rows.targets[held])).mean()
    assert Record.load(tmp_path / "r").training.metrics["cosine"] == pytest.approx(float(cosine), abs=1e-5)


def test_other_readout_lengths_prompts_and_input(backbone: Get, tmp_path: Path) -> None:
    """What needs no other special tokens may differ."""
    base = backbone("qwen3")
    old = a_checkpoint(base, tmp_path / "c")
    shape = replace(shape_of(tmp_path / "c"), readout="mean", dims=(2, 4), query_prompt="", max_query_tokens=90)
    new = fit(pairs(dim=5), base, tmp_path / "r", shape, checkpoint=tmp_path / "c")
    assert (
        new.dims == (2, 4) and new.max_tokens == 90 and new.model.readout == "mean" and new.model.rotation is not None
    )
    assert new.prompts == {**old.prompts, "query": ""}
    assert new.encode(SENTENCES, truncate_dim=2).shape == (6, 2)
    np.testing.assert_array_equal(new.soft_prompts(SENTENCES), old.soft_prompts(SENTENCES))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compression": 4}, "compression is 4, there it is 3: .*leave out compression"),
        ({"thought": 0, "template": "none"}, "thought is 0, there it is 1 and template is none, there it is chat"),
        ({"reconstruct": "one"}, "reconstruct is one, there it is tokens"),
        ({"dims": (9,)}, "dims go up to 9"),
    ],
)
def test_what_cannot_be_kept_is_refused(backbone: Get, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """By name, and nothing is written."""
    base = backbone("qwen3")
    a_checkpoint(base, tmp_path / "c")
    shape = replace(shape_of(tmp_path / "c"), **change)
    with pytest.raises(InputError, match=message):
        fit(pairs(dim=5), base, tmp_path / "r", shape, checkpoint=tmp_path / "c")
    assert not (tmp_path / "r").exists()


def test_where_it_may_be_written(backbone: Get, tmp_path: Path) -> None:
    """Over a fitted or refitted one; over neither the checkpoint itself nor, unasked, a trained one."""
    base, rows = backbone("qwen3"), pairs(dim=5)
    train(pairs(), base, tmp_path / "c", small(steps=2, reconstruct="tokens"))
    for _ in range(2):
        fit(rows, base, tmp_path / "r", checkpoint=tmp_path / "c")
    fit(rows, base, tmp_path / "r", FitConfig(compression=2, documents="checkpoint"))
    with pytest.raises(CheckpointError, match="training, .*--overwrite"):
        fit(rows, base, tmp_path / "c", checkpoint=tmp_path / "r")
    with pytest.raises(CheckpointError, match="the checkpoint itself"):
        fit(rows, base, tmp_path / "c", checkpoint=tmp_path / "c", overwrite=True)
    with pytest.raises(InputError, match="neither a backbone nor a checkpoint"):
        fit(rows, None, tmp_path / "s")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        fit(rows, base, tmp_path / "s", checkpoint=tmp_path / "gone")
    assert Record.load(tmp_path / "c").training.method == "training"


@pytest.mark.parametrize("version", [3, 4])
def test_an_older_checkpoint_opens(backbone: Get, tmp_path: Path, version: int) -> None:
    """Format 3 knew neither `before` nor a query weight, format 4 no query weight."""
    base = backbone("qwen3")
    old = a_checkpoint(base, tmp_path / "c")
    path = tmp_path / "c" / "foresay.json"
    record = json.loads(path.read_text())
    assert record.pop("query_weight") == 0
    if version < 4:
        assert record["training"].pop("before") is None
    path.write_text(json.dumps(record | {"format_version": version}))
    opened = Encoder.from_pretrained(tmp_path / "c", backbone=base)
    np.testing.assert_array_equal(opened.encode(SENTENCES), old.encode(SENTENCES))


def test_on_the_command_line(folder: Callable[[str], Path], backbone: Get, tmp_path: Path) -> None:
    """Another teacher, its documents and all; options that are left out are the checkpoint's, the given ones count."""
    path, base = tmp_path / "responses.jsonl", backbone("qwen3")
    lines = [{"id": str(i), "query": q, "response": r} for i, (q, r) in enumerate(zip(QUERIES, RESPONSES, strict=True))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    teach(path, load_teacher("self", base), tmp_path / "t")
    old = a_checkpoint(base, tmp_path / "c")
    words = ["fit", str(path), str(tmp_path / "t"), "--checkpoint", str(tmp_path / "c"), "-o", str(tmp_path / "r")]

    def run(*more: str) -> Any:  # noqa: ANN401
        return CliRunner().invoke(main, [*words, "--device", "cpu", *more])

    found = run("--documents", "teacher", "--held-out", "1")
    assert found.exit_code == 0, found.output
    new = Encoder.from_pretrained(tmp_path / "r", device="cpu")
    assert new.dim == 32 and new.document_teacher is not None and new.document_teacher.name == f"self:{base.name}"
    np.testing.assert_array_equal(new.soft_prompts(SENTENCES), old.soft_prompts(SENTENCES))
    assert Record.load(tmp_path / "r").training.metrics["held_out_rows"] == 1
    moved = run("-m", str(folder("qwen3")))  # documents by the checkpoint itself, as it has it
    assert moved.exit_code == 0, moved.output
    assert Encoder.from_pretrained(tmp_path / "r", device="cpu").document_teacher is None
    assert "compression is 10, there it is 3" in run("--compression", "10").output  # the default, but said
    assert "its weights differ" in run("-m", str(folder("llama"))).output
    assert "Missing option '-m'" in run("--revision", "main").output
