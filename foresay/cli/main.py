"""The command line: one command a step, thin. Options come from the dataclasses in config.py.

What a reader would get wrong: nothing here may import torch, directly or not, outside a command's body;
`foresay --help` answers at once. Every error of our own tree becomes one line and exit code 1.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..config import RECIPES, FitConfig, RespondConfig, TeachConfig, TeacherConfig, TrainConfig, recipe
from ..errors import InputError
from .options import Group, build, given, options, shared

if TYPE_CHECKING:
    from ..data.queries import Progress
    from ..encoder import Encoder


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="foresay")
@click.option("-v", "--verbose", is_flag=True, help="Say more about what happens.")
def main(verbose: bool) -> None:
    """Embeddings of what a language model would answer.

    Train your own in four commands (or see them all at work: foresay quickstart):

    \b
      foresay respond queries.jsonl -m MODEL -o responses.jsonl
      foresay teach   responses.jsonl -t TEACHER -o teacher/
      foresay train   responses.jsonl teacher/ -m MODEL -o checkpoint/
      foresay encode  checkpoint/ texts.jsonl -o vectors.npy
    """
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("foresay").setLevel(level)


@main.command(short_help="See the whole method at work, offline, in minutes.")
@click.option(
    "-o", "--output", default="quickstart", show_default=True, type=click.Path(path_type=Path), help="Folder."
)
@shared("device")
def quickstart(output: Path, device: str) -> None:
    """The whole method on the small backbone inside this package, offline, in a few minutes.

    Answers the bundled queries, embeds the answers, trains, evaluates, decodes, and says what to type next.
    """
    _calm_libraries()
    from .quickstart import quickstart as run

    run(output, device, _progress)


@main.command(short_help="Let a language model answer queries.")
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
    _calm_libraries()
    from ..backbone import Backbone
    from ..data.queries import read_queries
    from ..engines.respond import respond as run

    rows = list(read_queries(queries, column=column, split=split))
    model = Backbone.load(backbone, revision=revision, device=device, dtype=dtype)
    with _progress("responding") as progress:
        summary = run(rows, model, output, config, progress)
    click.echo(
        f"{output}: {summary.written} written, {summary.skipped} there before, {summary.rejected} rejected, "
        f"{summary.cut} stopped by the length limit"
    )


@main.command(short_help="Make a teacher of any language model.")
@click.argument("backbone")
@click.argument("texts")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the teacher to make.")
@shared("column")
@shared("split")
@shared("revision")
@shared("device")
@options(TeacherConfig)
def teacher(
    backbone: str,
    texts: str,
    output: Path,
    column: str | None,
    split: str,
    revision: str | None,
    device: str,
    **values: Any,  # noqa: ANN401
) -> None:
    """Make a teacher of BACKBONE with unlabelled TEXTS: a file, or a data set on the hub, as respond reads.

    Goes on where it stopped when it is run again. OUTPUT/training holds the figures of each step.
    """
    config = build(TeacherConfig, values)
    _calm_libraries()
    from ..backbone import Backbone
    from ..data.queries import Query, read_queries
    from ..teachers.make import make_teacher
    from ..training.signals import Stopped

    rows = list(read_queries(texts, column=column, split=split))
    good = [row.text for row in rows if isinstance(row, Query)]
    if len(good) < len(rows):
        click.echo(f"{texts}: {len(rows) - len(good)} rows hold no text and are left out", err=True)
    model = Backbone.load(backbone, revision=revision, device=device, dtype=config.dtype)
    with _progress("training") as progress:
        try:
            make_teacher(good, model, output, config, progress)
        except Stopped as stopped:
            raise click.ClickException(str(stopped)) from None
    click.echo(f"{output}: trained; use it with: foresay teach responses.jsonl -t {output} -o targets")


@main.command(short_help="Embed the responses: the targets.")
@click.argument("responses", type=click.Path(path_type=Path))
@click.option(
    "-t",
    "--teacher",
    required=True,
    help="sentence-transformers or LLM2Vec model, by folder or hub id; nano-teacher; or the word self.",
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of targets to make.")
@click.option("-m", "--backbone", help="The language model, for the teacher called self.")
@shared("device")
@shared("dtype")
@options(TeachConfig)
def teach(
    responses: Path,
    teacher: str,
    output: Path,
    backbone: str | None,
    device: str,
    dtype: str,
    **values: Any,  # noqa: ANN401
) -> None:
    """Embed RESPONSES with a teacher: the targets that training aims at."""
    config = build(TeachConfig, values)
    _calm_libraries()
    from ..backbone import Backbone
    from ..teachers.teach import load_teacher
    from ..teachers.teach import teach as run

    model = Backbone.load(backbone, device=device, dtype=dtype) if backbone else None
    with _progress("teaching") as progress:
        taught = load_teacher(teacher, model, device, config)
        made = run(responses, taught, output, progress, query_weight=config.query_weight)
    click.echo(f"{output}: {made.rows} vectors of width {made.dim} by {made.teacher}")


@main.command(short_help="Make a checkpoint in closed form: no training, minutes.")
@click.argument("responses", type=click.Path(path_type=Path))
@click.argument("targets", type=click.Path(path_type=Path))
@shared("backbone")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Checkpoint folder to make.")
@shared("revision")
@shared("device")
@options(FitConfig)
def fit(
    responses: Path,
    targets: Path,
    backbone: str,
    output: Path,
    revision: str | None,
    device: str,
    **values: Any,  # noqa: ANN401
) -> None:
    """Find the maps from RESPONSES' queries to their TARGETS by ridge regression, without any gradient.

    One forward pass over the queries. The checkpoint embeds like a trained one, but cannot decode.
    """
    config = build(FitConfig, values)
    _calm_libraries()
    from ..backbone import Backbone
    from ..data.pairs import Pairs
    from ..training.fit import fit as run

    pairs = Pairs.load(responses, targets)
    model = Backbone.load(backbone, revision=revision, device=device, dtype=config.dtype)
    with _progress("fitting") as progress:
        encoder = run(pairs, model, output, config, lambda rows: progress(rows, len(pairs.queries), ""))
    click.echo(f"{output}: fitted, embeddings of width {encoder.dim}; try: foresay encode {output} -t 'A question?'")


@main.command(short_help="Train special tokens and maps to reach the targets.")
@click.argument("responses", type=click.Path(path_type=Path))
@click.argument("targets", type=click.Path(path_type=Path))
@shared("backbone")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Checkpoint folder to make.")
@shared("revision")
@shared("device")
@click.option(
    "--recipe",
    "named",
    type=click.Choice(list(RECIPES)),
    default="default",
    show_default=True,
    help="Defaults of the options below; those that are given stand.",
)
@options(TrainConfig)
def train(
    responses: Path,
    targets: Path,
    backbone: str,
    output: Path,
    revision: str | None,
    device: str,
    named: str,
    **values: Any,  # noqa: ANN401
) -> None:
    """Train special tokens and maps on RESPONSES and their TARGETS.

    Goes on where it stopped when it is run again. OUTPUT/training holds the figures and their curves.

    On several GPUs: accelerate launch -m foresay train … (or torchrun -m); they share each batch.
    """
    chosen = given(values)
    TrainConfig(**{**recipe(named, ""), **chosen})  # a wrong option is said before a model is loaded
    _calm_libraries()
    from ..backbone import Backbone
    from ..data.pairs import Pairs
    from ..training.distributed import is_first, leave
    from ..training.live import LiveTable
    from ..training.signals import Stopped
    from ..training.train import train as run

    if not is_first():
        logging.getLogger("foresay").setLevel(logging.ERROR)  # the first process says it for all
    pairs = Pairs.load(responses, targets)
    model = Backbone.load(backbone, revision=revision, device=device, dtype=values["dtype"])
    config = TrainConfig(**{**recipe(named, model.text_config.model_type), **chosen})
    try:
        with LiveTable(config.steps) if is_first() else nullcontext() as report:
            run(pairs, model, output, config, report)
    except Stopped as stopped:
        raise click.ClickException(str(stopped)) from None
    finally:
        leave()
    if is_first():
        click.echo(f"{output}: trained; try: foresay decode {output} -t 'What does frugal mean?'")


@main.command(short_help="Embed texts.")
@click.argument("checkpoint")
@click.argument("source", required=False)
@shared("text")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A .npy file; without it, JSON lines to stdout.")
@click.option(
    "--as", "kind", type=click.Choice(["query", "document"]), default="query", show_default=True, help="Whose prompt."
)
@click.option("--prompt", help="Put this before each text instead.")
@click.option("--normalize", is_flag=True, help="Scale each embedding to length 1.")
@click.option("--truncate-dim", type=int, help="Keep this many numbers of each: one of the checkpoint's --dims.")
@click.option("--no-cut", is_flag=True, help="Fail on texts that are too long instead of cutting them.")
@shared("column")
@shared("split")
@shared("device")
@shared("dtype")
@click.option("-m", "--backbone", help="The language model, where it is not where the checkpoint says.")
def encode(
    checkpoint: str,
    source: str | None,
    texts: tuple[str, ...],
    output: Path | None,
    kind: str,
    prompt: str | None,
    normalize: bool,
    truncate_dim: int | None,
    no_cut: bool,
    **where: Any,  # noqa: ANN401
) -> None:
    """Embed the texts of SOURCE (any file that respond reads), or those given with -t."""
    ids, wanted = _texts(source, texts, where.pop("column"), where.pop("split"))
    encoder = _encoder(checkpoint, **where)
    how: dict[str, Any] = {
        "normalize_embeddings": normalize,
        "truncate_dim": truncate_dim,
        "on_cut": "error" if no_cut else "warn",
        "show_progress_bar": output is not None,
    }
    if prompt is not None:
        vectors = encoder.encode(wanted, prompt=prompt, **how)
    else:
        vectors = (encoder.encode_query if kind == "query" else encoder.encode_document)(wanted, **how)
    if output is None:
        import json

        for name, vector in zip(ids, vectors, strict=True):
            click.echo(json.dumps({"id": name, "embedding": [round(float(x), 7) for x in vector]}))
        return
    import numpy as np

    from ..files import write_json

    np.save(output, vectors)
    write_json(output.with_suffix(".ids.json"), ids)
    click.echo(f"{output}: {len(vectors)} embeddings of width {vectors.shape[1]}; their ids in {output.stem}.ids.json")


@main.command(short_help="Write out what embeddings stand for.")
@click.argument("checkpoint")
@click.argument("source", required=False)
@shared("text")
@click.option("--max-new-tokens", default=256, show_default=True, help="Longest answer, in tokens.")
@shared("column")
@shared("split")
@shared("device")
@shared("dtype")
@click.option("-m", "--backbone", help="The language model, where it is not where the checkpoint says.")
def decode(
    checkpoint: str,
    source: str | None,
    texts: tuple[str, ...],
    max_new_tokens: int,
    **where: Any,  # noqa: ANN401
) -> None:
    """Write out what the embedding of each text stands for; a single -t is written as it comes."""
    _, wanted = _texts(source, texts, where.pop("column"), where.pop("split"))
    encoder = _encoder(checkpoint, **where)
    if source is None and len(wanted) == 1:
        for piece in encoder.decode_stream(wanted[0], max_new_tokens=max_new_tokens):
            click.echo(piece, nl=False)
        click.echo()
        return
    for answer in encoder.decode(wanted, max_new_tokens=max_new_tokens):
        click.echo(" ".join(answer.split()))


@main.command(short_help="Show the words that compression tokens hold.")
@click.argument("checkpoint")
@click.argument("text")
@click.option("--top", default=2, show_default=True, help="Words a state.")
@shared("device")
@shared("dtype")
@click.option("-m", "--backbone", help="The language model, where it is not where the checkpoint says.")
def lens(checkpoint: str, text: str, top: int, **where: Any) -> None:  # noqa: ANN401
    """Show which words the compression tokens of TEXT hold, layer by layer (logit lens)."""
    encoder = _encoder(checkpoint, **where)
    from rich.console import Console
    from rich.table import Table

    from ..reading.logit_lens import read_tokens

    title = f"{text}\nlikeliest words of each compression token, layer by layer"
    table = Table("", *(str(i + 1) for i in range(encoder.model.compression)), title=title)
    rows: dict[int, list[str]] = {}
    for reading in read_tokens(encoder, text, top=top):
        rows.setdefault(reading.layer, []).append(" ".join(repr(word)[1:-1].strip() for word, _ in reading.words))
    for layer, cells in rows.items():
        table.add_row(str(layer), *cells)
    Console().print(table)


@main.command(short_help="Check that this machine gives the golden vectors.")
@click.argument("checkpoint")
@shared("device")
@shared("dtype")
def verify(checkpoint: str, device: str, dtype: str) -> None:
    """Recompute the golden vectors of CHECKPOINT; fail if this machine gives others."""
    _calm_libraries()
    from ..checkpoints.checkpoint import verify as run

    for verdict in run(checkpoint, device=device, dtype=dtype):
        click.echo(f"{verdict.way:33} off by {verdict.distance:.1e}, allowed {verdict.tolerance:.0e}")
    click.echo(f"{checkpoint}: verified")


@main.command(short_help="Copy a checkpoint with its models inside.")
@click.argument("checkpoint")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@shared("device")
def bundle(checkpoint: str, output: Path, device: str) -> None:
    """Copy CHECKPOINT with language model and teacher inside: a folder to move, or to serve elsewhere."""
    _calm_libraries()
    from ..checkpoints.checkpoint import bundle as run

    whole = "self-contained" if run(checkpoint, output, device=device) else "holds all but the teacher of its documents"
    click.echo(f"{output}: {whole}; check it with: foresay verify {output}")


@main.command(short_help="Read a checkpoint in the published format.")
@click.argument("published")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Checkpoint folder to make.")
@click.option("-m", "--backbone", help="The language model, where it is not where the checkpoint says.")
@shared("device")
def convert(published: str, output: Path, backbone: str | None, device: str) -> None:
    """Turn a checkpoint in the PUBLISHED LLM2Vec-Gen format, folder or hub id, into one of ours."""
    _calm_libraries()
    from ..checkpoints.convert import convert as run

    run(published, output, backbone=backbone, device=device)
    click.echo(f"{output}: converted; check it with: foresay verify {output}")


@main.command(short_help="Measure a checkpoint, and compare it with others.")
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

    \b
      foresay evaluate checkpoint/ quick --against teacher --against hyde
    """
    _calm_libraries()
    try:
        import mteb  # noqa: F401
    except ModuleNotFoundError:
        raise InputError("foresay evaluate needs mteb: pip install 'foresay[evaluate]'") from None
    from datasets import disable_progress_bars
    from rich.console import Console

    from ..evaluation.evaluate import compare_checkpoints

    disable_progress_bars()
    with _progress("evaluating") as progress:
        report = compare_checkpoints((checkpoint, *also), suites, output, progress=progress, **options)
    report.show(Console())
    click.echo(f"{output}/results.md has the tables and pictures")


# -- what the commands share ----------------------------------------------------------------------------


def _texts(source: str | None, texts: tuple[str, ...], column: str | None, split: str) -> tuple[list[str], list[str]]:
    """Ids and texts from a file or from -t."""
    from ..data.queries import Query, content_id, read_queries

    if (source is None) == (not texts):
        raise InputError("give either a file of texts or -t TEXT")
    if source is None:
        return [content_id(text) for text in texts], list(texts)
    rows = list(read_queries(source, column=column, split=split))
    bad = [row for row in rows if not isinstance(row, Query)]
    if bad:
        raise InputError(f"{source}, row {bad[0].line}: {bad[0].reason}; mend it or take it out ({len(bad)} such rows)")
    good = [row for row in rows if isinstance(row, Query)]
    if not good:
        raise InputError(f"{source} holds no texts")
    return [row.id for row in good], [row.text for row in good]


def _encoder(checkpoint: str, *, backbone: str | None, device: str, dtype: str) -> "Encoder":
    _calm_libraries()
    from ..backbone import Backbone
    from ..encoder import Encoder

    loaded = Backbone.load(backbone, device=device, dtype=dtype) if backbone else None
    return Encoder.from_pretrained(checkpoint, backbone=loaded, device=device, dtype=dtype)


def _calm_libraries() -> None:
    """Our own progress bars are enough: the libraries' bars and notes stay out of the way."""
    from transformers.utils import logging as library

    library.set_verbosity_error()
    library.disable_progress_bar()


@contextmanager
def _progress(what: str) -> "Iterator[Progress]":
    """A bar with the time left; updated by (done, total, note)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None, note="")
        yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note)
