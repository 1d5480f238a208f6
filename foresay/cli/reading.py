"""Embeddings to words: decode them, and look into their tokens."""

from typing import Any

import click

from .options import Command, shared
from .running import load_encoder, texts_of


@click.command(
    cls=Command,
    short_help="Write out what embeddings stand for.",
    example="""
    foresay decode checkpoint -t 'What does frugal mean?'
    """,
)
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
    _, wanted = texts_of(source, texts, where.pop("column"), where.pop("split"))
    encoder = load_encoder(checkpoint, **where)
    if source is None and len(wanted) == 1:
        for piece in encoder.decode_stream(wanted[0], max_new_tokens=max_new_tokens):
            click.echo(piece, nl=False)
        click.echo()
        return
    for answer in encoder.decode(wanted, max_new_tokens=max_new_tokens):
        click.echo(" ".join(answer.split()))


@click.command(
    cls=Command,
    short_help="Show the words that compression tokens hold.",
    example="""
    foresay lens checkpoint 'What does frugal mean?'
    """,
)
@click.argument("checkpoint")
@click.argument("text")
@click.option("--top", default=2, show_default=True, help="Words a state.")
@shared("device")
@shared("dtype")
@click.option("-m", "--backbone", help="The language model, where it is not where the checkpoint says.")
def lens(checkpoint: str, text: str, top: int, **where: Any) -> None:  # noqa: ANN401
    """Show which words the compression tokens of TEXT hold, layer by layer (logit lens)."""
    encoder = load_encoder(checkpoint, **where)
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
