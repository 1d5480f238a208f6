"""Queries to responses."""

from pathlib import Path
from typing import Any

import click

from ..config import RespondConfig
from .options import Command, build, options, shared
from .running import calm_libraries, progress_bar


@click.command(
    cls=Command,
    short_help="Let a language model answer queries.",
    example="""
    foresay respond queries.jsonl -m Qwen/Qwen3-0.6B -o responses.jsonl
    """,
)
@click.argument("queries")
@shared("backbone")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="JSON lines file to append to.")
@shared("column")
@shared("split")
@shared("revision")
@shared("device")
@shared("dtype")
@options(RespondConfig)
def respond(
    queries: str,
    backbone: str,
    output: Path,
    column: str | None,
    split: str,
    revision: str | None,
    device: str,
    dtype: str,
    **values: Any,  # noqa: ANN401
) -> None:
    """Let the backbone answer QUERIES: a .jsonl, .csv, .tsv, .parquet or .txt file, or a data set on the hub.

    Goes on where it stopped when it is run again. Rows without an answer go to OUTPUT.rejected.jsonl.
    """
    config = build(RespondConfig, values)
    calm_libraries()
    from ..backbone import Backbone
    from ..data.queries import read_queries
    from ..engines.respond import respond as run

    rows = list(read_queries(queries, column=column, split=split))
    model = Backbone.load(backbone, revision=revision, device=device, dtype=dtype)
    with progress_bar("responding") as progress:
        summary = run(rows, model, output, config, progress)
    click.echo(
        f"{output}: {summary.written} written, {summary.skipped} there before, {summary.rejected} rejected, "
        f"{summary.cut} stopped by the length limit"
    )
