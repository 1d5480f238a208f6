"""A Qdrant collection: of a server, or a folder in local mode.

In: a `Place`: `qdrant:http://HOST:6333`, or `qdrant:FOLDER`. Out: a `QdrantCollection`.
Careful: a collection ranks by the distance it was made for. By dot product or Euclidean distance that is the order of
cosines only for vectors of length 1, which `adopt` checks. A key belongs in QDRANT_API_KEY.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...embedded import Array
from ...errors import DataError, InputError
from ..rows import Row
from .base import TEXTS, Backend, Place, Sample, choose, cosine_of, kind, library, matrix, name_of, only, plain

_DISTANCES = {"Cosine": "cosine", "Dot": "dot", "Euclid": "euclid"}
_PREFIX = "qdrant:"


class QdrantCollection(Backend):
    """A collection of somebody else's Qdrant."""

    def __init__(self, place: Place) -> None:
        """Connects, and finds vectors and texts.

        Raises:
            InputError: if qdrant-client is missing.
            DataError: if there is no such server, collection or field, or the collection ranks by something else.
        """
        qdrant, self._models = library("qdrant_client", "qdrant"), library("qdrant_client.models", "qdrant")
        where, config = place.source.removeprefix(_PREFIX), place.config
        self._client = _connect(qdrant.QdrantClient, where)
        try:
            found = sorted(one.name for one in self._client.get_collections().collections)
        except Exception as error:  # each transport has errors of its own
            raise DataError(f"cannot reach {where} ({_line(error)}); check the address") from error
        self._collection = only(f"collections in {where}", config.table, found, "--table")
        self.name = f"{place.source}, collection {self._collection}"
        given = self._client.get_collection(self._collection).config.params.vectors
        named = given if isinstance(given, dict) else {"": given}
        chosen = only(f"vectors in {self.name}", config.vector_column, list(named), "--vector-column")
        self._using, self.dim = chosen or None, int(named[chosen].size)
        distance = str(named[chosen].distance.value)
        if distance not in _DISTANCES:
            raise DataError(f"{self.name} ranks by {distance}; expected {', '.join(_DISTANCES)}: make it again there")
        self.ranks_by = _DISTANCES[distance]
        self._id = config.id_column
        points, _ = self._client.scroll(self._collection, limit=16, with_payload=True)
        fields = list(dict.fromkeys(name for point in points for name in point.payload or {}))
        self._text = choose("texts", config.text_column, fields, TEXTS, "--text-column")

    def count(self) -> int:
        """Points."""
        return int(self._client.count(self._collection).count)

    def nearest(self, vector: Array, limit: int, where: str | None) -> list[Row]:
        """By the collection's own index."""
        try:
            chosen = None if where is None else self._models.Filter.model_validate_json(where)
        except ValueError as error:
            raise InputError(
                f"the filter {where!r} cannot be used ({_line(error)}); expected a Qdrant filter as JSON, such as "
                + json.dumps({"must": [{"key": "year", "range": {"gt": 1990}}]})
            ) from error
        return [self._row(point) for point in self._points(vector.tolist(), limit, query_filter=chosen)]

    def sample(self, rows: int) -> Sample:
        """Drawn at random."""
        draw = self._models.SampleQuery(sample=self._models.Sample.RANDOM)
        return self._sample(self._points(draw, rows, with_vectors=True))

    def fetch(self, ids: Sequence[str]) -> Sample:
        """By id; by the payload's where an own field holds it."""
        if self._id:
            keys = [self._models.FieldCondition(key=self._id, match=self._models.MatchAny(any=list(ids)))]
            chosen = self._models.Filter(must=keys)
            points, _ = self._client.scroll(
                self._collection, scroll_filter=chosen, limit=len(ids), with_vectors=True, with_payload=True
            )
        else:
            numbers = [int(name) if name.isdigit() else name for name in ids]
            points = self._client.retrieve(self._collection, numbers, with_vectors=True, with_payload=True)
        return self._sample(points)

    def close(self) -> None:
        """Lets go of the server, or of the folder, which has one user at a time."""
        self._client.close()

    def _points(self, query: Any, limit: int, **more: Any) -> list[Any]:  # noqa: ANN401
        found = self._client.query_points(
            self._collection, query=query, using=self._using, limit=limit, with_payload=True, **more
        )
        return list(found.points)

    def _sample(self, points: Sequence[Any]) -> Sample:
        rows = [self._row(point) for point in points]
        vectors = [point.vector[self._using] if self._using else point.vector for point in points]
        return Sample([row.id for row in rows], [row.text for row in rows], matrix(vectors, self.dim))

    def _row(self, point: Any) -> Row:  # noqa: ANN401
        payload = dict(point.payload or {})
        text = str(payload.pop(self._text, "") or "")
        name = name_of(payload.pop(self._id, point.id)) if self._id else str(point.id)
        score = cosine_of(float(getattr(point, "score", 0.0)), self.ranks_by)
        return Row(name, score, text, plain(payload), 0, len(text))


def _connect(client: Any, where: str) -> Any:  # noqa: ANN401
    if where.startswith(("http://", "https://")):
        return client(url=where, api_key=os.environ.get("QDRANT_API_KEY"), timeout=30, check_compatibility=False)
    if not Path(where).is_dir():
        raise DataError(f"there is no folder {where}; expected one of Qdrant's local mode, or http://HOST:6333")
    try:
        return client(path=where)
    except RuntimeError as error:
        raise DataError(
            f"{where} cannot be opened ({_line(error)}); Qdrant's local mode has one user at a time"
        ) from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@kind
def open_qdrant(place: Place) -> QdrantCollection | None:
    """A place that begins with `qdrant:`."""
    return QdrantCollection(place) if place.source.startswith(_PREFIX) else None
