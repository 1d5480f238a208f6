"""Many texts to a folder of shards: `encode_shards`, by one encoder or by several side by side.

In: texts, streamed, and a pool of workers. Out: a `VectorFolder`; run again after a kill, it goes on at the first shard
that is not finished.
Be careful: a shard is the unit of work, and is embedded as a whole wherever it is, so the numbers do not depend on how
many workers there are. Rows that cannot be read or embedded are in `rejected.jsonl`, and in no shard.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .backbone import Backbone
from .checkpoints.fingerprints import encoder_fingerprint
from .cluster.work import Done, Piece, Pool
from .config import ShardsConfig
from .data.queries import Progress, Query, Reject
from .data.rejects import Rejects, row_of
from .data.vectors import REJECTED, VectorFolder
from .embedded import Array
from .encoder import Encoder


@dataclass(frozen=True)
class EncodeWork:
    """Loads a checkpoint and embeds texts with it.

    Attributes:
        checkpoint: folder or hub id, as every worker finds it.
        backbone: the language model, where it is not where the checkpoint says.
        dtype: of the backbone.
        kind: whose prompt: `query` or `document`.
        prompt: put before each text instead.
        normalize: scale each embedding to length 1.
        truncate_dim: keep this many numbers of each.
        no_cut: fail on texts that are too long.
    """

    checkpoint: str
    backbone: str | None = None
    dtype: str = "auto"
    kind: str = "query"
    prompt: str | None = None
    normalize: bool = False
    truncate_dim: int | None = None
    no_cut: bool = False

    def open(self, device: str) -> "EncodeWorker":
        """Loads the checkpoint on a device."""
        loaded = Backbone.load(self.backbone, device=device, dtype=self.dtype) if self.backbone else None
        return EncodeWorker(
            self, Encoder.from_pretrained(self.checkpoint, backbone=loaded, device=device, dtype=self.dtype)
        )


@dataclass(frozen=True)
class EncodeWorker:
    """An encoder that is loaded, and how it is asked."""

    how: EncodeWork
    encoder: Encoder

    def describe(self) -> dict[str, Any]:
        """What the vectors depend on."""
        how, encoder = self.how, self.encoder
        return {
            "encoder": encoder_fingerprint(encoder),
            "as": how.kind,
            "prompt": encoder.prompts.get(how.kind, "") if how.prompt is None else how.prompt,
            "normalize": how.normalize,
            "dim": how.truncate_dim or encoder.dim,
        }

    def work(self, items: Sequence[str]) -> Array:
        """Vectors (texts, dim)."""
        run = self.encoder.encode_query if self.how.kind == "query" else self.encoder.encode_document
        return run(
            list(items),
            prompt=self.how.prompt,
            normalize_embeddings=self.how.normalize,
            truncate_dim=self.how.truncate_dim,
            on_cut="error" if self.how.no_cut else "warn",
        )


@dataclass(frozen=True)
class Encoded:
    """What a run did, in rows: those that have a vector now, those that are new, and those that have none."""

    rows: int
    new: int
    rejected: int
    dim: int


def encode_shards(
    texts: Iterable[Query | Reject],
    pool: Pool,
    output: Path,
    config: ShardsConfig | None = None,
    progress: Progress | None = None,
) -> Encoded:
    """Embeds texts into a folder of shards; run again after a kill, it resumes.

    Args:
        texts: in the order of the shards; read as a stream. Rejects among them go to `rejected.jsonl`.
        pool: of an `EncodeWork`, entered.
        output: the folder, made or gone on with.
        config: format, size and precision of the shards.
        progress: told after each shard.

    Raises:
        DataError: if the folder was made otherwise, holds other texts, or cannot be written.
        InputError: if the precision does not fit the embeddings.
    """
    config = config or ShardsConfig(shards="npy")
    shape = {"format": config.shards, "precision": config.precision, "shard_rows": config.shard_rows}
    about = {**pool.describe(), **shape, "version": __version__}
    with VectorFolder(output, about) as folder:
        run = _Run(folder, pool, config.shard_rows, progress)
        run.all(texts)
        folder.finish(run.rows, run.shards)
    return Encoded(run.rows, run.new, run.rejected, int(about["dim"]))


class _Run:
    """One run: what is under way, and the counts."""

    def __init__(self, folder: VectorFolder, pool: Pool, size: int, progress: Progress | None) -> None:
        self.folder, self.pool, self.size, self.progress = folder, pool, size, progress
        self.rejects = Rejects(folder.folder / REJECTED)
        self.rows = self.new = self.rejected = self.shards = 0
        self._under_way: dict[int, list[Query]] = {}

    def all(self, texts: Iterable[Query | Reject]) -> None:
        """Embeds what is missing; the first shard alone where the others need its ranges."""
        missing = self._missing(self._shards(texts))
        if self.folder.needs_ranges:
            first = next(missing, None)
            for done in self.pool.map([first] if first else []):
                self._settle(done)
        for done in self.pool.map(missing):
            self._settle(done)

    def _shards(self, texts: Iterable[Query | Reject]) -> Iterator[list[Query]]:
        """Rows by the shard, those that were rejected included."""
        shard: list[Query] = []
        for item in texts:
            if isinstance(item, Reject):
                self.rejects.add([item])
                self.rejected += 1
                continue
            shard.append(item)
            if len(shard) == self.size:
                yield shard
                shard = []
        if shard:
            yield shard

    def _missing(self, shards: Iterable[list[Query]]) -> Iterator[Piece]:
        for number, shard in enumerate(shards):
            rows = [row for row in shard if row_of(row) not in self.rejects]
            self.rejected += len(shard) - len(rows)
            self.shards = number + 1
            if not rows or self.folder.holds(number, rows):
                self._count(len(rows), new=False)
                continue
            self._under_way[number] = rows
            yield Piece(number, [row.text for row in rows])

    def _settle(self, done: Done) -> None:
        rows = self._under_way.pop(done.number)
        lost = [Reject(row_of(rows[place]), reason) for place, reason in done.lost.items()]
        self.rejects.add(lost)
        self.rejected += len(lost)
        left = [row for place, row in enumerate(rows) if place not in done.lost]
        vectors = np.asarray(done.results, np.float32).reshape(len(left), int(self.folder.made["dim"]))
        if left:
            self.folder.write(done.number, left, vectors)
        self._count(len(left), new=True)

    def _count(self, rows: int, *, new: bool) -> None:
        self.rows += rows
        self.new += rows if new else 0
        if self.progress:
            self.progress(self.rows, None, "")
