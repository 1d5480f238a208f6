"""Responses and targets to a checkpoint without any gradient: one forward pass over the queries, one ridge regression.

In: pairs of query and response with the teacher's vectors. Out: a checkpoint folder like one of `train`.
Careful: the special tokens stay as they were drawn. Their states, after a query, hold what the model is about to say,
and a linear map reads it. Nothing has learned to write a response from a soft prompt, so such a checkpoint embeds but
does not decode.
"""

from dataclasses import asdict
from pathlib import Path

from ..backbone import Backbone
from ..checkpoints.export.sentence_transformers import export
from ..checkpoints.record import Training
from ..checkpoints.save import save
from ..config import FitConfig
from ..data.pairs import Pairs
from ..encoder import Encoder
from .closed_form import ridge, start_from
from .held_out import target_metrics
from .metrics import Report
from .new_encoder import new_encoder


def fit(
    pairs: Pairs, backbone: Backbone, output: Path, config: FitConfig | None = None, report: Report | None = None
) -> Encoder:
    """Finds the maps in closed form and writes a checkpoint.

    Args:
        pairs: queries and targets; the responses are not read.
        backbone: the frozen language model.
        output: checkpoint folder to make.
        config: the shape of the checkpoint.
        report: told after each block how many queries have been read.

    Returns:
        the encoder, which `decode` refuses.
    """
    config = config or FitConfig()
    encoder = new_encoder(pairs, backbone, config)
    encoder.decodes = False
    rows, held = pairs.split(config)
    found = ridge(encoder, pairs, rows, held, report)
    start_from(encoder.model, found)
    metrics = {"held_out_rows": len(held), "penalty": found.penalty, **target_metrics(encoder, pairs, held)}
    save(output, encoder, Training("closed form", asdict(config), pairs.origin, metrics=metrics))
    export(output, encoder)
    return encoder
