"""Whiten a teacher, and the index that it made."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import WhitenConfig
from ..outputs import check_file, replacing
from .options import Command, HomePath, build, option, options, shared
from .running import calm_libraries

if TYPE_CHECKING:
    from ..teachers.whitening import Choice


@click.command(
    cls=Command,
    short_help="Whiten a teacher: find more, train nothing.",
    example="""
    foresay whiten responses.jsonl -t sentence-transformers/all-MiniLM-L6-v2 -o my-teacher
    """,
)
@click.argument("texts")
@option("teacher", required=True, help="The teacher to whiten, named as teach names it; or both-directions.")
@option("output", required=True, type=HomePath(), help="Folder of the teacher to make.")
@option("backbone", help="The language model, for the teacher called self or both-directions.")
@shared("column")
@shared("split")
@shared("device")
@options(WhitenConfig)
def whiten(
    texts: str,
    teacher: str,
    output: Path,
    backbone: str | None,
    column: str | None,
    split: str,
    device: str,
    **values: Any,  # noqa: ANN401
) -> None:
    """Whiten a teacher by its vectors of TEXTS: one linear map, chosen without labels.

    TEXTS is what respond wrote, whose queries and responses are pairs; or plain texts, whose halves are.
    """
    config = build(WhitenConfig, values)
    calm_libraries()
    from ..backbone import Backbone
    from ..config import TeachConfig
    from ..teachers.folder import check_whitened
    from ..teachers.load import load_teacher
    from ..teachers.whiten import whiten as run

    check_whitened(output)
    pairs = read_pairs(texts, column, split)
    model = Backbone.load(backbone, device=device) if backbone else None
    lengths = TeachConfig(max_tokens=config.max_tokens, batch_size=config.batch_size)
    made, choice = run(load_teacher(teacher, model, device, lengths), pairs, output, config)
    report(output, choice)


def read_pairs(source: str, column: str | None, split: str) -> list[str] | list[tuple[str, str]]:
    """Queries with their responses, if the rows hold both, as the first one says; else plain texts."""
    from ..data.formats import rows_of
    from ..data.queries import Query, problem_of, read_queries

    found = (row[1] for row in rows_of(source, split) if isinstance(row, tuple))
    if column is None and {"query", "response"} <= next(found, {}).keys():
        rows = [row[1] if isinstance(row, tuple) else {} for row in rows_of(source, split)]
        cells = [(row.get("query"), row.get("response")) for row in rows]
        pairs = [(str(one), str(two)) for one, two in cells if not (problem_of(one, "") or problem_of(two, ""))]
        _say_left_out(source, len(cells) - len(pairs))
        return pairs
    texts = list(read_queries(source, column=column, split=split))
    good = [row.text for row in texts if isinstance(row, Query)]
    _say_left_out(source, len(texts) - len(good))
    return good


def _say_left_out(source: str, count: int) -> None:
    if count:
        click.echo(f"{source}: {count} rows hold no text and are left out", err=True)


def report(output: Path, choice: "Choice") -> None:
    """What was made, and what it was chosen by."""
    click.echo(
        f"{output}: {choice.axes} axes, strength {choice.strength:g}; held-out texts find their partners with a mean "
        f"reciprocal rank of {choice.found:.3f}, {choice.before:.3f} before"
    )


@click.command(
    cls=Command,
    short_help="Whiten an index without embedding it again.",
    example="""
    foresay whiten-index documents.npy -t my-teacher -o whitened.npy
    """,
)
@click.argument("vectors", type=HomePath(exists=True, dir_okay=False))
@option("teacher", required=True, help="The whitened teacher: a folder that foresay whiten made.")
@option("output", required=True, type=HomePath(), help="File of vectors to write.")
@option("backbone", help="The language model, where the teacher below is it.")
@shared("device")
def whiten_index(vectors: Path, teacher: str, output: Path, backbone: str | None, device: str) -> None:
    """Map VECTORS (.npy), which the teacher below a whitened one made, into the whitened space."""
    check_file(output, [".npy"], [vectors])
    calm_libraries()
    import numpy as np

    from ..backbone import Backbone
    from ..errors import DataError
    from ..teachers.load import load_teacher
    from ..teachers.whiten import whiten_index as run

    try:
        before = np.load(vectors, allow_pickle=False)
        if not isinstance(before, np.ndarray):
            raise ValueError("it is an archive of several")
    except (ValueError, OSError, EOFError) as error:
        raise DataError(
            f"{vectors} is no array of numpy ({error}); expected vectors (texts, width) in a .npy"
        ) from error
    model = Backbone.load(backbone, device=device) if backbone else None
    mapped = run(load_teacher(teacher, model, device), before)
    with replacing(output) as part, part.open("wb") as file:
        np.save(file, mapped)
    click.echo(f"{output}: {len(mapped)} vectors of width {mapped.shape[1]}")
