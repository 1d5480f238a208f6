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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..backbone import Backbone
from ..config import RespondConfig
from ..encoder import Array
from ..errors import InputError
from ..teachers.base import Teacher
from ..teachers.pooled import SelfTeacher
from .baseline_embedders import HydeEmbedder, ModelEmbedder, ResponseEmbedder, TeacherEmbedder

if TYPE_CHECKING:
    from mteb.models import SearchProtocol


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
    if known is not None:
        return known.make(around)
    try:
        return ModelEmbedder(name, device)
    except InputError as error:
        others = f"{', '.join(BASELINES)}, or a sentence-transformers model by folder or hub id"
        raise InputError(f"{error} (expected {others})") from error


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
