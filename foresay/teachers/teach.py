"""Responses to targets: a frozen teacher embeds each response, once, into a folder that training maps into memory.

In: a responses file, a teacher. Out: a folder with `vectors.npy` (row i belongs to row i of the responses),
`ids.json` and `manifest.json`. A killed run goes on at the last finished block.
What a reader would get wrong: the teacher sees the response alone, with no instruction and no query, and its
vectors are stored as they come, not normalised: the alignment loss compares lengths too.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from .. import __version__
from ..backbone import Backbone
from ..batching import Budget, Row, pad, run_by_length
from ..config import TeachConfig
from ..data.queries import Progress
from ..data.responses import Response, read_responses
from ..devices import pick_device
from ..errors import DataError, InputError
from ..files import differences, file_hash, read_json, write_json

SELF = "self"
Vectors = NDArray[np.float32]
Mapped = np.memmap[Any, np.dtype[np.float32]]

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
        mean: torch.Tensor = (states * real[..., None]).sum(dim=1) / lengths[:, None]
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
class Manifest:
    """What the vectors were made from, and how many of the rows are done."""

    teacher: str
    revision: str | None
    pooling: str
    dim: int
    max_tokens: int
    query_weight: float
    rows: int
    responses_sha256: str
    done: int = 0
    version: str = __version__

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest of a folder; DataError if it is missing or damaged."""
        path = folder / "manifest.json"
        try:
            return cls(**read_json(path))
        except TypeError as error:
            raise DataError(
                f"{path} is of another version ({error}); delete {folder} and repeat the command"
            ) from error

    def write(self, folder: Path) -> None:
        """Replaces the manifest of a folder in one move."""
        write_json(folder / "manifest.json", asdict(self))


def teach(
    responses: Path,
    teacher: Teacher,
    output: Path,
    progress: Progress | None = None,
    *,
    query_weight: float = 0.0,
) -> Manifest:
    """Embeds every response; run again after a kill, it goes on at the last finished block.

    Args:
        responses: what `respond` wrote.
        teacher: what `load_teacher` returned.
        output: the folder of targets.
        progress: told after each block.
        query_weight: share of the query's own vector in the target, as HyDE averages it in (arXiv 2212.10496):
            with some of it a question finds more of its answers, and a harmful one more of its own.

    Raises:
        DataError: if the folder was made from something else, or a vector is not finite.
    """
    rows = read_responses(responses)
    manifest = _claim(responses, rows, teacher, output, query_weight)
    vectors = _open_vectors(output, manifest, "r+")
    for start in range(manifest.done, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        vectors[start : start + len(block)] = _embed(teacher, block, query_weight)
        vectors.flush()  # msync: the block is on the disk before the manifest says so
        manifest = replace(manifest, done=start + len(block))
        manifest.write(output)
        if progress:
            progress(manifest.done, manifest.rows, "")
    return manifest


@dataclass(frozen=True, eq=False)
class Targets:
    """What `teach` made: `vectors` (rows, dim) float32, mapped into memory, and the `ids` of its rows."""

    vectors: Vectors
    ids: list[str]
    manifest: Manifest

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.manifest.dim

    @property
    def teacher(self) -> str:
        """Name of the teacher."""
        return self.manifest.teacher

    @classmethod
    def load(cls, folder: Path, responses: Path) -> "Targets":
        """Opens a folder of targets, and makes sure that they are complete and of these responses.

        Raises:
            DataError: if they are missing, not finished, damaged, or of other responses.
        """
        command = f"foresay teach {responses} -o {folder}"
        if not (folder / "manifest.json").exists():
            raise DataError(f"there are no targets in {folder}; make them with: {command}")
        manifest = Manifest.read(folder)
        if not responses.is_file():
            raise DataError(f"there is no {responses}, whose targets {folder} should hold; name the file they are of")
        if manifest.responses_sha256 != file_hash(responses):
            raise DataError(f"{folder} holds targets of other responses than {responses}; delete it and run: {command}")
        if manifest.done < manifest.rows:
            raise DataError(f"{folder} holds {manifest.done} of {manifest.rows} targets; for the rest run: {command}")
        return cls(_open_vectors(folder, manifest, "r"), json.loads((folder / "ids.json").read_bytes()), manifest)


def _claim(responses: Path, rows: Sequence[Response], teacher: Teacher, output: Path, query_weight: float) -> Manifest:
    """The manifest to go on from: a new folder's, or an old one's if it was made from the same things."""
    fresh = Manifest(
        teacher=teacher.name,
        revision=teacher.revision,
        pooling=teacher.pooling,
        dim=teacher.dim,
        max_tokens=teacher.max_tokens,
        query_weight=query_weight,
        rows=len(rows),
        responses_sha256=file_hash(responses),
    )
    if (output / "manifest.json").exists():
        found = Manifest.read(output)
        changed = differences(asdict(replace(found, done=0)), asdict(fresh))
        if changed:
            raise DataError(f"{output} holds targets made otherwise: {changed}; delete the folder, or use another -o")
        return found
    output.mkdir(parents=True, exist_ok=True)
    open_memmap(output / "vectors.npy", mode="w+", dtype=np.float32, shape=(fresh.rows, fresh.dim)).flush()
    write_json(output / "ids.json", [row.id for row in rows])
    fresh.write(output)  # last: a folder with a manifest has the other files
    return fresh


def _open_vectors(folder: Path, manifest: Manifest, mode: Literal["r", "r+"]) -> Mapped:
    path = folder / "vectors.npy"
    try:
        vectors = open_memmap(path, mode=mode)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is missing or damaged ({error}); delete {folder} and repeat foresay teach") from error
    if vectors.shape != (manifest.rows, manifest.dim) or vectors.dtype != np.float32:
        raise DataError(
            f"{path} holds {vectors.dtype} {vectors.shape}, its manifest says float32 {(manifest.rows, manifest.dim)}; "
            f"delete {folder} and repeat foresay teach"
        )
    return vectors


def _embed(teacher: Teacher, rows: Sequence[Response], query_weight: float) -> Vectors:
    vectors = teacher.embed([row.response for row in rows])
    if query_weight:
        vectors = (1 - query_weight) * vectors + query_weight * teacher.embed([row.query for row in rows])
    ids = [row.id for row, vector in zip(rows, vectors, strict=True) if not np.isfinite(vector).all()]
    if ids:
        raise DataError(
            f"{teacher.name} gives vectors that are not finite for {len(ids)} responses (ids {', '.join(ids[:5])}); "
            "remove those rows, or use another teacher or number type"
        )
    return vectors
