"""The verb `migrate`: an index to another checkpoint, by embedding its stored chunks again.

In: an index, and the encoder that is to search it from now on. Out: the same documents, with new vectors.
Careful: chunks stay as they were cut, since white space between them is not stored; one that is too long for the new
encoder is cut once more.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from ..config import IndexConfig
from ..data.queries import Progress
from ..encoder import Encoder
from ..errors import InputError
from ..files import locked
from .chunks import Chunk, Chunker
from .index import Index, open_store
from .parts import Maker, Part, renumbered
from .pointer import LOCK
from .rewriting import Rewriting
from .space import describe


def migrate(
    path: str | Path, encoder: Encoder, config: IndexConfig | None = None, progress: Progress | None = None
) -> Index:
    """Embeds the documents of an index again with another checkpoint; the index can be searched all the time.

    Run again after a kill, it goes on where it was. Until it is done the index belongs to the old checkpoint.

    Args:
        path: folder of the index.
        encoder: of the new checkpoint.
        config: how documents are embedded from now on; without it as before, as far as the new encoder allows.
        progress: told of documents done.

    Returns:
        the index, open with the new encoder.

    Raises:
        DataError: if there is no index, it is an adopted one, or another process is writing it.
        InputError: if the encoder cannot embed as asked.
    """
    path = Path(path)
    before = IndexConfig(**open_store(path).about()["config"])
    config = config or _fitting(before, encoder)
    maker, chunker = Maker(encoder, config), Chunker(encoder, config.chunk_tokens, config.overlap)
    about = describe(encoder, config)
    width = maker.embed(["x"]).shape[1]

    def make(items: list[list[Part]], _: pa.Table) -> pa.Table:
        return maker.rows([part for parts in items for part in renumbered(list(_cut(parts, chunker)))], about)

    with locked(path / LOCK):
        Rewriting(path, width, about, maker.keeping).run([], make, config, progress)
    return Index.open(path, encoder)


def _cut(parts: list[Part], chunker: Chunker) -> Iterator[Part]:
    """Chunks that the new encoder can read whole."""
    for part in parts:
        for small in chunker(part.chunk.text):
            begin = part.chunk.start
            yield replace(part, chunk=Chunk(small.text, begin + small.start, begin + small.end))


def _fitting(config: IndexConfig, encoder: Encoder) -> IndexConfig:
    """As before; what the new encoder cannot do is left out."""
    if config.truncate_dim and config.truncate_dim not in (*encoder.dims, encoder.dim):
        config = replace(config, truncate_dim=0)
    if encoder.document_teacher is not None:
        config = replace(config, states="none")
    try:
        Chunker(encoder, config.chunk_tokens, config.overlap)
    except InputError:
        config = replace(config, chunk_tokens=0, overlap=0)
    return config
