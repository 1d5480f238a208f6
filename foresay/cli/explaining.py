"""Why a query finds a document, whether an embedding says what it means, and a page that shows both."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import DecodeConfig, LensConfig, ReportConfig
from ..errors import InputError
from ..outputs import check_file, replacing
from ..shown import clean, one_line
from .options import Command, HomePath, Text, build, option, options, shared
from .running import load_encoder, texts_of

if TYPE_CHECKING:
    from ..encoder import Encoder
    from ..reading.attribution import View, Word
    from ..reading.explain import Explanation
    from ..teachers.base import Teacher

_TEACHER = option("teacher", help="Whose view to set beside it; by default who embeds the documents.")


@click.command(
    cls=Command,
    short_help="Show which words make a query find a document.",
    example="""
    foresay explain checkpoint 'What causes measles?' 'A virus that spreads through the air.'
    foresay explain checkpoint --pairs pairs.jsonl --html why.html
    """,
)
@click.argument("checkpoint")
@click.argument("query", type=Text(), required=False)
@click.argument("document", type=Text(), required=False)
@click.option("--pairs", type=HomePath(), help='A file of lines {"query": …, "document": …} instead.')
@click.option("--html", type=HomePath(), help="Write a page instead of printing.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines, with every word's weight.")
@click.option("--max-new-tokens", default=64, show_default=True, help="Longest decoded text, in tokens.")
@_TEACHER
@shared("device")
@shared("dtype")
@shared("elsewhere")
def explain(
    checkpoint: str,
    query: str | None,
    document: str | None,
    pairs: Path | None,
    html: Path | None,
    as_json: bool,
    max_new_tokens: int,
    teacher: str | None,
    **where: Any,  # noqa: ANN401
) -> None:
    """Show what both embeddings say and which words of QUERY and DOCUMENT matter, to Foresay and to the teacher."""
    if html is not None and as_json:
        raise InputError("--html writes a page instead of printing; give either --html or --json, not both")
    wanted = _pairs_of(query, document, pairs)
    if html is not None:
        check_file(html, (".html", ".htm"), [pairs], "--html")
    encoder = load_encoder(checkpoint, **where)
    from ..reading.explain import explain as why
    from ..reading.render import page

    found = why(encoder, wanted, teacher=_teacher(encoder, teacher), max_new_tokens=max_new_tokens)
    if html is not None:
        with replacing(html) as part:
            text = page("explain.html.jinja", title="Why they are alike", explanations=found)
            part.write_text(text, encoding="utf-8")
        click.echo(f"{html}: {len(found)} {'pair' if len(found) == 1 else 'pairs'}")
    elif as_json:
        for one in found:
            click.echo(json.dumps(asdict(one), ensure_ascii=False))
    else:
        _print(found)


def _pairs_of(query: str | None, document: str | None, pairs: Path | None) -> list[tuple[str, str]]:
    """Pairs from the arguments or from a file."""
    if pairs is None and query is not None and document is not None:
        return [(query, document)]
    if pairs is None:
        lacks = "a DOCUMENT is missing: " if query is not None else ""
        raise InputError(f"{lacks}give either a QUERY and a DOCUMENT, or --pairs FILE")
    if query is not None:
        raise InputError("give either a QUERY and a DOCUMENT, or --pairs FILE, not both")
    if not pairs.is_file():
        raise InputError(f'there is no file {pairs}; expected lines {{"query": …, "document": …}}')
    from ..files import strict_rows

    found = []
    with pairs.open("rb") as file:
        for number, row in strict_rows(file, pairs):
            texts = row.get("query"), row.get("document")
            if not all(isinstance(text, str) for text in texts):
                raise InputError(f'{pairs}, line {number}: expected {{"query": "…", "document": "…"}}')
            found.append((str(texts[0]), str(texts[1])))
    return found


def _teacher(encoder: "Encoder", name: str | None) -> "Teacher | None":
    if name is None:
        return None
    from ..teachers.load import load_teacher

    return load_teacher(name, encoder.model.backbone, str(encoder.model.backbone.device))


def _print(explanations: "list[Explanation]") -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=False)
    for one in explanations:
        for label, reads in (("query", one.query_reads), ("document", one.document_reads)):
            if reads is not None:
                console.print(Text(f"the {label} reads as  ", style="dim").append(one_line(reads), style="not dim"))
        for view in one.views:
            console.print(Text(f"\n{view.name}: ", style="bold").append(f"{view.similarity:.3f}"))
            for text, words in ((one.query, view.query), (one.document, view.document)):
                console.print(_coloured(text, words, view))
                console.print(Text("  " + _strongest(words), style="dim"))
        console.print()


def _coloured(text: str, words: "list[Word]", view: "View") -> Any:  # noqa: ANN401 - rich loads inside commands
    """A text with its words on green where they bring the two together, on red where they keep them apart."""
    from rich.text import Text

    line = Text("  ").append(clean(text))
    for word in words:
        share = abs(word.weight) / view.strongest
        if share >= 0.1:
            level = int(40 + 130 * share)
            colour = f"rgb(20,{level},70)" if word.weight > 0 else f"rgb({level},35,30)"
            line.stylize(f"white on {colour}", word.start + 2, word.end + 2)
    return line


def _strongest(words: "list[Word]", count: int = 4) -> str:
    """The words with the largest weights, in numbers."""
    most = sorted(words, key=lambda word: -abs(word.weight))[:count]
    return "   ".join(f"{clean(word.text)} {word.weight:+.3f}" for word in most)


@click.command(
    cls=Command,
    short_help="Compare embeddings with the texts they decode to.",
    example="""
    foresay faithfulness checkpoint queries.jsonl --responses responses.jsonl
    """,
)
@click.argument("checkpoint")
@click.argument("source", required=False)
@shared("text")
@click.option("--responses", type=HomePath(), help="What foresay respond wrote, to set beside it.")
@option("teacher", help="Who set the targets; by default who embeds the documents.")
@options(DecodeConfig)
@click.option("--json", "as_json", is_flag=True, help="JSON lines, with the texts.")
@shared("column")
@shared("split")
@shared("device")
@shared("dtype")
@shared("elsewhere")
def faithfulness(
    checkpoint: str,
    source: str | None,
    texts: tuple[str, ...],
    responses: Path | None,
    teacher: str | None,
    as_json: bool,
    **values: Any,  # noqa: ANN401
) -> None:
    """Decode each text, embed what comes out by the teacher, and compare that with the embedding it came from."""
    config = build(DecodeConfig, values)
    _, wanted = texts_of(source, texts, values.pop("column"), values.pop("split"))
    answers = None if responses is None else _answers(responses, wanted)
    encoder = load_encoder(checkpoint, **values)
    from ..reading.faithfulness import faithfulness as measure

    found = measure(encoder, wanted, responses=answers, teacher=_teacher(encoder, teacher), config=config)
    if as_json:
        for one in found:
            click.echo(json.dumps(asdict(one), ensure_ascii=False))
        return
    for one in found:
        real = "" if one.response_score is None else f"  real response {one.response_score:.3f}"
        click.echo(f"decoded {one.score:.3f}{real}  {one_line(one.query)}  →  {one_line(one.decoded)}")
    means = [sum(one.score for one in found) / len(found)]
    real = (
        "" if answers is None else f", real responses {sum(one.response_score or 0 for one in found) / len(found):.3f}"
    )
    click.echo(f"mean of {len(found)}: decoded {means[0]:.3f}{real}")


def _answers(path: Path, queries: list[str]) -> list[str]:
    """The responses to these queries, found by the query's text."""
    from ..data.responses import read_responses

    known = {row.query: row.response for row in read_responses(path)}
    missing = [query for query in queries if query not in known]
    if missing:
        raise InputError(f"{path} has no response to {missing[0]!r}; write it with: foresay respond")
    return [known[query] for query in queries]


@click.command(
    cls=Command,
    short_help="Make a page of what embeddings say and find.",
    example="""
    foresay report checkpoint queries.txt passages.jsonl -o report.html
    """,
)
@click.argument("checkpoint")
@click.argument("queries")
@click.argument("passages")
@option("output", required=True, type=HomePath(), help="The .html file to write.")
@options(ReportConfig)
@options(LensConfig)
@_TEACHER
@shared("column")
@shared("split")
@shared("device")
@shared("dtype")
@shared("elsewhere")
def report(
    checkpoint: str,
    queries: str,
    passages: str,
    output: Path,
    teacher: str | None,
    column: str | None,
    split: str,
    **values: Any,  # noqa: ANN401
) -> None:
    """Write one HTML page: what each query decodes to and finds among the passages, and a map of them all."""
    config, lens_config = build(ReportConfig, values), build(LensConfig, values)
    check_file(output, (".html", ".htm"), [queries, passages])
    asked = texts_of(queries, (), column, split)[1]
    among = texts_of(passages, (), column, split)[1]
    encoder = load_encoder(checkpoint, **values)
    from ..reading.report import report as make

    page = make(encoder, asked, among, config, lens_config=lens_config, teacher=_teacher(encoder, teacher))
    with replacing(output) as part:
        part.write_text(page, encoding="utf-8")
    click.echo(f"{output}: {len(asked)} queries among {len(among)} passages, {len(page.encode()) / 1e3:.0f} kB")
