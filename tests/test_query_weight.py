"""The query's own part as a part of a checkpoint: on disk, in its card, in the plain library, and set afterwards."""

import copy
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from foresay.backbone import Backbone
from foresay.checkpoints.bundle import bundle
from foresay.checkpoints.fingerprints import encoder_fingerprint
from foresay.checkpoints.golden import GOLDEN_TEXTS
from foresay.checkpoints.record import Record
from foresay.checkpoints.reweight import reweight
from foresay.checkpoints.verify import verify
from foresay.cli.main import main
from foresay.config import FitConfig
from foresay.data.pairs import Pairs
from foresay.encoder import Encoder
from foresay.errors import CheckpointError, InputError
from foresay.integrations.sentence_transformers import as_sentence_transformer
from foresay.teachers.base import Teacher
from foresay.teachers.whitened import WhitenedTeacher
from foresay.training.fit import fit
from foresay.training.refit import shape_of
from foresay.training.train import train

from .conftest import SENTENCES
from .making import QUERIES, RESPONSES, small
from .taught import KINDS, TEXTS, fitted, taught

Get = Callable[[str], Backbone]
WEIGHT = 0.25


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each of length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def by_hand(encoder: Encoder, texts: list[str], prompt: str) -> np.ndarray:
    """The sum, from the fused map and the teacher, without the code under test."""
    model = encoder.model
    rows, _ = model.rows([prompt + text for text in texts], encoder.max_tokens)
    weight, bias = (tensor.detach() for tensor in model.fused_map())
    with torch.no_grad():
        own = np.stack([(model.features(model.hidden([row])) @ weight.T + bias)[0].numpy() for row in rows])
    theirs = encoder.load_document_teacher().embed(texts)
    if model.rotation is not None:
        theirs = theirs @ model.rotation.numpy()
    return (1 - WEIGHT) * unit(own) + WEIGHT * unit(theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dims", [(), (8,)])
def test_a_checkpoint_with_a_query_weight(backbone: Get, tmp_path: Path, kind: str, dims: tuple[int, ...]) -> None:
    """Made by `fit`, it comes back; golden vectors, card and plain library give the weighted sum and nothing else."""
    base, folder = backbone("qwen3"), tmp_path / "c"
    teacher = taught(kind, base, tmp_path)
    encoder = fitted(folder, base, teacher, dims=dims, inference_query_weight=WEIGHT)
    wanted = by_hand(encoder, TEXTS, "Say: ")
    again = Encoder.from_pretrained(folder, backbone=base)
    assert again.query_weight == Record.load(folder).query_weight == WEIGHT and "query_weight=0.25" in repr(again)
    np.testing.assert_array_equal(again.encode_query(TEXTS), encoder.encode_query(TEXTS))
    np.testing.assert_allclose(again.encode_query(TEXTS), wanted, atol=1e-5)
    golden = load_file(folder / "golden.safetensors")["embeddings"].numpy()
    np.testing.assert_allclose(golden, by_hand(encoder, list(GOLDEN_TEXTS), ""), atol=1e-5)

    ways = {verdict.way: verdict.distance for verdict in verify(folder, device="cpu")}
    assert ways["sentence-transformers"] < 1e-4 and ways["sentence-transformers, documents"] < 1e-4
    card = (folder / "README.md").read_text()
    (lines,) = [code for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "SentenceTransformer(" in code]
    found: dict[str, Any] = {}
    exec(lines.replace("PATH", str(folder)).replace('["What does frugal mean?"]', repr(TEXTS)), found)
    np.testing.assert_allclose(found["queries"], wanted, atol=1e-5)
    assert lines.count("texts") == 3 and "a share of 0.25" in card and "library_name" not in card
    with pytest.raises(ValueError, match="'query'.*alone"):
        SentenceTransformer(str(folder), device="cpu").encode_query(TEXTS)
    np.testing.assert_allclose(as_sentence_transformer(again).encode_query(TEXTS), wanted, atol=1e-5)


def test_a_teacher_that_the_plain_library_cannot_open(
    backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Then nothing opens there, and the card says so."""
    base = backbone("qwen3")
    teacher = taught("self", base, tmp_path)
    monkeypatch.setattr(type(teacher), "export", Teacher.export)
    encoder = fitted(tmp_path / "c", base, teacher, inference_query_weight=WEIGHT)
    assert not (tmp_path / "c" / "modules.json").exists() and "cannot embed the queries" in caplog.text
    card = (tmp_path / "c" / "README.md").read_text()
    assert "It adds the vector of a teacher that cannot go into this folder, which" in card
    assert "sentence-transformers" not in {verdict.way for verdict in verify(tmp_path / "c", device="cpu")}
    np.testing.assert_allclose(encoder.encode_query(TEXTS), by_hand(encoder, TEXTS, "Say: "), atol=1e-5)


def test_one_language_model_serves_both_passes(backbone: Get, tmp_path: Path) -> None:
    """Opened by its name, the teacher reads with the weights that the checkpoint has in memory."""
    base = backbone("qwen3")
    fitted(tmp_path / "c", base, taught("whitened", base, tmp_path), inference_query_weight=WEIGHT)
    encoder = Encoder.from_pretrained(tmp_path / "c", device="cpu")
    teacher = encoder.load_document_teacher()
    mine = {weight.data_ptr() for weight in encoder.model.backbone.model.parameters()}
    assert isinstance(teacher, WhitenedTeacher)
    theirs = [weight.data_ptr() for weight in teacher.inner.reader.model.parameters()]  # type: ignore[attr-defined]
    assert theirs and set(theirs) <= mine


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))])  # noqa: S301
def test_copied_and_sent(backbone: Get, tmp_path: Path, copied: Callable[[Encoder], Encoder]) -> None:
    """A copy, or what another process unpickles, embeds the same with weights of its own; teacher and adapter too."""
    base = backbone("qwen3")
    encoder = fitted(tmp_path / "c", base, taught("llm2vec", base, tmp_path), inference_query_weight=WEIGHT)
    encoder = Encoder.from_pretrained(tmp_path / "c", device="cpu")
    expected = encoder.encode_query(TEXTS), encoder.encode_document(TEXTS)
    other = copied(encoder)
    for weight in encoder.model.backbone.model.parameters():
        weight.data.zero_()
    np.testing.assert_array_equal(other.encode_query(TEXTS), expected[0])
    np.testing.assert_array_equal(other.encode_document(TEXTS), expected[1])


def test_set_afterwards(backbone: Get, tmp_path: Path) -> None:
    """Without training: all else is bit for bit the same, the golden vectors are new, and there is a way back."""
    base = backbone("qwen3")
    old = fitted(tmp_path / "c", base, taught("whitened", base, tmp_path))
    new = reweight(tmp_path / "c", tmp_path / "w", WEIGHT, backbone=base)
    np.testing.assert_allclose(new.encode_query(TEXTS), by_hand(old, TEXTS, "Say: "), atol=1e-5)
    assert (tmp_path / "w" / "foresay.safetensors").read_bytes() == (
        tmp_path / "c" / "foresay.safetensors"
    ).read_bytes()
    before, after = Record.load(tmp_path / "c"), Record.load(tmp_path / "w")
    assert after.training == before.training and after.prompts == before.prompts and after.query_weight == WEIGHT
    assert all(verdict.agrees for verdict in verify(tmp_path / "w", device="cpu"))
    assert encoder_fingerprint(new) != encoder_fingerprint(old)
    result = CliRunner().invoke(
        main,
        [
            "reweight",
            str(tmp_path / "w"),
            "--inference-query-weight",
            "0",
            "-o",
            str(tmp_path / "b"),
            "--device",
            "cpu",
        ],
    )
    assert result.exit_code == 0 and "query weight 0;" in result.output, result.output
    back = Encoder.from_pretrained(tmp_path / "b", backbone=base)
    np.testing.assert_array_equal(back.encode_query(TEXTS), old.encode_query(TEXTS))
    plain = SentenceTransformer(str(tmp_path / "b"), device="cpu")
    np.testing.assert_allclose(plain.encode_query(TEXTS), old.encode_query(TEXTS), atol=1e-5)


def test_a_bundle_stays_one(backbone: Get, tmp_path: Path) -> None:
    """It needs nothing outside, before and after."""
    base = backbone("qwen3")
    fitted(tmp_path / "c", base, taught("whitened", base, tmp_path), dims=(8,))
    bundle(tmp_path / "c", tmp_path / "b", device="cpu")
    encoder = reweight(tmp_path / "b", tmp_path / "w", WEIGHT, device="cpu")
    for name in ("b", "teacher"):
        (tmp_path / name).rename(tmp_path / f"{name}-gone")
    (tmp_path / "w").rename(tmp_path / "moved")
    moved = Encoder.from_pretrained(tmp_path / "moved", device="cpu")
    np.testing.assert_allclose(moved.encode_query(TEXTS), encoder.encode_query(TEXTS), atol=1e-5)
    assert all(verdict.agrees for verdict in verify(tmp_path / "moved", device="cpu"))


def test_what_is_refused(backbone: Get, tmp_path: Path) -> None:
    """Another number, a checkpoint without a teacher, and the checkpoint itself; nothing is written."""
    base = backbone("qwen3")
    teacher = taught("self", base, tmp_path)
    fitted(tmp_path / "c", base, teacher)
    fitted(tmp_path / "own", base, teacher, documents="checkpoint")
    with pytest.raises(InputError, match="is 1.5; expected a number from 0 to 1"):
        reweight(tmp_path / "c", tmp_path / "w", 1.5, backbone=base)
    with pytest.raises(InputError, match="embeds documents itself"):
        reweight(tmp_path / "own", tmp_path / "w", WEIGHT, backbone=base)
    with pytest.raises(CheckpointError, match="the checkpoint itself"):
        reweight(tmp_path / "c", tmp_path / "c", WEIGHT, backbone=base, overwrite=True)
    with pytest.raises(InputError, match="inference_query_weight is -0.1"):
        FitConfig(inference_query_weight=-0.1)
    with pytest.raises(InputError, match="inference_query_weight is 0.25 and documents is checkpoint"):
        FitConfig(inference_query_weight=WEIGHT, documents="checkpoint")
    assert not (tmp_path / "w").exists()


def test_refit_keeps_it(backbone: Get, tmp_path: Path) -> None:
    """As all else that is not the alignment map; metrics are of that map, without the teacher's part."""
    base = backbone("qwen3")
    teacher = taught("self", base, tmp_path)
    fitted(tmp_path / "c", base, teacher, inference_query_weight=WEIGHT, held_out=2)
    origin = {"teacher": teacher.name, "revision": teacher.revision, "max_tokens": teacher.max_tokens}
    pairs = Pairs(TEXTS, TEXTS, teacher.embed(TEXTS), origin)
    weighted = fit(pairs, base, tmp_path / "r", checkpoint=tmp_path / "c")
    none = replace(shape_of(tmp_path / "c"), inference_query_weight=0.0)
    fit(pairs, base, tmp_path / "s", none, checkpoint=tmp_path / "c")
    records = [Record.load(tmp_path / name) for name in ("r", "s")]
    assert weighted.query_weight == WEIGHT and [record.query_weight for record in records] == [WEIGHT, 0]
    assert records[0].training.metrics == records[1].training.metrics


def test_training_ends_with_it(backbone: Get, tmp_path: Path) -> None:
    """No metric depends on it, so a run that resumes may have another one."""
    base = backbone("qwen3")
    teacher = taught("self", base, tmp_path)
    origin = {"teacher": teacher.name, "revision": teacher.revision, "max_tokens": teacher.max_tokens}
    pairs = Pairs(QUERIES, RESPONSES, teacher.embed(RESPONSES), origin)
    config = small(steps=2, documents="teacher", inference_query_weight=WEIGHT)
    first = train(pairs, base, tmp_path / "c", config)
    assert first.query_weight == Record.load(tmp_path / "c").query_weight == WEIGHT
    np.testing.assert_allclose(first.encode_query(SENTENCES), by_hand(first, SENTENCES, ""), atol=1e-5)
    second = train(pairs, base, tmp_path / "c", replace(config, inference_query_weight=0.5))
    assert second.query_weight == 0.5
    np.testing.assert_array_equal(
        second.with_query_weight(0).encode(SENTENCES), first.with_query_weight(0).encode(SENTENCES)
    )
