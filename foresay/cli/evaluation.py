"""Does it find the answer? Measure a checkpoint, and compare it with others."""

from pathlib import Path
from typing import Any

import click

from ..errors import InputError
from .options import Command, shared
from .running import calm_libraries, progress_bar


@click.command(
    cls=Command,
    short_help="Measure a checkpoint, and compare it with others.",
    example="""
    foresay evaluate checkpoint quick --against teacher --against hyde
    """,
)
@click.argument("checkpoint")
@click.argument("suites", metavar="SUITE...", nargs=-1, required=True)
@click.option(
    "--against",
    multiple=True,
    metavar="NAME",
    help="Compare with this on the same texts; repeatable. teacher: the teacher on the bare text. hyde: the language "
    "model writes the response, the teacher embeds it. response: the teacher on responses from --responses, the upper "
    "bound. mean: the language model itself, mean pooled. bm25: words in common. Or any sentence-transformers model.",
)
@click.option(
    "--documents",
    type=click.Choice(["checkpoint", "teacher"]),
    help="Who embeds documents; if left out, who does in the checkpoint's own use. Embeddings live in the teacher's "
    "space, so an index that the teacher made can be searched as it is.",
)
@click.option(
    "--prompts",
    type=click.Choice(["task", "checkpoint"]),
    default="task",
    show_default=True,
    help="What stands before a text: what its task asks for; or always the checkpoint's own prompts, as encode_query "
    "and encode_document have them.",
)
@click.option("--also", multiple=True, metavar="CHECKPOINT", help="Another seed of the same method; repeatable.")
@click.option("--teacher", help="Where the teacher is, if it is not where the checkpoint says.")
@click.option("--responses", type=click.Path(path_type=Path), help="File of responses, for --against response.")
@click.option(
    "--max-new-tokens",
    default=500,
    show_default=True,
    type=click.IntRange(1),
    help="Longest response that --against hyde writes, in tokens: as long as those of the training.",
)
@click.option("--limit", type=click.IntRange(2), help="Measure on so many queries of each task: for a first look.")
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap behind the intervals.")
@click.option(
    "-o", "--output", default="evaluation", show_default=True, type=click.Path(path_type=Path), help="Folder."
)
@shared("device")
@shared("dtype")
def evaluate(
    checkpoint: str,
    suites: tuple[str, ...],
    also: tuple[str, ...],
    output: Path,
    **options: Any,  # noqa: ANN401
) -> None:
    """Measure CHECKPOINT on each SUITE, with 95 % intervals.

    A SUITE is one of these, a task or benchmark of mteb by its name there, or a folder of your own data
    (docs/tasks.md says what is in it):

    \b
      quick        the data inside this package: seconds, offline
      mteb         MTEB(eng, v2), 41 tasks          mteb-lite    ten of them
      bright       reasoning, 12 domains (v1.1)     bright-v1    as in the first paper
      advbench-ir  do harmful requests find harmful passages?

    Tables, pictures, JSON and mteb's own result files go to OUTPUT; run again, it goes on where it stopped.
    """
    calm_libraries()
    try:
        import mteb  # noqa: F401
    except ModuleNotFoundError:
        raise InputError("foresay evaluate needs mteb: pip install 'foresay[evaluate]'") from None
    from datasets import disable_progress_bars
    from rich.console import Console

    from ..evaluation.evaluate import evaluate as run

    disable_progress_bars()
    with progress_bar("evaluating") as progress:
        report = run((checkpoint, *also), suites, output, progress=progress, **options)
    report.show(Console())
    click.echo(f"{output}/results.md has the tables and pictures")
