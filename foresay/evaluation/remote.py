"""Checkpoints that a pool's workers embed with: `evaluate` on a cluster.

In: a pool of `EvaluateWork`. Out: for each checkpoint a `RemoteEncoder`, which `MtebModel` gives its blocks.
Be careful: a block is embedded as a whole wherever it is, so the vectors are those of one machine. Baselines, the
teacher's included, stay in this process.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..checkpoints.fingerprints import encoder_fingerprint
from ..cluster.work import Piece, Pool
from ..config import EvaluateConfig
from ..embedded import Ask, Embedded
from ..encoder import Encoder
from ..errors import DataError
from .checkpoint_teacher import teacher_of
from .encoders import load_encoders, with_documents


@dataclass(frozen=True)
class Block:
    """Texts that are embedded together.

    Attributes:
        encoder: which of the checkpoints embeds.
        texts: of one role.
        before: `Encoder.embed`'s keyword for what goes before each.
    """

    encoder: int
    texts: Sequence[str]
    before: Mapping[str, str]

    def embedded_by(self, encoder: Encoder) -> Embedded:
        """Vectors, and which texts were cut."""
        return encoder.embed(list(self.texts), **self.before, ask=Ask(on_cut="ignore"))


@dataclass(frozen=True)
class EvaluateWork:
    """Opens checkpoints as `evaluate` does."""

    checkpoints: Sequence[str]
    config: EvaluateConfig

    def open(self, device: str) -> "EvaluateWorker":
        """Loads them, and a teacher where one embeds the documents."""
        config, encoders = self.config, load_encoders(self.checkpoints, self.config, device)
        teacher = None
        if config.documents == "teacher":
            teacher = teacher_of(self.checkpoints[0], encoders[0].model.backbone, device, config.teacher or None)
        return EvaluateWorker(with_documents(encoders, config, teacher))


@dataclass(frozen=True)
class EvaluateWorker:
    """Checkpoints that are loaded."""

    encoders: Sequence[Encoder]

    def describe(self) -> dict[str, Any]:
        """Who they are."""
        return {"encoders": [encoder_fingerprint(encoder) for encoder in self.encoders]}

    def work(self, items: Sequence[Block]) -> list[Embedded]:
        """Each block embedded."""
        return [block.embedded_by(self.encoders[block.encoder]) for block in items]


@dataclass(frozen=True)
class RemoteEncoder:
    """A checkpoint, and the pool whose workers have it too.

    Attributes:
        encoder: in this process, for all but the embedding.
        pool: of `EvaluateWork`.
        number: the checkpoint's place in it.
    """

    encoder: Encoder
    pool: Pool
    number: int

    def embed_blocks(
        self, blocks: Sequence[Sequence[str]], before: Mapping[str, str]
    ) -> Iterator[tuple[int, Embedded]]:
        """The blocks, each with its place, as soon as it is done.

        Raises:
            DataError: if a block has killed its workers.
        """
        pieces = (Piece(place, [Block(self.number, texts, before)]) for place, texts in enumerate(blocks))
        for done in self.pool.map(pieces):
            if done.lost:
                shown = f"{len(blocks[done.number])} texts, the longest beginning {blocks[done.number][0][:60]!r}"
                raise DataError(
                    f"a block of {shown}, has no vectors: {done.lost[0]}; give each worker more memory "
                    "(--worker-cpus, --worker-gpus), then repeat the command"
                )
            yield done.number, done.results[0]
