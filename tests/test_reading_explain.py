"""Explaining a pair: weights against one text at a time, exact and batched; faithfulness; colours and pages."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from foresay.backbone import Backbone
from foresay.checkpoints.save import save
from foresay.config import DecodeConfig
from foresay.encoder import Encoder
from foresay.errors import InputError
from foresay.model import Model
from foresay.reading.attribution import view, without_each, word_places
from foresay.reading.explain import explain
from foresay.reading.faithfulness import faithfulness
from foresay.teachers.pooled import SelfTeacher

from .commands import run

Get = Callable[[str], Backbone]
PAIR = ("What does frugal mean, really?", "A frugal fox met a crow; the crow held a piece of cheese.")


def make(backbone: Backbone, **options: object) -> Encoder:
    """A small untrained encoder with prompts, as wide as the teacher that is the backbone itself."""
    model = Model(backbone, thought=0, compression=3, dim=32)
    return Encoder(model, prompts={"query": "Answer: ", "document": "Sum up: "}, **options)  # type: ignore[arg-type]


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    """By the book."""
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def test_weights_are_exact(backbone: Get) -> None:
    """Every word of both sides, against the encoder on one text at a time."""
    encoder = make(backbone("qwen3"))
    (found,) = explain(encoder, PAIR, max_new_tokens=6)
    (own,) = found.views
    query, document = encoder.encode_query(PAIR[0]), encoder.encode_document(PAIR[1])
    assert own.name == "Foresay"
    assert own.similarity == pytest.approx(cosine(query, document), abs=1e-5)
    assert [word.text for word in own.query] == PAIR[0].split()
    assert [word.text for word in own.document] == PAIR[1].split()
    for at, word in enumerate(own.query):
        rest = " ".join(PAIR[0].split()[:at] + PAIR[0].split()[at + 1 :])
        expected = own.similarity - cosine(encoder.encode_query(rest), document)
        assert word.weight == pytest.approx(expected, abs=2e-5), word
        assert PAIR[0][word.start : word.end] == word.text
    for at, word in enumerate(own.document):
        rest = " ".join(PAIR[1].split()[:at] + PAIR[1].split()[at + 1 :])
        expected = own.similarity - cosine(query, encoder.encode_document(rest))
        assert word.weight == pytest.approx(expected, abs=2e-5), word
    assert own.strongest == max(abs(word.weight) for word in own.query + own.document) > 0
    assert found.query_reads == encoder.decode(PAIR[0], max_new_tokens=6)[0]
    prompts = encoder.soft_prompts(PAIR[1], prompt_name="document")
    assert found.document_reads == encoder.decode(soft_prompts=prompts, max_new_tokens=6)[0]


def test_one_call_a_side(backbone: Get) -> None:
    """All texts with a word left out go through together, with the whole one."""
    calls: list[int] = []

    def embed(texts: Sequence[str]) -> np.ndarray:
        calls.append(len(texts))
        return np.random.default_rng(0).normal(size=(len(texts), 4)).astype(np.float32)

    view("counted", PAIR, embed, embed)
    assert calls == [1 + len(PAIR[0].split()), 1 + len(PAIR[1].split())]


def test_the_teachers_view_beside_it(backbone: Get) -> None:
    """A teacher embeds both sides without prompts; where it embeds documents, it is shown without being asked for."""
    base = backbone("llama")
    teacher, encoder = SelfTeacher(base), make(base)
    _, beside = explain(encoder, PAIR, teacher=teacher)[0].views
    asked, found = teacher.embed(PAIR)
    assert beside.similarity == pytest.approx(cosine(asked, found), abs=1e-5)
    shorter = teacher.embed([PAIR[0].removeprefix("What ")])[0]
    assert beside.query[0].weight == pytest.approx(beside.similarity - cosine(shorter, found), abs=2e-5)
    own, alone = explain(encoder.with_document_teacher(teacher), [PAIR, PAIR[::-1]])[0].views
    assert alone == beside.__class__(alone.name, beside.similarity, beside.query, beside.document)
    assert own.similarity == pytest.approx(cosine(encoder.encode_query(PAIR[0]), found), abs=1e-5)


def test_words() -> None:
    """Scripts without spaces go by character; what is left reads on."""
    text = "  Ça coûte 3 €,\nn'est-ce pas? 日本 🙂"
    words = [text[start:end] for start, end in word_places(text)]
    assert words == ["Ça", "coûte", "3", "€,", "n'est-ce", "pas?", "日", "本", "🙂"]
    assert without_each("one two  three", word_places("one two  three")) == ["two  three", "one  three", "one two"]
    assert without_each("one", [(0, 3)]) == [""]


def test_faithfulness(backbone: Get) -> None:
    """Cosines of the embedding to the teacher's vector of what it decodes to, and to the real response."""
    base = backbone("qwen3")
    teacher, encoder = SelfTeacher(base), make(base)
    config, queries, responses = DecodeConfig(max_new_tokens=5), list(PAIR), ["one fox", "two"]
    found = faithfulness(encoder, queries, responses=responses, teacher=teacher, config=config)
    for one, query, response in zip(found, queries, responses, strict=True):
        embedding = encoder.encode_query(query)
        assert one.decoded == encoder.decode(query, config=config)[0]
        assert one.score == pytest.approx(cosine(embedding, teacher.embed([one.decoded])[0]), abs=1e-5)
        assert one.response_score == pytest.approx(cosine(embedding, teacher.embed([response])[0]), abs=1e-5)
    alone = faithfulness(encoder.with_document_teacher(teacher), queries, config=config)
    assert [one.score for one in alone] == pytest.approx([one.score for one in found], abs=1e-5)
    assert alone[0].response_score is None
    with pytest.raises(InputError, match="name the teacher of its targets with --teacher"):
        faithfulness(encoder, queries)
    with pytest.raises(InputError, match="2 queries and 1 responses"):
        faithfulness(encoder, queries, responses=["one"], teacher=teacher)


@pytest.mark.parametrize("pairs", [[], [("a",)], [("a", " ")], [("a", None)]])
def test_pairs_that_are_none(backbone: Get, pairs: list[tuple[str, str]]) -> None:
    """One line."""
    with pytest.raises(InputError, match="no pairs to explain|expected a query and a document"):
        explain(make(backbone("qwen3")), pairs)


def test_what_does_not_go_together_is_named(tmp_path: Path) -> None:
    """Nothing given, a query alone, or both; and a page that would be no JSON. Before anything is loaded."""
    either = "give either a QUERY and a DOCUMENT, or --pairs FILE"
    assert run("explain", tmp_path, code=1) == f"error: {either}\n"
    assert run("explain", tmp_path, "only one", code=1) == f"error: a DOCUMENT is missing: {either}\n"
    assert f"{either}, not both" in run("explain", tmp_path, *PAIR, "--pairs", tmp_path / "pairs.jsonl", code=1)
    page = ["--html", tmp_path / "why.html", "--json"]
    assert "either --html or --json, not both" in run("explain", tmp_path, *PAIR, *page, code=1)


def test_the_commands(backbone: Get, tmp_path: Path) -> None:
    """Terminal, JSON, a page for a file of pairs, and a checkpoint that cannot decode."""
    base = backbone("qwen3")
    save(tmp_path / "checkpoint", make(base))
    here = ["--device", "cpu", "--teacher", "self"]
    printed = run("explain", tmp_path / "checkpoint", *PAIR, "--max-new-tokens", 4, *here)
    assert "Foresay: " in printed
    assert "teacher alone (" in printed
    assert "the document reads as" in printed
    one = json.loads(run("explain", tmp_path / "checkpoint", *PAIR, "--json", *here))
    assert [word["text"] for word in one["views"][0]["query"]] == PAIR[0].split()
    evil = "<script>alert(1)</script> \x00\u202e & fox"
    lines = [{"query": PAIR[0], "document": evil}, {"query": evil, "document": PAIR[1]}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    how = ["--pairs", tmp_path / "pairs.jsonl", "--html", tmp_path / "why.html", *here]
    assert "2 pairs" in run("explain", tmp_path / "checkpoint", *how)
    page = (tmp_path / "why.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not {"\x00", "\u202e"} & set(page)
    assert "not both" in run("explain", tmp_path / "checkpoint", *PAIR, *how, code=1)
    (tmp_path / "pairs.jsonl").write_text('{"query": "x"}\n')
    assert 'line 1: expected {"query"' in run("explain", tmp_path / "checkpoint", *how, code=1)
    save(tmp_path / "mute", make(base, decodes=False))
    assert "reads as" not in run("explain", tmp_path / "mute", *PAIR, *here)

    rows = [{"id": "1", "query": PAIR[0], "response": "one fox"}]
    (tmp_path / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    how = ["--responses", tmp_path / "responses.jsonl", "--max-new-tokens", 4, *here]
    said = run("faithfulness", tmp_path / "checkpoint", "--text", PAIR[0], *how)
    assert "mean of 1: decoded" in said
    assert "real response" in said
    missing = run("faithfulness", tmp_path / "checkpoint", "--text", "another", *how, code=1)
    assert "has no response to 'another'; write it with: foresay respond" in missing
