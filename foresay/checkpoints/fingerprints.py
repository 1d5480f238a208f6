"""What tells one encoder from another.

In: an `Encoder`. Out: hex digits that stand for everything its vectors depend on.
Careful: names and revisions are part of it, so the same model in another place has another fingerprint; whoever meets
one compares vectors before it refuses (`retrieval.space`).
"""

import hashlib

from ..encoder import Encoder


def encoder_fingerprint(encoder: Encoder) -> str:
    """A hash of the trained weights, and of all settings but the prompts, which belong to a call."""
    model, backbone = encoder.model, encoder.model.backbone
    state = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(model.state_dict().items()):
        state.update(name.encode())
        state.update(weight.detach().float().cpu().numpy().tobytes())
    tokens = (model.thought, model.compression, model.template, encoder.max_tokens)
    settings = (
        backbone.name,
        backbone.revision,
        backbone.dtype_name,
        model.readout,
        tokens,
        encoder.document_teacher,
        encoder.query_weight,
    )
    state.update(repr(settings).encode())
    return state.hexdigest()
