"""Make a teacher, and let it set the targets."""

from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import Any

import click

from ..config import ClusterConfig, TeachConfig, TeacherConfig, WhitenConfig
from ..data.responses import check_responses
from ..outputs import check_output
from .options import Command, HomePath, build, option, options, shared
from .running import calm_libraries, on_bar, progress_bar
from .whitening import read_pairs, report


@click.command(
    cls=Command,
    short_help="Make a teacher of any language model.",
    example="""
    foresay teacher texts.jsonl -m Qwen/Qwen3-0.6B -o my-teacher
    """,
)
@click.argument("texts")
@shared("backbone")
@option("output", required=True, type=HomePath(), help="Folder of the teacher to make.")
@shared("column")
@shared("split")
@click.option("--closed-form", is_flag=True, help="Train nothing: read in both directions, and whiten. Seconds.")
@shared("revision")
@shared("device")
@options(TeacherConfig)
def teacher(
    texts: str,
    backbone: str,
    output: Path,
    column: str | None,
    split: str,
    closed_form: bool,
    revision: str | None,
    device: str,
    **values: Any,  # noqa: ANN401
) -> None:
    """Make a teacher of a language model with unlabelled TEXTS: a file, or a data set on the hub, as respond reads.

    Run it again after a kill, and it resumes. OUTPUT/training holds the metrics of each step.
    """
    config = build(TeacherConfig, values)
    calm_libraries()
    from ..backbone import Backbone
    from ..data.queries import Query, read_queries
    from ..teachers.folder import check_trained
    from ..teachers.make import make_teacher
    from ..training.stopping import Stopped

    if closed_form:
        from ..teachers.folder import check_whitened
        from ..teachers.whiten import closed_form_teacher

        check_whitened(output)
        pairs = read_pairs(texts, column, split)
        model = Backbone.load(backbone, revision=revision, device=device, dtype=config.dtype)
        whitening = WhitenConfig(seed=config.seed)
        report(output, closed_form_teacher(model, pairs, output, whitening)[1])
        return
    check_trained(output)
    rows = list(read_queries(texts, column=column, split=split))
    good = [row.text for row in rows if isinstance(row, Query)]
    if len(good) < len(rows):
        click.echo(f"{texts}: {len(rows) - len(good)} rows hold no text and are left out", err=True)
    model = Backbone.load(backbone, revision=revision, device=device, dtype=config.dtype)
    with progress_bar("training") as progress:
        try:
            make_teacher(good, model, output, config, on_bar(progress))
        except Stopped as stopped:
            raise click.ClickException(str(stopped)) from None
    click.echo(f"{output}: trained; use it with: foresay teach responses.jsonl -t {quote(str(output))} -o targets")


@click.command(
    cls=Command,
    short_help="Embed the responses: the targets.",
    example="""
    foresay teach responses.jsonl -t sentence-transformers/all-MiniLM-L6-v2 -o targets
    """,
)
@click.argument("responses", type=HomePath())
@option(
    "teacher",
    required=True,
    help="sentence-transformers or LLM2Vec model, by folder or hub id; nano-teacher; or the word self.",
)
@option("output", required=True, type=HomePath(), help="Folder of targets to make.")
@option("backbone", help="The language model, for the teacher called self.")
@shared("device")
@shared("dtype")
@options(TeachConfig)
@options(ClusterConfig)
def teach(
    responses: Path,
    teacher: str,
    output: Path,
    backbone: str | None,
    device: str,
    dtype: str,
    **values: Any,  # noqa: ANN401
) -> None:
    """Embed RESPONSES with a teacher: the targets that training aims at.

    Resumes when it is run again, and embeds only what is new.
    """
    config, cluster = build(TeachConfig, values), build(ClusterConfig, values)
    check_responses(responses)
    from ..data.targets import check_targets

    check_targets(output)
    check_output(output / "vectors.npy")
    calm_libraries()
    from ..backbone import Backbone
    from ..teachers.base import Teacher
    from ..teachers.load import load_teacher
    from ..teachers.teach import teach as run

    with progress_bar("teaching") as progress, ExitStack() as stack:
        if cluster.cluster:
            from ..cluster.ray_pool import RayPool
            from ..teachers.remote import RemoteTeacher, TeachWork

            pool = stack.enter_context(RayPool(TeachWork(teacher, backbone, dtype, config), cluster, device))
            taught: Teacher = RemoteTeacher(pool, pool.workers)
        else:
            model = Backbone.load(backbone, device=device, dtype=dtype) if backbone else None
            taught = load_teacher(teacher, model, device, config)
        made = run(
            responses,
            taught,
            output,
            progress,
            query_weight=config.query_weight,
            of=config.of,
            average=config.average,
        )
    by = made.manifest
    click.echo(f"{output}: {made.rows} vectors of width {by.dim} by {by.teacher}, {made.new} of them new")
