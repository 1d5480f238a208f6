"""The whole method in one command."""

from pathlib import Path

import click

from ..outputs import check_folder
from .options import Command, HomePath, option, shared
from .running import calm_libraries, progress_bar


@click.command(
    cls=Command,
    short_help="See the whole method at work, offline, in minutes.",
    example="""
    foresay quickstart -o quickstart
    """,
)
@option("output", default="quickstart", show_default=True, type=HomePath(), help="Folder.")
@option(
    "backbone",
    type=click.Choice(["smollm2", "nano"]),
    default="smollm2",
    show_default=True,
    help="A real model, with packaged answers; or a tiny one, with every step live.",
)
@shared("device")
def quickstart(output: Path, backbone: str, device: str) -> None:
    """The whole method, offline, in a few minutes: from queries to scores, with a plot and what to type next.

    By default on SmolLM2-135M-Instruct, whose packaged answers stand for the hours of writing them. --backbone nano
    runs every step live on a tiny model: it answers, trains and decodes.
    """
    ours = (output / "responses.jsonl").is_file()
    check_folder(output, ["results.json", "results.png"], mine=ours, command="foresay quickstart")
    calm_libraries()
    from ..quickstart import quickstart as run

    run(output, device, progress_bar, backbone)
