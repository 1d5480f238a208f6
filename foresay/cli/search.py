"""Documents to an index, queries to hits."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import IndexConfig
from ..errors import InputError
from .options import Command, build, options, shared
from .running import load_encoder, progress_bar, texts_of

if TYPE_CHECKING:
    from ..retrieval.documents import Document, Hit


@click.command(
    cls=Command,
    short_help="Make documents searchable.",
    example="""
    foresay index checkpoint documents.jsonl -o index
    foresay search index 'What does frugal mean?' -c checkpoint
    """,
)
@click.argument("checkpoint")
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the index.")
@options(IndexConfig)
@shared("column")
@shared("split")
@shared("device")
@shared("dtype")
@click.option("-m", "--backbone", help="The language model, where it is not where the checkpoint says.")
def index(checkpoint: str, source: str, output: Path, **values: Any) -> None:  # noqa: ANN401
    """Embed the documents of SOURCE into an index, and keep their other columns to filter by.

    Run again after a kill, it goes on; with a changed file, it adds and replaces. A document is an id and a text.
    """
    config = build(IndexConfig, values)
    column, split = values.pop("column"), values.pop("split")
    encoder = load_encoder(checkpoint, **values)
    from ..retrieval.index import Index

    if (output / "index.json").is_file():
        made = Index.open(output, encoder)
        if made.config != config:
            raise InputError(f"{output} was made with {made.config}; give the same options, or another -o")
    else:
        made = Index.create(output, encoder, config)
    rejected: list[str] = []
    with progress_bar("indexing") as progress:
        added = made.add(_documents(source, column, split, rejected), progress)
    click.echo(
        f"{output}: {len(made)} documents ({added.new} new, {added.changed} replaced, {added.kept} there already)"
    )
    if rejected:
        click.echo(f"{len(rejected)} rows could not be used; the first: {rejected[0]}", err=True)


def _documents(source: str, column: str | None, split: str, rejected: list[str]) -> "Iterator[Document]":
    from ..retrieval.documents import Reject, read_documents

    for item in read_documents(source, column=column, split=split):
        if isinstance(item, Reject):
            rejected.append(f"{source}, row {item.line}: {item.reason}")
        else:
            yield item


@click.command(
    cls=Command,
    short_help="Find documents.",
    example="""
    foresay search index 'What does frugal mean?' -c checkpoint
    foresay search index -f queries.jsonl -c checkpoint --trec run.txt
    """,
)
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("query", required=False)
@click.option("-c", "--checkpoint", required=True, help="Embeds the queries: the checkpoint that made the index.")
@click.option("-f", "--file", "source", help="A file of queries, instead of one.")
@click.option("--top", default=10, show_default=True, help="Documents a query.")
@click.option(
    "--mode",
    type=click.Choice(["hybrid", "dense", "words"]),
    default="hybrid",
    show_default=True,
    help="dense: by meaning; words: BM25; hybrid: both, by reciprocal rank.",
)
@click.option("--where", help="SQL over id, text and metadata: \"json_get_int(metadata, 'year') > 1990\".")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a query.")
@click.option("--trec", type=click.Path(path_type=Path), help="Write a run file for trec_eval.")
@click.option("--explain", is_flag=True, help="Show what the model thinks is asked, and the teacher's own hits.")
@shared("column")
@shared("split")
@shared("device")
@shared("dtype")
@click.option("-m", "--backbone", help="The language model, where it is not where the checkpoint says.")
def search(
    index: Path,
    query: str | None,
    checkpoint: str,
    source: str | None,
    top: int,
    mode: str,
    where: str | None,
    as_json: bool,
    trec: Path | None,
    explain: bool,
    **rest: Any,  # noqa: ANN401
) -> None:
    """Find the documents of INDEX that answer QUERY, or each query of a file."""
    ids, queries = texts_of(source, () if query is None else (query,), rest.pop("column"), rest.pop("split"))
    if explain and len(queries) != 1:
        raise InputError("--explain shows one query; leave out -f")
    encoder = load_encoder(checkpoint, **rest)
    from ..retrieval.index import Index
    from ..retrieval.trec import write_run

    opened = Index.open(index, encoder)
    found = opened.search_many(queries, top, mode=mode, where=where)
    if trec is not None:
        write_run(trec, dict(zip(ids, found, strict=True)))
        click.echo(f"{trec}: the hits of {len(ids)} queries")
        return
    for name, text, hits in zip(ids, queries, found, strict=True):
        if as_json:
            click.echo(json.dumps({"id": name, "query": text, "hits": [vars(h) for h in hits]}, ensure_ascii=False))
            continue
        if len(queries) > 1:
            click.echo(text)
        _show(hits)
    if explain:
        explained = opened.explain(queries[0], top, where=where)
        click.echo(f"\nwhat the model thinks is asked: {explained.decoded}")
        click.echo(f"\nhits of {explained.teacher} on the bare query:")
        _show(explained.hits)


def _show(hits: "list[Hit]") -> None:
    for hit in hits:
        text = " ".join(hit.text.split())
        click.echo(f"{hit.score:7.4f}  {hit.id}  {text[:100]}{'…' if len(text) > 100 else ''}")
