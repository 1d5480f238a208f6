"""What the method relies on, checked by numbers when a backbone is made: its head, its input, its causality, its cache.

In: a backbone. Out: whether its texts may run in two passes, the second on the first one's cache; an error if not even
one pass is right.
Be careful: a model that ignores a cache, or lets padding in, fails in no visible way. So a short text is run alone,
beside a longer one, and in two passes, and the states are compared, each time a model is loaded.
"""

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from .batching import pad
from .errors import BackboneError

if TYPE_CHECKING:
    from .backbone import Backbone

logger = logging.getLogger(__name__)

_TEXT = "The red moon is up, and one cat in the south sees a dog."
_SHARE = {"float32": 0.02}
"""Largest error, as a share of what the context does to a state: without it the error is 1."""
_SHARE_HALF = 0.3
_NOISE = {"float32": 1e-4}
"""Errors below this share of the state itself are rounding."""
_NOISE_HALF = 0.03
_WRITING = {"float32": 0.01}
"""Largest relative error of logits after some steps of generation."""
_WRITING_HALF = 0.2
_ATTENTION_CHUNKS = "attention_chunk_size"
"""Llama 4 attends within chunks of places, which padding on the left would move."""


@torch.no_grad()
def check(backbone: "Backbone") -> bool:
    """Runs three short passes, and compares them.

    Returns:
        whether a text's states may be cached and its special tokens run in a second pass.

    Raises:
        BackboneError: if the head changes its logits in an unknown way, embeddings are not what the first layer takes,
            or padding and later tokens reach earlier ones.
    """
    kind = f"{backbone.name} ({type(backbone.model).__name__})"
    width = backbone.embedding.weight.shape[-1]
    if width != backbone.hidden_size:
        raise BackboneError(
            f"{kind} has embeddings of width {width} and states of width {backbone.hidden_size}: soft prompts "
            "cannot be its input; take another model"
        )
    long, short, tail = _rows(backbone)
    try:
        alone = _head(backbone, [*short, *tail], kind)[-len(tail) :]
        beside, bare = _batch(backbone, long, short, tail)
    except BackboneError:
        raise
    except Exception as error:  # whatever a model of another kind raises, it is of no use here
        raise BackboneError(
            f"{kind} fails on a short text in {backbone.dtype_name} ({_line(error)}); expected a decoder-only language "
            "model whose input is one embedding a token (some run in float32 only: --dtype float32)"
        ) from error
    if not torch.isfinite(alone).all():
        raise BackboneError(f"{kind} gives states that are not finite in {backbone.dtype_name}; use another --dtype")
    if not _near(backbone, beside, alone, bare):
        raise BackboneError(
            f"{kind} gives a text other states beside a longer one, or from embeddings, than alone from its tokens "
            f"(off by {_error(beside, alone, bare):.2g} of what the context does); it cannot be a backbone"
        )
    if _splits(backbone, (long, short, tail), beside, bare):
        return True
    _check_writing(backbone, [long, short], kind)
    return False


def _rows(backbone: "Backbone") -> tuple[list[int], list[int], list[int]]:
    """A text of seven tokens, one of four, and two that stand for special tokens."""
    (ids,) = backbone.tokenize([_TEXT])
    ids = (list(dict.fromkeys(ids)) * 13)[:13]
    return ids[:7], ids[7:11], ids[11:13]


def _head(backbone: "Backbone", ids: list[int], kind: str) -> Tensor:
    """States of one text from its token ids (tokens, hidden); fails if `logits` is not the model's own head."""
    seen: list[Any] = []
    hook = backbone.decoder.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        inputs = torch.tensor([ids], device=backbone.device)
        own = backbone.model(input_ids=inputs, use_cache=False).logits.float()
    finally:
        hook.remove()
    states = seen[-1][0] if seen else backbone.decoder(input_ids=inputs, use_cache=False).last_hidden_state
    ours = backbone.logits(states.to(backbone.device)).float()
    if not torch.allclose(own, ours.to(own.device), atol=2e-2, rtol=2e-2):
        raise BackboneError(f"{kind} changes its logits in a way Foresay does not know; please report this model")
    found: Tensor = states[0].float()
    return found


def _batch(backbone: "Backbone", long: list[int], short: list[int], tail: list[int]) -> tuple[Tensor, Tensor]:
    """The tail's states after the short text, which is padded beside the long one, and without any text.

    The long text's embeddings are no rows of the matrix, as trained ones are not either: a Gemma 4 looks up further
    embeddings by the id of the row.
    """
    ids, _ = pad([[*long, *tail], [*short, *tail], tail], backbone.pad_id, left=False, device=backbone.device)
    inputs = backbone.embedding(ids).clone()
    inputs[0] *= 1.5
    states = backbone.decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state.float()
    return states[1, len(short) : len(short) + len(tail)], states[2, : len(tail)]


def _splits(backbone: "Backbone", rows: tuple[list[int], ...], expected: Tensor, bare: Tensor) -> bool:
    """Whether the tail, run on the cache of padded texts, has the states of one pass."""
    if getattr(backbone.text_config, _ATTENTION_CHUNKS, None):
        return False
    long, short, tail = rows
    ids, lengths = pad([long, short], backbone.pad_id, left=True, device=backbone.device)
    longest = ids.shape[1]
    place = torch.arange(longest + len(tail), device=ids.device)[None]
    mask = (place >= (longest - lengths)[:, None]).long()
    positions = (place - (longest - lengths)[:, None]).clamp(min=0)
    cache = DynamicCache()
    given = backbone.cached(cache)
    try:
        backbone.decoder(input_ids=ids, attention_mask=mask[:, :longest], position_ids=positions[:, :longest], **given)
        if [layer.get_seq_length() for layer in cache.layers] != [longest] * int(
            backbone.text_config.num_hidden_layers
        ):
            return False  # a recurrent state, or none: rows cannot share it
        inputs = backbone.embedding(torch.tensor([tail, tail], device=ids.device))
        out = backbone.decoder(inputs_embeds=inputs, attention_mask=mask, position_ids=positions[:, longest:], **given)
    except Exception as error:  # its cache is of another kind; one pass is right, as was checked before
        logger.info("%s takes no key/value cache (%s)", backbone.name, _line(error))
        return False
    return _near(backbone, out.last_hidden_state[1].float(), expected, bare)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def _check_writing(backbone: "Backbone", rows: list[list[int]], kind: str) -> None:
    """Fails if `generate`, which keeps a state or cache, writes otherwise beside a longer text than one pass says.

    Only asked where the cache is not purely attention: RWKV lets padding in, and BART's decoder counts its places anew.
    """
    ids, lengths = pad(rows, backbone.pad_id, left=True, device=backbone.device)
    longest, new = ids.shape[1], 3
    mask = (torch.arange(longest, device=ids.device)[None] >= (longest - lengths)[:, None]).long()
    off = 0.0
    try:
        out = backbone.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            num_beams=1,
            pad_token_id=backbone.pad_id,
            return_dict_in_generate=True,
            output_logits=True,
        )
        for number, row in enumerate(rows):
            written = out.sequences[number, longest : longest + new - 1]
            whole = torch.cat([ids.new_tensor(row), written])[None]
            expected = backbone.model(input_ids=whole, use_cache=False).logits[0, -1].float()
            found = out.logits[new - 1][number].float()
            off = max(off, float((found - expected).norm() / expected.norm().clamp(min=1e-30)))
    except Exception as error:
        raise BackboneError(f"{kind} cannot write: {_line(error)}; take another model") from error
    if off > _WRITING.get(backbone.dtype_name, _WRITING_HALF):
        raise BackboneError(
            f"{kind} writes otherwise beside a longer text than alone (its logits are off by {off:.2g}): transformers "
            "cannot run it in batches; take another model"
        )


def _near(backbone: "Backbone", found: Tensor, expected: Tensor, bare: Tensor) -> bool:
    share = _SHARE.get(backbone.dtype_name, _SHARE_HALF)
    noise = _NOISE.get(backbone.dtype_name, _NOISE_HALF)
    rounding = float((found - expected).norm() / expected.norm().clamp(min=1e-30)) < noise
    return rounding or _error(found, expected, bare) < share


def _error(found: Tensor, expected: Tensor, bare: Tensor) -> float:
    """The error of states, as a share of the difference that the context makes."""
    return float((found - expected).norm() / (expected - bare).norm().clamp(min=1e-30))
