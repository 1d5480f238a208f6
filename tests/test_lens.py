"""The logit lens, against the model's own logits."""

from collections.abc import Callable

import pytest
import torch

from foresay.backbone import Backbone
from foresay.encoder import Encoder
from foresay.model import Model
from foresay.reading.logit_lens import logit_lens, read_tokens

from .conftest import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_last_layer_is_the_models_own_distribution(backbone: Callable[[str], Backbone], family: str) -> None:
    """Invariant 10."""
    base = backbone(family)
    model = Model(base, thought=1, compression=3, dim=8)
    lens = logit_lens(Encoder(model), "a fox and a crow")
    (row,), _ = model.rows(["a fox and a crow"], 64)
    with torch.no_grad():
        tokens = model.special_tokens * base.embed_scale
        inputs = torch.cat([base.embedding(torch.tensor(row)), tokens])[None]
        own = base.model(inputs_embeds=inputs).logits[0, -3:].log_softmax(dim=-1)
    torch.testing.assert_close(lens[-1], own, atol=1e-5, rtol=1e-5)
    layers = base.text_config.num_hidden_layers
    assert lens.shape == (layers + 1, 3, base.text_config.vocab_size)


def test_read_tokens(backbone: Callable[[str], Backbone]) -> None:
    """Likeliest first, a reading for each layer and token."""
    base = backbone("qwen3")
    encoder = Encoder(Model(base, thought=0, compression=2, dim=8))
    readings = read_tokens(encoder, "x", top=4)
    assert [(reading.layer, reading.token) for reading in readings] == [(i, j) for i in range(3) for j in range(2)]
    shares = [share for _, share in readings[-1].words]
    assert shares == sorted(shares, reverse=True)
    best = int(logit_lens(encoder, "x")[-1, -1].argmax())
    assert readings[-1].words[0][0] == base.tokenizer.decode([best])
