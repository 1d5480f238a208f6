"""Decoding soft prompts: sampling, stop strings, log-probabilities, questions, streams that end when told to."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from foresay.backbone import Backbone
from foresay.config import DecodeConfig
from foresay.encoder import Encoder
from foresay.errors import InputError
from foresay.model import Model
from foresay.reconstruction import generate

from .conftest import FAMILIES, SENTENCES

Get = Callable[[str], Backbone]
family = pytest.mark.parametrize("family", FAMILIES)


def make(backbone: Backbone, template: str = "none") -> Encoder:
    """A small untrained encoder."""
    return Encoder(Model(backbone, thought=0, compression=3, dim=8, template=template))


def own_log_probs(encoder: Encoder, prompt: np.ndarray, ids: list[int]) -> list[float]:
    """What the backbone itself gives each token, in one teacher-forced pass without a cache."""
    base = encoder.model.backbone
    inputs = torch.cat([torch.from_numpy(prompt), base.embedding(torch.tensor(ids, dtype=torch.long))])[None]
    with torch.no_grad():
        scores = base.model(inputs_embeds=inputs).logits[0].log_softmax(dim=-1)
    first = inputs.shape[1] - len(ids) - 1
    return [float(scores[first + n, i]) for n, i in enumerate(ids)]


def ids_of(encoder: Encoder, prompts: np.ndarray, config: DecodeConfig) -> list[list[int]]:
    """Token ids that the library writes greedily, up to and with the stop token."""
    base, rows = encoder.model.backbone, []
    for row in generate(base, torch.from_numpy(prompts), config.max_new_tokens).tolist():
        end = next((at + 1 for at, i in enumerate(row) if i in base.stop_ids), len(row))
        rows.append(row[:end])
    return rows


@family
def test_log_probabilities_are_the_backbones_own(backbone: Get, family: str) -> None:
    """Against a pass without a cache, in a batch whose rows end at different places."""
    encoder = make(backbone(family))
    prompts, config = encoder.soft_prompts(SENTENCES), DecodeConfig(max_new_tokens=12)
    decoded = encoder.decode_tokens(soft_prompts=prompts, config=config)
    assert [one.text for one in decoded] == encoder.decode(soft_prompts=prompts, config=config)
    for one, prompt, ids in zip(decoded, prompts, ids_of(encoder, prompts, config), strict=True):
        expected = own_log_probs(encoder, prompt, ids)
        np.testing.assert_allclose([token.log_prob for token in one.tokens], expected, atol=1e-4)
        assert one.log_prob == pytest.approx(sum(expected), abs=1e-3)
        assert one.finish == ("stop" if ids[-1] in encoder.model.backbone.stop_ids else "length")


def test_log_probabilities_ignore_the_temperature(backbone: Get) -> None:
    """They are the backbone's own even where tokens are drawn from a sharpened distribution."""
    encoder = make(backbone("qwen3"))
    prompts = encoder.soft_prompts(SENTENCES[:3])
    config = DecodeConfig(max_new_tokens=6, temperature=1e-4)  # so low that it is greedy
    greedy = encoder.decode_tokens(soft_prompts=prompts, max_new_tokens=6)
    drawn = encoder.decode_tokens(soft_prompts=prompts, config=config)
    assert [one.text for one in drawn] == [one.text for one in greedy]
    assert drawn[0].log_prob == pytest.approx(greedy[0].log_prob, abs=1e-4)


def test_sampling_follows_the_distribution(backbone: Get) -> None:
    """The share of first tokens over many draws, against the backbone's own probabilities; and the nucleus."""
    encoder = make(backbone("qwen3"))
    base = encoder.model.backbone
    prompt = encoder.soft_prompts(SENTENCES[0])
    config = DecodeConfig(max_new_tokens=1, temperature=0.7, batch_size=1000)
    with torch.no_grad():
        chances = (base.model(inputs_embeds=torch.from_numpy(prompt)[None]).logits[0, -1] / 0.7).softmax(-1)
    many = np.repeat(prompt[None], 4000, axis=0)
    drawn = [one.tokens[0].log_prob for one in encoder.decode_tokens(soft_prompts=many, config=config)]
    likeliest = float((base.model(inputs_embeds=torch.from_numpy(prompt)[None]).logits[0, -1]).log_softmax(-1).max())
    share = np.mean(np.isclose(drawn, likeliest, atol=1e-5))
    assert share == pytest.approx(float(chances.max()), abs=4 * 0.5 / 4000**0.5)
    narrow = DecodeConfig(max_new_tokens=1, temperature=0.7, top_p=1e-6, batch_size=1000)
    assert set(encoder.decode(soft_prompts=many[:50], config=narrow)) == set(
        encoder.decode(soft_prompts=prompt, max_new_tokens=1)
    )


def test_samples_do_not_depend_on_the_batch_or_the_global_generator(backbone: Get) -> None:
    """The seed alone decides; another seed draws something else."""
    encoder = make(backbone("llama"))
    prompts = encoder.soft_prompts(SENTENCES)
    config = DecodeConfig(max_new_tokens=10, temperature=1.0)
    torch.manual_seed(1)
    together = encoder.decode(soft_prompts=prompts, config=config)
    torch.manual_seed(2)
    cut = DecodeConfig(max_new_tokens=10, temperature=1.0, batch_size=4)
    assert encoder.decode(soft_prompts=prompts, config=cut) == together
    other = DecodeConfig(max_new_tokens=10, temperature=1.0, seed=1)
    assert encoder.decode(soft_prompts=prompts, config=other) != together
    assert "".join(encoder.decode_stream(soft_prompts=prompts[0], config=config)) == together[0]


@family
def test_stop_strings_end_a_text_before_them(backbone: Get, family: str) -> None:
    """At every string of two characters that greedy text holds: the text before its first place, streamed too."""
    encoder = make(backbone(family))
    prompts = encoder.soft_prompts(SENTENCES)
    free = encoder.decode(soft_prompts=prompts, max_new_tokens=12)
    row = next(n for n, text in enumerate(free) if len(text) > 6)
    for stop in (free[row][2:4], free[row][4:7], "never written"):
        config = DecodeConfig(max_new_tokens=12, stop=(stop, "xyzzy"))
        expected = [text.split(stop)[0] for text in free]
        assert encoder.decode(soft_prompts=prompts, config=config) == expected
        assert "".join(encoder.decode_stream(soft_prompts=prompts[row], config=config)) == expected[row]
        (one,) = encoder.decode_tokens(soft_prompts=prompts[row], config=config)
        if stop in free[row]:
            assert one.finish == "stop"
            assert stop in "".join(token.text for token in one.tokens)


@pytest.mark.parametrize("template", ["none", "chat"])
@family
def test_a_question_is_asked_of_the_soft_prompt(backbone: Get, family: str, template: str) -> None:
    """Greedy text against the backbone's own choice, in a user's turn where there are any; control tokens are text."""
    encoder = make(backbone(family), template)
    base, ask = encoder.model.backbone, "In one word:<|im_end|>"
    prompt = encoder.soft_prompts(SENTENCES[1])
    (one,) = encoder.decode_tokens(soft_prompts=prompt, config=DecodeConfig(max_new_tokens=6, ask=ask))
    before, after = [], base.tokenize([ask])[0]
    if template == "chat":
        turn = base.tokenizer.apply_chat_template(
            [{"role": "user", "content": "MARK"}], tokenize=False, add_generation_prompt=True
        )
        before, behind = (base.control_ids(part) for part in turn.split("MARK"))
        after = [*base.tokenize(["\n" + ask])[0], *behind]
    around = [base.embedding(torch.tensor(part, dtype=torch.long)).detach() for part in (before, after)]
    context = torch.cat([around[0], torch.from_numpy(prompt), around[1]])
    inputs = context[None]
    ids: list[int] = []
    with torch.no_grad():
        while len(ids) < 6 and not set(ids) & set(base.stop_ids):
            ids.append(int(base.model(inputs_embeds=inputs).logits[0, -1].argmax()))
            inputs = torch.cat([inputs, base.embedding(torch.tensor([ids[-1:]]))], dim=1)
    assert one.text == base.tokenizer.decode(ids, skip_special_tokens=True)
    np.testing.assert_allclose(
        [t.log_prob for t in one.tokens], own_log_probs(encoder, context.numpy(), ids), atol=1e-4
    )


def test_a_closed_stream_stops_the_backbone(backbone: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread goes on writing behind the back of a reader who left; errors reach a reader who stayed."""
    encoder = make(backbone("smollm"))
    monkeypatch.setitem(vars(encoder.model.backbone), "stop_ids", [10**6])  # it never stops by itself
    before, started = threading.active_count(), time.perf_counter()
    stream = encoder.decode_stream(SENTENCES[0], max_new_tokens=100_000)
    assert next(stream) is not None
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert time.perf_counter() - started < 20

    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("foresay.reading.decode.generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(encoder.decode_stream(SENTENCES[0]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p[:, :2], r"have shape \(2, 2, 32\); expected \(batch, 3, 32\)"),
        (lambda p: p.mean(axis=1).mean(axis=1), "a pooled embedding cannot be decoded"),
        (lambda p: p.astype(np.int64), "are int64; expected float32 or float16"),
        (lambda p: np.where(np.arange(2)[:, None, None] == 1, np.nan, p), "soft prompt 1 holds NaN"),
        (lambda p: p / 0.0, "soft prompt 0 holds NaN or infinity; make it again"),
    ],
)
def test_soft_prompts_that_are_none(backbone: Get, spoil: Callable[[np.ndarray], np.ndarray], message: str) -> None:
    """Wrong shape, dtype, NaN: one line each, before the backbone runs."""
    encoder = make(backbone("qwen3"))
    prompts = encoder.soft_prompts(SENTENCES[:2])
    with np.errstate(all="ignore"), pytest.raises(InputError, match=message):
        encoder.decode(soft_prompts=spoil(prompts))
    np.testing.assert_array_equal(
        encoder.decode(soft_prompts=prompts.astype(np.float64), max_new_tokens=4),
        encoder.decode(soft_prompts=prompts, max_new_tokens=4),
    )
    with pytest.raises(InputError, match="expected one soft prompt to stream, found 2"):
        encoder.decode_stream(soft_prompts=prompts)


def test_options_that_cannot_be() -> None:
    """Refused by name."""
    for field, value in {"max_new_tokens": 0, "temperature": -1, "top_p": 0, "batch_size": 0, "stop": ("",)}.items():
        with pytest.raises(InputError, match=field):
            DecodeConfig(**{field: value})  # type: ignore[arg-type]
