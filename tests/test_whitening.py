"""Whitening: the map is what it says, its choice needs no labels, and a folder gives the same vectors everywhere."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer

from foresay.backbone import Backbone
from foresay.cli.main import main
from foresay.cli.whitening import read_pairs
from foresay.config import TeachConfig, TeacherConfig, WhitenConfig
from foresay.errors import BackboneError, InputError, VerifyError
from foresay.teachers.base import Vectors
from foresay.teachers.llm2vec import LLM2VecTeacher
from foresay.teachers.load import load_teacher
from foresay.teachers.make import make_teacher
from foresay.teachers.whiten import closed_form_teacher, verify_teacher, whiten, whiten_index
from foresay.teachers.whitened import WhitenedTeacher
from foresay.teachers.whitening import FLOOR, Spectrum, Whitening, choose_whitening, finds_partner, halves

from .conftest import SENTENCES
from .taught import encoder_folder

Get = Callable[[str], Backbone]
PAIRS = [(f"{text} {i}", f"{i} is said of {text}") for i in range(4) for text in SENTENCES]


def planted(pairs: int = 200, noise: float = 30.0) -> tuple[Vectors, Vectors]:
    """Pairs that share ten small numbers, hidden beside two large ones that mean nothing, and far from zero."""
    random = np.random.default_rng(0)
    shared = random.normal(size=(pairs, 10))
    sides = [
        np.concatenate(
            [shared + 0.3 * random.normal(size=shared.shape), noise * random.normal(size=(pairs, 2))], axis=1
        )
        for _ in range(2)
    ]
    return (sides[0] + 100).astype(np.float32), (sides[1] + 100).astype(np.float32)


def test_whitened_axes_have_the_variance_that_the_strength_says() -> None:
    """Against the singular values of the centred vectors."""
    left, _ = planted()
    values = np.linalg.svd(left - left.mean(axis=0), compute_uv=False).astype(np.float64) ** 2 / len(left)
    for strength in (0.0, 0.5, 1.0):
        white = Spectrum(left).whitening(8, strength)(left).astype(np.float64)
        expected = values[:8] / (values[:8] + FLOOR * values[0]) ** strength
        np.testing.assert_allclose(white.T @ white / len(white), np.diag(expected), atol=2e-3 * expected.max())
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)


def test_as_one_map() -> None:
    """Weight and bias give what the two steps give, and so does a map behind it."""
    left, right = planted()
    whitening, _ = choose_whitening(left, right)
    one = whitening.as_map()
    np.testing.assert_allclose(left @ one.weight.T + one.bias, whitening(left), atol=1e-3)
    turn = Spectrum(right[:, : one.weight.shape[0]]).whitening(3, 0.0).as_map()
    both = one.then(turn)
    np.testing.assert_allclose(left @ both.weight.T + both.bias, whitening(left) @ turn.weight.T + turn.bias, atol=1e-2)
    assert one.then(None) is one


def test_the_choice_needs_no_labels() -> None:
    """Where large numbers mean nothing, whitening is chosen, and finds what they hid."""
    whitening, choice = choose_whitening(*planted())
    assert choice.strength >= 0.75 and choice.found > 0.6 and choice.before < 0.15 and choice.pairs == 200
    assert finds_partner(*(whitening(side) for side in planted())) > 0.5
    _, quiet = choose_whitening(*planted(noise=0.0))
    assert quiet.before > 0.9
    fixed, chosen = choose_whitening(*planted(), axes=5, strength=0.5)
    assert fixed.matrix.shape == (12, 5) and (chosen.axes, chosen.strength) == (5, 0.5)
    with pytest.raises(InputError, match="13 axes of vectors that have 12"):
        choose_whitening(*planted(), axes=13)
    with pytest.raises(InputError, match="9 pairs"):
        choose_whitening(*planted(9))


def test_finds_partner() -> None:
    """By hand: the first is nearest to its own, the second after one other; a block's edge changes nothing."""
    left = np.array([[1.0, 0.0], [1.0, 0.1]], np.float32)
    right = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert finds_partner(left, right) == pytest.approx((1 + 0.5) / 2)
    many = np.random.default_rng(0).normal(size=(1500, 4)).astype(np.float32)
    assert finds_partner(many, many) == 1.0
    alike = np.ones((20, 4), np.float32)
    assert finds_partner(alike, alike) == pytest.approx(1 / 10.5)  # the mean of the ranks 1 to 20


def test_pairs_or_plain_texts(tmp_path: Path) -> None:
    """Lists of two, as JSON has them, are pairs; what is neither is refused, not taken for its spelling."""
    teacher = load_teacher("nano-teacher", device="cpu")
    pairs = [(f"what is {n}", f"it is number {n}") for n in range(12)]
    given: list[Any] = [list(pair) for pair in pairs]
    made = [whiten(teacher, texts, tmp_path / "t", WhitenConfig())[0] for texts in (pairs, given)]
    assert made[0].whitening.fingerprint() == made[1].whitening.fingerprint()
    odds: list[list[Any]] = [[*pairs, "plain"], ["plain", *given], [("a", "b", "c")], [("a", None)], [1]]
    for odd in odds:
        with pytest.raises(InputError, match="expected strings alone, or pairs of strings alone"):
            whiten(teacher, odd, tmp_path / "t")


def test_an_index_with_odd_vectors() -> None:
    """NaN, complex numbers: neither comes out as a vector."""
    inner = load_teacher("nano-teacher", device="cpu")
    whitening = Whitening(np.zeros(inner.dim, np.float32), np.eye(inner.dim, dtype=np.float32))
    teacher = WhitenedTeacher(inner, whitening, "w")
    vectors = np.zeros((3, inner.dim), np.float32)
    with pytest.raises(InputError, match="are complex64; expected real numbers"):
        whiten_index(teacher, vectors.astype(np.complex64))
    vectors[1, 0] = np.nan
    with pytest.raises(InputError, match="1 vectors are not finite, the first in row 1"):
        whiten_index(teacher, vectors)


def test_halves() -> None:
    """Between two words; a single word has none."""
    assert halves(["one two three", "x", "a b"]) == [("one", "two three"), ("a", "b")]


@pytest.mark.parametrize("family", ["qwen3", "llama", "smollm"])
def test_closed_form_teacher(backbone: Get, tmp_path: Path, family: str) -> None:
    """The backbone in both directions, whitened; loaded with and without it, in the plain library, and verified."""
    base = backbone(family)
    made, choice = closed_form_teacher(base, PAIRS, tmp_path / "t")
    assert isinstance(made.inner, LLM2VecTeacher) and not made.inner.adapters
    assert made.dim == choice.axes == made.embed(["x"]).shape[1]
    expected = made.whitening(load_teacher("both-directions", base).embed(SENTENCES))
    shared, own = load_teacher(str(tmp_path / "t"), base), load_teacher(str(tmp_path / "t"), device="cpu")
    assert isinstance(shared, WhitenedTeacher) and isinstance(shared.inner, LLM2VecTeacher)
    assert shared.inner.reader.backbone is base
    assert shared.revision == own.revision == made.revision and shared.fingerprint() == own.fingerprint()
    for teacher in (made, shared, own):
        np.testing.assert_allclose(teacher.embed(SENTENCES), expected, atol=1e-4)
    plain = SentenceTransformer(str(tmp_path / "t"), device="cpu")
    np.testing.assert_allclose(plain.encode(SENTENCES), expected, atol=2e-3)
    assert {verdict.way for verdict in verify_teacher(tmp_path / "t", "cpu")} == {"foresay", "sentence-transformers"}
    assert not (tmp_path / "t" / "model.safetensors").exists()
    assert "Nothing was trained" in (tmp_path / "t" / "README.md").read_text()


def test_on_top_of_a_trained_teacher(backbone: Get, tmp_path: Path) -> None:
    """The adapter goes along, so the folder below may go; whitened again, the map is made anew, not put on top."""
    base = backbone("qwen3")
    config = TeacherConfig(mntp_steps=1, simcse_steps=1, mntp_batch_size=4, simcse_batch_size=4)
    inner = make_teacher(SENTENCES, base, tmp_path / "below", config)
    made, _ = whiten(inner, PAIRS, tmp_path / "t")
    expected = made.whitening(inner.embed(SENTENCES))
    shutil.rmtree(tmp_path / "below")
    again = load_teacher(str((tmp_path / "t").rename(tmp_path / "moved")), base)
    np.testing.assert_allclose(again.embed(SENTENCES), expected, atol=1e-4)
    twice, _ = whiten(again, PAIRS, tmp_path / "twice")
    assert isinstance(twice.inner, LLM2VecTeacher)
    np.testing.assert_allclose(twice.embed(SENTENCES), expected, atol=1e-4)


def test_on_top_of_a_teacher_by_its_name(tmp_path: Path) -> None:
    """Its adapter goes into the weights as it loads; what is compared later are the weights before that."""
    inner = load_teacher("nano-teacher", device="cpu", config=TeachConfig(max_tokens=64))
    made, _ = whiten(inner, PAIRS, tmp_path / "t")
    again = load_teacher(str(tmp_path / "t"), device="cpu")
    np.testing.assert_allclose(again.embed(SENTENCES), made.embed(SENTENCES), atol=1e-4)
    made, _ = whiten(again, PAIRS, tmp_path / "t", WhitenConfig(axes=4))  # in place of itself
    assert load_teacher(str(tmp_path / "t"), device="cpu").embed(SENTENCES).shape == (6, 4)


def test_takes_the_place_of_a_whitened_teacher_only(backbone: Get, tmp_path: Path) -> None:
    """Not that of a README or of a trained teacher; nothing is touched, and nothing computed."""
    base = backbone("qwen3")
    trained = make_teacher(
        SENTENCES, base, tmp_path / "trained", TeacherConfig(mntp_steps=1, simcse_steps=0, mntp_batch_size=4)
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    for name in ("mine", "trained"):
        before = {path: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        with pytest.raises(InputError, match="is there already, and foresay whiten would replace it"):
            closed_form_teacher(base, PAIRS, tmp_path / name)
        assert {path: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()} == before
    whiten(trained, PAIRS, tmp_path / "t")
    (tmp_path / "t" / "notes.txt").write_text("mine")
    whiten(trained, PAIRS, tmp_path / "t", WhitenConfig(axes=4))
    assert (tmp_path / "t" / "notes.txt").read_text() == "mine"
    assert load_teacher(str(tmp_path / "t"), base).dim == 4


def test_on_top_of_any_model(tmp_path: Path) -> None:
    """By name; an index of that model is mapped; the plain library gives the same."""
    inner = load_teacher(str(encoder_folder(tmp_path)), device="cpu", config=TeachConfig(max_tokens=32))
    made, _ = whiten(inner, PAIRS, tmp_path / "t", WhitenConfig(axes=6, strength=1.0))
    again = load_teacher(str(tmp_path / "t"), device="cpu", config=TeachConfig(max_tokens=32))
    expected = made.whitening(inner.embed(SENTENCES))
    np.testing.assert_allclose(again.embed(SENTENCES), expected, atol=1e-5)
    np.testing.assert_array_equal(whiten_index(again, inner.embed(SENTENCES)), expected)
    plain = SentenceTransformer(str(tmp_path / "t"), device="cpu")
    np.testing.assert_allclose(plain.encode(SENTENCES, prompt=""), expected, atol=1e-3)
    with pytest.raises(InputError, match=r"shape \(6, 6\); expected \(texts, 24\)"):
        whiten_index(again, expected)
    with pytest.raises(InputError, match="is not a whitened teacher"):
        whiten_index(inner, expected)


def test_refused(backbone: Get, tmp_path: Path) -> None:
    """Another backbone under the same name, a damaged map, and vectors that are not the golden ones."""
    home = shutil.copytree(backbone("qwen3").name, tmp_path / "backbone")
    base = Backbone.load(str(home), device="cpu")
    made, _ = closed_form_teacher(base, PAIRS, tmp_path / "t")
    Whitening(made.whitening.mean + 1, made.whitening.matrix).save(tmp_path / "t")
    with pytest.raises(VerifyError, match="foresay is off by"):
        verify_teacher(tmp_path / "t", "cpu")
    (tmp_path / "t" / "whitening.safetensors").write_bytes(b"x" * 99)
    with pytest.raises(InputError, match="is damaged"):
        load_teacher(str(tmp_path / "t"), base)
    made.whitening.save(tmp_path / "t")
    shutil.rmtree(home)
    shutil.copytree(backbone("llama").name, home)
    with pytest.raises(BackboneError):
        load_teacher(str(tmp_path / "t"), device="cpu")
    with pytest.raises(InputError, match="no golden vectors"):
        verify_teacher(tmp_path, "cpu")


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz", "r.csv"])
def test_responses_are_pairs_whatever_the_file_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also zipped, in the home folder, and with a torn line: never silently halves of the queries."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    rows = [{"id": str(i), "query": query, "response": response} for i, (query, response) in enumerate(PAIRS)]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"id": "torn'
    if name == "r.csv":
        text = "query,response\n" + "".join(f'"{a}","{b}"\n' for a, b in PAIRS) + "nothing,\n"
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert read_pairs(f"~/{name}", None, "train") == PAIRS
    assert "1 rows hold no text and are left out" in capsys.readouterr().err
    assert read_pairs(f"~/{name}", "query", "train")[: len(PAIRS)] == [query for query, _ in PAIRS]


def test_a_teacher_in_the_home_folder(backbone: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tilde that the shell left alone; the teacher is known by its full path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    closed_form_teacher(backbone("qwen3"), PAIRS, tmp_path / "t")
    assert load_teacher("~/t", backbone("qwen3")).name == str((tmp_path / "t").resolve())


def test_commands(backbone: Get, tmp_path: Path) -> None:
    """Closed form from responses, whitening from plain texts, an index mapped, a folder verified."""
    name, run = backbone("qwen3").name, CliRunner().invoke
    rows = [{"id": str(i), "query": query, "response": response} for i, (query, response) in enumerate(PAIRS)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "texts.txt").write_text("".join(f"{a} {b}\n" for a, b in PAIRS))
    closed, white = str(tmp_path / "closed"), str(tmp_path / "white")
    device = ["--device", "cpu"]
    result = run(main, ["teacher", str(tmp_path / "r.jsonl"), "-m", name, "--closed-form", "-o", closed, *device])
    assert result.exit_code == 0 and "held-out texts find their partners" in result.output, result.output
    assert json.loads((tmp_path / "closed" / "teacher.json").read_text())["whitening"]["pairs"] == len(PAIRS)
    options = ["-o", white, "--axes", "5", "--strength", "0.5", *device]
    result = run(main, ["whiten", str(tmp_path / "texts.txt"), "-t", closed, *options])
    assert result.exit_code == 0 and "5 axes, strength 0.5" in result.output, result.output
    inner = load_teacher("both-directions", backbone("qwen3")).embed(SENTENCES)
    np.save(tmp_path / "old.npy", inner)
    result = run(
        main, ["whiten-index", str(tmp_path / "old.npy"), "-t", white, "-o", str(tmp_path / "new.npy"), *device]
    )
    assert result.exit_code == 0, result.output
    expected = load_teacher(white, backbone("qwen3")).embed(SENTENCES)
    np.testing.assert_allclose(np.load(tmp_path / "new.npy"), expected, atol=1e-4)
    assert "verified" in run(main, ["verify", white, *device]).output
    (tmp_path / "bad.npy").write_text("no vectors")
    result = run(main, ["whiten-index", str(tmp_path / "bad.npy"), "-t", white, "-o", str(tmp_path / "x.npy"), *device])
    assert result.exit_code == 1 and "is no array of numpy" in result.output
