"""A causal model that reads in both directions: what its states see, and the check that they do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from foresay.backbone import Backbone
from foresay.errors import BackboneError
from foresay.teachers import bidirectional
from foresay.teachers.base import Teacher
from foresay.teachers.bidirectional import Bidirectional
from foresay.teachers.llm2vec import LLM2VecTeacher
from foresay.teachers.pooled import SelfTeacher

from .conftest import FAMILIES, make_folder
from .llm2vec_made import Get, full_attention, randomise


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
