"""Lenses: the logit lens against the model's own logits, the registry, pictures, and the command."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from foresay.backbone import Backbone
from foresay.checkpoints.save import save
from foresay.config import LensConfig
from foresay.encoder import Encoder
from foresay.errors import InputError
from foresay.model import Model
from foresay.reading import lenses
from foresay.reading.heat_map import heat_map
from foresay.reading.lens import lens
from foresay.reading.lenses import Found, Hit
from foresay.reading.logit_lens import LogitLens, largest

from .commands import run
from .conftest import FAMILIES, SENTENCES

Get = Callable[[str], Backbone]


def make(backbone: Backbone, **options: object) -> Encoder:
    """A small untrained encoder with a prompt, which all its texts begin with."""
    model = Model(backbone, thought=1, compression=3, dim=8, **options)  # type: ignore[arg-type]
    return Encoder(model, prompts={"query": "Answer this question please: "}, max_tokens=96)


@pytest.fixture
def unregistered() -> Iterator[None]:
    """Forgets lenses that a test registers."""
    known = dict(lenses._LENSES)
    yield
    lenses._LENSES.clear()
    lenses._LENSES.update(known)


def own_states(encoder: Encoder, text: str) -> tuple[Tensor, ...]:
    """States of the compression tokens at every layer, by the library's plain forward pass of one text."""
    base, model = encoder.model.backbone, encoder.model
    (row,), _ = model.rows([encoder.prompts["query"] + text], 96)
    with torch.no_grad():
        inputs = torch.cat([base.embedding(torch.tensor(row)), model.special_tokens * base.embed_scale])[None]
        out = base.model(inputs_embeds=inputs, output_hidden_states=True)
    return (*(state[0, -3:] for state in out.hidden_states), out.logits[0, -3:].softmax(dim=-1))


@pytest.mark.parametrize("family", FAMILIES)
def test_last_layer_is_the_models_own_distribution(backbone: Get, family: str) -> None:
    """Invariant 10, for each token and over all of them, of a batch of texts that share a prompt."""
    encoder = make(backbone(family))
    tokenizer = encoder.model.backbone.tokenizer
    for text, reading in zip(SENTENCES, lens(encoder, SENTENCES), strict=True):
        own = own_states(encoder, text)[-1]
        assert reading.text == text
        assert reading.layers == [encoder.model.backbone.text_config.num_hidden_layers]
        for chances, hits in zip((*own, own.mean(dim=0)), (*reading.tokens[0], reading.merged[0]), strict=True):
            best = chances.topk(5)
            np.testing.assert_allclose([hit.score for hit in hits], best.values, atol=1e-5)
            assert hits[0].text == tokenizer.decode([int(best.indices[0])])


@pytest.mark.parametrize("readout", ["tokens", "layers"])
def test_every_layer(backbone: Get, readout: str) -> None:
    """Inner layers go through the final norm and the head, the last one is after the norm; numbers choose layers."""
    encoder = make(backbone("llama"), readout=readout)
    base = encoder.model.backbone
    *states, _ = own_states(encoder, SENTENCES[1])
    (reading,) = lens(encoder, SENTENCES[1], LensConfig(layers="all", top=2))
    assert reading.layers == [0, 1, 2]
    for layer, tokens in enumerate(reading.tokens):
        seen = states[layer] if layer == 2 else base.model.model.norm(states[layer])
        best = base.model.lm_head(seen).softmax(-1).topk(2)
        np.testing.assert_allclose([[hit.score for hit in hits] for hits in tokens], best.values, atol=1e-5)
    (some,) = lens(encoder, SENTENCES[1], LensConfig(layers="1,-1", top=2))
    assert some.layers == [1, 2]
    np.testing.assert_allclose(some.tokens[0][0][0].score, reading.tokens[1][0][0].score, atol=1e-5)
    (last,) = lens(encoder, SENTENCES[1], LensConfig(top=2))
    np.testing.assert_allclose(last.tokens[0][0][0].score, reading.tokens[2][0][0].score, atol=1e-5)


def test_large_vocabularies_are_read_in_parts(backbone: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same hits when only one text's distributions may exist at a time."""
    encoder = make(backbone("qwen3"))
    whole = lens(encoder, SENTENCES)
    monkeypatch.setattr("foresay.reading.logit_lens.LOGITS_AT_ONCE", 1 << 13)
    monkeypatch.setattr("foresay.reading.logit_lens.CHANCES_AT_ONCE", 1)
    for one, other in zip(whole, lens(encoder, SENTENCES), strict=True):
        assert [hit.text for hit in one.merged[0]] == [hit.text for hit in other.merged[0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lens": "tuned"}, "no lens 'tuned'; there are latent, logit"),
        ({"layers": "3"}, r"there is no layer 3; this backbone has 0 \(the input\) to 2"),
        ({"layers": "-4"}, "there is no layer -4"),
        ({"layers": "first"}, "expected last, all, or numbers such as 0,8,-1"),
        ({"lens": "latent"}, "needs an index"),
        ({"latent_index": "li"}, "latent_index is li and lens is logit, which reads no index; add --lens latent"),
        ({"same_layer": True}, "same_layer is True and lens is logit"),
        ({"top": 0}, "top is 0; expected 1 or more"),
    ],
)
def test_options_that_cannot_be(backbone: Get, options: dict[str, Any], message: str) -> None:
    """One line, by name."""
    with pytest.raises(InputError, match=message):
        lens(make(backbone("qwen3")), "x", LensConfig(**options))


class Loudest:
    """A made-up lens: which numbers of a state are the largest."""

    score = "size"

    def __init__(self, encoder: Encoder, config: LensConfig) -> None:
        """Needs nothing of what it is given."""

    def read(self, states: Tensor, layer: int, top: int) -> Found:
        """Hits named after the layer and the place of a number."""

        def hits(state: Tensor) -> list[Hit]:
            best = state.abs().topk(top)
            return [Hit(f"{layer}:{i}", v) for v, i in zip(*(b.tolist() for b in best), strict=True)]

        return [[hits(state) for state in row] for row in states], [hits(row.mean(dim=0)) for row in states]


def test_a_made_up_lens_works_everywhere(backbone: Get, tmp_path: Path, unregistered: None, figures: list[Any]) -> None:
    """Registered in one line, it is in `lens`, in the command, in its JSON, and in the heat map."""
    lenses.register("loudest", Loudest)
    lenses.register("loudest", Loudest)  # the same one twice is no clash
    encoder = make(backbone("qwen3"))
    (reading,) = lens(encoder, SENTENCES[0], LensConfig(lens="loudest", layers="all", top=1))
    states = own_states(encoder, SENTENCES[0])
    assert reading.tokens[1][2][0].text == f"1:{int(states[1][2].abs().argmax())}"
    save(tmp_path / "checkpoint", encoder)
    picture = tmp_path / "loudest.png"
    found = run(
        "lens", tmp_path / "checkpoint", SENTENCES[0], "--lens", "loudest", "--json", "--heat-map", picture,
        "--device", "cpu", "--top", 1,
    )  # fmt: skip
    printed = json.loads(found)
    assert printed["score"] == "size"
    assert printed["tokens"][0][2][0]["text"] == f"2:{int(states[2][2].abs().argmax())}"
    assert printed["tokens"][0][2][0]["text"] in [text.get_text() for text in figures[0].axes[0].texts]
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="a lens 'logit' already"):
        lenses.register("logit", Loudest)


def test_heat_map_survives_any_word(backbone: Get, tmp_path: Path, figures: list[Any]) -> None:
    """Line breaks, dollar signs, which start formulas elsewhere, and characters that the font lacks."""
    import matplotlib.image

    encoder = make(backbone("qwen3"))
    (reading,) = lens(encoder, "$\\frac{ $x", LensConfig(layers="all", top=1))
    for hits, word in zip(reading.tokens[0], ("\n", "$\\frac{", "a\x00b"), strict=True):
        hits[0] = Hit(word, 0.5)
    heat_map(reading, tmp_path / "map.png")
    height, width, _ = matplotlib.image.imread(tmp_path / "map.png").shape
    assert width > height > 200
    assert [text.get_text() for text in figures[0].axes[0].texts][:3] == ["\\n", "$\\frac{", "a\\x00b"]


def test_the_lens_of_a_head_that_nobody_knows(backbone: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder without a final norm of a known name is refused, not read wrongly."""
    from foresay.errors import BackboneError

    monkeypatch.setattr("foresay.reading.logit_lens._FINAL_NORMS", ("unheard_of",))
    with pytest.raises(BackboneError, match="the lens needs its last norm"):
        LogitLens(make(backbone("qwen3")))


def test_the_table(backbone: Get, tmp_path: Path) -> None:
    """One layer: a line a token with probabilities. Several: a line a layer."""
    save(tmp_path / "checkpoint", make(backbone("qwen3")))
    one = run("lens", tmp_path / "checkpoint", "a fox", "--device", "cpu")
    assert "reads as (probability)" in one
    assert "all" in one
    many = run("lens", tmp_path / "checkpoint", "a fox", "--layers", "all", "--device", "cpu")
    assert len([line for line in many.splitlines() if line.strip()[:1] in "012"]) >= 3
    assert "does not end in .png" in run("lens", tmp_path / "checkpoint", "x", "--heat-map", "map.jpg", code=1)


@pytest.mark.parametrize(("size", "k"), [(7, 7), (64, 5), (1000, 1), (1037, 5), (49152, 10)])
def test_the_largest_values_are_those_of_a_sort(size: int, k: int) -> None:
    """Also where the row does not divide into blocks, where all are below zero, and where the best stand together."""
    rows = torch.randn(6, size, generator=torch.Generator().manual_seed(size))
    rows[1] -= 100
    rows[2] = torch.arange(size)
    rows[3, -k:] = 9
    values, places = largest(rows, k)
    assert torch.equal(values, rows.sort(dim=1, descending=True).values[:, :k])
    assert torch.equal(rows.gather(1, places), values)
    assert all(len(set(of)) == k for of in places.tolist())
