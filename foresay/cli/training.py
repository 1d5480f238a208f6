"""Responses and targets to a checkpoint: in closed form, or by gradient."""

import logging
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import click

from ..config import RECIPES, FitConfig, TrainConfig, recipe
from .options import Command, HomePath, given, option, options, shared, together
from .running import calm_libraries, on_bar, progress_bar

_pairs_to_checkpoint = together(
    click.argument("responses", type=HomePath()),
    click.argument("targets", type=HomePath()),
    option("output", required=True, type=HomePath(), help="Checkpoint folder to make."),
    shared("overwrite"),
    shared("revision"),
    shared("device"),
)
"""What `fit` and `train` have in common."""


@click.command(
    cls=Command,
    short_help="Make a checkpoint in closed form: no training, minutes.",
    example="""
    foresay fit responses.jsonl targets -m Qwen/Qwen3-0.6B -o checkpoint
    foresay fit more.jsonl other-targets --checkpoint checkpoint -o refitted
    """,
)
@_pairs_to_checkpoint
@option(
    "backbone",
    help="The language model: hub id, folder, GGUF file, or the word nano or smollm2. With --checkpoint only where it "
    "is not where that one says.",
)
@click.option(
    "--checkpoint",
    help="Keep all of this checkpoint, options included, but its alignment map, which is found anew for TARGETS.",
)
@options(FitConfig)
def fit(
    responses: Path,
    targets: Path,
    backbone: str | None,
    output: Path,
    checkpoint: str | None,
    overwrite: bool,
    revision: str | None,
    device: str,
    **values: Any,  # noqa: ANN401
) -> None:
    """Find the maps from RESPONSES' queries to their TARGETS by ridge regression, without any gradient.

    One forward pass over the queries. The checkpoint embeds like a trained one; what it decodes is fluent and often off
    the subject, which only training mends.

    With --checkpoint, its special tokens, template and reconstruction map stay, so the result decodes as that one does,
    and embeds in the space of TARGETS: another teacher's, more rows, longer responses.
    """
    if backbone is None and (checkpoint is None or revision is not None):
        raise click.UsageError("Missing option '-m' / '--backbone'.", click.get_current_context())
    chosen = given(values)
    config = FitConfig(**values)
    calm_libraries()
    from ..backbone import Backbone
    from ..checkpoints.folder import claim
    from ..checkpoints.load import moved_backbone
    from ..data.pairs import Pairs
    from ..training.fit import fit as run
    from ..training.refit import shape_of

    claim(output, "foresay fit", overwrite=True)  # what is there is looked at again when the backbone is known
    if checkpoint is not None:
        config = replace(shape_of(checkpoint), **chosen)
    pairs = Pairs.load(responses, targets)
    model = None
    if backbone is not None:
        load = Backbone.load if checkpoint is None else partial(moved_backbone, checkpoint)
        model = load(backbone, revision=revision, device=device, dtype=config.dtype)
    with progress_bar("fitting") as progress:
        encoder = run(
            pairs, model, output, config, on_bar(progress), overwrite=overwrite, checkpoint=checkpoint, device=device
        )
    command = f"foresay encode {quote(str(output))} --text 'A question?'"
    click.echo(f"{output}: fitted, embeddings of width {encoder.dim}; try: {command}")


@click.command(
    cls=Command,
    short_help="Train special tokens and maps to reach the targets.",
    example="""
    foresay train responses.jsonl targets -m Qwen/Qwen3-0.6B -o checkpoint --steps 2000
    """,
)
@shared("backbone")
@_pairs_to_checkpoint
@click.option(
    "--recipe",
    "named",
    type=click.Choice(list(RECIPES)),
    default="default",
    show_default=True,
    help="Defaults for the options below; an option that you give overrides them.",
)
@options(TrainConfig)
def train(
    responses: Path,
    targets: Path,
    backbone: str,
    output: Path,
    overwrite: bool,
    revision: str | None,
    device: str,
    named: str,
    **values: Any,  # noqa: ANN401
) -> None:
    """Train special tokens and maps on RESPONSES and their TARGETS.

    Run it again after a kill, and it resumes. OUTPUT/training holds the metrics and their curves.

    On several GPUs: accelerate launch -m foresay train … (or torchrun -m); they share each batch.
    """
    chosen = given(values)
    TrainConfig(**{**recipe(named, ""), **chosen})  # a wrong option is said before a model is loaded
    calm_libraries()
    from ..backbone import Backbone
    from ..checkpoints.folder import claim
    from ..data.pairs import Pairs
    from ..training.distributed import is_first, leave
    from ..training.live import LiveTable
    from ..training.stopping import Stopped
    from ..training.train import train as run

    if not is_first():
        logging.getLogger("foresay").setLevel(logging.ERROR)  # the first process says it for all
    claim(output, "foresay train", overwrite=True)  # what is there is looked at again when the backbone is known
    pairs = Pairs.load(responses, targets)
    model = Backbone.load(backbone, revision=revision, device=device, dtype=values["dtype"])
    config = TrainConfig(**{**recipe(named, model.text_config.model_type), **chosen})
    try:
        with LiveTable(config.steps) if is_first() else nullcontext() as report:
            run(pairs, model, output, config, report, overwrite=overwrite)
    except Stopped as stopped:
        raise click.ClickException(str(stopped)) from None
    finally:
        leave()
    if is_first():
        verb = "decode" if config.reconstruction_weight else "encode"  # without that loss nothing decodes
        click.echo(f"{output}: trained; try: foresay {verb} {quote(str(output))} --text 'What does frugal mean?'")
