"""Responses to targets: a frozen teacher embeds each response, once, into a folder that training maps into memory.

In: a responses file, a teacher. Out: a folder of targets (data/targets.py), to which a later run adds what is new; a
killed run resumes after the last finished block.
Be careful: the teacher sees the response alone, with no instruction and no query, and its vectors are stored as they
come, not normalised: the alignment loss compares lengths too.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..backbone import Backbone
from ..batching import Budget, Row, pad, run_by_length
from ..config import Of, TeachConfig
from ..data.likeness import SAMPLE, reservoir, warn_of_texts, warn_of_vectors
from ..data.queries import Progress
from ..data.responses import Response, stream_responses
from ..data.targets import Manifest, Targets, TargetsFolder, Vectors
from ..devices import pick_device
from ..errors import DataError, InputError

SELF = "self"
_BLOCK = 4096
"""Responses embedded between two marks of progress on the disk, sorted by length among themselves."""


class Teacher(Protocol):
    """Whatever embeds responses. Two teachers with the same name, revision and pooling give the same vectors."""

    name: str
    revision: str | None
    pooling: str
    dim: int
    max_tokens: int

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (texts, dim), float32, not normalised."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, before any is cut to `max_tokens`."""
        ...


class SentenceTransformerTeacher:
    """Any sentence-transformers model, without its prompts."""

    def __init__(self, name: str, device: str = "auto", config: TeachConfig | None = None) -> None:
        """Loads the model.

        Args:
            name: folder or hub id.
            device: as for `Backbone.load`.
            config: lengths and batch size.

        Raises:
            InputError: if there is no such model.
            DeviceError: if the device does not exist here.
        """
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        config = config or TeachConfig()
        target = str(pick_device(device))
        try:
            self.model = SentenceTransformer(name, device=target)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"cannot load the teacher {name!r}: {reason} (expected a folder or hub id of a sentence-transformers "
                f"or LLM2Vec model, or the word {SELF} or nano-teacher)"
            ) from error
        self.name = name
        self.revision: str | None = getattr(getattr(self.model[0], "config", None), "_commit_hash", None)
        pooling = [module.pooling_mode for module in self.model if isinstance(module, Pooling)]
        self.pooling = str(pooling[0]) if pooling else "its own"
        self.dim = int(self.model.get_embedding_dimension())
        self.max_tokens = min(self.model.max_seq_length or config.max_tokens, config.max_tokens)
        self.model.max_seq_length = self.max_tokens
        self._batch_size = config.batch_size

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (texts, dim), float32. The empty prompt keeps a model's default prompt away."""
        vectors = self.model.encode(list(texts), prompt="", batch_size=self._batch_size, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, those that the tokenizer adds included, since `max_tokens` counts them."""
        return [len(ids) for ids in self.model.tokenizer(list(texts), truncation=False)["input_ids"]] if texts else []


class SelfTeacher:
    """The backbone itself: the mean of a text's last-layer states, behind the final norm."""

    pooling = "mean"

    def __init__(self, backbone: Backbone, config: TeachConfig | None = None) -> None:
        """Uses a backbone that is loaded already."""
        config = config or TeachConfig()
        self.backbone = backbone
        self.name, self.revision = f"{SELF}:{backbone.name}", backbone.revision
        self.dim = backbone.hidden_size
        self.max_tokens = min(config.max_tokens, backbone.max_positions - len(backbone.leading_ids))
        self._budget = Budget(config.batch_size * config.max_tokens, backbone.least_tokens, config.batch_size)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (texts, dim), float32, the longest texts computed first."""
        rows = [row[: self.max_tokens] for row in self.backbone.tokenize(texts)]
        vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        run_by_length(rows, self._mean, [torch.from_numpy(vectors)], self._budget)
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return [len(row) for row in self.backbone.tokenize(texts)]

    @torch.no_grad()
    def _mean(self, rows: Sequence[Row]) -> torch.Tensor:
        """Mean state of each row, (rows, hidden) float32.

        The leading token is left out: it carries nothing of the text, and its state is far larger than the others.
        Padding stands on the right, where no real token sees it.
        """
        lead = self.backbone.leading_ids
        ids, lengths = pad(rows, self.backbone.pad_id, left=False, device=self.backbone.device)
        ids = torch.cat([ids.new_tensor(lead).expand(len(rows), -1), ids], dim=1)
        states = self.backbone.decoder(input_ids=ids, use_cache=False).last_hidden_state[:, len(lead) :].float()
        real = torch.arange(states.shape[1], device=states.device)[None] < lengths[:, None]
        mean: torch.Tensor = (states * real[..., None]).sum(dim=1) / lengths[:, None].clamp(min=1)  # nothing: 0
        return mean


def load_teacher(
    name: str, backbone: Backbone | None = None, device: str = "auto", config: TeachConfig | None = None
) -> Teacher:
    """The teacher called `name`: `self`, the backbone; an LLM2Vec teacher; or any sentence-transformers model.

    An LLM2Vec teacher is a folder that `foresay teacher` made, a published LLM2Vec model by folder or hub id, or
    the word `nano-teacher`. One of the very backbone that is given shares its weights.

    Raises:
        InputError: if it is `self` and there is no backbone, or if there is no such model.
        BackboneError: if an LLM2Vec teacher's backbone cannot be loaded, or is another one than it was made of.
    """
    if name.partition(":")[0] != SELF:
        from .llm2vec import NANO_TEACHER, load  # brings in peft, which the other teachers do without

        if name != NANO_TEACHER and Path(name).is_dir():
            name = str(Path(name).resolve())  # manifests and checkpoints find it again from anywhere
        return load(name, backbone, device, config) or SentenceTransformerTeacher(name, device, config)
    if backbone is None:
        raise InputError(f"the teacher {SELF!r} is the backbone itself and none was given; add -m BACKBONE")
    if name not in (SELF, f"{SELF}:{backbone.name}"):  # the longer name is what a manifest records
        raise InputError(f"the teacher {name!r} is another backbone than the one given, {backbone.name}")
    return SelfTeacher(backbone, config)


@dataclass(frozen=True)
class Taught:
    """What a run did: targets there are now, those that are new, and what they were made by."""

    rows: int
    new: int
    manifest: Manifest


def teach(
    responses: Path,
    teacher: Teacher,
    output: Path,
    progress: Progress | None = None,
    *,
    query_weight: float = 0.0,
    of: Of = "response",
    average: bool = False,
) -> Taught:
    """Embeds every response that has no target yet; run again after a kill, it goes on at the last finished block.

    Args:
        responses: what `respond` wrote; read as a stream, twice.
        teacher: what `load_teacher` returned.
        output: the folder of targets, made or added to.
        progress: told after each block.
        query_weight: share of the query's own vector in the target, as HyDE averages it in (arXiv 2212.10496):
            with some of it a question finds more of its answers, and a harmful one more of its own.
        of: what to embed: the responses, or the queries alone.
        average: let all responses to one query share the mean of their vectors.

    Raises:
        DataError: if the folder was made from something else, a text has changed under its id, the disk has no room,
            or a vector is not finite.
    """
    own = query_weight if of == "response" else 0.0
    made = Manifest(
        teacher=teacher.name,
        revision=teacher.revision,
        pooling=teacher.pooling,
        dim=teacher.dim,
        max_tokens=teacher.max_tokens,
        query_weight=own,
        of=of,
        average=average,
    )
    rows = sum(1 for _ in stream_responses(responses))  # a broken line is said before anything is embedded
    with TargetsFolder(output, made) as folder:
        missing = sum(not folder.is_done(row) for row in stream_responses(responses))
        folder.make_room(missing)
        new = 0
        for block in _blocks(row for row in stream_responses(responses) if not folder.is_done(row)):
            folder.append(block, _embed(teacher, block, made))
            new += len(block)
            if progress:
                progress(rows - missing + new, rows, "")
    if new:
        _warn(responses, output)
    return Taught(rows, new, made)


def _blocks(rows: Iterable[Response]) -> Iterator[list[Response]]:
    iterator = iter(rows)
    while block := list(islice(iterator, _BLOCK)):
        yield block


def _warn(responses: Path, output: Path) -> None:
    """Says if the responses or their targets are nearly all the same."""
    warn_of_texts(reservoir(row.response for row in stream_responses(responses)), responses)
    vectors = Targets.load(output, responses).vectors
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), SAMPLE)).astype(int))
    warn_of_vectors(np.array(vectors[rows]), output)


def _embed(teacher: Teacher, rows: Sequence[Response], made: Manifest) -> Vectors:
    if made.of == "query":
        vectors = teacher.embed([row.query for row in rows])
    else:
        vectors = teacher.embed([row.response for row in rows])
        if made.query_weight:
            vectors = (1 - made.query_weight) * vectors + made.query_weight * teacher.embed([row.query for row in rows])
    ids = [rows[i].id for i in np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()]
    if ids:
        raise DataError(
            f"{teacher.name} gives vectors that are not finite for {len(ids)} responses (ids {', '.join(ids[:5])}); "
            "remove those rows, or use another teacher or dtype (float16 overflows first)"
        )
    return vectors
