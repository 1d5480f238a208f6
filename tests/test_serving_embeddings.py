"""Routes that embed and compare: the vectors are the Encoder's, whatever the spelling of the request."""

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from foresay.backbone import Backbone
from foresay.checkpoints.save import save
from foresay.config import LensConfig, TeachConfig
from foresay.encoder import Encoder
from foresay.reading.lens import lens
from foresay.teachers.pooled import SelfTeacher

from .conftest import SENTENCES
from .serving import DOCUMENT_PROMPT, Answer, Running, make_checkpoint, running

LONG = "What does frugal mean? " * 40


@pytest.fixture(scope="module")
def folders(backbone: Callable[[str], Backbone], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two checkpoints, one whose documents its teacher embeds, and the same with a query weight."""
    home, model = tmp_path_factory.mktemp("served"), backbone("qwen3")
    folders = {name: make_checkpoint(model, home / name, seed) for seed, name in enumerate(("one", "two"))}
    encoder = Encoder.from_pretrained(make_checkpoint(model, home / "draft", dim=model.hidden_size), backbone=model)
    taught = encoder.with_document_teacher(SelfTeacher(model, TeachConfig(max_tokens=30)))
    save(home / "taught", taught)
    save(home / "weighted", taught.with_query_weight(0.25))
    return {**folders, **{name: home / name for name in ("taught", "weighted")}}


@pytest.fixture(scope="module")
def server(backbone: Callable[[str], Backbone], folders: dict[str, Path]) -> Iterator[Running]:
    """A server of all."""
    with running(list(folders.values()), backbone("qwen3"), max_items=40) as found:
        yield found


@pytest.fixture(scope="module")
def encoder(backbone: Callable[[str], Backbone], folders: dict[str, Path]) -> Encoder:
    """The first checkpoint in process."""
    return Encoder.from_pretrained(folders["one"], backbone=backbone("qwen3"))


def vectors(answer: Answer) -> np.ndarray:
    """The embeddings of an answer."""
    assert answer.status == 200, answer.body
    data = answer.json["data"]
    assert [one["index"] for one in data] == list(range(len(data)))
    return np.array([one["embedding"] for one in data], np.float32)


def test_embeddings_are_the_encoders(server: Running, encoder: Encoder) -> None:
    """Strings, lists, numbers and base64."""
    wanted = encoder.encode_query(SENTENCES)
    numbers = server.post("/v1/embeddings", {"model": "one", "input": SENTENCES})
    np.testing.assert_allclose(vectors(numbers), wanted, atol=1e-5)
    raw = server.post("/v1/embeddings", {"model": "one", "input": SENTENCES, "encoding_format": "base64"}).json["data"]
    decoded = np.stack([np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in raw])
    np.testing.assert_array_equal(decoded, vectors(numbers))
    single = server.post("/v1/embeddings", {"input": SENTENCES[0], "user": "somebody"})
    np.testing.assert_allclose(vectors(single), wanted[:1], atol=1e-5)
    rows, _ = encoder.model.rows([SENTENCES[0]], 64)
    assert single.json["usage"] == {"prompt_tokens": len(rows[0]) + 4, "total_tokens": len(rows[0]) + 4}
    assert (single.json["model"], single.json["input_type"], single.json["cut"]) == ("one", "query", [])


@pytest.mark.parametrize("token_ids", [True, False])
def test_many_clients_at_a_time_get_their_own_vectors(server: Running, encoder: Encoder, token_ids: bool) -> None:
    """Requests are batched together, whoever sent them, and every answer goes to its own request."""
    texts = [f"{SENTENCES[i % 5]} {i}" * (1 + i % 4) for i in range(60)]
    wanted = encoder.encode_query(texts, on_cut="ignore")
    inputs = encoder.model.backbone.tokenize(texts) if token_ids else texts

    def ask(i: int) -> np.ndarray:
        return vectors(server.post("/v1/embeddings", {"input": inputs[i : i + 3]}))

    with ThreadPoolExecutor(20) as pool:
        for i, found in enumerate(pool.map(ask, range(58))):
            np.testing.assert_allclose(found, wanted[i : i + 3], atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "prompt"),
    [
        ({}, "query"),
        ({"input_type": "query"}, "query"),
        ({"input_type": "search_query"}, "query"),
        ({"input_type": "retrieval.query"}, "query"),
        ({"input_type": "document"}, "document"),
        ({"input_type": "search_document"}, "document"),
        ({"input_type": "passage"}, "document"),
        ({"input_type": "retrieval.passage"}, "document"),
        ({"prompt_name": "document"}, "document"),
        ({"prompt_name": "topic"}, "topic"),
        ({"model": "one:document"}, "document"),
        ({"model": "one:query", "input_type": "search_query"}, "query"),
    ],
)
def test_the_right_prompt_whatever_the_spelling(
    asked: dict[str, str], prompt: str, server: Running, encoder: Encoder
) -> None:
    """OpenAI's, Cohere's, Voyage's, NVIDIA's and Jina's words for the two sides."""
    answer = server.post("/v1/embeddings", {"input": SENTENCES, **asked})
    np.testing.assert_allclose(vectors(answer), encoder.encode(SENTENCES, prompt_name=prompt), atol=1e-5)
    assert answer.json["input_type"] == prompt


def test_token_ids_are_read_behind_the_prompt(server: Running, encoder: Encoder) -> None:
    """Ids of a text give the text's embedding; ids of another tokenizer are refused."""
    (ids,) = encoder.model.backbone.tokenize([SENTENCES[0]])
    answer = server.post("/v1/embeddings", {"input": ids, "input_type": "document"})
    (before,) = encoder.model.backbone.tokenize([DOCUMENT_PROMPT])
    row = [*encoder.model.prefix_ids, *before, *ids, *encoder.model.suffix_ids]
    wanted = encoder.model.embed(encoder.model.hidden([row])).detach().numpy()
    np.testing.assert_allclose(vectors(answer), wanted, atol=1e-5)
    refused = server.post("/v1/embeddings", {"input": [3, 100_000]})
    assert refused.status == 400 and "token ids" in refused.json["error"]["message"]


def test_shorter_and_scaled_vectors(server: Running, encoder: Encoder) -> None:
    """`dimensions` is what the checkpoint was made for, and nothing else."""
    body = {"input": SENTENCES, "dimensions": 4, "normalize": True}
    wanted = encoder.encode_query(SENTENCES, truncate_dim=4, normalize_embeddings=True)
    np.testing.assert_allclose(vectors(server.post("/v1/embeddings", body)), wanted, atol=1e-5)
    assert vectors(server.post("/v1/embeddings", {"input": "x", "dimensions": 12})).shape == (1, 12)
    refused = server.post("/v1/embeddings", {"input": "x", "dimensions": 5})
    assert refused.status == 400 and "4, 8, 12" in refused.json["error"]["message"]


def test_cut_texts_are_named_or_refused(server: Running, encoder: Encoder) -> None:
    """The response says which; `truncate: false` makes it 422."""
    texts = ["short", LONG, "x", LONG]
    answer = server.post("/v1/embeddings", {"input": texts})
    assert answer.json["cut"] == [1, 3]
    np.testing.assert_allclose(vectors(answer), encoder.encode_query(texts, on_cut="ignore"), atol=1e-5)
    refused = server.post("/v1/embeddings", {"input": texts, "truncate": False})
    assert (refused.status, refused.code) == (422, "input_too_long")
    assert "2 of 4" in refused.json["error"]["message"] and "number 1" in refused.json["error"]["message"]
    assert server.metric("foresay_cut_inputs_total") >= 2


def test_documents_that_a_teacher_embeds(
    server: Running, backbone: Callable[[str], Backbone], folders: dict[str, Path]
) -> None:
    """They are the teacher's vectors; it reads the text of token ids, and ids that no text has are refused."""
    taught = Encoder.from_pretrained(folders["taught"], backbone=backbone("qwen3"))
    answer = server.post("/v1/embeddings", {"model": "taught", "input": SENTENCES, "input_type": "document"})
    np.testing.assert_allclose(vectors(answer), taught.encode_document(SENTENCES), atol=1e-5)
    asked = server.post("/v1/embeddings", {"model": "taught", "input": SENTENCES})
    np.testing.assert_allclose(vectors(asked), taught.encode_query(SENTENCES), atol=1e-5)
    (ids,) = taught.model.backbone.tokenize([SENTENCES[0]])
    read = {"model": "taught", "input": [ids], "input_type": "document"}  # which the teacher gets as their text
    np.testing.assert_allclose(vectors(server.post("/v1/embeddings", read))[0], vectors(answer)[0], atol=1e-5)
    refused = server.post("/v1/embeddings", {**read, "input": [[*ids, taught.tokenizer.eos_token_id]]})
    assert refused.status == 400 and "of no text" in refused.json["error"]["message"]


def test_a_teacher_counts_its_own_tokens(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut is what the teacher cuts, whose tokenizer may be another than the backbone's."""
    served, _ = server.service.registry.get("taught")
    assert served is not None
    teacher = served.encoder.load_document_teacher()
    monkeypatch.setattr(teacher, "count_tokens", lambda texts: [29 + len(text) for text in texts])
    answer = server.post("/v1/embeddings", {"model": "taught", "input": ["a", "ab", ""], "input_type": "document"})
    assert answer.json["cut"] == [1] and answer.json["usage"]["prompt_tokens"] == 30 + 30 + 29


def test_a_checkpoint_may_have_the_backbones_name(backbone: Callable[[str], Backbone], tmp_path: Path) -> None:
    """As the packaged one has: the backbone is then called otherwise, and the name embeds and chats."""
    name = Path(backbone("qwen3").name).name
    with running([make_checkpoint(backbone("qwen3"), tmp_path / name)], backbone("qwen3")) as server:
        cards = {card["id"]: card["kind"] for card in server.get("/v1/models").json["data"]}
        assert cards == {name: "checkpoint", f"{name}-backbone": "backbone"}
        assert server.post("/v1/embeddings", {"model": name, "input": "x"}).status == 200
        for one in cards:
            chat = {"model": one, "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]}
            assert server.post("/v1/chat/completions", chat).status == 200
        assert server.post("/v1/embeddings", {"model": f"{name}-backbone", "input": "x"}).status == 404


def test_the_query_s_own_part(server: Running, backbone: Callable[[str], Backbone], folders: dict[str, Path]) -> None:
    """Queries hold the teacher's vector too, in one batch with others; soft prompts and documents are as without."""
    weighted = Encoder.from_pretrained(folders["weighted"], backbone=backbone("qwen3"))
    wanted = weighted.encode_query(SENTENCES)
    assert np.abs(wanted - weighted.with_query_weight(0).encode_query(SENTENCES)).max() > 1e-2
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda text: server.post("/v1/embeddings", {"model": "weighted", "input": text}), SENTENCES)
        )
    np.testing.assert_allclose(np.concatenate([vectors(answer) for answer in answers]), wanted, atol=1e-5)
    for path, kind in (("/v1/embeddings", "document"), ("/v1/soft_prompts", "query")):
        same = [
            server.post(path, {"model": name, "input": "x", "input_type": kind}).json for name in ("weighted", "taught")
        ]
        assert same[0]["data"] == same[1]["data"]
    both, one = (
        server.post("/v1/embeddings", {"model": name, "input": "of it"}).json for name in ("weighted", "taught")
    )
    read = len(weighted.tokenize("of it")[0])
    assert both["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"] + read
    cut = server.post("/v1/embeddings", {"model": "weighted", "input": ["x", "of " * 40]})  # by the teacher alone
    assert cut.json["cut"] == [1]
    ids = weighted.model.backbone.tokenize(SENTENCES)
    read_ids = server.post("/v1/embeddings", {"model": "weighted", "input": ids})
    np.testing.assert_allclose(vectors(read_ids), wanted, atol=1e-5)
    ranked = server.post("/v1/rerank", {"model": "weighted", "query": SENTENCES[0], "documents": SENTENCES}).json
    scores = Encoder.similarity(wanted[:1], weighted.encode_document(SENTENCES))[0]
    assert [hit["relevance_score"] for hit in ranked["results"]] == pytest.approx(
        sorted(scores, reverse=True), abs=1e-5
    )
    assert server.get("/v1/models/weighted").json["query_weight"] == 0.25


def test_each_checkpoint_has_vectors_of_its_own(
    server: Running, backbone: Callable[[str], Backbone], folders: dict[str, Path]
) -> None:
    """One backbone in memory, several checkpoints."""
    two = Encoder.from_pretrained(folders["two"], backbone=backbone("qwen3"))
    answer = server.post("/v1/embeddings", {"model": "two", "input": SENTENCES})
    np.testing.assert_allclose(vectors(answer), two.encode_query(SENTENCES), atol=1e-5)
    models = {id(one.encoder.model.backbone.model) for one in server.service.registry.all()}
    assert len(models) == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"input": []}, 400, "invalid_value"),
        ({"input": ["x"] * 41}, 413, "too_many_items"),
        ({"input": "x", "model": "three"}, 404, "model_not_found"),
        ({"input": "x", "model": "three:query"}, 404, "model_not_found"),
        ({"input": "x", "prompt_name": "nothing"}, 400, "invalid_value"),
        ({"input": "x", "input_type": "clustering"}, 400, "invalid_value"),
        ({"input": "x", "input_type": "query", "prompt_name": "topic"}, 400, "invalid_value"),
        ({"input": "x", "input_type": "sideways"}, 400, "invalid_value"),
        ({"input": "x", "model": "one:query", "input_type": "document"}, 400, "invalid_value"),
        ({"input": "x", "colour": "red"}, 400, "unknown_option"),
        ({"input": 3}, 400, "invalid_value"),
        ({"input": ["x", 3]}, 400, "invalid_value"),
        ({"input": [True]}, 400, "invalid_value"),
        ({"input": [3.5]}, 400, "invalid_value"),
        ({"input": None}, 400, "invalid_value"),
        ({"input": "x", "dimensions": 0}, 400, "invalid_value"),
        ({}, 400, "invalid_value"),
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b'"text"', 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b'{"input": "\xff"}', 400, "invalid_json"),
        (b'{"input": "\\ud800"}', 400, "invalid_input"),
        (b'{"input": ["x"], "dimensions": ' + b"9" * 5000 + b"}", 400, "invalid_json"),
    ],
)
def test_what_cannot_be_is_refused_in_openais_shape(body: object, status: int, code: str, server: Running) -> None:
    """With the right status, and without the text that was sent."""
    answer = server.post("/v1/embeddings", body)
    assert (answer.status, answer.code) == (status, code), answer.body
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        *(
            (
                "/v1/embeddings",
                {"input": wrong},
                "input",
                "a string, a list of strings, a list of token ids or a list of",
            )
            for wrong in (["a", 1], None, [True], [1.5], 3, {"str": 1})
        ),
        ("/v1/completions", {"prompt": "x", "stop": ["", ""]}, "stop.0", "at least 1 character"),
        ("/v1/completions", {"prompt": "x", "stop": 3}, "stop", "expected a string or a list of strings"),
        ("/v1/completions", {"prompt": "x", "logit_bias": {"5": 1000}}, "logit_bias.5", "less than or equal to 100"),
        ("/v1/completions", {"prompt": "x", "n": None}, "n", "valid integer"),
        (
            "/v1/rerank",
            {"query": "x", "documents": ["x", 3]},
            "documents.1",
            "expected a string or an object with text",
        ),
        ("/rerank", {"query": "x", "documents": [{"txt": "x"}]}, "documents.0.txt", "is not an option"),
        ("/rerank", {"query": "x", "texts": ["x", 3]}, "texts.1", "valid string"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.image_url",
            "'messages.0.content.0.image_url' is not an option",
        ),
    ],
)
def test_of_several_types_that_is_told_which_was_meant(
    path: str, body: object, param: str, message: str, server: Running
) -> None:
    """Or all that a field takes, in words; and no name of a type of the server's own."""
    error = server.post(path, body).json["error"]
    assert error["param"] == param and message in error["message"], error


def test_reranking_is_by_cosine_of_query_and_documents(server: Running, encoder: Encoder) -> None:
    """In Cohere's and Jina's shape, and in that of text-embeddings-inference."""
    query, documents = SENTENCES[0], SENTENCES[1:]
    scores = encoder.similarity(encoder.encode_query(query), encoder.encode_document(documents))[0]
    order = np.argsort(-scores).tolist()
    body = {"model": "one", "query": query, "documents": [documents[0], *({"text": d} for d in documents[1:])]}
    for path in ("/v1/rerank", "/v2/rerank"):
        results = server.post(path, {**body, "return_documents": True, "top_n": 3}).json["results"]
        assert [one["index"] for one in results] == order[:3]
        assert [one["document"]["text"] for one in results] == [documents[i] for i in order[:3]]
        np.testing.assert_allclose([one["relevance_score"] for one in results], scores[order[:3]], atol=1e-5)
    ranks = server.post("/rerank", {"query": query, "texts": documents, "return_text": True}).json
    assert [(one["index"], one["text"]) for one in ranks] == [(i, documents[i]) for i in order]
    halves = server.post("/rerank", {"query": query, "texts": documents, "raw_scores": False}).json
    assert [one["score"] for one in halves] == pytest.approx([(1 + one["score"]) / 2 for one in ranks], abs=1e-6)
    both = [server.post(path, {**body, "top_n": 2}).json["results"] for path in ("/rerank", "/v1/rerank")]
    assert both[0] == both[1] and len(both[0]) == 2
    for wrong, param in (({"query": query}, "texts"), ({"documents": documents}, "query"), ({"text": "x"}, "text")):
        refused = server.post("/rerank", wrong)
        assert (refused.status, refused.json["error"]["param"]) == (400, param)
    assert server.post("/rerank", ["x"]).code == "invalid_json"
    cut = server.post("/v1/rerank", {"query": LONG, "documents": ["x", LONG]})
    assert cut.json["cut"] == [-1, 1]
    assert server.post("/v1/rerank", {"query": LONG, "documents": ["x"], "truncate": False}).status == 422
    assert server.post("/v1/rerank", {"query": "x", "documents": []}).status == 400


def test_similarity_is_the_encoders(server: Running, encoder: Encoder) -> None:
    """Of two lists, and of one with itself."""
    left, right = encoder.encode_query(SENTENCES[:2]), encoder.encode_document(SENTENCES)
    body = {"left": SENTENCES[:2], "right": SENTENCES, "right_type": "document"}
    found = server.post("/v1/similarity", body).json
    np.testing.assert_allclose(found["scores"], encoder.similarity(left, right), atol=1e-5)
    own = server.post("/v1/similarity", {"left": SENTENCES}).json["scores"]
    np.testing.assert_allclose(np.diag(own), 1, atol=1e-5)


def test_the_side_in_a_models_name_is_heeded_or_refused(server: Running, encoder: Encoder) -> None:
    """Similarity embeds both lists as it says; where a route chooses the sides itself, the name may say none."""
    documents = encoder.encode_document(SENTENCES)
    found = server.post("/v1/similarity", {"left": SENTENCES, "model": "one:document"}).json
    np.testing.assert_allclose(found["scores"], encoder.similarity(documents, documents), atol=1e-5)
    twice = {"left": SENTENCES, "left_type": "query", "model": "one:document"}
    assert server.post("/v1/similarity", twice).status == 400
    for path, body in (("rerank", {"query": "x", "documents": ["x"]}), ("decode", {"input": "x"})):
        refused = server.post(f"/v1/{path}", {**body, "model": "one:document"})
        assert (refused.status, refused.json["error"]["param"]) == (400, "model")
        assert "'document'" in refused.json["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/similarity", {"left": []}, 400, "left"),
        ("/v1/similarity", {"left": ["x"], "right": []}, 400, "right"),
        ("/v1/similarity", {"left": ["x"], "right": [LONG], "truncate": False}, 422, "right"),
        ("/rerank", {"query": "x", "texts": []}, 400, "texts"),
        ("/rerank", {"query": "x", "documents": []}, 400, "documents"),
        ("/rerank", {"query": "x", "texts": ["x", LONG], "truncate": False}, 422, "texts"),
        ("/v1/rerank", {"query": LONG, "documents": ["x"], "truncate": False}, 422, "query"),
        ("/v1/rerank", {"query": "x", "documents": [LONG], "truncate": False}, 422, "documents"),
        ("/v1/embeddings", {"input": "x", "prompt_name": ""}, 400, "prompt_name"),
    ],
)
def test_the_field_at_fault_is_named(path: str, body: object, status: int, param: str, server: Running) -> None:
    """By the name that the request gave it."""
    answer = server.post(path, body)
    assert (answer.status, answer.json["error"]["param"]) == (status, param), answer.body
    assert param in answer.json["error"]["message"] or param == "prompt_name"


def test_the_lens_reads_what_reading_reads(server: Running, encoder: Encoder) -> None:
    """Same layers, tokens and words."""
    found = server.post("/v1/lens", {"input": SENTENCES[0], "top": 3, "layers": "0,2"}).json
    (wanted,) = lens(encoder, SENTENCES[0], LensConfig(top=3, layers="0,2"))
    assert [layer["layer"] for layer in found["layers"]] == wanted.layers == [0, 2]
    for layer, tokens, merged in zip(found["layers"], wanted.tokens, wanted.merged, strict=True):
        words = [[hit["text"] for hit in token] for token in layer["tokens"]]
        assert words == [[hit.text for hit in token] for token in tokens]
        np.testing.assert_allclose([hit["score"] for hit in layer["merged"]], [hit.score for hit in merged], atol=1e-5)
    assert server.post("/v1/lens", {"input": "x", "layers": "99"}).status == 400


def test_soft_prompts_are_the_encoders(server: Running, encoder: Encoder) -> None:
    """As base64 with shape and dtype, and as numbers."""
    wanted = encoder.soft_prompts(SENTENCES, prompt_name="query")
    data = server.post("/v1/soft_prompts", {"input": SENTENCES}).json["data"]
    raw = [np.frombuffer(base64.b64decode(one["soft_prompt"]), "<f4").reshape(one["shape"]) for one in data]
    np.testing.assert_allclose(np.stack(raw), wanted, atol=1e-5)
    data = server.post("/v1/soft_prompts", {"input": SENTENCES, "encoding_format": "float"}).json["data"]
    np.testing.assert_allclose([one["soft_prompt"] for one in data], wanted, atol=1e-5)


def test_models_say_what_they_can(server: Running) -> None:
    """Every checkpoint and the backbone, in OpenAI's shape and with what one needs to know."""
    cards = {card["id"]: card for card in server.get("/v1/models").json["data"]}
    assert list(cards)[:3] == ["one", "two", "taught"] and len(cards) == 5
    assert cards["one"]["dims"] == [4, 8] and cards["one"]["prompts"] == ["document", "query", "topic"]
    assert cards["taught"]["documents"] == "teacher"
    name = next(reversed(cards))
    assert cards[name]["kind"] == "backbone" and "/" not in name
    assert server.get("/v1/models/two").json == cards["two"]
    assert server.get(f"/v1/models/{name}").json == cards[name]
    assert server.get("/v1/models/three").code == "model_not_found"
    assert server.post("/v1/embeddings", {"input": "x", "model": name}).status == 404
