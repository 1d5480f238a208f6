"""What the frozen language model makes of a soft prompt: how likely a response is after it, and a text of its own.

In: soft prompts (batch, compression, hidden). Out: the reconstruction loss of training (paper, section 3), or
token ids. Nothing here is trained, and special tokens and maps have no part in it.
Be careful: a soft prompt is the whole prefix. No template goes around it and no leading token before it.
"""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from .backbone import Backbone
from .batching import pad
from .cross_entropy import chunked_cross_entropy
from .errors import BackboneError


def reconstruction_loss(backbone: Backbone, soft_prompt: Tensor, responses: Sequence[Sequence[int]]) -> Tensor:
    """Next-token cross-entropy of the responses with the soft prompt as their only prefix.

    Args:
        backbone: the frozen language model.
        soft_prompt: (batch, compression, hidden).
        responses: token ids of each response, its end token included.

    Returns:
        nats, *summed* over all response tokens of the batch.
    """
    ids, lengths = pad(responses, backbone.pad_id, left=False, device=backbone.device)
    inputs = torch.cat([soft_prompt.to(backbone.dtype), backbone.embedding(ids[:, :-1])], dim=1)
    states = backbone.decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state
    states = states[:, soft_prompt.shape[1] - 1 :]
    labelled = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
    return chunked_cross_entropy(states[labelled], ids[labelled], backbone.logits, backbone.text_config.vocab_size)


@torch.no_grad()
def generate(backbone: Backbone, soft_prompts: Tensor, max_new_tokens: int, **options: Any) -> Tensor:  # noqa: ANN401
    """Continues soft prompts (batch, compression, hidden) by the library's own `generate`, greedily by default.

    Args:
        backbone: the frozen language model.
        soft_prompts: what `Model.soft_prompt` returned.
        max_new_tokens: longest continuation.
        **options: handed to `generate`, for instance `streamer`.

    Returns:
        token ids (batch, at most max_new_tokens), padded after each row's stop token.

    Raises:
        BackboneError: if the library cannot make this model write from embeddings.
    """
    inputs = soft_prompts.to(backbone.device, backbone.dtype)
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "repetition_penalty": 1.0}
    if "inputs_embeds" not in signature(backbone.model.prepare_inputs_for_generation).parameters:
        raise BackboneError(
            f"{backbone.name} ({type(backbone.model).__name__}) embeds, but transformers cannot make it write from "
            "soft prompts; decoding needs another backbone"
        )
    ids: Tensor = backbone.model.generate(
        inputs_embeds=inputs,
        attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device),
        max_new_tokens=max_new_tokens,
        eos_token_id=backbone.stop_ids or [backbone.end_id],
        pad_token_id=backbone.pad_id,
        **{**greedy, **options},
    )
    return ids
