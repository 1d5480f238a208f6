"""The embedders behind the baselines: a teacher on texts or on responses, and any sentence-transformers model.

In: what is loaded already, or a model's name. Out: objects with `encode_query` and `encode_document`.
Careful: the teacher's three ways differ in the query's vector alone. Their documents are the teacher's, so one index
serves all three.
"""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from ..backbone import Backbone
from ..config import RespondConfig
from ..data.queries import Query, content_id
from ..data.responses import read_responses
from ..devices import pick_device
from ..encoder import Array
from ..engines.respond import respond
from ..errors import DataError, InputError
from ..files import file_hash, read_json, write_json
from ..teachers.base import Teacher, digest, sample

logger = logging.getLogger(__name__)


class TeacherEmbedder:
    """A teacher on the bare text, queries and documents alike; also the mean-pooled backbone.

    Attributes:
        document_fingerprint: of the teacher alone, which is all that documents depend on.
    """

    def __init__(self, teacher: Teacher, name: str = "teacher") -> None:
        """Uses a teacher that is loaded already."""
        self.teacher, self.name, self.dim = teacher, name, teacher.dim
        self.fingerprint = self.document_fingerprint = teacher.fingerprint()

    def encode_query(self, texts: Sequence[str]) -> Array:
        """Vectors (texts, dim)."""
        return self.teacher.embed(texts)

    def encode_document(self, texts: Sequence[str]) -> Array:
        """Vectors (texts, dim)."""
        return self.teacher.embed(texts)


class ResponseEmbedder(TeacherEmbedder):
    """The teacher on a response from a file, found by the text of its query.

    What it takes is not known: writing the file is not part of it.
    """

    seconds_per_query = float("nan")

    def __init__(self, teacher: Teacher, responses: Path) -> None:
        """Reads the responses.

        Raises:
            DataError: if the file is missing or damaged.
        """
        super().__init__(teacher, "response")
        self.path = responses
        self.responses = {row.query: row.response for row in reversed(read_responses(responses))}
        self.fingerprint = digest(self.fingerprint, file_hash(responses))

    def encode_query(self, texts: Sequence[str]) -> Array:
        """Vectors (texts, dim).

        Raises:
            DataError: if a text has no response.
        """
        missing = [text for text in dict.fromkeys(texts) if text not in self.responses]
        if missing:
            raise DataError(
                f"{self.path} holds no response to {len(missing)} of {len(set(texts))} queries, first "
                f"{missing[0][:80]!r}; write them to a file and add them: "
                f"foresay respond FILE -m MODEL -o {quote(str(self.path))}"
            )
        return self.teacher.embed([self.responses[text] for text in texts])


class HydeEmbedder(TeacherEmbedder):
    """The backbone writes a response to each query, the teacher embeds it (HyDE, arXiv 2212.10496).

    A text without a response, since it is too long or the backbone said nothing, is embedded itself.

    Attributes:
        path: the responses; a killed run goes on there, and another task's queries are added.
    """

    def __init__(self, teacher: Teacher, backbone: Backbone, path: Path, config: RespondConfig | None = None) -> None:
        """Uses a teacher and a backbone that are loaded already; `config` as for `respond`."""
        super().__init__(teacher, "hyde")
        self.backbone, self.path, self.config = backbone, path, config or RespondConfig()
        weights = sample(backbone.model.parameters())
        self.fingerprint = digest(self.fingerprint, weights, backbone.dtype_name, str(self.config))
        self._responses: dict[str, str] = {}

    def encode_query(self, texts: Sequence[str]) -> Array:
        """Vectors (texts, dim)."""
        self._answer([text for text in dict.fromkeys(texts) if text not in self._responses])
        without = sum(text not in self._responses for text in texts)
        if without:
            logger.warning("%d of %d texts got no response and are embedded themselves", without, len(texts))
        start = time.perf_counter()
        vectors = self.teacher.embed([self._responses.get(text, text) for text in texts])
        self._add("embedding", len(texts), time.perf_counter() - start)
        return vectors

    @property
    def seconds_per_query(self) -> float:
        """Writing and embedding, over all runs that wrote into the file: one that found it there measured nothing."""
        spent = self._spent()
        return sum(
            spent[f"{what} seconds"] / spent[what] if spent[what] else float("nan") for what in ("writing", "embedding")
        )

    def _answer(self, texts: list[str]) -> None:
        if not texts:
            return
        start = time.perf_counter()
        summary = respond([Query(content_id(text), text) for text in texts], self.backbone, self.path, self.config)
        self._add("writing", summary.written, time.perf_counter() - start)
        wanted = set(texts)
        rows = read_responses(self.path) if self.path.stat().st_size else []
        self._responses.update({row.query: row.response for row in rows if row.query in wanted})

    @property
    def _clock(self) -> Path:
        return self.path.with_suffix(".seconds.json")

    def _spent(self) -> dict[str, Any]:
        zero = {"writing": 0, "writing seconds": 0.0, "embedding": 0, "embedding seconds": 0.0}
        return read_json(self._clock) if self._clock.exists() else zero

    def _add(self, what: str, done: int, seconds: float) -> None:
        """Counts what was done, if anything."""
        if done:
            spent = self._spent()
            spent[what] += done
            spent[f"{what} seconds"] += seconds
            write_json(self._clock, spent)


class ModelEmbedder:
    """Any sentence-transformers model, used as its makers mean it: its own prompts, its own documents."""

    def __init__(self, name: str, device: str = "auto") -> None:
        """Loads the model by folder or hub id.

        Raises:
            InputError: if there is no such model.
        """
        from sentence_transformers import SentenceTransformer

        try:
            self.model = SentenceTransformer(name, device=str(pick_device(device)))
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"cannot compare against {name!r}: {reason}") from error
        self.name = Path(name).name
        self.dim = int(self.model.get_embedding_dimension())
        prompts = json.dumps(self.model.prompts, sort_keys=True)
        self.fingerprint = digest(prompts, str(self.model.max_seq_length), sample(self.model.parameters()))

    def encode(self, texts: Sequence[str]) -> Array:
        """Vectors (texts, dim) of what is neither query nor document: pairs, or texts to sort."""
        return np.asarray(self.model.encode(list(texts), show_progress_bar=False), np.float32)

    def encode_query(self, texts: Sequence[str]) -> Array:
        """Vectors (texts, dim), with the model's query prompt."""
        return np.asarray(self.model.encode_query(list(texts), show_progress_bar=False), np.float32)

    def encode_document(self, texts: Sequence[str]) -> Array:
        """Vectors (texts, dim), with the model's document prompt."""
        return np.asarray(self.model.encode_document(list(texts), show_progress_bar=False), np.float32)
