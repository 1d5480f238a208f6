"""Making and using a teacher: both directions, the two stages, stopping and going on, folders of ours and published."""

import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

from foresay.backbone import Backbone
from foresay.checkpoints.verify import verify
from foresay.cli.main import main
from foresay.config import TeachConfig, TeacherConfig
from foresay.encoder import Encoder
from foresay.errors import BackboneError, InputError
from foresay.model import Model
from foresay.teachers import bidirectional
from foresay.teachers.base import Teacher
from foresay.teachers.bidirectional import Bidirectional
from foresay.teachers.llm2vec import LLM2VecTeacher
from foresay.teachers.load import load_teacher
from foresay.teachers.make import make_teacher, schedule
from foresay.teachers.objectives import SCALE, blank, mntp_gradient, simcse_gradient
from foresay.teachers.packaged import FOLDERS, NANO_TEACHER
from foresay.teachers.pooled import SelfTeacher
from foresay.teachers.sentence_transformers import SentenceTransformerTeacher
from foresay.training.metrics import Event, Step
from foresay.training.stopping import Stopped

from .conftest import FAMILIES, SENTENCES, make_folder, save_and_export
from .making import noting

Get = Callable[[str], Backbone]
TEXTS = [f"{sentence} ({i})" for i in range(4) for sentence in SENTENCES]
HARD = [*SENTENCES, "A text that holds <|im_end|> and <think> is a text."]
SMALL: dict[str, Any] = {
    "mntp_batch_size": 4,
    "mntp_learning_rate": 1e-2,
    "simcse_batch_size": 4,
    "simcse_learning_rate": 1e-2,
    "save_every": 2,
}


def made(backbone: Backbone, output: Path, mntp: int = 2, simcse: int = 2) -> LLM2VecTeacher:
    """A teacher of a few steps."""
    return make_teacher(TEXTS, backbone, output, TeacherConfig(mntp_steps=mntp, simcse_steps=simcse, **SMALL))


@pytest.fixture(scope="module")
def teachers(backbone: Get, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny teacher of a family, made once."""
    folders: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp("teachers") / family
            made(backbone(family), folders[family])
        return folders[family]

    return get


def randomise(reader: Bidirectional) -> list[Tensor]:
    """Makes the last adapter one that changes something; its weights."""
    torch.manual_seed(0)
    for weight in reader.trained().values():
        weight.data.normal_(0, 0.1)
    return list(reader.trained().values())


@torch.no_grad()
def full_attention(model: torch.nn.Module, ids: list[int]) -> Tensor:
    """States of a text, computed by the causal model itself under a mask of four dimensions that hides nothing."""
    mask = torch.zeros(1, 1, len(ids), len(ids))
    states: Tensor = model(input_ids=torch.tensor([ids]), attention_mask=mask, use_cache=False).last_hidden_state[0]
    return states


# -- both directions -------------------------------------------------------------------------------------


@pytest.fixture(params=["sdpa", "eager"])
def attention(request: pytest.FixtureRequest) -> str:
    """An implementation of attention."""
    return str(request.param)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_see_the_whole_text(backbone: Get, family: str, attention: str) -> None:
    """Alone and in a batch, the states are those of the causal model under an open mask; it stays causal itself."""
    base = backbone(family)
    causal = base.decoder(input_ids=torch.tensor([[5, 6, 7, 8]])).last_hidden_state
    reader = Bidirectional(base)
    reader.model.config._attn_implementation = attention
    reader.check()
    rows = [[5, 6, 7], [9, 10, 11, 12, 13, 14], [15, 16]]
    batch = reader.states(rows)
    for row, states in zip(rows, batch, strict=True):
        expected = full_attention(base.decoder, row)
        torch.testing.assert_close(states[: len(row)], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(reader.states([row])[0], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(base.decoder(input_ids=torch.tensor([[5, 6, 7, 8]])).last_hidden_state, causal)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flash attention needs a GPU")
@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_flash_attention(backbone: Get, family: str) -> None:
    """The check at load passes there too, and fails where the switch is taken back; the means are those of sdpa."""
    pytest.importorskip("flash_attn")
    base = Backbone.load(backbone(family).name, device="cuda", dtype="bfloat16")
    rows = [[5, 6, 7], [9, 10, 11, 12, 13, 14], [15, 16]]
    expected = Bidirectional(base).mean(rows)
    base.model.set_attn_implementation("flash_attention_2")
    reader = Bidirectional(base)
    torch.testing.assert_close(reader.mean(rows), expected, atol=5e-2, rtol=5e-2)
    torch.testing.assert_close(reader.mean(rows[:1]), expected[:1], atol=5e-2, rtol=5e-2)
    reader.model.config.is_causal = True
    with pytest.raises(BackboneError, match="flash_attention_2.* keeps causal attention"):
        reader.check()


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("kind", ["read in both directions", "as it is"])
def test_an_empty_text(backbone: Get, family: str, kind: str) -> None:
    """Without a leading token there is nothing of it to run: its mean is 0, alone and beside another."""
    teacher: Teacher = SelfTeacher(backbone(family))
    if kind != "as it is":
        teacher = LLM2VecTeacher(Bidirectional(backbone(family)), "made")
    other = teacher.embed(["a text"])
    assert not teacher.embed([""]).any() and not teacher.embed(["", ""]).any()
    beside = teacher.embed(["", "a text"])
    assert not beside[0].any()
    np.testing.assert_allclose(beside[1:], other, atol=1e-5)


@torch.no_grad()
def test_a_sliding_window_looks_both_ways(backbone: Get) -> None:
    """Within its reach a token sees what comes; beyond it, nothing."""
    reader = Bidirectional(backbone("mistral"))  # two layers with a window of 8
    text = list(range(5, 45))
    near, far = [*text[:5], 99, *text[6:]], [*text[:-1], 99]
    state, seen, unseen = (reader.states([row])[0, 0] for row in (text, near, far))
    assert (state - seen).abs().max() > 1e-3
    assert torch.equal(state, unseen)


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("gemma2", {"head_dim": 16, "sliding_window": 8}),
        ("phi3", {}),
        ("olmo2", {}),
        ("gpt2", {"n_positions": 512}),
        ("mixtral", {"num_local_experts": 4}),
    ],
)
@torch.no_grad()
def test_more_families(tmp_path: Path, model_type: str, settings: dict[str, object]) -> None:
    """Of other makers too, the first state reacts to the last token."""
    base = Backbone.load(str(make_folder("llama", tmp_path, model_type=model_type, **settings)), device="cpu")
    reader = Bidirectional(base)
    one, other = (reader.states([[5, 6, 7, last]])[0, 0] for last in (8, 9))
    assert (one - other).abs().max() > 1e-3
    one, other = (base.decoder(input_ids=torch.tensor([[5, 6, 7, last]])).last_hidden_state[0, 0] for last in (8, 9))
    assert torch.equal(one, other)


def test_a_family_that_ignores_the_switch_is_refused(tmp_path: Path) -> None:
    """Stock code of the library that stays causal, not one that we broke."""
    base = Backbone.load(str(make_folder("llama", tmp_path, model_type="stablelm")), device="cpu")
    with pytest.raises(BackboneError, match="StableLmModel, sdpa. keeps causal attention"):
        Bidirectional(base)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_check_fails_where_attention_is_causal(backbone: Get, family: str, attention: str) -> None:
    """Put back to how it was without our switch."""
    reader = Bidirectional(backbone(family))
    reader.model.config._attn_implementation = attention
    reader.model.config.is_causal = True
    with pytest.raises(BackboneError, match=f"{attention}.* keeps causal attention for a text alone"):
        reader.check()


@pytest.mark.parametrize("alone", [True, False])
def test_the_check_looks_alone_and_in_a_batch(backbone: Get, alone: bool) -> None:
    """A library may mask the one and not the other: kernels differ where nothing is padded."""
    reader = Bidirectional(backbone("qwen3"))
    states = reader.states

    def causal_where(rows: list[list[int]]) -> Tensor:
        reader.model.config.is_causal = alone == (len(rows) == 1)
        return states(rows)

    reader.states = causal_where  # type: ignore[method-assign, assignment]
    with pytest.raises(BackboneError, match=f"for a text {'alone' if alone else 'in a batch'}"):
        reader.check()


def test_the_check_fails_where_padding_comes_through(backbone: Get) -> None:
    """A mask that the model does not see."""
    reader = Bidirectional(backbone("qwen3"))
    forward = reader.model.forward
    reader.model.forward = lambda attention_mask, **inputs: forward(**inputs)
    with pytest.raises(BackboneError, match="lets padding into its states"):
        reader.check()


def test_the_check_sees_past_huge_numbers() -> None:
    """The first state of a large model holds a few that no text changes; the rest still has to react."""
    one, other = torch.linspace(1, 2, 64), torch.linspace(1.2, 2.2, 64)
    huge = torch.tensor([1e6, -1e6])
    assert bidirectional._reaction(torch.cat([other, huge]), torch.cat([one, huge])) > 0.01
    assert bidirectional._reaction(torch.cat([one, huge + 1e5]), torch.cat([one, huge])) == 0


def test_the_weights_are_shared(backbone: Get) -> None:
    """No second copy; the backbone keeps its names, its numbers and its config."""
    base = backbone("llama")
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    reader = Bidirectional(base)
    reader.new_adapter(4, seed=0)
    mine = {weight.data_ptr() for weight in reader.model.parameters()}
    assert all(weight.data_ptr() in mine for weight in base.decoder.parameters())
    randomise(reader)
    assert not torch.allclose(reader.mean([[5, 6, 7]]), Bidirectional(base).mean([[5, 6, 7]]))
    assert before.keys() == base.model.state_dict().keys()
    assert all(torch.equal(weight, before[name]) for name, weight in base.model.state_dict().items())
    assert not hasattr(base.model.config, "is_causal")
    assert not any(weight.requires_grad for weight in base.model.parameters())


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


# -- the run ---------------------------------------------------------------------------------------------


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, without the times."""
    lines = (folder / "training" / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


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


def test_another_run_in_the_same_folder_is_refused(backbone: Get, teachers: Callable[[str], Path]) -> None:
    """Other options, or other texts."""
    folder, base = teachers("qwen3"), backbone("qwen3")
    with pytest.raises(InputError, match=r"another config\.mntp_steps \(2 there, 1 now\); give the same options"):
        made(base, folder, mntp=1)
    config = TeacherConfig(mntp_steps=2, simcse_steps=2, **SMALL)
    with pytest.raises(InputError, match="another texts_sha256"):
        make_teacher([*TEXTS[1:], "other"], base, folder, config)


def test_options_that_cannot_work(backbone: Get, tmp_path: Path) -> None:
    """Said before anything runs."""
    with pytest.raises(InputError, match="both 0; nothing to train"):
        TeacherConfig(mntp_steps=0, simcse_steps=0)
    with pytest.raises(InputError, match="the other texts are the negatives"):
        TeacherConfig(simcse_batch_size=1)
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


# -- the folder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_opens_everywhere(backbone: Get, teachers: Callable[[str], Path], family: str) -> None:
    """As a teacher over shared weights, as one of its own, and in the plain library: the same vectors."""
    folder = teachers(family)
    shared = load_teacher(str(folder), backbone(family), "cpu")
    own = load_teacher(str(folder), device="cpu", config=TeachConfig(batch_size=2))
    assert isinstance(shared, LLM2VecTeacher) and isinstance(own, LLM2VecTeacher)
    assert shared.reader.backbone is backbone(family) is not own.reader.backbone
    vectors = shared.embed(HARD)
    assert not np.allclose(vectors, LLM2VecTeacher(Bidirectional(backbone(family)), "untrained").embed(HARD), atol=1e-2)
    np.testing.assert_allclose(own.embed(HARD), vectors, atol=1e-5)
    plain = SentenceTransformerTeacher(str(folder), "cpu")
    np.testing.assert_allclose(plain.embed(HARD), vectors, atol=1e-5)
    np.testing.assert_allclose(np.stack([shared.embed([text])[0] for text in HARD]), vectors, atol=1e-5)
    assert (own.dim, own.pooling, own.max_tokens) == (
        32,
        "mean",
        plain.max_tokens - len(own.reader.backbone.leading_ids),
    )
    assert own.revision == shared.revision and len(str(own.revision)) == 16


def test_half_the_backbone(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """A bfloat16 backbone is trained with float32 weights on top; merging rounds them, and so does use beside it."""
    base = Backbone.load(str(folder("qwen3")), device="cpu", dtype="bfloat16")
    teacher = made(base, tmp_path / "t")
    assert {weight.dtype for weight in teacher.reader.trained().values()} == {torch.float32}
    assert teacher.reader.backbone.dtype == torch.bfloat16
    own, shared = load_teacher(str(tmp_path / "t"), device="cpu"), load_teacher(str(tmp_path / "t"), base)
    assert own.revision == teacher.revision == shared.revision
    one = teacher.embed(SENTENCES)
    for other in (own.embed(SENTENCES), shared.embed(SENTENCES)):
        assert (np.linalg.norm(one - other, axis=1) < 0.05 * np.linalg.norm(one, axis=1)).all()
    assert isinstance(shared, LLM2VecTeacher) and shared.reader.backbone is base
    assert {weight.dtype for weight in shared.reader.trained().values()} == {torch.bfloat16}


@pytest.mark.parametrize("adapters", [1, 2])
def test_short_products_are_those_of_peft(backbone: Get, adapters: int) -> None:
    """For use beside the backbone; several adapters on each other, and scaled."""
    reader = Bidirectional(backbone("qwen3"))
    for seed in range(adapters):
        reader.new_adapter(3 + seed, seed)
        randomise(reader)
    rows = [[5, 6, 7], [9, 10, 11, 12, 13, 14]]
    with torch.no_grad():
        expected = reader.mean(rows)
        reader.narrow()
        found = reader.mean(rows)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    layers = [module for module in reader.model.modules() if isinstance(module, LoraLayer)]
    assert layers and all("forward" in vars(layer) for layer in layers)


def test_the_folder_says_what_made_it(teachers: Callable[[str], Path]) -> None:
    """The card, and no pickle."""
    folder = teachers("llama")
    card = (folder / "README.md").read_text()
    assert "A teacher made of llama" in card and "| training: mntp_steps | 2 |" in card
    assert 'SentenceTransformer("PATH")' in card
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kinds == {".json", ".jsonl", ".safetensors", ".md"}


def test_another_backbone_is_refused(
    folder: Callable[[str], Path], teachers: Callable[[str], Path], tmp_path: Path
) -> None:
    """Under the right name, by its numbers; of another shape, by its adapter."""
    copy = tmp_path / "t"
    shutil.copytree(teachers("qwen3"), copy)
    about = json.loads((copy / "teacher.json").read_text())
    about["backbone"]["name"] = str(folder("qwen2"))
    (copy / "teacher.json").write_text(json.dumps(about))
    with pytest.raises(BackboneError, match="not the model this"):
        load_teacher(str(copy), device="cpu")
    with pytest.raises(InputError, match="does not fit"):
        Bidirectional(Backbone.load(str(folder("gpt_neox")), device="cpu")).load_adapter(copy / "training/step-000004")


def test_a_newer_format_is_refused(teachers: Callable[[str], Path], tmp_path: Path) -> None:
    """With what repairs it."""
    shutil.copytree(teachers("qwen3"), tmp_path / "t")
    path = tmp_path / "t" / "teacher.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(InputError, match="pip install -U foresay"):
        load_teacher(str(tmp_path / "t"), device="cpu")


# -- published models ------------------------------------------------------------------------------------


@pytest.fixture
def published(folder: Callable[[str], Path], tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A published pair of folders: `X-mntp`, and `X-mntp-unsup-simcse`, whose adapter names the backbone too."""

    def make(family: str, base: Path | None = None) -> Path:
        base = base or folder(family)
        for seed, name in enumerate(("X-mntp", "X-mntp-unsup-simcse")):
            inner = Backbone.load(str(base), device="cpu").decoder
            torch.manual_seed(seed)
            config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.05, target_modules="all-linear")
            config.init_lora_weights = False  # random: a new adapter would change nothing
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # peft asks the library for an old name
                model = get_peft_model(inner, config)
            model.peft_config["default"].base_model_name_or_path = str(base)
            model.save_pretrained(str(tmp_path / name))
            (tmp_path / name / "llm2vec_config.json").write_text('{"pooling_mode": "mean", "max_length": 512}')
        return tmp_path / "X-mntp-unsup-simcse"

    yield make


def by_hand(base: Backbone, adapters: list[Path], text: str, before: str = "", behind: str = "") -> Tensor:
    """The vector of a text: both adapters multiplied out and added into the weights, full attention, the mean.

    What comes before the text is left out of the mean, what comes after it is not.
    """
    for adapter in adapters:
        tensors = load_file(adapter / "adapter_model.safetensors")
        for name in (name for name in tensors if "lora_A" in name):
            place = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            weight = base.decoder.get_parameter(f"{place}.weight")
            weight.data += 2.0 * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]  # alpha 8, rank 4
    start, own, end = (base.tokenizer(part, add_special_tokens=False).input_ids for part in (before, text, behind))
    lead = [*base.leading_ids, *start]
    return full_attention(base.decoder, [*lead, *own, *end])[len(lead) :].mean(dim=0)


def test_a_published_model_embeds_documents(
    published: Callable[..., Path], backbone: Get, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two adapters go into a bundle, multiplied out; by name they do not, which is told."""
    base = backbone("qwen3")
    teacher = load_teacher(str(published("qwen3")), base)
    model = Model(base, thought=0, compression=2, dim=32, readout="tokens")
    encoder = Encoder(model).with_document_teacher(teacher)
    save_and_export(tmp_path / "b", encoder, whole=True)
    plain = SentenceTransformer(str(tmp_path / "b"), device="cpu")
    np.testing.assert_allclose(plain.encode_document(SENTENCES), teacher.embed(SENTENCES), atol=1e-5)
    np.testing.assert_allclose(plain.encode_query(SENTENCES), encoder.encode_query(SENTENCES), atol=1e-5)
    assert "queries alone" not in caplog.text
    save_and_export(tmp_path / "c", encoder)
    assert "embeds queries alone" in caplog.text
    assert verify(tmp_path / "c", device="cpu")


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama", "mistral"])
def test_published_models(published: Callable[..., Path], backbone: Get, family: str) -> None:
    """The first adapter below the second, then the mean: as computed by hand; alone, the first is a teacher too."""
    simcse = published(family)
    mntp = simcse.with_name("X-mntp")
    teacher = load_teacher(str(simcse), device="cpu")
    shared = load_teacher(str(simcse), backbone(family))
    assert isinstance(teacher, LLM2VecTeacher) and isinstance(shared, LLM2VecTeacher)
    text = SENTENCES[0]
    expected = by_hand(Backbone.load(backbone(family).name, device="cpu"), [mntp, simcse], text).numpy()
    np.testing.assert_allclose(teacher.embed([text])[0], expected, atol=1e-4)
    np.testing.assert_allclose(shared.embed(SENTENCES)[0], expected, atol=1e-4)
    expected = by_hand(Backbone.load(backbone(family).name, device="cpu"), [mntp], text).numpy()
    first = load_teacher(str(mntp), device="cpu")
    np.testing.assert_allclose(first.embed([text])[0], expected, atol=1e-4)
    assert first.revision != teacher.revision == shared.revision


@pytest.mark.parametrize(
    ("family", "name", "frame"),
    [
        ("llama", "Meta-Llama-3-8B-Instruct", ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>")),
        ("smollm", "Llama-2-7b-chat-hf", ("[INST]", "[/INST]")),
    ],
)
def test_published_models_of_chat_models(
    published: Callable[..., Path],
    folder: Callable[[str], Path],
    tmp_path: Path,
    family: str,
    name: str,
    frame: tuple[str, str],
) -> None:
    """The authors' encoder puts the template of three backbones, known by name, around each text."""
    base = shutil.copytree(folder(family), tmp_path / name)
    simcse = published(family, base)
    teacher = load_teacher(str(simcse), device="cpu", config=TeachConfig(max_tokens=512))
    assert isinstance(teacher, LLM2VecTeacher)
    chain = [simcse.with_name("X-mntp"), simcse]
    expected = by_hand(Backbone.load(str(base), device="cpu"), chain, SENTENCES[1], *frame).numpy()
    np.testing.assert_allclose(teacher.embed(SENTENCES)[1], expected, atol=1e-4)
    assert np.isfinite(teacher.embed(["word " * 600])).all() and teacher.max_tokens < 512  # of 512 positions


def test_an_adapter_may_name_the_one_below(published: Callable[..., Path], tmp_path: Path) -> None:
    """A chain by `base_model_name_or_path`, whatever the folders are called."""
    simcse = published("qwen3")
    expected = load_teacher(str(simcse), device="cpu").embed(SENTENCES)
    simcse.rename(tmp_path / "mine")
    path = tmp_path / "mine" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(tmp_path / "X-mntp")}))
    np.testing.assert_array_equal(load_teacher(str(tmp_path / "mine"), device="cpu").embed(SENTENCES), expected)


def test_published_models_that_are_not_whole(published: Callable[..., Path], tmp_path: Path) -> None:
    """Each is told in a line; a pickle is never opened."""
    simcse = published("qwen3")
    mntp = simcse.with_name("X-mntp")
    config = json.loads((mntp / "adapter_config.json").read_text())
    (mntp / "adapter_model.safetensors").rename(mntp / "adapter_model.bin")
    with pytest.raises(InputError, match=r"not a PEFT adapter: .*expected adapter_config.json and adapter_model.safe"):
        load_teacher(str(mntp), device="cpu")
    (mntp / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(InputError, match="names no base_model_name_or_path"):
        load_teacher(str(mntp), device="cpu")
    ia3 = {
        "peft_type": "IA3",
        "base_model_name_or_path": config["base_model_name_or_path"],
        "target_modules": ["q_proj"],
    }
    shutil.copy(simcse / "adapter_model.safetensors", mntp)
    (mntp / "adapter_config.json").write_text(json.dumps(ia3 | {"feedforward_modules": []}))
    with pytest.raises(InputError, match="kind .*IA3; expected LORA"):
        load_teacher(str(mntp), device="cpu")
    shutil.rmtree(mntp)
    with pytest.raises(InputError, match="builds on the adapter .*X-mntp, which is not there"):
        load_teacher(str(simcse), device="cpu")


# -- the packaged one ------------------------------------------------------------------------------------


def test_the_nano_teacher() -> None:
    """Small, of the packaged backbone, with no path of a machine in it, and nearer in meaning than in words."""
    files = [path for path in FOLDERS[NANO_TEACHER].rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4 << 20
    assert not any(b"/work" in path.read_bytes() or b"/home" in path.read_bytes() for path in files)
    teacher = load_teacher(NANO_TEACHER, device="cpu")
    assert isinstance(teacher, LLM2VecTeacher) and teacher.name == "nano-teacher" and teacher.dim == 256
    texts = ["Measles is a disease with fever and a rash.", "A child with spots and a high temperature is ill."]
    vectors = teacher.embed([*texts, "The capital of Chad is N'Djamena."])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.05
