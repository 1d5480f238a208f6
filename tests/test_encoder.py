"""The encoder: what it accepts and refuses, batches, prompts, decoding."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch

from foresay.backbone import Backbone
from foresay.config import DecodeConfig
from foresay.embedded import Ask
from foresay.encoder import Encoder
from foresay.errors import BackboneError, ForesayError, InputError
from foresay.model import Model

from .conftest import FAMILIES, SENTENCES

Get = Callable[[str], Backbone]
family = pytest.mark.parametrize("family", FAMILIES)


def make(backbone: Backbone, **options: object) -> Encoder:
    """A small untrained encoder with prompts."""
    model = Model(backbone, thought=1, compression=3, dim=8, **options)  # type: ignore[arg-type]
    return Encoder(model, prompts={"query": "Answer this question please: ", "document": "Summarize: "}, max_tokens=96)


@family
def test_alone_equals_batch_through_the_prompt_cache(backbone: Get, family: str) -> None:
    """Invariant 1, through `encode_query`, whose prompt runs once for the batch but not for a single text."""
    encoder = make(backbone(family))
    together = encoder.encode_query([*SENTENCES, ""], batch_tokens=100)
    alone = np.stack([encoder.encode_query(text) for text in [*SENTENCES, ""]])
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=1e-5)
    assert together.dtype == np.float32
    assert together.shape == (7, 8)


def test_vectors_that_are_not_finite(backbone: Get) -> None:
    """A model that overflows its dtype says nothing of it; the encoder does, and names the first text."""
    encoder = make(backbone("qwen3"))
    encoder.model.special_tokens.data[0] = torch.inf
    for run in (encoder.encode, encoder.encode_query, encoder.encode_document):
        with pytest.raises(BackboneError, match="vectors of 2 of 2 texts are not finite, first 'a fox': float16"):
            run(["a fox", "a crow"])
    with pytest.raises(BackboneError, match="first number 0"):
        encoder.embed_ids([[5, 6]])


def test_prompts(backbone: Get) -> None:
    """Queries and documents get their own; a prompt of one's own replaces both."""
    encoder = make(backbone("qwen3"))
    query, document = encoder.encode_query("a fox"), encoder.encode_document("a fox")
    np.testing.assert_array_equal(query, encoder.encode("Answer this question please: a fox"))
    np.testing.assert_array_equal(document, encoder.encode("a fox", prompt="Summarize: "))
    assert np.abs(query - document).max() > 1e-3
    with pytest.raises(InputError, match="no prompt named 'passage'"):
        encoder.encode("a fox", prompt_name="passage")
    with pytest.raises(InputError, match="not both"):
        encoder.encode("a fox", prompt="p", prompt_name="query")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (None, "found NoneType"),
        (3.5, "found float"),
        (["a", None], "text 1 is None"),
        ([1], "text 0 is 1"),
        (["fine", "torn \ud83d"], "text 1 holds a lone surrogate at position 5"),
        (b"bytes", "text 0 is 98"),
    ],
)
def test_bad_texts(backbone: Get, texts: object, message: str) -> None:
    """Each is our own error, names the place, and is a ValueError too."""
    for call in (make(backbone("qwen3")).encode, make(backbone("qwen3")).soft_prompts):
        with pytest.raises(InputError, match=message) as caught:
            call(texts)  # type: ignore[arg-type]
        assert isinstance(caught.value, ForesayError)
        assert "\n" not in str(caught.value)


def test_empty_list_and_empty_text(backbone: Get) -> None:
    """No texts give no rows; an empty text is a text."""
    encoder = make(backbone("qwen3"))
    assert encoder.encode([]).shape == (0, 8)
    assert encoder.soft_prompts([]).shape == (0, 3, 32)
    assert encoder.decode([]) == []
    assert np.isfinite(encoder.encode("")).all()


def test_cut_texts_are_counted_or_refused(backbone: Get, caplog: pytest.LogCaptureFixture) -> None:
    """Invariant 2: 50,000 words keep their special tokens; the cut is told."""
    encoder = make(backbone("qwen3"))
    with caplog.at_level(logging.WARNING):
        made = encoder.embed(["short", "word " * 50_000])
    assert np.isfinite(made.vectors).all()
    assert (made.cut, made.tokens[1]) == ([1], 96)
    assert made.tokens[0] == len(encoder.model.rows(["short"], 96)[0][0]) + encoder.model.tokens
    assert "1 of 2 texts are longer than 96 tokens" in caplog.text
    with pytest.raises(InputError, match="first number 1"):
        encoder.encode(["short", "word " * 200], on_cut="error")


def test_embedding_is_soft_prompt_through_the_map(backbone: Get) -> None:
    """The fused map and the two maps agree; the soft prompts are what decode takes."""
    encoder = make(backbone("qwen2"))
    prompts = encoder.soft_prompts(SENTENCES)
    with torch.no_grad():
        expected = encoder.model.align(torch.from_numpy(prompts)).mean(1).numpy()
    np.testing.assert_allclose(encoder.encode(SENTENCES), expected, atol=1e-5, rtol=1e-5)
    normal = encoder.encode(SENTENCES, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, rtol=1e-5)


@family
def test_decode_is_the_models_own_greedy_choice(backbone: Get, family: str) -> None:
    """Batched decode equals a plain loop without a cache, a text at a time."""
    base = backbone(family)
    encoder = make(base)
    expected = []
    for prompt in encoder.soft_prompts(SENTENCES[:3], prompt_name="query"):
        inputs, ids = torch.from_numpy(prompt)[None], []
        for _ in range(8):
            token = int(base.model(inputs_embeds=inputs).logits[0, -1].argmax())
            ids.append(token)
            if token in base.stop_ids:
                break
            inputs = torch.cat([inputs, base.embedding(torch.tensor([[token]]))], dim=1)
        expected.append(base.tokenizer.decode(ids, skip_special_tokens=True))
    assert encoder.decode(SENTENCES[:3], max_new_tokens=8) == expected
    assert encoder.decode(SENTENCES[:3], config=DecodeConfig(max_new_tokens=8, batch_size=2)) == expected
    assert "".join(encoder.decode_stream(SENTENCES[1], max_new_tokens=8)) == expected[1]
    prompts = encoder.soft_prompts(SENTENCES[1], prompt_name="query")
    assert encoder.decode(soft_prompts=prompts, max_new_tokens=8) == [expected[1]]


def test_decode_refuses_what_cannot_be_decoded(backbone: Get) -> None:
    """A pooled embedding is not a soft prompt."""
    encoder = make(backbone("qwen3"))
    with pytest.raises(InputError, match="cannot be decoded"):
        encoder.decode(soft_prompts=encoder.encode(SENTENCES))
    with pytest.raises(InputError, match="exactly one"):
        encoder.decode()


def test_similarity() -> None:
    """Cosine by eye."""
    left, right = np.array([[3.0, 0.0], [0.0, 0.0]], np.float32), np.array([0.0, 2.0], np.float32)
    assert Encoder.similarity(left, right).tolist() == [[0.0], [0.0]]
    assert Encoder.similarity(left[0], left[0]).tolist() == [[1.0]]
    with pytest.raises(InputError, match="widths 2 and 3; expected vectors of one space"):
        Encoder.similarity(left, np.ones((1, 3), np.float32))
    trained = torch.tensor([[0.0, 2.0]], dtype=torch.bfloat16, requires_grad=True)
    assert Encoder.similarity(trained, right).tolist() == [[1.0]]  # type: ignore[arg-type]
    assert Encoder.similarity_pairwise(trained, right).tolist() == [1.0]  # type: ignore[arg-type]
    with pytest.raises(InputError, match="embeddings of list are no table of numbers; encode texts first"):
        Encoder.similarity(["a text"], left)  # type: ignore[arg-type]
    assert Ask(batch_size=np.int64(2)).batch_size == 2  # type: ignore[arg-type]
