"""Documents to an index, queries to hits."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import AdoptConfig, IndexConfig
from ..errors import InputError
from ..files import differences
from ..outputs import check_file
from ..shown import one_line
from .options import Command, HomePath, Text, build, option, options, shared
from .running import load_encoder, progress_bar, texts_of

if TYPE_CHECKING:
    from ..encoder import Encoder
    from ..retrieval.documents import Document, Hit
    from ..retrieval.index import Index
    from ..retrieval.searching import Searcher


@click.command(
    cls=Command,
    short_help="Make documents searchable.",
    example="""
    foresay index checkpoint documents.jsonl -o index
    foresay search checkpoint index 'What does frugal mean?'
    """,
)
@click.argument("checkpoint")
@click.argument("source")
@option("output", type=HomePath(), required=True, help="Folder of the index.")
@options(IndexConfig)
@shared("column")
@shared("split")
@shared("device")
@shared("dtype")
@shared("elsewhere")
def index(checkpoint: str, source: str, output: Path, **values: Any) -> None:  # noqa: ANN401
    """Embed the documents of SOURCE into an index, and keep their other columns to filter by.

    Run again after a kill, it goes on; with a changed file, it adds and replaces. A document is an id and a text.
    """
    config = build(IndexConfig, values)
    rejected: list[str] = []
    documents = _documents(source, values.pop("column"), values.pop("split"), rejected)
    first = next(documents)  # a source without documents makes no index
    if not (output / "index.json").is_file():
        from ..retrieval.pointer import check_free

        check_free(output)
    encoder = load_encoder(checkpoint, **values)
    from ..retrieval.index import Index

    if (output / "index.json").is_file():
        made = Index.open(output, encoder)
        if made.config != config:
            changed = differences(asdict(made.config), asdict(config))
            raise InputError(f"{output} was made with other options: {changed}; give the same options, or another -o")
    else:
        made = Index.create(output, encoder, config)
    with progress_bar("indexing") as progress:
        added = made.add(chain([first], documents), progress)
    click.echo(
        f"{output}: {len(made)} documents ({added.new} new, {added.changed} replaced, {added.kept} there already)"
    )
    _measured(made)
    if rejected:
        click.echo(f"{len(rejected)} rows could not be used; the first: {rejected[0]}", err=True)


def _measured(made: "Index") -> None:
    """What approximations cost, where there are some."""
    cosine, recall = made.states_cosine(), made.recall()
    if cosine is not None:
        click.echo(f"states kept as {made.config.states}: vectors made from them have a cosine of {cosine:.6f} or more")
    if recall is not None:
        click.echo(f"vector index: it finds {recall:.1%} of the ten nearest chunks of an exact search")


def _documents(source: str, column: str | None, split: str, rejected: list[str]) -> "Iterator[Document]":
    from ..retrieval.documents import Reject, read_documents

    for item in read_documents(source, column=column, split=split):
        if isinstance(item, Reject):
            rejected.append(f"{source}, row {item.line}: {item.reason}")
        else:
            yield item


@click.command(
    cls=Command,
    short_help="Search an index that you have already.",
    example="""
    foresay adopt checkpoint documents.parquet -o index
    foresay adopt checkpoint postgresql://localhost/shop --table passages -o index
    foresay adopt checkpoint qdrant:http://localhost:6333 --table passages -o index
    foresay adopt checkpoint vectors.npy --texts documents.jsonl -o index
    foresay search checkpoint index 'What does frugal mean?'
    """,
)
@click.argument("checkpoint")
@click.argument("source")
@option("output", type=HomePath(), required=True, help="Folder of the index.")
@options(AdoptConfig)
@option("teacher", help="The teacher that made the vectors, where the checkpoint does not say where it is.")
@shared("device")
@shared("dtype")
@shared("elsewhere")
def adopt(checkpoint: str, source: str, output: Path, teacher: str | None, **values: Any) -> None:  # noqa: ANN401
    """Take over the index at SOURCE, whose vectors the teacher of CHECKPOINT made, without touching it.

    SOURCE is a LanceDB folder, a .parquet or .npy file, a PostgreSQL table with pgvector, or a Qdrant collection. Some
    of its texts are embedded again and compared; vectors of another model, prompt or pooling are refused. Nothing is
    copied: foresay search then asks SOURCE.
    """
    config = build(AdoptConfig, values)
    device = values["device"]
    from ..retrieval.pointer import check_free

    check_free(output)
    encoder = _taught(checkpoint, load_encoder(checkpoint, **values), device, teacher)
    from ..retrieval.adopt import adopt as run

    made = click.get_current_context().with_resource(run(source, encoder, output, config))
    found = made.agreement
    click.echo(
        f"{output}: {made.backend.name}, {len(made)} rows; {found.compared} stored texts embedded again have a median "
        f"cosine of {found.cosine:.4f} to the stored vectors (least {found.least:.4f})"
    )


def _taught(checkpoint: str, encoder: "Encoder", device: str, name: str | None) -> "Encoder":
    """An encoder that knows its teacher, also where it embeds documents itself."""
    if encoder.document_teacher is not None and name is None:
        return encoder
    from ..evaluation.checkpoint_teacher import teacher_of

    return encoder.with_document_teacher(teacher_of(checkpoint, encoder.model.backbone, device, name))


@click.command(
    cls=Command,
    short_help="Move an index to another checkpoint.",
    example="""
    foresay migrate new-checkpoint index
    """,
)
@click.argument("checkpoint")
@click.argument("index", type=HomePath())
@shared("device")
@shared("dtype")
@shared("elsewhere")
def migrate(checkpoint: str, index: Path, **values: Any) -> None:  # noqa: ANN401
    """Embed the documents of INDEX again with CHECKPOINT, which then searches it.

    Until all of them are done, INDEX is searched as before, with the checkpoint that made it; then it changes at once.
    Run again after a kill, it goes on.
    """
    encoder = load_encoder(checkpoint, **values)
    from ..retrieval.migrate import migrate as run

    with progress_bar("migrating") as progress:
        made = run(index, encoder, progress=progress)
    click.echo(f"{index}: {len(made)} documents, now of {checkpoint}")
    _measured(made)


@click.command(
    cls=Command,
    short_help="Make an index's vectors anew without the language model.",
    example="""
    foresay index checkpoint documents.jsonl -o index --states float16
    foresay fit responses.jsonl more-targets -m MODEL --checkpoint checkpoint -o new-checkpoint
    foresay rehead new-checkpoint index
    """,
)
@click.argument("checkpoint")
@click.argument("index", type=HomePath())
@shared("device")
@shared("dtype")
@shared("elsewhere")
def rehead(checkpoint: str, index: Path, **values: Any) -> None:  # noqa: ANN401
    """Make the vectors of INDEX anew by the maps of CHECKPOINT, from the states that INDEX keeps.

    CHECKPOINT has the same language model and special tokens, and other maps. Where a teacher embeds documents there is
    nothing to do: any checkpoint of that teacher searches INDEX as it is.
    """
    encoder = load_encoder(checkpoint, **values)
    from ..retrieval.rehead import rehead as run

    with progress_bar("reheading") as progress:
        made = run(index, encoder, progress)
    click.echo(f"{index}: {len(made)} documents, now of {checkpoint}")
    _measured(made)


@click.command(
    cls=Command,
    short_help="Find documents.",
    example="""
    foresay search checkpoint index 'What does frugal mean?'
    foresay search checkpoint index -f queries.jsonl --trec run.txt
    """,
)
@click.argument("checkpoint")
@click.argument("index", type=HomePath())
@click.argument("query", type=Text(), required=False)
@option("file", "source", help="A file of queries, instead of one.")
@click.option("--top", default=10, show_default=True, help="Documents a query.")
@click.option(
    "--mode",
    type=click.Choice(["hybrid", "dense", "words"]),
    help="dense: by meaning; words: BM25; hybrid: both, by reciprocal rank (default; dense for an adopted index).",
)
@click.option(
    "--where",
    type=Text(),
    help="SQL over id, text and metadata: \"json_get_int(metadata, 'year') > 1990\"; for adopted ones, over columns.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object a query.")
@click.option("--trec", type=HomePath(), help="Write a run file for trec_eval.")
@click.option("--exact", is_flag=True, help="Pass over the vector index, where there is one.")
@click.option("--explain", is_flag=True, help="Show what the model thinks is asked, and the teacher's own hits.")
@shared("column")
@shared("split")
@shared("device")
@shared("dtype")
@shared("elsewhere")
def search(
    checkpoint: str,
    index: Path,
    query: str | None,
    source: str | None,
    top: int,
    mode: str | None,
    where: str | None,
    as_json: bool,
    trec: Path | None,
    exact: bool,
    explain: bool,
    **rest: Any,  # noqa: ANN401
) -> None:
    """Find the documents of INDEX that answer QUERY, or each query of a file. CHECKPOINT is the one that made INDEX."""
    given = () if query is None else (query,)
    ids, queries = texts_of(source, given, rest.pop("column"), rest.pop("split"), expected="a QUERY or -f FILE")
    _check(queries, explain=explain, forms=sum((as_json, explain, trec is not None)))
    if trec is not None:
        check_file(trec, (), [source], "--trec")
    from ..retrieval.opening import open_index
    from ..retrieval.pointer import read_pointer
    from ..retrieval.trec import write_run

    kind = read_pointer(index).get("kind")  # before a model is loaded
    encoder = load_encoder(checkpoint, **rest)
    if kind == "adopted":
        encoder = _taught(checkpoint, encoder, rest["device"], None)
    opened = click.get_current_context().with_resource(open_index(index, encoder))
    opened.exact = exact
    found = opened.search_many(queries, top, mode=mode or "", where=where)
    if trec is not None:
        write_run(trec, dict(zip(ids, found, strict=True)))
        click.echo(f"{trec}: the hits of {len(ids)} queries")
        return
    for name, text, hits in zip(ids, queries, found, strict=True):
        if as_json:
            click.echo(json.dumps({"id": name, "query": text, "hits": [vars(h) for h in hits]}, ensure_ascii=False))
            continue
        if len(queries) > 1:
            click.echo(one_line(text))
        _show(hits)
    if explain:
        _explain(opened, queries[0], found[0], where)


def _check(queries: list[str], *, explain: bool, forms: int) -> None:
    """Refuses what cannot be shown."""
    if not all(query.strip() for query in queries):
        raise InputError("the query is empty; say what the documents are to answer")
    if forms > 1:
        raise InputError("give one of --json, --explain and --trec: each has a form of its own")
    if explain and len(queries) != 1:
        raise InputError("--explain shows one query; leave out -f")


def _explain(opened: "Searcher", query: str, hits: "list[Hit]", where: str | None) -> None:
    """The query decoded, the hits decoded where their states are kept, and the hits of the bare query."""
    from ..retrieval.index import Index
    from ..retrieval.parts import keeping_in

    explained = opened.explain(query, max(len(hits), 1), where=where)
    click.echo(f"\nwhat the model thinks is asked: {one_line(explained.decoded)}")
    if isinstance(opened, Index) and opened.encoder.decodes and keeping_in(opened.about()) is not None:
        click.echo("\nwhat the hits stand for, decoded:")
        for hit, text in zip(hits, opened.read(hits), strict=True):
            click.echo(f"         {one_line(hit.id)}  {one_line(text, 100)}")
    click.echo(f"\nhits of {explained.teacher} on the bare query:")
    _show(explained.hits)


def _show(hits: "list[Hit]") -> None:
    for hit in hits:
        click.echo(f"{hit.score:7.4f}  {one_line(hit.id)}  {one_line(hit.text, 100)}")
    if not hits:
        click.echo("no document fits")
