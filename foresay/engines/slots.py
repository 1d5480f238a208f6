"""Rows written side by side in places that are refilled: no row waits for the slowest one of its batch.

In: prompts as token ids, a seed each. Out: the new token ids of each row, as soon as it has ended.
How: what all prompts begin with, such as a system prompt, is read once. All rows are padded on the left to one time
axis. A row that ends gives its place to the last one; waiting prompts are read apart and put so that they end where the
others are now. Keys and values lie in one store that grows by blocks, so a step copies nothing. Prompts come longest
first: each fits after the columns that its predecessors have filled.
Be careful: columns are not positions. A row's position is its column less the column where it begins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ..backbone import Backbone
from ..batching import SHORTEST_SHARED_PREFIX, pad, shared_prefix
from ..data.responses import Finish
from .sampling import Sampling

_BLOCK = 128
"""Columns by which the store grows."""
_SPARE = 1.5
"""A growing store keeps at most so many times the room that its rows need: the columns of one long prompt, gone by now,
times all the rows that came after it would be far more than `Limits.tokens`."""


@dataclass
class Slot:
    """A row: its place in the input, its prompt, and what it has written so far."""

    index: int
    prompt: list[int]
    seed: int
    written: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Limits:
    """How much is written at once.

    Attributes:
        rows: most rows side by side.
        tokens: most tokens in the store, prompts and responses of all rows together; one row may have more.
        new: longest response.
        read: most padded tokens of prompts read in one pass; one longer prompt is a pass of its own.
    """

    rows: int
    tokens: int
    new: int
    read: int


class Writer:
    """Writes responses with a backbone whose cache is attention alone."""

    def __init__(self, backbone: Backbone, sampling: Sampling, stops: Sequence[int], limits: Limits) -> None:
        """Nothing is allocated before the first row."""
        self.backbone, self.sampling, self.stops, self.limits = backbone, sampling, frozenset(stops), limits
        self._rows = limits.rows

    @torch.inference_mode()
    def write(self, slots: Sequence[Slot]) -> Iterator[tuple[Slot, Finish]]:
        """Writes every row; what memory cannot hold at once is tried again with half as many rows."""
        waiting = sorted(slots, key=lambda slot: -len(slot.prompt))
        while waiting:
            batch = _Batch(self.backbone, _common([slot.prompt for slot in waiting]))
            try:
                yield from self._run(batch, waiting)
                return
            except torch.OutOfMemoryError:
                most = len(batch.live)
                if most <= 1:
                    raise
            for slot in batch.live:  # outside the except clause, whose traceback keeps tensors alive
                slot.written.clear()
            waiting = sorted([*batch.live, *waiting], key=lambda slot: -len(slot.prompt))
            self._rows = max(1, most // 2)
            del batch
            torch.cuda.empty_cache()

    def _run(self, batch: "_Batch", waiting: list[Slot]) -> Iterator[tuple[Slot, Finish]]:
        while waiting or batch.live:
            entered = self._enter(batch, waiting)
            tokens = self.sampling.choose(
                batch.read(entered) if entered else batch.step(),
                [(slot.seed, len(slot.written)) for slot in (entered or batch.live)],
            )
            yield from self._settle(batch, entered or list(batch.live), tokens)

    def _enter(self, batch: "_Batch", waiting: list[Slot]) -> list[Slot]:
        """Takes prompts that fit from the waiting ones, once enough places are free to be worth a pass."""
        if not waiting:
            return []
        width = max(batch.width, len(waiting[0].prompt)) + self.limits.new
        rows = max(1, min(self._rows, self.limits.tokens // width))
        free = rows - len(batch.live)
        if batch.live and (free < max(1, rows // 8) or len(waiting[0].prompt) > batch.columns):
            return []
        count = min(free, max(1, self.limits.read // (len(waiting[0].prompt) - batch.shared)), len(waiting))
        entered, waiting[:] = waiting[:count], waiting[count:]
        batch.live.extend(entered)
        return entered

    def _settle(self, batch: "_Batch", slots: list[Slot], tokens: list[int]) -> Iterator[tuple[Slot, Finish]]:
        """Notes a token a row, and lets go of the rows that have ended."""
        ended: list[tuple[Slot, Finish]] = []
        for slot, token in zip(slots, tokens, strict=True):
            if token in self.stops:
                ended.append((slot, "stop"))
                continue
            slot.written.append(token)
            if len(slot.written) >= self.limits.new:
                ended.append((slot, "length"))
        batch.drop([slot for slot, _ in ended])
        yield from ended


class _Batch:
    """The rows being written, and their keys and values: place i holds row i of `live`."""

    def __init__(self, backbone: Backbone, common: Sequence[int]) -> None:
        self.backbone, self.shared = backbone, len(common)
        self.prefix = DynamicCache()
        if common:
            ids = torch.tensor([common], device=backbone.device)
            backbone.decoder(input_ids=ids, **backbone.cached(self.prefix))
        self.live: list[Slot] = []
        self.cache = Cache(layer_class_to_replicate=_Store)
        self.columns = 0
        self.starts = torch.zeros(0, dtype=torch.long, device=backbone.device)

    @property
    def width(self) -> int:
        """Columns of the longest row."""
        return self.columns - int(self.starts.min()) if len(self.starts) else 0

    def read(self, entered: list[Slot]) -> Tensor:
        """Reads the prompts of rows that were added to `live`; their next-token logits, (rows, vocabulary).

        Padding is on the right here, so that each row continues right after what all begin with: a sliding window
        counts columns.
        """
        device = self.backbone.device
        rests = [slot.prompt[self.shared :] for slot in entered]
        ids, lengths = pad(rests, self.backbone.pad_id, left=False, device=device)
        places = torch.arange(self.shared + ids.shape[1], device=device)
        lengths += self.shared
        positions = places[self.shared :].expand(len(entered), -1)
        cache = _repeated(self.prefix, len(entered))
        logits = self._forward(ids, places < lengths[:, None], positions, cache, lengths - 1)
        if len(entered) == len(self.live):
            self.columns = int(lengths.max())
        while len(self.cache.layers) < len(cache.layers):
            self.cache.layers.append(_Store())
        first = len(self.live) - len(entered)
        for length, rows in groupby(range(len(entered)), key=lambda i: len(entered[i].prompt)):
            those = list(rows)
            part = slice(those[0], those[-1] + 1)
            for store, layer in zip(self.cache.layers, cache.layers, strict=True):
                store.put(first, part, (self.columns - length, self.columns), layer)
        self.starts = torch.cat([self.starts, self.columns - lengths])
        return logits

    def step(self) -> Tensor:
        """Reads the token that each row wrote last; logits (rows, vocabulary)."""
        ids = torch.tensor([[slot.written[-1]] for slot in self.live], device=self.backbone.device)
        self._trim()
        mask = torch.arange(self.columns + 1, device=ids.device) >= self.starts[:, None]
        for store in self.cache.layers:
            store.see(len(self.live), self.columns)
        logits = self._forward(ids, mask, (self.columns - self.starts)[:, None], self.cache)
        self.columns += 1
        return logits

    def drop(self, slots: Sequence[Slot]) -> None:
        """Lets rows go: the last row moves to each free place."""
        for slot in slots:
            place, last = self.live.index(slot), len(self.live) - 1
            if place != last:
                self.live[place] = self.live[last]
                start = int(self.starts[last])
                self.starts[place] = start
                for store in self.cache.layers:
                    store.move(last, place, start, self.columns)
            self.live.pop()
            self.starts = self.starts[:last]

    def _trim(self) -> None:
        """Drops the columns that no row uses any more, when they are many."""
        unused = int(self.starts.min())
        if unused >= max(_BLOCK, self.columns // 4):
            for store in self.cache.layers:
                store.shift(len(self.live), unused, self.columns)
            self.starts, self.columns = self.starts - unused, self.columns - unused

    def _forward(
        self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache, last: Tensor | None = None
    ) -> Tensor:
        """Logits (rows, vocabulary) at each row's last token: its place on the time axis, or the end of the axis."""
        states = self.backbone.decoder(
            input_ids=ids, attention_mask=mask.long(), position_ids=positions, **self.backbone.cached(cache)
        ).last_hidden_state
        if last is None:
            return self.backbone.logits(states[:, -1])
        return self.backbone.logits(states[torch.arange(len(ids), device=ids.device), last - self.shared])


def _common(prompts: Sequence[list[int]]) -> list[int]:
    """What all prompts begin with, where that is worth reading once; each keeps a token of its own to go on from."""
    shared = min(shared_prefix(prompts), min(map(len, prompts)) - 1)
    return prompts[0][:shared] if shared >= SHORTEST_SHARED_PREFIX else []


def _repeated(prefix: DynamicCache, rows: int) -> DynamicCache:
    """A cache of rows that all begin alike."""
    cache = DynamicCache()
    for place, layer in enumerate(prefix.layers):
        if layer.is_initialized:
            cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), place)
    return cache


class _Store(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a layer in a store with spare rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.store: tuple[Tensor, Tensor] | None = None

    def see(self, rows: int, columns: int) -> None:
        """Shows the first rows and columns as what is in the cache."""
        if self.store is not None:
            self.keys, self.values = (part[:rows, :, :columns] for part in self.store)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Adds columns after those that are seen."""
        columns, rows = self.keys.shape[2], len(key_states)
        self._reserve(rows, columns + key_states.shape[2], key_states, value_states)
        assert self.store is not None
        for part, new in zip(self.store, (key_states, value_states), strict=True):
            part[:rows, :, columns : columns + new.shape[2]] = new
        self.see(rows, columns + key_states.shape[2])
        return self.keys, self.values

    def put(self, first: int, rows: slice, columns: tuple[int, int], layer: DynamicLayer) -> None:
        """Copies rows of equal length that were read apart to the places from `first` on, between two columns."""
        if not layer.is_initialized:  # a layer that shares the keys of another
            return
        start, end = columns
        self._reserve(first + len(layer.keys), end, layer.keys, layer.values)
        assert self.store is not None
        for part, new in zip(self.store, (layer.keys, layer.values), strict=True):
            part[first + rows.start : first + rows.stop, :, start:end] = new[rows, :, : end - start]

    def move(self, source: int, target: int, start: int, end: int) -> None:
        """Copies a row to another place."""
        for part in self.store or ():
            part[target, :, start:end] = part[source, :, start:end]

    def shift(self, rows: int, by: int, end: int) -> None:
        """Moves all rows to the left."""
        for part in self.store or ():
            part[:rows, :, : end - by] = part[:rows, :, by:end].clone()

    def _reserve(self, rows: int, columns: int, keys: Tensor, values: Tensor) -> None:
        """Makes the store large enough; the rows and columns in use stay where they are."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        old = self.store
        if old is not None and old[0].shape[0] >= rows and old[0].shape[2] >= columns:
            return
        most, wide = rows, -(-columns // _BLOCK) * _BLOCK
        if old is not None:
            spare = max(most, old[0].shape[0]), max(wide, old[0].shape[2])
            if spare[0] * spare[1] <= _SPARE * most * wide:
                most, wide = spare
        made = [new.new_zeros(most, new.shape[1], wide, new.shape[3]) for new in (keys, values)]
        for part, before in zip(made, old or (), strict=False):
            seen = before[:most, :, :wide]
            part[: len(seen), :, : seen.shape[2]] = seen
        self.store = (made[0], made[1])
