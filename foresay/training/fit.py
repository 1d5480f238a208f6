"""Responses and targets to a checkpoint without any gradient: one forward pass over the queries, one ridge regression.

In: pairs of query and response with the teacher's vectors, and perhaps a checkpoint. Out: a checkpoint folder like one
of `train`.
Careful: without a checkpoint, the special tokens stay as they were drawn. Their states, after a query, hold what the
model is about to say, and a linear map reads it. Such a checkpoint embeds well. It decodes only as far as a closed form
can (fluent, often off the subject), and only with a reconstruction map for each token; `train` is what makes it decode.
With a checkpoint, everything stays as it is there but for the alignment map, so the result decodes as that one does.
"""

from dataclasses import asdict
from pathlib import Path

from ..backbone import Backbone
from ..checkpoints.export.sentence_transformers import export
from ..checkpoints.folder import claimed, find
from ..checkpoints.record import Training
from ..checkpoints.save import save
from ..config import FitConfig
from ..data.pairs import Pairs, warn_of_pairs
from ..encoder import Encoder
from ..errors import CheckpointError, InputError
from ..outputs import writing
from .closed_form import align_by, closed_form, start_from
from .held_out import target_metrics
from .metrics import Metrics, Report, held_out
from .new_encoder import new_encoder
from .refit import refitting

_MINE = ("closed form", "refit")


def fit(
    pairs: Pairs,
    backbone: Backbone | None,
    output: Path,
    config: FitConfig | None = None,
    report: Report | None = None,
    *,
    overwrite: bool = False,
    checkpoint: str | Path | None = None,
    device: str = "auto",
) -> Encoder:
    """Finds the maps in closed form and writes a checkpoint.

    With a `checkpoint`, its special tokens, template, adapter and reconstruction map stay, and only the alignment map
    is found, for these targets: another teacher's, more rows, longer responses.

    Args:
        pairs: queries, responses and targets.
        backbone: the frozen language model; with a checkpoint, None takes the one that it names.
        output: checkpoint folder to make.
        config: the shape of the checkpoint; with a checkpoint, None takes that one's, and `refit.shape_of` gives it.
        report: told after each block how many queries have been read.
        overwrite: replace a checkpoint that is in `output`; another fitted one is replaced anyway.
        checkpoint: folder or hub id.
        device: to load the checkpoint's backbone on.

    Returns:
        the encoder; with a single reconstruction map that no `checkpoint` brought, `decode` refuses it.

    Raises:
        InputError: if the options do not fit the pairs or the checkpoint, or the teacher of the documents is gone.
        CheckpointError: if `output` holds a trained checkpoint, or files that are not a checkpoint's; or if the
            checkpoint is missing or damaged.
        BackboneError: if the checkpoint's backbone is gone or is another model.
        DataError: if nothing can be written to `output`.
    """
    mine = claimed(output, "foresay fit", overwrite=overwrite, mine=lambda found: found.training.method in _MINE)
    with mine as output:
        encoder, made = _fitted(pairs, backbone, output, config, report, checkpoint, device)
        with writing(output):
            save(output, encoder, made)
            export(output, encoder)
    return encoder


def _fitted(
    pairs: Pairs,
    backbone: Backbone | None,
    output: Path,
    config: FitConfig | None,
    report: Report | None,
    checkpoint: str | Path | None,
    device: str,
) -> tuple[Encoder, Training]:
    """The encoder, and how it was made."""
    warn_of_pairs(pairs)
    if checkpoint is not None:
        folder = find(checkpoint)
        if folder.resolve() == output:
            raise CheckpointError(f"{output} is the checkpoint itself; use another -o")
        encoder, config, before = refitting(folder, backbone, pairs, config, device)
        metrics = _find(encoder, pairs, config, report, keep_reconstruct=True)
        made = Training("refit", asdict(config), pairs.origin, metrics=metrics, before=before)
    elif backbone is None:
        raise InputError("there is neither a backbone nor a checkpoint that names one; give one of them")
    else:
        config = config or FitConfig()
        encoder = new_encoder(pairs, backbone, config)
        encoder.decodes = encoder.model.by_token
        metrics = _find(encoder, pairs, config, report, keep_reconstruct=False)
        made = Training("closed form", asdict(config), pairs.origin, metrics=metrics)
    return encoder.with_query_weight(config.inference_query_weight), made


def _find(
    encoder: Encoder, pairs: Pairs, config: FitConfig, report: Report | None, *, keep_reconstruct: bool
) -> Metrics:
    """Puts the fitted maps into an encoder; how they do on the rows that were held out."""
    rows, held = pairs.split(config)
    found = closed_form(encoder, pairs, rows, held, report, keep_reconstruct=keep_reconstruct)
    if keep_reconstruct:
        align_by(encoder.model, found.alignment)
    else:
        start_from(encoder.model, found)
    metrics = {"held_out_rows": len(held), "penalty": found.alignment.penalty, **target_metrics(encoder, pairs, held)}
    if found.soft_prompt:
        metrics |= {held_out("reconstruction"): found.soft_prompt.loss, "swapped": found.soft_prompt.swapped}
    return metrics
