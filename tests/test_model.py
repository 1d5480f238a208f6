"""The method: states, gradients and losses, over the families, against plain computations."""

import inspect
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import DynamicCache

from foresay.backbone import Backbone
from foresay.batching import SHORTEST_SHARED_PREFIX
from foresay.model import Model
from foresay.reconstruction import reconstruction_loss

from .conftest import FAMILIES, SENTENCES

Get = Callable[[str], Backbone]
family = pytest.mark.parametrize("family", FAMILIES)


def make(backbone: Backbone, **changes: object) -> Model:
    """A small model with thought and compression tokens."""
    return Model(backbone, **{"thought": 2, "compression": 3, "dim": 8, **changes})  # type: ignore[arg-type]


@family
@pytest.mark.parametrize("template", ["none", "chat"])
def test_alone_equals_padded_batch(backbone: Get, family: str, template: str) -> None:
    """Invariant 1, for the one-pass forward and for the split one."""
    model = make(backbone(family), template=template)
    rows, _ = model.rows([*SENTENCES, ""], 64)
    with torch.no_grad():
        together = model.hidden(rows)
        alone = torch.cat([model.hidden([row]) for row in rows])
        split = model.hidden_split(rows)
    assert torch.isfinite(together).all()
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together, split, atol=1e-5, rtol=1e-5)


@family
@pytest.mark.parametrize("readout", ["mean", "tokens", "layers"])
def test_split_gradient_equals_one_pass_gradient(backbone: Get, family: str, readout: str) -> None:
    """Invariant 5: the same loss differentiated both ways."""
    model = make(backbone(family), readout=readout)
    rows, _ = model.rows(SENTENCES, 64)
    gradients: list[torch.Tensor] = []
    for states in (model.hidden, model.hidden_split):
        loss = model.outputs(states(rows))[1].square().sum()
        gradients.extend(torch.autograd.grad(loss, [model.special_tokens]))
    scale = gradients[0].abs().max()
    assert scale > 0
    torch.testing.assert_close(gradients[0] / scale, gradients[1] / scale, atol=1e-5, rtol=1e-5)


@family
def test_shared_prefix_changes_nothing(backbone: Get, family: str) -> None:
    """A prompt's cache, computed once, gives the states of the whole rows."""
    model = make(backbone(family))
    prompt = "Measles begins with fever and "
    rows, _ = model.rows([prompt + text for text in SENTENCES], 96)
    shared = len(os.path.commonprefix(rows))
    assert shared > 4
    with torch.no_grad():
        whole = model.hidden(rows)
        prefix = model.prefill(rows[0][:shared])
        for _ in range(2):  # twice: the first use must leave the cache as it was
            torch.testing.assert_close(model.hidden([r[shared:] for r in rows], prefix), whole, atol=1e-5, rtol=1e-5)


@family
def test_the_template_of_small_batches_runs_once(backbone: Get, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What rows share is kept from batch to batch, by threads too, and gives the same states as if it were not."""
    base = backbone(family)
    model = make(base)
    made: list[Sequence[int]] = []
    prefill = model.prefill

    def count(ids: Sequence[int]) -> DynamicCache:
        made.append(ids)
        return prefill(ids)

    monkeypatch.setattr(model, "prefill", count)
    begin, other = base.tokenize(
        ["Measles begins with fever and a cough, and then", "Of all the planets, only the one"]
    )
    rows, _ = model.framed([begin + ids for ids in base.tokenize(SENTENCES)], 96)
    expected = torch.empty(len(rows), model.dim)
    model.run(rows, model.embed, [expected])
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: _run(model, rows[:2]), range(8)):
            torch.testing.assert_close(found, expected[:2], atol=1e-5, rtol=1e-5)
    assert len(made) == (1 if base.splits else 0)
    others, _ = model.framed([other + ids for ids in base.tokenize(SENTENCES)], 96)
    fresh = make(base)
    torch.testing.assert_close(_run(model, others), _run(fresh, others), atol=1e-5, rtol=1e-5)
    assert len(made) == (2 if base.splits else 0)


@family
def test_batches_that_share_little_beyond_the_template_share_its_cache(
    backbone: Get, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two questions that begin alike do not make a cache of their own."""
    base = backbone(family)
    model = make(base)
    a, b, c, d, *model.prefix_ids = list(dict.fromkeys(base.tokenize([" ".join(SENTENCES)])[0]))[:14]
    assert len(model.prefix_ids) >= SHORTEST_SHARED_PREFIX
    made: list[int] = []
    prefill = model.prefill

    def count(ids: Sequence[int]) -> DynamicCache:
        made.append(len(ids))
        return prefill(ids)

    monkeypatch.setattr(model, "prefill", count)
    for ids in ([[a, b], [c, d]], [[a, b, c], [a, b, d]], [[b], [c]]):
        _run(model, model.framed(ids, 96)[0])
    assert made == ([len(model.prefix_ids)] if base.splits else [])


@family
def test_states_depend_on_no_rows_that_came_before(backbone: Get, family: str) -> None:
    """What a run gives is what a fresh process gives, to the last bit: a resumed one writes the same shards."""
    base = backbone(family)
    begins = base.tokenize(["Of all", "Of all the planets, only"])
    batches = [
        make(base, template="chat").framed([begin + ids for ids in base.tokenize(SENTENCES)], 96)[0] for begin in begins
    ]
    used = make(base, template="chat")
    for batch in (*batches, *reversed(batches)):
        assert torch.equal(_run(used, batch), _run(make(base, template="chat"), batch))


def test_what_is_kept_does_not_outlive_a_step_of_the_adapter(backbone: Get) -> None:
    """With an adapter, what rows share depends on its weights."""
    model = make(backbone("qwen3"), lora_rank=2)
    rows, _ = model.rows(["Measles begins with fever and " + text for text in SENTENCES], 96)
    _run(model, rows)
    with torch.no_grad():
        for weight in model.adapter.weights.values():  # type: ignore[union-attr]
            weight.normal_()
        torch.testing.assert_close(_run(model, rows), model.embed(model.hidden(rows)), atol=1e-5, rtol=1e-5)


def _run(model: Model, rows: list[list[int]]) -> torch.Tensor:
    found = torch.empty(len(rows), model.dim)
    model.run(rows, model.embed, [found])
    return found


@family
def test_reconstruction_loss_is_the_models_own(backbone: Get, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunked loss and its gradient equal the library's logits and torch's cross-entropy."""
    monkeypatch.setattr("foresay.cross_entropy.LOGITS_AT_ONCE", 1000)  # a few tokens a chunk
    base = backbone(family)
    model = make(base)
    responses = [[*ids, base.end_id] for ids in base.tokenize(SENTENCES[:3])]
    prompt = torch.randn(3, 3, base.hidden_size, requires_grad=True)
    loss = reconstruction_loss(model.backbone, prompt, responses)
    (gradient,) = torch.autograd.grad(loss, prompt)

    expected = torch.zeros(())
    for soft, ids in zip(prompt, responses, strict=True):
        inputs = torch.cat([soft, base.embedding(torch.tensor(ids[:-1]))])[None]
        logits = base.model(inputs_embeds=inputs).logits[0, 2:]
        expected = expected + functional.cross_entropy(logits, torch.tensor(ids), reduction="sum")
    (expected_gradient,) = torch.autograd.grad(expected, prompt)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("readout", ["mean", "tokens", "layers"])
def test_fused_map_is_all_maps(backbone: Get, readout: str) -> None:
    """embedding = features(hidden) @ weight.T + bias, the standardisation of every layer's states included."""
    model = make(backbone("qwen3"), readout=readout)
    if readout == "layers":
        model.center.normal_()
        model.spread.uniform_(0.5, 20)
    hidden = torch.randn(4, 2, 3, 32) if readout == "layers" else torch.randn(4, 3, 32)
    weight, bias = model.fused_map()
    soft_prompt, embedding = model.outputs(hidden)
    torch.testing.assert_close(model.features(hidden) @ weight.T + bias, embedding, atol=1e-5, rtol=1e-5)
    assert soft_prompt.shape == (4, 3, 32)


@family
def test_every_layer_is_read_but_the_input(backbone: Get, family: str) -> None:
    """The layers' states as the library returns them, the last behind the final norm; the same either way."""
    base = backbone(family)
    model, last = make(base, readout="layers"), make(base)
    rows, _ = model.rows(SENTENCES, 64)
    with torch.no_grad():
        states, split = model.hidden(rows), model.hidden_split(rows)
        assert states.shape == (len(rows), 2, 3, 32)
        torch.testing.assert_close(states, split, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(states[:, -1], last.hidden(rows), atol=1e-5, rtol=1e-5)
        ids = torch.tensor([rows[0]])
        inputs = torch.cat([base.embedding(ids), model.special_tokens[None]], dim=1)
        # embed_scale: special tokens are rows of the matrix, before Gemma's scale
        inputs[:, ids.shape[1] :] *= base.embed_scale
        first = base.decoder(inputs_embeds=inputs, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(states[0, 0], first[0, -3:], atol=1e-5, rtol=1e-5)


def test_long_text_keeps_its_special_tokens(backbone: Get) -> None:
    """Invariant 2: the cut falls on the text, and is told."""
    model = make(backbone("qwen3"), template="chat")
    rows, cut = model.rows(["word " * 10_000, "short"], 64)
    assert cut == [True, False]
    assert len(rows[0]) == 64 - model.tokens
    assert rows[0][-len(model.suffix_ids) :] == model.suffix_ids
    assert model.hidden(rows).shape == (2, 3, 32)


@family
def test_text_is_never_a_control_token(backbone: Get, family: str) -> None:
    """Invariant 3: nor is `<think>`, which the template uses but the tokenizer does not call special."""
    base = backbone(family)
    (ids,) = base.tokenize(["a <|im_end|> b <think> <|endoftext|> <question1>"])
    control = {base.tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<think>", "<|endoftext|>")}
    assert not control & set(ids)
    assert base.tokenizer.decode(ids) == "a <|im_end|> b <think> <|endoftext|> <question1>"


def test_frames(backbone: Get) -> None:
    """The tokenizer's own BOS leads; the chat frame is the template's text, thinking switched off."""
    assert backbone("llama").frame("none") == ([0], [])
    assert backbone("qwen3").frame("none") == ([], [])
    before, behind = backbone("qwen3").frame("chat")
    decode = backbone("qwen3").tokenizer.decode
    assert decode(before) == "<|im_start|>user\n"
    assert decode(behind) == "<|im_end|>\n<|im_start|>assistant\n<think></think>"
    assert backbone("qwen3").end_id == 2


@pytest.mark.parametrize("keyword", ["past_key_values", "cache"])
def test_the_cache_goes_by_the_name_that_the_library_has_for_it(
    backbone: Callable[[str], Backbone], monkeypatch: pytest.MonkeyPatch, keyword: str
) -> None:
    """transformers 5.24 renames `past_key_values` to `cache`: a pass in two parts uses what the decoder takes."""
    base = backbone("qwen3")
    forward, heard = base.decoder.forward, []
    own = "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"
    assert base.cache_keyword == own  # whichever version runs this

    def renamed(**given: Any) -> Any:  # noqa: ANN401
        heard.append(given.get(keyword))
        return forward(**{own if name == keyword else name: value for name, value in given.items()})

    kinds = {name: inspect.Parameter.KEYWORD_ONLY for name in ("input_ids", "position_ids", keyword)}
    parameters = [inspect.Parameter(name, kind) for name, kind in kinds.items()]
    renamed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    monkeypatch.setattr(base.decoder, "forward", renamed)
    fresh = Backbone(base.model, base.tokenizer, base.name)
    assert fresh.cache_keyword == keyword and fresh.splits
    model = Model(fresh, thought=0, compression=2, dim=8)
    rows, _ = model.rows(SENTENCES, 60)
    heard.clear()
    torch.testing.assert_close(model.hidden_split(rows), model.hidden(rows), atol=1e-5, rtol=1e-5)
    assert any(cache is not None for cache in heard)
