"""Vectors as responses: shortened, scaled, and written as numbers or as base64.

In: float32 arrays. Out: bytes of JSON, with the shortest digits that give the same float32 again.
Be careful: this runs beside the event loop, since a thousand vectors take a while to write.
"""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from .checkpoints import Served
from .errors import ApiError

Array = NDArray[np.float32]


def check_dimensions(served: Served, dimensions: int | None) -> None:
    """Refuses lengths that the checkpoint's embeddings cannot have.

    Raises:
        ApiError: 400.
    """
    known = sorted({*served.encoder.dims, served.encoder.dim})
    if dimensions is not None and dimensions not in known:
        listed = ", ".join(map(str, known))
        raise ApiError(
            400,
            f"embeddings of {served.name} can have {listed} dimensions, not {dimensions}; others are made by training "
            "with --dims",
            "invalid_value",
            param="dimensions",
        )


def finish(vectors: Array, dimensions: int | None, *, normalize: bool) -> Array:
    """Shortens vectors (texts, dim), and scales them to length 1."""
    vectors = vectors[:, :dimensions]
    if normalize:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.ascontiguousarray(vectors, dtype=np.float32)


def as_json(vector: Array, encoding: str) -> Any:  # noqa: ANN401 - an array or a string
    """A vector as `dump` takes it."""
    return vector if encoding == "float" else base64.b64encode(vector.astype("<f4").tobytes()).decode()


def dump(body: Mapping[str, Any]) -> bytes:
    """JSON; arrays are lists of numbers."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
