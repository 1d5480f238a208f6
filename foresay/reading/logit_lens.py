"""What a compression token holds: the logit lens.

In: an encoder and a text. Out: for each layer and compression token, the backbone's distribution over its
vocabulary, as if that state were the last one (nostalgebraist 2020, "interpreting GPT: the logit lens").
What a reader would get wrong: the library's last state is already behind the final norm, the others are not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..encoder import Encoder
from ..errors import BackboneError

_FINAL_NORMS = ("norm", "final_layer_norm", "final_layernorm", "ln_f")


@dataclass(frozen=True)
class Reading:
    """The likeliest words of one state.

    Attributes:
        layer: 0 is the input embedding, the last is what the head sees.
        token: which compression token, from 0.
        words: the likeliest tokens as text, with their probabilities, likeliest first.
    """

    layer: int
    token: int
    words: list[tuple[str, float]]


@torch.no_grad()
def logit_lens(encoder: Encoder, text: str, *, prompt_name: str = "query") -> Tensor:
    """The backbone's next-token log-probabilities at each layer and compression token.

    Returns:
        (layers + 1, compression, vocabulary) float32, natural logarithms.
    """
    model, backbone = encoder.model, encoder.model.backbone
    rows, _ = model.rows([encoder.prompts[prompt_name] + text], encoder.max_tokens)
    (states,) = model.hidden_layers(rows)
    norm = _final_norm(backbone.decoder)
    seen = torch.cat([norm(states[:-1]), states[-1:]])
    return backbone.logits(seen).float().log_softmax(dim=-1)


def read_tokens(encoder: Encoder, text: str, *, top: int = 5) -> list[Reading]:
    """The likeliest words of each state, layer by layer.

    Args:
        encoder: whose tokens to read.
        text: embedded as a query.
        top: words a state.
    """
    best = logit_lens(encoder, text).exp().topk(top, dim=-1)
    decode = encoder.model.backbone.tokenizer.decode
    return [
        Reading(layer, token, [(decode([i]), float(p)) for i, p in zip(ids.tolist(), shares, strict=True)])
        for layer, (layer_ids, layer_shares) in enumerate(zip(best.indices, best.values, strict=True))
        for token, (ids, shares) in enumerate(zip(layer_ids, layer_shares, strict=True))
    ]


def _final_norm(decoder: nn.Module) -> nn.Module:
    for name in _FINAL_NORMS:
        norm = getattr(decoder, name, None)
        if isinstance(norm, nn.Module):
            return norm
    raise BackboneError(f"{type(decoder).__name__} has none of {', '.join(_FINAL_NORMS)}; the lens needs its last norm")
