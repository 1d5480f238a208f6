"""Chunks on their way into a table: embedded, checked, and with the states behind them where these are kept.

In: `Part` values. Out: rows as the table has them.
Careful: a vector that is not finite would be found by nothing or by everything, so its document is refused by its id.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ..config import IndexConfig
from ..embedded import Array, Ask, finish
from ..encoder import Encoder
from ..errors import DataError, InputError
from .chunks import Chunk
from .states import Keeping, embed_with_states, keeping_of
from .store import schema


@dataclass(frozen=True)
class Part:
    """A chunk with its document.

    Attributes:
        id: of the document.
        number: of the chunk in it, from 0.
        chunk: text and place.
        metadata: of the document, as JSON.
        digest: of the document.
    """

    id: str
    number: int
    chunk: Chunk
    metadata: str
    digest: str


class Maker:
    """Makes rows of a table.

    Attributes:
        encoder: embeds documents.
        config: how.
        keeping: how states are kept; None if they are not.
    """

    def __init__(self, encoder: Encoder, config: IndexConfig) -> None:
        """Takes an encoder that embeds as asked.

        Raises:
            InputError: if states are to be kept of documents that a teacher embeds.
        """
        if config.states != "none" and encoder.document_teacher is not None:
            raise InputError(
                f"documents are embedded by {encoder.document_teacher.name}, which has no states to keep; leave out "
                "--states, or train with --documents checkpoint"
            )
        self.encoder, self.config, self.keeping = encoder, config, keeping_of(encoder, config.states)

    def embed(self, texts: Sequence[str]) -> Array:
        """Vectors (texts, dim) of documents, of length 1."""
        cut = self.config.truncate_dim or None
        return self.encoder.encode_document(list(texts), normalize_embeddings=True, truncate_dim=cut, on_cut="ignore")

    def finish(self, vectors: Array) -> Array:
        """Whole vectors as `embed` gives them."""
        ask = Ask(normalize=True, truncate_dim=self.config.truncate_dim or None)
        return finish(vectors, (*self.encoder.dims, self.encoder.dim), ask)

    def rows(self, parts: Sequence[Part], about: dict[str, Any]) -> pa.Table:
        """Embeds chunks.

        Raises:
            DataError: for a vector that is not finite.
        """
        texts, extra = [part.chunk.text for part in parts], {}
        if self.keeping is None:
            vectors = self.embed(texts)
        else:
            whole, states = embed_with_states(self.encoder, texts, self.keeping)
            vectors, extra = self.finish(whole), self.keeping.pack(states)
        bad = sorted({part.id for part, vector in zip(parts, vectors, strict=True) if not np.isfinite(vector).all()})
        if bad:
            raise DataError(
                f"the encoder gives vectors that are not finite for {len(bad)} documents (first: {bad[0]!r}); take "
                "them out, or load it in another dtype"
            )
        return table_of(parts, vectors, extra, schema(vectors.shape[1], about, self.keeping))


def table_of(parts: Sequence[Part], vectors: Array, extra: dict[str, pa.Array], columns: pa.Schema) -> pa.Table:
    """Chunks and their vectors (parts, dim) as rows."""
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    return pa.table(
        {
            "id": [part.id for part in parts],
            "chunk": pa.array([part.number for part in parts], pa.int32()),
            "start": [part.chunk.start for part in parts],
            "end": [part.chunk.end for part in parts],
            "text": [part.chunk.text for part in parts],
            "metadata": pa.array([part.metadata for part in parts], pa.json_()),
            "digest": [part.digest for part in parts],
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
            **extra,
        },
        schema=columns,
    )


def keeping_in(about: dict[str, Any]) -> Keeping | None:
    """How a table keeps states, by what it says of itself."""
    found = about.get("states")
    return None if found is None else Keeping(found["storage"], tuple(found["shape"]))


def renumbered(parts: Sequence[Part]) -> list[Part]:
    """The chunks of one document, numbered from 0 by their places."""
    ordered = sorted(parts, key=lambda part: (part.chunk.start, part.number))
    return [replace(part, number=number) for number, part in enumerate(ordered)]
