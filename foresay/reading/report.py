"""One page for a list of queries: what their embeddings say, what they find, and where they lie.

In: an encoder, queries and passages. Out: one HTML file without scripts that needs nothing from the network: for each
query the decoded text, the lens and the nearest passages; and a map of queries and passages, as Foresay and as the
teacher embeds them, side by side.
Be careful with the maps: where the teacher embeds the documents, both are one projection, and a point may be compared
across them; otherwise each has axes of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..backbone import check_texts
from ..config import LensConfig, ReportConfig
from ..encoder import Encoder
from ..errors import InputError
from .decode import Decoded
from .explain import teacher_view
from .lens import LensReading, lens
from .projection import project
from .render import page

if TYPE_CHECKING:
    from ..teachers.base import Teacher

_SIDE, _MARGIN = 460, 22
"""Size of a map, and how far its points stay away from its edge."""
_COLOURS = 8
"""Colours that queries take turns in; the template has as many."""


@dataclass(frozen=True)
class Neighbour:
    """A passage that a query finds: its number, its text, its cosine, and whether the other view finds it too."""

    number: int
    text: str
    score: float
    shared: bool


@dataclass(frozen=True)
class Dot:
    """A point of a map: its place in pixels, and what it is."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class QueryDot:
    """A query's point, with its number, its colour, and where the passage lies that it finds first."""

    x: float
    y: float
    text: str
    number: int
    colour: int
    to_x: float
    to_y: float


@dataclass(frozen=True)
class Panel:
    """One map."""

    name: str
    passages: list[Dot]
    queries: list[QueryDot]


@dataclass(frozen=True)
class Read:
    """What the page says about one query; `found` has the nearest passages by view."""

    number: int
    colour: int
    query: str
    decoded: Decoded | None
    lens: LensReading
    found: dict[str, list[Neighbour]]


def report(
    encoder: Encoder,
    queries: Sequence[str],
    passages: Sequence[str],
    config: ReportConfig | None = None,
    *,
    lens_config: LensConfig | None = None,
    teacher: "Teacher | None" = None,
) -> str:
    """Makes the page.

    Args:
        encoder: whose embeddings.
        queries: what is asked.
        passages: what may be found.
        config: title, lengths, how many neighbours.
        lens_config: which lens; the page shows one layer, the first that is named.
        teacher: whose view to show beside it; by default the one that embeds the checkpoint's documents.

    Returns:
        HTML.

    Raises:
        InputError: without queries or passages.
    """
    config, lens_config = config or ReportConfig(), lens_config or LensConfig()
    asked, among = check_texts(queries, "query"), check_texts(passages, "passage")
    if not asked or not among:
        raise InputError(f"found {len(asked)} queries and {len(among)} passages; a report needs one of each at least")
    views = {"Foresay": (encoder.encode_query, encoder.encode_document)} | teacher_view(encoder, teacher)
    documents: dict[str, NDArray[np.float32]] = {}
    vectors: dict[str, NDArray[np.float32]] = {}
    for name, (query, document) in views.items():
        same = document == encoder.encode_document and "Foresay" in documents
        documents[name] = documents["Foresay"] if same else document(among)
        vectors[name] = query(asked)
    nearest = {name: Encoder.similarity(vectors[name], documents[name]) for name in views}
    decoded: list[Decoded | None] = [None] * len(asked)
    if encoder.decodes:
        decoded = list(encoder.decode_tokens(asked, max_new_tokens=config.max_new_tokens))
    found = [_found(nearest, row, among, config.neighbours) for row in range(len(asked))]
    reads = [
        Read(number, (number - 1) % _COLOURS, *row)
        for number, row in enumerate(zip(asked, decoded, lens(encoder, asked, lens_config), found, strict=True), 1)
    ]
    one_space = all(document == encoder.encode_document for _, document in views.values())
    panels, share = _panels(asked, among, vectors, documents, nearest, one_space)
    return page(
        "report.html.jinja",
        title=config.title,
        reads=reads,
        panels=panels,
        share=share,
        side=_SIDE,
        one_space=one_space,
        backbone=encoder.model.backbone.name.rstrip("/").rpartition("/")[2],
        tokens=encoder.model.compression,
        dim=encoder.dim,
        passages=len(among),
    )


def _found(
    nearest: dict[str, NDArray[np.float32]], row: int, passages: Sequence[str], count: int
) -> dict[str, list[Neighbour]]:
    """The nearest passages of one query by view, each marked if every view finds it."""
    order = {name: np.argsort(-scores[row], kind="stable")[:count].tolist() for name, scores in nearest.items()}
    common = set.intersection(*(set(numbers) for numbers in order.values()))
    return {
        name: [Neighbour(n + 1, passages[n], float(nearest[name][row, n]), n in common) for n in numbers]
        for name, numbers in order.items()
    }


def _panels(
    queries: Sequence[str],
    passages: Sequence[str],
    vectors: dict[str, NDArray[np.float32]],
    documents: dict[str, NDArray[np.float32]],
    nearest: dict[str, NDArray[np.float32]],
    one_space: bool,
) -> tuple[list[Panel], list[float]]:
    """A map for each view, and how much of the variance each shows."""
    names = list(vectors)
    if one_space:
        plane = project([documents[names[0]], *(vectors[name] for name in names)])
        placed = {name: (plane.points[0], points) for name, points in zip(names, plane.points[1:], strict=True)}
        shares = [plane.share] * len(names)
    else:
        planes = [project([documents[name], vectors[name]]) for name in names]
        placed = {name: (plane.points[0], plane.points[1]) for name, plane in zip(names, planes, strict=True)}
        shares = [plane.share for plane in planes]
    panels = []
    for name in names:
        dots = [
            Dot(*_pixels(p), shorten(text, 160, placeholder=" …"))
            for p, text in zip(placed[name][0], passages, strict=True)
        ]
        first = nearest[name].argmax(axis=1)
        asked = []
        for row, (point, text) in enumerate(zip(placed[name][1], queries, strict=True)):
            to = dots[int(first[row])]
            asked.append(QueryDot(*_pixels(point), text, row + 1, row % _COLOURS, to.x, to.y))
        panels.append(Panel(name, dots, asked))
    return panels, shares


def _pixels(point: NDArray[np.float64]) -> tuple[float, float]:
    x, y = (_MARGIN + float(value) * (_SIDE - 2 * _MARGIN) for value in (point[0], 1 - point[1]))
    return round(x, 1), round(y, 1)
