"""The reconstruction maps in closed form, against scikit-learn, and checkpoints with a map for each token."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from foresay.backbone import Backbone
from foresay.checkpoints.verify import verify
from foresay.config import FitConfig
from foresay.data.pairs import Pairs
from foresay.encoder import Encoder
from foresay.errors import InputError
from foresay.maps import TokenMaps
from foresay.model import Model
from foresay.reconstruction import reconstruction_loss
from foresay.training import reconstruction_start as start
from foresay.training.fit import fit
from foresay.training.train import train

from .making import QUERIES, RESPONSES, pairs, small

Get = Callable[[str], Backbone]
readout = pytest.mark.parametrize("readout", ["mean", "tokens", "layers"])


def filled(model: Model, states: torch.Tensor) -> start.SoftPromptMoments:
    """Moments of the made-up queries and responses, in two blocks."""
    moments = start.SoftPromptMoments(model)
    queries, responses = (model.backbone.tokenize(texts) for texts in (QUERIES, RESPONSES))
    for block in (slice(0, 10), slice(10, None)):
        moments.add(states[block], queries[block], responses[block])
    return moments


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_shares_are_means_of_what_the_first_layer_receives(backbone: Get, family: str) -> None:
    """By hand, also of rows with fewer tokens than parts, and none; Gemma scales its embeddings."""
    base = backbone(family)
    rows = [[5, 6, 7, 8, 9], [3], []]
    found = start.shares(base, rows, 2)
    first = base.embedding(torch.tensor(rows[0])).detach() * base.embed_scale
    torch.testing.assert_close(found[0, 0], first[:2].mean(0))
    torch.testing.assert_close(found[0, 1], first[2:].mean(0))
    only = base.embedding(torch.tensor([3])).detach()[0] * base.embed_scale
    torch.testing.assert_close(found[1], only.expand(2, -1))
    assert not found[2].any()


def test_rare_tokens_count_more(backbone: Get) -> None:
    """By the logarithm of one over their share of the texts, by hand."""
    base = backbone("qwen3")
    rarity = start.Rarity(base)
    rarity.add([[5, 6, 5], [5, 7]])
    rarity.add([[5]])
    weights = torch.log(torch.tensor([5 / 4, 5 / 2, 5 / 1]))
    torch.testing.assert_close(rarity.of(torch.tensor([5, 6, 8])), weights)
    embedded = base.embedding(torch.tensor([5, 6, 8])).detach()
    expected = (embedded * weights[:, None]).sum(0) / weights.sum()
    torch.testing.assert_close(start.shares(base, [[5, 6, 8]], 1, rarity)[0, 0], expected)


def test_each_map_is_ridge_regression(backbone: Get) -> None:
    """Of the share of its text on its token's standardised state; the frame is the template's own words."""
    model = Model(backbone("qwen3"), thought=0, compression=15, dim=8, template="chat", reconstruct="tokens")
    states = torch.randn(len(QUERIES), 15, 32, generator=torch.Generator().manual_seed(0))
    solved = filled(model, states).solve()
    framed = [one for one in solved.moments.layouts if one.frame]
    assert [one.content for one in framed] == [15 - len(model.suffix_ids)] * 2
    for number, one in enumerate(solved.moments.layouts):
        texts = QUERIES if one.source == "query" else RESPONSES
        wanted = start.shares(model.backbone, model.backbone.tokenize(texts), one.content).detach().numpy()
        weight, bias = solved.complete(number, penalty=0.3, scale=2.0)
        prompts = torch.einsum("bth,tdh->btd", states, weight) + bias
        for token in range(one.content):
            x, y = states[:, token].numpy(), wanted[:, token]
            scaled = StandardScaler().fit_transform(x)
            predicted = Ridge(alpha=0.3 * len(x)).fit(scaled, y).predict(scaled)
            expected = y.mean(0) + 2 * (predicted - y.mean(0))
            np.testing.assert_allclose(prompts[:, token].numpy(), expected, atol=1e-4)
        if one.frame:
            words = model.backbone.embedding(torch.tensor(model.suffix_ids)).detach() * model.backbone.embed_scale
            torch.testing.assert_close(prompts[:, one.content :], words.expand(len(QUERIES), -1, -1))


def test_the_held_out_loss_chooses(backbone: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale with the lowest loss, which is the loss of decoding; other rows' prompts are told apart."""
    base = backbone("qwen3")
    model = Model(base, thought=0, compression=4, dim=8, reconstruct="tokens")
    states = torch.randn(len(QUERIES), 4, 32, generator=torch.Generator().manual_seed(0))
    answers = [[*ids, base.end_id] for ids in base.tokenize(RESPONSES)]
    sample = start.Sample(states, base.tokenize(QUERIES), answers)
    moments = filled(model, states)
    found = start.choose(moments, sample)
    for scale in start.SCALES:
        with monkeypatch.context() as patch:
            patch.setattr(start, "SCALES", (scale,))
            assert start.choose(moments, sample).loss >= found.loss - 1e-5
    with torch.no_grad():
        prompts = torch.einsum("bth,tdh->btd", states, found.weight) + found.bias
        firsts = [ids[: start.MOST_TOKENS] for ids in answers]
        nats = reconstruction_loss(model.backbone, prompts, firsts)
    assert found.loss == pytest.approx(float(nats) / sum(map(len, firsts)), rel=1e-4)
    assert found.swapped != pytest.approx(found.loss, rel=1e-6)


def test_maps_of_tokens_are_linear_maps() -> None:
    """Each token by its own."""
    torch.manual_seed(0)
    maps, states = TokenMaps(3, 4), torch.randn(2, 3, 4)
    for token in range(3):
        alone = torch.nn.functional.linear(states[:, token], maps.weight[token], maps.bias[token])
        torch.testing.assert_close(maps(states)[:, token], alone)


@readout
def test_a_fitted_checkpoint_decodes_as_far_as_it_can(backbone: Get, tmp_path: Path, readout: str) -> None:
    """It comes back bit-equal, verifies everywhere, decodes, and its card tells the loss of decoding."""
    base = backbone("qwen3")
    config = FitConfig(compression=3, readout=readout, documents="checkpoint", held_out=4)
    encoder = fit(pairs(), base, tmp_path / "c", config)
    again = Encoder.from_pretrained(tmp_path / "c", backbone=base)
    np.testing.assert_array_equal(encoder.encode(QUERIES), again.encode(QUERIES))
    np.testing.assert_array_equal(encoder.soft_prompts(QUERIES), again.soft_prompts(QUERIES))
    assert again.model.reconstruct.weight.shape == (3, 32, 32)
    assert len(again.decode(QUERIES[:2], max_new_tokens=4)) == 2
    ways = {verdict.way for verdict in verify(tmp_path / "c", device="cpu")}
    assert ("sentence-transformers" in ways) == (readout != "layers")
    card = (tmp_path / "c" / "README.md").read_text()
    assert "often off the subject" in card
    assert "reconstruction loss of held-out rows" in card and "soft prompts of other rows" in card


def test_a_single_map_stays_published(backbone: Get, tmp_path: Path) -> None:
    """The option for one map: fitted checkpoints then embed alone, and say so."""
    config = FitConfig(compression=3, reconstruct="one", documents="checkpoint", held_out=4)
    encoder = fit(pairs(), backbone("qwen3"), tmp_path / "c", config)
    assert encoder.model.reconstruct.weight.shape == (32, 32)
    with pytest.raises(InputError, match="foresay train"):
        encoder.decode(["x"])


@readout
def test_the_embedding_reads_states_and_the_soft_prompt_its_own_maps(backbone: Get, readout: str) -> None:
    """The fused map is the alignment map; the gradient of decoding leaves that map alone, and the other way round."""
    model = Model(backbone("qwen3"), thought=1, compression=3, dim=8, readout=readout, reconstruct="tokens")
    rows, _ = model.rows(QUERIES[:4], 64)
    hidden = model.hidden(rows)
    soft_prompt, embedding = model.outputs(hidden)
    weight, bias = model.fused_map()
    torch.testing.assert_close(embedding, model.features(hidden) @ weight.T + bias, atol=1e-4, rtol=1e-4)
    (through,) = torch.autograd.grad(embedding.sum(), model.reconstruct.weight, retain_graph=True, allow_unused=True)
    assert through is None
    (through,) = torch.autograd.grad(soft_prompt.sum(), model.align.weight, allow_unused=True)
    assert through is None


def test_training_starts_from_it_and_decodes_better(backbone: Get, tmp_path: Path) -> None:
    """The loss of decoding falls from where the closed form left it; resuming is covered by the default options."""
    base = backbone("qwen3")
    config = small(steps=8, held_out=2, evaluate_every=8, learning_rate=1e-2, select="loss")
    fitted = fit(pairs(), base, tmp_path / "f", FitConfig(compression=3, documents="checkpoint", held_out=2))
    trained = train(pairs(), base, tmp_path / "t", config)

    def loss(encoder: Encoder) -> float:
        rows, _ = encoder.model.rows(QUERIES, 64)
        answers = [[*ids, base.end_id] for ids in base.tokenize(RESPONSES)]
        with torch.no_grad():
            prompts = encoder.model.soft_prompt(encoder.model.hidden(rows))
            nats = reconstruction_loss(base, prompts, answers)
        return float(nats) / sum(map(len, answers))

    assert loss(trained) < loss(fitted) - 0.1


def test_pairs_without_responses_to_hold_out(backbone: Get, tmp_path: Path) -> None:
    """Rows of the fit choose where none are held out."""
    two = Pairs(QUERIES[:2], RESPONSES[:2], np.eye(2, 8, dtype=np.float32))
    encoder = fit(two, backbone("qwen3"), tmp_path / "c", FitConfig(compression=3, documents="checkpoint"))
    assert np.isfinite(encoder.soft_prompts(QUERIES)).all()
