"""The whole method in one command."""

from pathlib import Path

import click

from .options import Command, shared
from .running import calm_libraries, progress_bar


@click.command(
    cls=Command,
    short_help="See the whole method at work, offline, in minutes.",
    example="""
    foresay quickstart -o quickstart
    """,
)
@click.option(
    "-o", "--output", default="quickstart", show_default=True, type=click.Path(path_type=Path), help="Folder."
)
@shared("device")
def quickstart(output: Path, device: str) -> None:
    """The whole method on the small backbone inside this package, offline, in a few minutes.

    Answers the bundled queries, embeds the answers, trains, evaluates, decodes, and says what to type next.
    """
    calm_libraries()
    from ..quickstart import quickstart as run

    run(output, device, progress_bar)
