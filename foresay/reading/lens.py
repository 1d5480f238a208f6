"""What the special tokens of many texts read as, through any lens, at any layers.

In: an encoder and texts. Out: a `LensReading` for each text: hits for each layer and compression token, and for each
layer over all tokens. The texts run in batches of similar length, and what they all begin with runs once.
Be careful with layers: `all` keeps every layer's states of a batch; for the last one alone it costs hardly more than
encoding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backbone import check_texts
from ..batching import Budget, Progress, Row, length_batches
from ..config import LensConfig
from ..encoder import Encoder
from . import latent_lens as latent_lens  # registers itself
from . import logit_lens as logit_lens  # registers itself
from .layers import chosen_layers
from .lenses import Hit, find

Take = Callable[[list[int], Tensor], None]
"""Takes the positions of a batch's texts, and their states (rows, layers, compression, hidden)."""


@dataclass(frozen=True)
class LensReading:
    """What the special tokens of one text read as.

    Attributes:
        text: the text.
        lens: the lens's name.
        score: what the score of a hit is.
        layers: which were read; 0 is the input embedding.
        tokens: hits by layer and compression token, best first.
        merged: hits by layer, over all compression tokens.
    """

    text: str
    lens: str
    score: str
    layers: list[int]
    tokens: list[list[list[Hit]]]
    merged: list[list[Hit]]


def lens(
    encoder: Encoder,
    texts: str | Sequence[str],
    config: LensConfig | None = None,
    *,
    prompt_name: str = "query",
    batch_tokens: int = 8192,
    progress: Progress | None = None,
) -> list[LensReading]:
    """Reads the special tokens of each text.

    Args:
        encoder: whose tokens.
        texts: one text or many.
        config: which lens, which layers, how many hits.
        prompt_name: whose prompt goes before a text.
        batch_tokens: most padded tokens in one forward pass.
        progress: told how many texts each finished batch held.

    Raises:
        InputError: for an unknown lens or layer, or an index of another backbone.
    """
    config = config or LensConfig()
    checked = check_texts(texts)
    layers = chosen_layers(config.layers, int(encoder.model.backbone.text_config.num_hidden_layers))
    reader = find(config.lens)(encoder, config)
    found: list[LensReading | None] = [None] * len(checked)

    def take(batch: list[int], states: Tensor) -> None:
        by_layer = [reader.read(states[:, at], layer, config.top) for at, layer in enumerate(layers)]
        for row, position in enumerate(batch):
            tokens, merged = [each[row] for each, _ in by_layer], [both[row] for _, both in by_layer]
            found[position] = LensReading(checked[position], config.lens, reader.score, layers, tokens, merged)
        if progress:
            progress(len(batch))

    rows, _ = encoder.model.rows([encoder.prompts[prompt_name] + text for text in checked], encoder.max_tokens)
    run_layers(encoder, rows, layers, take, batch_tokens)
    return [reading for reading in found if reading is not None]


@torch.no_grad()
def run_layers(encoder: Encoder, rows: Sequence[Row], layers: list[int], take: Take, batch_tokens: int) -> None:
    """States of the compression tokens at some layers, batch by batch, the longest texts first."""
    model = encoder.model
    last = int(model.backbone.text_config.num_hidden_layers)
    shared, prefix = model.shared(rows)
    budget = Budget(batch_tokens, model.backbone.least_tokens, extra=model.tokens + shared)
    lengths = [len(row) - shared + budget.extra for row in rows]
    for batch in length_batches(lengths, budget.most_tokens, budget.least_tokens):
        part = [rows[i][shared:] for i in batch]
        if layers == [last]:
            states = model.hidden(part, prefix)  # where every layer is read, the last of them is this one
            take(batch, states[:, None] if states.ndim == 3 else states[:, -1:])
        else:
            take(batch, model.hidden_layers(part, prefix)[:, layers])
