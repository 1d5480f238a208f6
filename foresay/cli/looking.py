"""Look at responses; join those of several machines."""

from pathlib import Path

import click

from ..outputs import check_file
from .options import Command, HomePath, option


@click.command(
    cls=Command,
    short_help="See what the responses are like before training on them.",
    example="""
    foresay look responses.jsonl --plot lengths.png
    """,
)
@click.argument("responses", type=HomePath())
@click.option("--plot", type=HomePath(), help="Picture of the lengths to draw, such as lengths.png.")
@click.option("--seed", default=0, show_default=True, help="Seed of the sample and of the rows shown.")
def look(responses: Path, plot: Path | None, seed: int) -> None:
    """Count the RESPONSES that are cut, empty, refusals, or like others; show their lengths, and ten of them."""
    if plot:
        check_file(plot, (".png", ".svg", ".pdf"), [responses], "--plot")
    from ..data.look import look as run

    found = run(responses, seed)
    click.echo("\n".join(found.lines()))
    for row in found.examples:
        click.echo(f"\n{click.style(row.query[:200], bold=True)}\n  {' '.join(row.response.split())[:300]}")
    if plot:
        found.plot(plot)
        click.echo(f"\n{plot}: the lengths")


@click.command(
    cls=Command,
    short_help="Join the responses of several machines.",
    example="""
    foresay merge responses-*-of-4.jsonl -o responses.jsonl --queries queries.jsonl
    """,
)
@click.argument("shards", nargs=-1, required=True, type=HomePath())
@option("output", required=True, type=HomePath(), help="JSON lines file to make.")
@click.option("--queries", help="The queries, to count those without a response.")
def merge(shards: tuple[Path, ...], output: Path, queries: str | None) -> None:
    """Join SHARDS, made alike by respond --shard; say which rows are repeated or missing."""
    from ..data.merge import merge as run
    from ..data.queries import read_queries

    done = run(sorted(shards), output, read_queries(queries) if queries else None)
    gaps = "" if done.gaps is None else f", {done.gaps} queries without a response"
    click.echo(f"{output}: {done.rows} rows; {done.repeated} repeated, {done.rejected} rejected{gaps}")
