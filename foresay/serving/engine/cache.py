"""A key/value cache that grows in place, and whose rows join and leave while the others are written.

In: what each layer hands in at a step. Out: all that it handed in so far, and caches put together or taken apart.
The library's own cache copies everything at each step; this one copies when its room is used up, or its rows change.
Be careful: rows are aligned on the right, with padding on the left, so that sliding windows count what they should.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Places that a buffer has left when it is made."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values (rows, heads, places, width) at the beginning of larger buffers."""

    keys: Tensor
    values: Tensor
    key_buffer: Tensor
    value_buffer: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Writes new places after the old ones; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.hold(key_states, value_states)
            return self.keys, self.values
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self.key_buffer.shape[-2]:
            room = max(ROOM, start // 2)
            self.key_buffer, self.value_buffer = (_with_room(part, end + room) for part in (self.keys, self.values))
        self.key_buffer[:, :, start:end] = key_states
        self.value_buffer[:, :, start:end] = value_states
        self.keys, self.values = self.key_buffer[:, :, :end], self.value_buffer[:, :, :end]
        return self.keys, self.values

    def hold(self, keys: Tensor, values: Tensor) -> None:
        """Takes over keys and values, with some room after them."""
        places = keys.shape[-2]
        self.key_buffer, self.value_buffer = (_with_room(part, places + ROOM) for part in (keys, values))
        self.keys, self.values = self.key_buffer[:, :, :places], self.value_buffer[:, :, :places]


def new_cache() -> Cache:
    """An empty cache."""
    return Cache(layer_class_to_replicate=GrowingLayer)


def join(left: Cache | None, right: Cache) -> Cache:
    """The rows of both, aligned on the right."""
    if left is None:
        return right
    joined = new_cache()
    for one, other in zip(left.layers, right.layers, strict=True):
        width = max(one.keys.shape[-2], other.keys.shape[-2])
        layer = GrowingLayer()
        layer.lazy_initialization(one.keys, one.values)
        layer.hold(
            torch.cat([_wide(one.keys, width), _wide(other.keys, width)]),
            torch.cat([_wide(one.values, width), _wide(other.values, width)]),
        )
        joined.layers.append(layer)
    return joined


def keep(cache: Cache, rows: Sequence[int], width: int) -> None:
    """Drops all other rows, and the places that are padding in every row that is kept.

    Args:
        cache: changed in place.
        rows: to keep.
        width: places of the longest of them.
    """
    for layer in cache.layers:
        index = torch.tensor(list(rows), device=layer.keys.device)
        layer.hold(layer.keys[index][:, :, -width:], layer.values[index][:, :, -width:])


def _with_room(part: Tensor, places: int) -> Tensor:
    buffer = part.new_zeros((*part.shape[:2], places, part.shape[3]))
    buffer[:, :, : part.shape[2]] = part
    return buffer


def _wide(part: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(part, (0, 0, width - part.shape[2], 0))
