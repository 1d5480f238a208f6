"""What a checkpoint is made from: queries, responses and targets, row by row.

In: what `respond` and `teach` wrote. Out: `Pairs`, and which of them are kept out of training.
Careful: targets are stored in the teacher's axes, and may be mapped into memory: take a few rows at a time.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import ShapeConfig
from ..errors import InputError
from ..files import file_hash
from .likeness import reservoir, warn_of_texts, warn_of_vectors
from .responses import read_responses
from .targets import Targets


@dataclass(frozen=True)
class Pairs:
    """What is learned from, row by row.

    Attributes:
        queries: bare texts.
        responses: what the backbone answered.
        targets: (rows, dim), the teacher's vectors of the responses; may be memory-mapped.
        origin: what the rows were made from and by, recorded in the checkpoint, compared on resume.
        source: the file of the responses, for messages.
    """

    queries: Sequence[str]
    responses: Sequence[str]
    targets: NDArray[np.float32]
    origin: dict[str, Any] = field(default_factory=dict)
    source: str = "RESPONSES"

    def __post_init__(self) -> None:
        """Refuses rows that do not belong together."""
        if not len(self.queries) == len(self.responses) == len(self.targets):
            raise InputError(
                f"{len(self.queries)} queries, {len(self.responses)} responses and {len(self.targets)} targets; "
                "expected as many of each: make the targets again with foresay teach"
            )
        if len(self.queries) < 2:
            raise InputError(f"{len(self.queries)} pairs; training needs at least 2")

    @classmethod
    def load(cls, responses: str | Path, targets: str | Path) -> "Pairs":
        """Reads what `respond` and `teach` wrote, joined by id.

        Raises:
            DataError: if a file is missing or unfinished, or the targets are of other responses.
        """
        responses, targets = Path(responses), Path(targets)
        rows, taught = read_responses(responses), Targets.load(targets, responses)
        made = taught.manifest
        kept = ("teacher", "revision", "max_tokens", "query_weight", "of", "average")
        origin = {name: getattr(made, name) for name in kept} | {"responses_sha256": file_hash(responses)}
        return cls([row.query for row in rows], [row.response for row in rows], taught.vectors, origin, str(responses))

    def digest(self) -> str:
        """32 hex digits that stand for all texts, and for the targets of up to 4,096 rows."""
        found = hashlib.blake2b(f"{self.targets.shape}".encode(), digest_size=16)
        for text in chain(self.queries, self.responses):
            found.update(text.encode(errors="surrogatepass") + b"\0")
        every = max(1, len(self.targets) // 4096)
        found.update(np.ascontiguousarray(self.targets[::every], np.float32).tobytes())
        return found.hexdigest()

    def split(self, config: ShapeConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows to learn from, and those kept out, drawn by the seed; both in order."""
        rows = np.random.default_rng(config.seed).permutation(len(self.queries))
        held = min(config.held_out, len(rows) // 10)
        return np.sort(rows[held:]), np.sort(rows[:held])


def warn_of_pairs(pairs: Pairs) -> None:
    """Says in the log if many responses, or many targets, are near-identical: such pairs teach nothing."""
    rows = reservoir(range(len(pairs.queries)))
    warn_of_texts([pairs.responses[i] for i in rows], pairs.source)
    warn_of_vectors(np.array(pairs.targets[sorted(rows)], np.float32), f"targets of {pairs.source}")
