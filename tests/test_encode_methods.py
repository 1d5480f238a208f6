"""The keywords of encode, its reports, token ids, documents by a teacher, and threads."""

import inspect
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from foresay.backbone import Backbone
from foresay.config import TeachConfig
from foresay.embedded import Ask
from foresay.encoder import Array, Encoder
from foresay.errors import InputError
from foresay.model import Model
from foresay.teachers.pooled import SelfTeacher

from .conftest import SENTENCES

Get = Callable[[str], Backbone]
METHODS = ("encode", "encode_query", "encode_document")


@pytest.fixture
def encoder(backbone: Get) -> Encoder:
    """A small untrained encoder, as wide as its backbone."""
    model = Model(backbone("llama"), thought=1, compression=3, dim=32, readout="tokens")
    return Encoder(model, prompts={"query": "Answer this: ", "document": "Sum up: "}, max_tokens=40)


@pytest.fixture
def taught(encoder: Encoder) -> Encoder:
    """The same, its documents embedded by the backbone itself."""
    return encoder.with_document_teacher(SelfTeacher(encoder.model.backbone, TeachConfig(max_tokens=12)))


@pytest.mark.parametrize("method", METHODS)
def test_every_keyword_of_the_library_is_known(method: str) -> None:
    """Those of its public signature, but for the pool of processes; a keyword nobody knows is a TypeError."""
    library = set(inspect.signature(getattr(SentenceTransformer, method)).parameters)
    ours = inspect.signature(getattr(Encoder, method)).parameters
    assert library - set(ours) <= {
        "self",
        "sentences",
        "inputs",
        "pool",
        "chunk_size",
        "kwargs",
        "task",
        "processing_kwargs",
    }
    assert not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in ours.values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("convert_to_tensor", True, "torch.from_numpy"),
        ("convert_to_numpy", False, "torch.from_numpy"),
        ("output_value", "token_embeddings", "soft_prompts"),
        ("precision", "int8", "quantize_embeddings"),
        ("device", "cuda", "the backbone is on cpu"),
        ("batch_size", 0, "1 or more"),
        ("batch_tokens", -1, "1 or more"),
        ("on_cut", "loud", "expected 'warn'"),
        ("truncate_dim", 5, "can have the lengths 32, not 5"),
    ],
)
@pytest.mark.parametrize("side", ["encoder", "taught"])
def test_what_cannot_be_honoured_is_refused_by_name(
    method: str, keyword: str, value: object, message: str, side: str, request: pytest.FixtureRequest
) -> None:
    """On both sides, whoever embeds."""
    chosen: Encoder = request.getfixturevalue(side)
    with pytest.raises(InputError, match=message) as caught:
        getattr(chosen, method)("x", **{keyword: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_harmless_keywords_change_nothing(encoder: Encoder, taught: Encoder, method: str) -> None:
    """The library's defaults, written out; and batches of any size."""
    for chosen in (encoder, taught):
        plain = getattr(chosen, method)(SENTENCES)
        given = getattr(chosen, method)(
            SENTENCES, precision="float32", output_value="sentence_embedding", device="cpu", convert_to_numpy=True
        )
        np.testing.assert_array_equal(given, plain)
        for batches in ({"batch_size": 1}, {"batch_size": 4}, {"batch_tokens": 30}):
            np.testing.assert_allclose(getattr(chosen, method)(SENTENCES, **batches), plain, atol=1e-5)


def test_batch_size_is_the_most_rows_of_a_pass(
    encoder: Encoder, taught: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the checkpoint's passes, and of what the teacher gets."""
    seen: list[int] = []
    hidden = encoder.model.hidden

    def counted(rows: list[list[int]], *more: object) -> torch.Tensor:
        seen.append(len(rows))
        return hidden(rows, *more)

    monkeypatch.setattr(encoder.model, "hidden", counted)
    encoder.encode(SENTENCES, batch_size=2)
    assert max(seen) == 2 and sum(seen) == len(SENTENCES)
    teacher, asked = taught.load_document_teacher(), []
    embed = teacher.embed

    def embedded(texts: list[str]) -> Array:
        asked.append(len(texts))
        return embed(texts)

    monkeypatch.setattr(teacher, "embed", embedded)
    taught.encode_document(SENTENCES, batch_size=4)
    assert asked == [4, 2]


def test_a_dictionary_is_refused(encoder: Encoder) -> None:
    """Its keys would be embedded."""
    calls: list[Callable[[object], object]] = [
        getattr(encoder, name) for name in (*METHODS, "embed", "soft_prompts", "tokenize")
    ]
    for call in calls:
        with pytest.raises(InputError, match="list\\(texts.values\\(\\)\\)"):
            call({"a": "fox"})


def test_token_ids_are_embedded_as_their_texts(encoder: Encoder) -> None:
    """Prompt included; cut as texts are; ids that no text has are refused."""
    ids = encoder.tokenize(SENTENCES, prompt_name="query")
    made = encoder.embed_ids(ids)
    np.testing.assert_array_equal(made.vectors, encoder.encode_query(SENTENCES))
    assert made.tokens == encoder.embed(SENTENCES, prompt_name="query").tokens
    long = encoder.embed_ids([[7] * 99, [7]], ask=Ask(on_cut="ignore"))
    assert (long.cut, long.tokens[0]) == ([0], 40)
    for wrong in (-1, 1 << 20, True, 1.5):
        with pytest.raises(InputError, match="row 1 holds the token id"):
            encoder.embed_ids([[1], [1, wrong]])  # type: ignore[list-item]


def test_documents_that_the_teacher_cuts(taught: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    """Counted, warned of, or refused, like those of the checkpoint; an empty one is no NaN."""
    documents = ["", "x", "word " * 90]
    with caplog.at_level(logging.WARNING):
        made = taught.embed(documents, prompt_name="document")
    assert made.cut == [2] and made.tokens[2] == 12
    assert "1 of 3 texts are longer than 12 tokens" in caplog.text
    assert np.isfinite(made.vectors).all() and not made.vectors[0].any()
    with pytest.raises(InputError, match="first number 2"):
        taught.encode_document(documents, on_cut="error")
    caplog.clear()
    taught.encode_document(documents, on_cut="ignore")
    assert not caplog.text


def test_the_name_of_the_document_prompt_embeds_documents(taught: Encoder) -> None:
    """Not the checkpoint's side with a document's prompt; and a prompt that the teacher would not read is refused."""
    np.testing.assert_array_equal(taught.encode(SENTENCES, prompt_name="document"), taught.encode_document(SENTENCES))
    assert np.abs(taught.encode_document("x") - taught.encode("x")).max() > 1e-3
    with pytest.raises(InputError, match="bare texts"):
        taught.encode_document("x", prompt="Sum up: ")
    with pytest.raises(InputError, match="prompt_name='query' is for queries; documents are embedded by .*bare texts"):
        taught.encode_document("x", prompt_name="query")
    with pytest.raises(InputError, match="prompt_name='document' is for documents, which encode_document embeds"):
        taught.encode_query("x", prompt_name="document")


def test_what_is_no_text_is_shown_in_one_line(taught: Encoder) -> None:
    """An embedding in the place of a text would fill the screen with numbers."""
    with pytest.raises(InputError) as said:
        taught.decode(np.zeros((2, 256)))  # type: ignore[arg-type]  # as a user without types would
    assert str(said.value).startswith("text 0 is array([0.") and len(str(said.value)) < 120


def test_what_it_says_of_itself(encoder: Encoder, taught: Encoder) -> None:
    """repr in one line, and the properties that the library has."""
    assert "dim=32" in repr(encoder) and "\n" not in repr(taught) and "self:" in repr(taught)
    assert encoder.device == torch.device("cpu")
    assert encoder.max_seq_length == 40
    assert encoder.tokenizer is encoder.model.backbone.tokenizer
    left, right = encoder.encode(SENTENCES[:3]), encoder.encode(SENTENCES[1:4])
    np.testing.assert_allclose(
        encoder.similarity_pairwise(left, right), np.diag(encoder.similarity(left, right)), atol=1e-6
    )
    with pytest.raises(InputError, match="as many on both sides"):
        encoder.similarity_pairwise(left, right[:2])


def test_threads_share_an_encoder(taught: Encoder) -> None:
    """Each call gets its own vectors and its own report."""
    texts = [[f"{sentence} {i}" + " word" * (30 * (i % 2)) for sentence in SENTENCES] for i in range(8)]
    alone = [
        taught.embed(part, prompt_name=name, ask=Ask(on_cut="ignore"))
        for part, name in zip(texts, _sides(), strict=True)
    ]
    with ThreadPoolExecutor(8) as pool:
        futures = [
            pool.submit(taught.embed, part, prompt_name=name, ask=Ask(on_cut="ignore"))
            for part, name in zip(texts, _sides(), strict=True)
        ]
        together = [future.result() for future in futures]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-6)
        assert (one.cut, one.tokens) == (other.cut, other.tokens)


def _sides() -> list[str]:
    return ["query", "document", "query", "query", "document", "document", "query", "document"]


def test_two_checkpoints_on_one_backbone(backbone: Get) -> None:
    """Neither disturbs the other."""
    base = backbone("qwen3")
    models = [Model(base, thought=0, compression=2, dim=8, seed=seed) for seed in (1, 2)]
    first, second = (Encoder(model) for model in models)
    before = first.encode(SENTENCES)
    second.encode(SENTENCES)
    np.testing.assert_array_equal(first.encode(SENTENCES), before)
    assert np.abs(second.encode(SENTENCES) - before).max() > 1e-3


def test_the_query_s_own_part(taught: Encoder, encoder: Encoder) -> None:
    """The weighted sum of two vectors of length 1: the checkpoint's with its prompt, the teacher's of the bare text."""
    own, theirs = taught.encode_query(SENTENCES), taught.load_document_teacher().embed(SENTENCES)
    own, theirs = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (own, theirs))
    for weight in (0.25, 1.0):
        mixed = taught.with_query_weight(weight)
        np.testing.assert_allclose(mixed.encode_query(SENTENCES), (1 - weight) * own + weight * theirs, atol=1e-5)
        np.testing.assert_array_equal(mixed.encode_document(SENTENCES), taught.encode_document(SENTENCES))
    single = mixed.encode_query("x", normalize_embeddings=True)
    assert single.shape == (32,) and np.linalg.norm(single) == pytest.approx(1)
    np.testing.assert_array_equal(taught.with_query_weight(0).encode(SENTENCES), taught.encode(SENTENCES))
    assert taught.query_weight == 0 and mixed.load_document_teacher() is taught.load_document_teacher()
    with pytest.raises(InputError, match="weight of the query's own part is 1.5"):
        taught.with_query_weight(1.5)
    with pytest.raises(InputError, match="embeds documents itself"):
        encoder.with_query_weight(0.5)
    with pytest.raises(InputError, match="token ids were given"):
        mixed.embed_ids([[5, 6]])
    with pytest.raises(InputError, match=r"so one is needed; take with_query_weight\(0\)"):
        mixed.with_document_teacher(None)


def test_a_text_that_either_cuts_is_cut(taught: Encoder) -> None:
    """The checkpoint has room for 40 tokens, template and prompt included, the teacher for 12."""
    texts = ["short", "of " * 15, "of " * 60]
    assert taught.with_query_weight(0.5).embed(texts, ask=Ask(on_cut="ignore")).cut == [1, 2]
    assert taught.embed(texts, ask=Ask(on_cut="ignore")).cut == [2]
    with pytest.raises(InputError, match="2 of 3 texts are longer than 12 tokens"):
        taught.with_query_weight(0.5).embed(texts[:2] + ["of " * 16], ask=Ask(on_cut="error"))
