"""Responses and targets to a checkpoint without any gradient: one forward pass over the queries, one ridge regression.

In: pairs of query and response with the teacher's vectors. Out: a checkpoint folder like one of `train`.
Careful: the special tokens stay as they were drawn. Their states, after a query, hold what the model is about to say,
and a linear map reads it. Such a checkpoint embeds well. It decodes only as far as a closed form can (fluent, often off
the subject), and only with a reconstruction map for each token; `train` is what makes it decode.
"""

from dataclasses import asdict
from pathlib import Path

from ..backbone import Backbone
from ..checkpoints.export.sentence_transformers import export
from ..checkpoints.folder import claim, writing_tensors
from ..checkpoints.record import Training
from ..checkpoints.save import save
from ..config import FitConfig
from ..data.pairs import Pairs, warn_of_pairs
from ..encoder import Encoder
from .closed_form import closed_form, start_from
from .held_out import target_metrics
from .metrics import Report, held_out
from .new_encoder import new_encoder


def fit(
    pairs: Pairs,
    backbone: Backbone,
    output: Path,
    config: FitConfig | None = None,
    report: Report | None = None,
    *,
    overwrite: bool = False,
) -> Encoder:
    """Finds the maps in closed form and writes a checkpoint.

    Args:
        pairs: queries, responses and targets.
        backbone: the frozen language model.
        output: checkpoint folder to make.
        config: the shape of the checkpoint.
        report: told after each block how many queries have been read.
        overwrite: replace a checkpoint that is in `output`; another fitted one is replaced anyway.

    Returns:
        the encoder; with a single reconstruction map, `decode` refuses it.

    Raises:
        InputError: if the options do not fit the pairs, or the teacher of the documents is gone.
        CheckpointError: if `output` holds a trained checkpoint, or files that are not a checkpoint's.
        DataError: if nothing can be written to `output`.
    """
    config = config or FitConfig()
    output = claim(
        output, "foresay fit", overwrite=overwrite, mine=lambda found: found.training.method == "closed form"
    )
    warn_of_pairs(pairs)
    encoder = new_encoder(pairs, backbone, config)
    encoder.decodes = encoder.model.by_token
    rows, held = pairs.split(config)
    found = closed_form(encoder, pairs, rows, held, report)
    start_from(encoder.model, found)
    metrics = {"held_out_rows": len(held), "penalty": found.alignment.penalty, **target_metrics(encoder, pairs, held)}
    if found.soft_prompt:
        metrics |= {held_out("reconstruction"): found.soft_prompt.loss, "swapped": found.soft_prompt.swapped}
    with writing_tensors(output):
        save(output, encoder, Training("closed form", asdict(config), pairs.origin, metrics=metrics))
        export(output, encoder)
    return encoder
