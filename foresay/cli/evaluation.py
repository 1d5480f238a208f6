"""Does it find the answer? Measure a checkpoint, and compare it with others."""

from pathlib import Path
from typing import Any

import click

from ..config import ClusterConfig, EvaluateConfig
from ..errors import InputError
from .options import Command, HomePath, build, option, options
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
@click.option("--also", multiple=True, metavar="CHECKPOINT", help="Another seed of the same method; repeatable.")
@option("output", default="evaluation", show_default=True, type=HomePath(), help="Folder.")
@options(EvaluateConfig)
@options(ClusterConfig)
def evaluate(
    checkpoint: str,
    suites: tuple[str, ...],
    also: tuple[str, ...],
    against: tuple[str, ...],
    output: Path,
    **values: Any,  # noqa: ANN401
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
    config, cluster = build(EvaluateConfig, values), build(ClusterConfig, values)
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
        report = run((checkpoint, *also), suites, output, config, against=against, cluster=cluster, progress=progress)
    report.show(Console())
    click.echo(f"{output}/results.md has the tables and pictures")
