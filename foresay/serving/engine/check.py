"""Whether a backbone writes in a batch what it writes alone, found out by numbers.

In: a backbone. Out: nothing, or a `BackboneError`.
Be careful: models whose state is more than keys and values (Mamba, hybrids) run without an error and write nonsense.
"""

import torch

from ...backbone import Backbone
from ...errors import BackboneError
from .cache import new_cache
from .desk import Desk
from .jobs import Ticket
from .outlets import Piece
from .sampling import Sampling
from .writing import Prompt, Writing


@torch.inference_mode()
def check_writing(backbone: Backbone) -> None:
    """Compares texts that join and leave with the model's own one-pass scores.

    Raises:
        BackboneError: if they differ: this model's state is not made of keys and values alone.
    """
    ids = [i % backbone.text_config.vocab_size for i in range(3, 16)]
    whole = torch.tensor([ids], device=backbone.device)
    decoder = backbone.decoder
    wanted = backbone.logits(decoder(input_ids=whole, use_cache=False).last_hidden_state[0, [6, 11, 12]]).float()
    desk = Desk(backbone, places=2, cache_tokens=1 << 20, batch_tokens=1 << 20)
    ticket, how = Ticket.of(3600), Sampling(max_tokens=100)
    long, short = (Writing(Prompt(ids[:n]), how, backbone, ticket, _Nowhere()) for n in (12, 7))
    try:
        cache = new_cache()
        read = desk._prefill([long, short], cache).float()
        long.written.append(ids[12])
        short.written.append(ids[7])
        desk._cache, desk.active = cache, [long, short]
        desk._keep([long])
        device = backbone.device
        last = backbone.embedding(torch.tensor([[ids[12]]], device=device))
        seen = torch.ones((1, 13), dtype=torch.bool, device=device)
        step = desk._pass(last, seen, torch.tensor([[12]], device=device), cache).float()
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise BackboneError(f"{backbone.name} cannot write several texts at a time ({type(error).__name__})") from error
    found = torch.stack([read[1], read[0], step[0]])
    allowed = 1e-3 if backbone.dtype == torch.float32 else 5e-2
    off = float((found - wanted).norm() / wanted.norm())
    if not off < allowed:
        raise BackboneError(f"{backbone.name} writes otherwise in a batch than alone (off by {off:.2g})")


class _Nowhere:
    """An outlet that leads nowhere."""

    def put(self, piece: Piece) -> None:
        """Drops it."""

    def fail(self, error: Exception) -> None:
        """Ignores it."""
