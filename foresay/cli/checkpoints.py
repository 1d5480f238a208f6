"""A checkpoint on this machine: verify, bundle, reweight, convert."""

from pathlib import Path
from shlex import quote

import click

from .options import Command, HomePath, option, shared
from .running import calm_libraries


@click.command(
    cls=Command,
    short_help="Check that this machine gives the golden vectors.",
    example="""
    foresay verify checkpoint
    """,
)
@click.argument("checkpoint")
@shared("elsewhere")
@shared("device")
@shared("dtype")
def verify(checkpoint: str, backbone: str | None, device: str, dtype: str) -> None:
    """Recompute the golden vectors of CHECKPOINT, or of a whitened teacher; fail if this machine gives others."""
    calm_libraries()
    if (Path(checkpoint) / "teacher.json").is_file():
        from ..teachers.whiten import verify_teacher

        for way in verify_teacher(Path(checkpoint), device):
            click.echo(f"{way.way:33} off by {way.distance:.1e}, allowed {way.tolerance:.0e}")
        click.echo(f"{checkpoint}: verified")
        return
    from ..checkpoints.load import moved_backbone
    from ..checkpoints.verify import verify as run

    loaded = moved_backbone(checkpoint, backbone, device=device, dtype=dtype) if backbone else None
    for verdict in run(checkpoint, backbone=loaded, device=device, dtype=dtype):
        click.echo(f"{verdict.way:33} off by {verdict.distance:.1e}, allowed {verdict.tolerance:.0e}")
    click.echo(f"{checkpoint}: verified")


@click.command(
    cls=Command,
    short_help="Copy a checkpoint with its models inside.",
    example="""
    foresay bundle checkpoint -o portable
    """,
)
@click.argument("checkpoint")
@option("output", required=True, type=HomePath(), help="Folder to make.")
@shared("elsewhere")
@shared("overwrite")
@shared("device")
def bundle(checkpoint: str, output: Path, backbone: str | None, overwrite: bool, device: str) -> None:
    """Copy CHECKPOINT with language model and teacher inside: a folder to move, or to serve elsewhere."""
    calm_libraries()
    from ..checkpoints.bundle import bundle as run
    from ..checkpoints.load import moved_backbone

    loaded = moved_backbone(checkpoint, backbone, device=device) if backbone else None
    inside = run(checkpoint, output, backbone=loaded, device=device, overwrite=overwrite)
    whole = "self-contained" if inside else "holds all but the teacher of its documents"
    click.echo(f"{output}: {whole}, and verified")


@click.command(
    cls=Command,
    short_help="Set how much of the bare query is in its embedding.",
    example="""
    foresay reweight checkpoint --inference-query-weight 0.25 -o weighted
    """,
)
@click.argument("checkpoint")
@option("output", required=True, type=HomePath(), help="Folder to make.")
@click.option(
    "--inference-query-weight",
    "query_weight",
    required=True,
    type=float,
    help="Share of the teacher's own vector of the bare query in a query's embedding, 0 to 1.",
)
@shared("elsewhere")
@shared("overwrite")
@shared("device")
def reweight(
    checkpoint: str, output: Path, query_weight: float, backbone: str | None, overwrite: bool, device: str
) -> None:
    """Copy CHECKPOINT with another share of the query's own vector in its embeddings of queries, without training.

    Embedding a query then takes a second pass, by the teacher. Documents stay as they are, and so does an index.
    """
    calm_libraries()
    from ..checkpoints.load import moved_backbone
    from ..checkpoints.reweight import reweight as run

    loaded = moved_backbone(checkpoint, backbone, device=device) if backbone else None
    run(checkpoint, output, query_weight, backbone=loaded, device=device, overwrite=overwrite)
    click.echo(f"{output}: query weight {query_weight:g}; check it with: foresay verify {quote(str(output))}")


@click.command(
    cls=Command,
    short_help="Read a checkpoint in the published format.",
    example="""
    foresay convert McGill-NLP/LLM2Vec-Gen-Qwen3-06 -o checkpoint
    """,
)
@click.argument("published")
@option("output", required=True, type=HomePath(), help="Checkpoint folder to make.")
@shared("elsewhere")
@shared("overwrite")
@shared("device")
def convert(published: str, output: Path, backbone: str | None, overwrite: bool, device: str) -> None:
    """Turn a checkpoint in the PUBLISHED LLM2Vec-Gen format, folder or hub id, into one of ours."""
    calm_libraries()
    from ..checkpoints.convert import convert as run

    run(published, output, backbone=backbone, device=device, overwrite=overwrite)
    click.echo(f"{output}: converted; check it with: foresay verify {quote(str(output))}")
