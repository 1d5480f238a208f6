"""The states behind a vector, kept beside it: what its text said to the model, before any trained map.

In: states of the compression tokens (rows, compression, hidden), or (rows, layers, compression, hidden) where every
layer is read. Out: columns of a table in half precision, or in int8 with a scale for each token's state.
The maps of any checkpoint with the same special tokens make soft prompts from them, which decode, and vectors.
Careful: they are large. Ten tokens of 576 numbers take 11.5 kB a chunk in half precision, and 5.8 kB in int8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..embedded import Array
from ..encoder import Encoder
from ..errors import DataError

STATES, SCALES = "states", "scales"


@dataclass(frozen=True)
class Keeping:
    """How states are kept.

    Attributes:
        storage: `float16` or `int8`.
        shape: of one text's states; the last is the hidden width.
    """

    storage: str
    shape: tuple[int, ...]

    def fields(self) -> list[pa.Field]:
        """The columns."""
        number = pa.int8() if self.storage == "int8" else pa.float16()
        states = pa.field(STATES, pa.list_(number, prod(self.shape)), nullable=False)
        scales = pa.field(SCALES, pa.list_(pa.float32(), prod(self.shape[:-1])), nullable=False)
        return [states, scales] if self.storage == "int8" else [states]

    def pack(self, states: Array) -> dict[str, pa.Array]:
        """States (rows, *shape) as columns.

        Raises:
            DataError: if half precision cannot hold them.
        """
        if self.storage == "int8":
            scales = np.maximum(np.abs(states).max(axis=-1, keepdims=True), 1e-12) / 127
            return {STATES: _column(np.round(states / scales).astype(np.int8)), SCALES: _column(scales)}
        with np.errstate(over="ignore"):
            half = states.astype(np.float16)
        if not np.isfinite(half).all():
            raise DataError("the states are too large for float16; keep them as int8: --states int8")
        return {STATES: _column(half)}

    def unpack(self, rows: pa.Table) -> Array:
        """Columns as states (rows, *shape) float32."""
        states: Array = _numbers(rows[STATES], rows.num_rows).reshape(-1, *self.shape).astype(np.float32)
        if self.storage == "int8":
            states *= _numbers(rows[SCALES], rows.num_rows).reshape(-1, *self.shape[:-1], 1)
        return states


def keeping_of(encoder: Encoder, storage: str) -> Keeping | None:
    """How an encoder's states are kept; None for not at all."""
    model = encoder.model
    shape: tuple[int, ...] = (model.compression, model.backbone.hidden_size)
    if model.every_layer:
        shape = (model.parts, *shape)
    return None if storage == "none" else Keeping(storage, shape)


def embed_with_states(encoder: Encoder, texts: Sequence[str], keeping: Keeping) -> tuple[Array, Array]:
    """Vectors (texts, dim) of documents, and the states (texts, *shape) that they are made from, in one pass."""
    model, prompt = encoder.model, encoder.prompts["document"]
    rows, _ = model.rows([prompt + text for text in texts], encoder.max_tokens)
    vectors = np.empty((len(rows), model.dim), np.float32)
    states = np.empty((len(rows), *keeping.shape), np.float32)
    out = [torch.from_numpy(states), torch.from_numpy(vectors)]
    model.run(rows, lambda hidden: (hidden.float(), model.embed(hidden)), out)
    return vectors, states


@torch.no_grad()
def embed_states(encoder: Encoder, states: Array) -> Array:
    """Vectors (rows, dim) from states alone: no language model runs."""
    model = encoder.model
    hidden = torch.from_numpy(np.ascontiguousarray(states)).to(model.align.weight.device)
    return model.embed(hidden).cpu().numpy()


@torch.no_grad()
def soft_prompts(encoder: Encoder, states: Array) -> Array:
    """Soft prompts (rows, compression, hidden) from states, as `Encoder.decode` takes them."""
    hidden = torch.from_numpy(np.ascontiguousarray(states)).to(encoder.model.align.weight.device)
    return encoder.model.soft_prompt(hidden).cpu().numpy()


def _column(values: Any) -> pa.Array:  # noqa: ANN401 - numpy, of several types
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])


def _numbers(column: Any, rows: int) -> Any:  # noqa: ANN401
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return whole.flatten().to_numpy(zero_copy_only=False).reshape(rows, -1)
