"""The verb `rehead`: a newly trained alignment map makes all vectors of an index anew, and no language model runs.

In: an index that keeps states, and an encoder with other maps behind the same special tokens. Out: the same documents,
with new vectors.
Careful: states are of one backbone, its special tokens, template and document prompt. So a few stored texts are run
again and compared first. Where a teacher embeds documents there are no states, and none are needed: a new map for
queries searches the same vectors.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..config import IndexConfig
from ..data.queries import Progress
from ..embedded import Array
from ..encoder import Encoder
from ..errors import DataError
from ..files import locked
from .index import Index, open_store
from .parts import Maker, Part, keeping_in, table_of
from .pointer import LOCK
from .rewriting import Rewriting
from .space import cosines, describe
from .states import STATES, Keeping, embed_states, embed_with_states
from .store import Store, schema

_SAME = 0.99
"""Least cosine of a stored state to the one made again; int8 differs by less."""
_SAMPLE = 8


def rehead(path: str | Path, encoder: Encoder, progress: Progress | None = None) -> Index:
    """Makes the vectors of an index anew from the states it keeps; the index can be searched all the time.

    Run again after a kill, it goes on where it was.

    Args:
        path: folder of the index.
        encoder: of the new checkpoint, such as `foresay fit --checkpoint` makes.
        progress: told of documents done.

    Returns:
        the index, open with the new encoder.

    Raises:
        DataError: if there is no such index, it keeps no states, or they are another encoder's.
    """
    path = Path(path)
    store = open_store(path)
    before = store.about()
    keeping = keeping_in(before)
    if keeping is None:
        words = before["model"]["documents by"]
        reason = (
            "make it with --states float16, or use foresay migrate"
            if words == "the checkpoint"
            else f"its documents are embedded by {words}: a checkpoint of that teacher searches it as it is"
        )
        raise DataError(f"{path} keeps no states to make vectors from; {reason}")
    config = IndexConfig(**before["config"])
    if config.truncate_dim and config.truncate_dim not in (*encoder.dims, encoder.dim):
        config = replace(config, truncate_dim=0)
    maker = Maker(encoder, config)
    _check(path, store, encoder, keeping)
    about = describe(encoder, config)
    width = maker.finish(np.ones((1, encoder.dim), np.float32)).shape[1]
    columns = schema(width, about, keeping)
    kept = [field.name for field in keeping.fields()]

    def make(items: list[list[Part]], rows: pa.Table) -> pa.Table:
        vectors = maker.finish(embed_states(encoder, keeping.unpack(rows)))
        parts = [part for one in items for part in one]
        return table_of(parts, vectors, {name: rows[name].combine_chunks() for name in kept}, columns)

    with locked(path / LOCK):
        Rewriting(path, width, about, keeping).run(kept, make, config, progress)
    return Index.open(path, encoder)


def _check(path: Path, store: Store, encoder: Encoder, keeping: Keeping) -> None:
    """Refuses an encoder whose states of the stored texts are not the stored states."""
    shape = _shape(encoder)
    if shape != keeping.shape:
        raise DataError(
            f"{path} keeps states of shape {keeping.shape}, the checkpoint has {shape}: it is of another backbone, or "
            "has other special tokens; use foresay migrate"
        )
    rows = store.head([*("text", STATES), *(field.name for field in keeping.fields()[1:])], _SAMPLE)
    if not rows.num_rows:
        return
    _, states = embed_with_states(encoder, rows["text"].to_pylist(), keeping)
    cosine = float(np.median(cosines(_flat(states), _flat(keeping.unpack(rows)))))
    if cosine < _SAME:
        raise DataError(
            f"{path} keeps states that are not this checkpoint's: those of stored texts have a median cosine of "
            f"{cosine:.3f} to them, so its backbone, special tokens, template or prompt differ; use foresay migrate"
        )


def _shape(encoder: Encoder) -> tuple[int, ...]:
    model = encoder.model
    last = (model.compression, model.backbone.hidden_size)
    return (model.parts, *last) if model.every_layer else last


def _flat(states: Array) -> Array:
    return states.reshape(-1, states.shape[-1])
