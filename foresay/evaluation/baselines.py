"""Was it worth it? Other ways to embed the same queries: what `--against` names.

    teacher    the teacher on the bare text
    hyde       the backbone writes the response, the teacher embeds it
    response   the same with responses from a file: what an embedding of that response could reach
    mean       the backbone itself, mean pooled
    bm25       words in common, no model
    anything else is a sentence-transformers model, folder or hub id, with its own prompts

`teacher`, `hyde` and `response` differ in the query's vector alone. Their documents are the teacher's, so one index
serves all three, and a checkpoint that queries it. A further baseline is an entry in `BASELINES`.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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
from ..teachers.pooled import SelfTeacher

if TYPE_CHECKING:
    from mteb.models import SearchProtocol

logger = logging.getLogger(__name__)


class BaselineEmbedder(Protocol):
    """Whatever embeds queries and documents into one space; two with the same fingerprint give the same vectors.

    May have `seconds_per_query`, where it knows better than a clock around `encode_query`.
    """

    name: str
    dim: int
    fingerprint: str

    def encode_query(self, texts: Sequence[str], /) -> Array:
        """Vectors (texts, dim), float32."""
        ...

    def encode_document(self, texts: Sequence[str], /) -> Array:
        """Vectors (texts, dim), float32, in the same space."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """What a baseline may be made of.

    Attributes:
        backbone: the checkpoint's.
        teacher: the checkpoint's, where a baseline that needs it is asked for.
        output: folder of the evaluation, for what a baseline writes.
        responses: file of responses, for `response`.
        config: how `hyde` writes.
    """

    backbone: Backbone
    teacher: Teacher | None
    output: Path
    responses: Path | None = None
    config: RespondConfig = field(default_factory=RespondConfig)

    def the_teacher(self) -> Teacher:
        """The teacher.

        Raises:
            InputError: if there is none.
        """
        if self.teacher is None:
            raise InputError("this baseline needs the checkpoint's teacher; name it: --teacher NAME")
        return self.teacher


@dataclass(frozen=True)
class Baseline:
    """An entry of `BASELINES`.

    Attributes:
        words: what it is, for a reader of the results.
        make: the embedder; or a search that mteb runs as it is, where there are no vectors.
        needs_teacher: whether the checkpoint's teacher has to be loaded.
    """

    words: str
    make: "Callable[[Surroundings], BaselineEmbedder | SearchProtocol]"
    needs_teacher: bool = False


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
                f"{missing[0][:80]!r}; write them to a file and add them: foresay respond FILE -m MODEL -o {self.path}"
            )
        return self.teacher.embed([self.responses[text] for text in texts])


class HydeEmbedder(TeacherEmbedder):
    """The backbone writes a response to each query, the teacher embeds it (HyDE, arXiv 2212.10496).

    A text without a response, since it is too long or the backbone said nothing, is embedded itself.

    Attributes:
        path: the responses; a killed run goes on there, and another task's queries are added.
        unanswered: how many texts had no response.
    """

    def __init__(self, teacher: Teacher, backbone: Backbone, path: Path, config: RespondConfig | None = None) -> None:
        """Uses a teacher and a backbone that are loaded already; `config` as for `respond`."""
        super().__init__(teacher, "hyde")
        self.backbone, self.path, self.config = backbone, path, config or RespondConfig()
        weights = sample(backbone.model.parameters())
        self.fingerprint = digest(self.fingerprint, weights, backbone.dtype_name, str(self.config))
        self.unanswered = 0
        self._responses: dict[str, str] = {}

    def encode_query(self, texts: Sequence[str]) -> Array:
        """Vectors (texts, dim)."""
        self._answer([text for text in dict.fromkeys(texts) if text not in self._responses])
        without = sum(text not in self._responses for text in texts)
        if without:
            self.unanswered += without
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
            raise InputError(
                f"cannot compare against {name!r}: {reason} (expected {', '.join(BASELINES)}, or a "
                "sentence-transformers model by folder or hub id)"
            ) from error
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


def load_baseline(name: str, around: Surroundings, device: str = "auto") -> "BaselineEmbedder | SearchProtocol":
    """What `--against NAME` means.

    Args:
        name: one of `BASELINES`, or a sentence-transformers model by folder or hub id.
        around: what it is made of.
        device: where a further model runs.

    Returns:
        an embedder; for `bm25`, which has no vectors, a search that mteb runs as it is.

    Raises:
        InputError: if there is no such model, no teacher, no file for `response`, or no library for `bm25`.
    """
    known = BASELINES.get(name)
    return ModelEmbedder(name, device) if known is None else known.make(around)


def _response(around: Surroundings) -> BaselineEmbedder:
    if around.responses is None:
        raise InputError("the baseline response needs a file of responses: add --responses FILE")
    return ResponseEmbedder(around.the_teacher(), around.responses)


def _hyde(around: Surroundings) -> BaselineEmbedder:
    return HydeEmbedder(around.the_teacher(), around.backbone, around.output / "hyde.jsonl", around.config)


def _bm25(around: Surroundings) -> "SearchProtocol":
    try:
        from .bm25 import Bm25
    except ImportError as error:
        raise InputError(f"bm25 needs {error.name}: pip install 'foresay[evaluate]'") from error
    search: SearchProtocol = Bm25()
    return search


BASELINES: dict[str, Baseline] = {
    "teacher": Baseline(
        "the teacher on the bare text", lambda around: TeacherEmbedder(around.the_teacher()), needs_teacher=True
    ),
    "hyde": Baseline("the language model writes the response, the teacher embeds it", _hyde, needs_teacher=True),
    "response": Baseline("the teacher on responses from a file", _response, needs_teacher=True),
    "mean": Baseline(
        "the language model itself, mean pooled", lambda around: TeacherEmbedder(SelfTeacher(around.backbone), "mean")
    ),
    "bm25": Baseline("words in common, no model", _bm25),
}
