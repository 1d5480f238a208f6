"""Embeddings to words: decode them, and look into their tokens."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import DecodeConfig, LatentIndexConfig, LensConfig
from ..errors import InputError
from ..outputs import check_file
from .options import Command, HomePath, Text, build, option, options, shared
from .running import calm_libraries, load_encoder, progress_bar, texts_of

if TYPE_CHECKING:
    from ..reading.lens import LensReading
    from ..reading.lenses import Hit


@click.command(
    cls=Command,
    short_help="Write out what embeddings stand for.",
    example="""
    foresay decode checkpoint --text 'What does frugal mean?'
    foresay decode checkpoint --text 'What does frugal mean?' --ask 'What is this about?'
    foresay decode checkpoint --soft-prompts vectors.soft_prompts.npy --row 3
    """,
)
@click.argument("checkpoint")
@click.argument("source", required=False)
@shared("text")
@click.option(
    "--soft-prompts",
    "stored",
    type=HomePath(),
    help="Decode what encode --keep-soft-prompts stored, instead of texts.",
)
@click.option("--row", "rows", type=int, multiple=True, help="With --soft-prompts: this row alone; repeatable.")
@options(DecodeConfig)
@click.option("--json", "as_json", is_flag=True, help="JSON lines, with every token's log-probability.")
@shared("column")
@shared("split")
@shared("device")
@shared("dtype")
@shared("elsewhere")
def decode(
    checkpoint: str,
    source: str | None,
    texts: tuple[str, ...],
    stored: Path | None,
    rows: tuple[int, ...],
    as_json: bool,
    **values: Any,  # noqa: ANN401
) -> None:
    """Write out what the embedding of each text stands for; a single one is written as it comes."""
    config = build(DecodeConfig, values)
    column, split = values.pop("column"), values.pop("split")
    if rows and stored is None:
        raise InputError("--row picks among stored soft prompts; add --soft-prompts FILE")
    if stored is None:
        ids, wanted = texts_of(source, texts, column, split, repeats=True)
        encoder = load_encoder(checkpoint, **values)
        prompts = encoder.soft_prompts(wanted, prompt_name="query")
    else:
        if source is not None or texts:
            raise InputError("give either texts or --soft-prompts, not both")
        from ..reading.stored import SoftPrompts

        encoder = load_encoder(checkpoint, **values)
        found = SoftPrompts.open(stored, encoder.model)
        ids, prompts = found.ids_of(rows), found.rows(rows)
    if len(prompts) == 1 and not as_json:
        for piece in encoder.decode_stream(soft_prompts=prompts, config=config):
            click.echo(piece, nl=False)
        click.echo()
        return
    with progress_bar("decoding") as progress:

        def done(rows: int) -> None:
            progress(rows, len(prompts), "")

        if not as_json:
            lines = [" ".join(text.split()) for text in encoder.decode(soft_prompts=prompts, config=config, done=done)]
        else:
            from dataclasses import asdict

            decoded = encoder.decode_tokens(soft_prompts=prompts, config=config, done=done)
            rows_of = ({"id": name, **asdict(one)} for name, one in zip(ids, decoded, strict=True))
            lines = [json.dumps(row, ensure_ascii=False) for row in rows_of]
    for line in lines:
        click.echo(line)


@click.command(
    cls=Command,
    short_help="Show the words that compression tokens hold.",
    example="""
    foresay lens checkpoint 'What does frugal mean?'
    foresay lens checkpoint 'What does frugal mean?' --layers all --heat-map frugal.png
    foresay lens checkpoint 'What does frugal mean?' --lens latent --latent-index index/
    """,
)
@click.argument("checkpoint")
@click.argument("text", type=Text())
@options(LensConfig)
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
@click.option("--heat-map", type=HomePath(), help="Draw the best hits as a PNG: layers × tokens.")
@shared("device")
@shared("dtype")
@shared("elsewhere")
def lens(checkpoint: str, text: str, as_json: bool, heat_map: Path | None, **values: Any) -> None:  # noqa: ANN401
    """Show what the compression tokens of TEXT hold, by token and over all of them."""
    config = build(LensConfig, values)
    if heat_map is not None:
        check_file(heat_map, [".png"], option="--heat-map")
    encoder = load_encoder(checkpoint, **values)
    from ..reading.lens import lens as read

    (reading,) = read(encoder, text, config)
    if heat_map is not None:
        from ..reading.heat_map import heat_map as draw

        draw(reading, heat_map)
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps(asdict(reading), ensure_ascii=False))
        return
    _show(reading)


def _show(reading: "LensReading") -> None:
    """Prints a table: of one layer, a line a token; of several, a line a layer and a column a token."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text as Words

    from ..tables import in_pieces

    console = Console()
    console.print(Words(f"{reading.text}", style="bold"))
    if len(reading.layers) == 1:
        table = Table("token", f"reads as ({reading.score})", box=None)
        for number, hits in enumerate(reading.tokens[0], 1):
            table.add_row(str(number), _line(hits))
        table.add_row("all", _line(reading.merged[0]), style="bold")
        console.print(table)
    else:
        count = len(reading.tokens[0])
        heads = [*(str(number + 1) for number in range(count)), "all"]

        def some(columns: range) -> Table:
            table = Table("layer", *(heads[column] for column in columns), box=None)
            for layer, tokens, merged in zip(reading.layers, reading.tokens, reading.merged, strict=True):
                words = [_word(hits[0]) for hits in (*tokens, merged)]
                table.add_row(str(layer), *(Words(words[column]) for column in columns))
            return table

        for table in in_pieces(console, some, len(heads)):
            console.print(table)


def _line(hits: "list[Hit]") -> Any:  # noqa: ANN401 - rich loads inside commands
    """Hits side by side; with sentences, one below the other, the word in colour."""
    from rich.text import Text as Words

    line = Words()
    for hit in hits:
        if hit.sentence:
            line.append("\n" if line else "").append(f"{hit.score:.2f}  ").append(hit.sentence[: hit.start])
            line.append(hit.sentence[hit.start : hit.end], style="bold green").append(hit.sentence[hit.end :])
        else:
            line.append("   " if line else "").append(_word(hit)).append(f" {hit.score:.2f}", style="dim")
    return line


def _word(hit: "Hit") -> str:
    """A hit's text without line breaks or other control characters."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in hit.text.strip() or hit.text)


@click.command(
    name="latent-index",
    cls=Command,
    short_help="Index a corpus for the latent lens.",
    example="""
    foresay latent-index sentences.txt -m Qwen/Qwen3-0.6B -o index/
    foresay latent-index --convert published/ -m meta-llama/Llama-3.1-8B -o index/
    """,
)
@click.argument("source", required=False)
@shared("backbone")
@option("output", required=True, type=HomePath(), help="Folder to make.")
@click.option("--convert", help="Instead of texts, an index of the latentlens package: folder or hub id.")
@options(LatentIndexConfig)
@shared("column")
@shared("split")
@shared("device")
@shared("dtype")
def latent_index(
    source: str | None,
    backbone: str,
    output: Path,
    convert: str | None,
    device: str,
    dtype: str,
    **values: Any,  # noqa: ANN401
) -> None:
    """Store the states of sampled tokens of SOURCE, with their sentences, for foresay lens --lens latent."""
    config = build(LatentIndexConfig, values)
    if (source is None) == (convert is None):
        raise InputError("give either a file of texts or --convert FOLDER")
    texts = None if source is None else texts_of(source, (), values["column"], values["split"])[1]
    from ..reading.latent_index import check_index_folder

    check_index_folder(output)  # before a model is loaded
    calm_libraries()
    from ..backbone import Backbone
    from ..reading.latent_build import build_index, plan_index
    from ..reading.latent_convert import convert_latent_index

    loaded = Backbone.load(backbone, device=device, dtype=dtype)
    if texts is None:
        manifest = convert_latent_index(str(convert), loaded, output, config.storage)
    else:
        plan = plan_index(loaded, texts, config)
        click.echo(plan, err=True)
        with progress_bar("latent-index") as progress:
            manifest = build_index(loaded, plan, output, config, progress)
    click.echo(f"{output}: {sum(manifest.rows)} states of {manifest.sentences} sentences, {manifest.storage}")
