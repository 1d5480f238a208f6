"""The verb `adopt`: an index that a teacher made, queried with a checkpoint that was trained on that teacher.

In: where the index is, and an encoder with its teacher. Out: an `Adopted`, and a folder with

    index.json    where the rows are, whose vectors they are, and how well that was confirmed
    probes.npy    a few of the vectors, to notice when the table is embedded anew

No document is copied, embedded or changed: hits come from where the rows are.
Careful: vectors of another model, prompt or pooling look alike and find nonsense. So stored texts are embedded again
and compared before anything else. Two limits of a long text cut it differently, so the shorter half of the sample
decides.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import AdoptConfig
from ..embedded import Array
from ..encoder import Encoder
from ..errors import DataError, InputError
from ..files import locked
from ..teachers.whitened import WhitenedTeacher
from ..tokenizing import check_texts
from .backends.base import Backend, Place, Sample, open_backend
from .numbers import blocks
from .pointer import LOCK, check_free, clear, read_pointer, write_pointer
from .searching import MODES, Searcher
from .space import SAME, cosines

_STRANGE = 0.98
"""Cosine below which a text was embedded by something else."""
_MOST_STRANGE = 0.05
"""Share of such texts that is put down to edits since."""
_UNIT = 1e-2
"""How far lengths may be from 1 where a table does not rank by cosine."""
_PROBES = 8
_BLOCK = 512


@dataclass(frozen=True)
class Agreement:
    """How well stored vectors agree with the teacher's.

    Attributes:
        compared: texts that were embedded again.
        cosine: median of the cosines.
        least: smallest of them.
        strange: texts whose cosine says that something else embedded them.
        axes: `teacher`, or `own` where the vectors are spelt in the checkpoint's own axes.
    """

    compared: int
    cosine: float
    least: float
    strange: int
    axes: str


class Adopted(Searcher):
    """An index that somebody else keeps.

    Attributes:
        path: its folder.
        encoder: embeds queries.
        backend: where the rows are.
        agreement: how well the vectors were confirmed to be the teacher's.
        mode: `dense`, since not every back end has full-text search.
    """

    def __init__(self, path: Path, backend: Backend, encoder: Encoder, agreement: Agreement) -> None:
        """Use `adopt`, or `open_index`."""
        self.path, self.backend, self.encoder, self.agreement, self.mode = path, backend, encoder, agreement, "dense"

    @classmethod
    def open(cls, path: str | Path, encoder: Encoder) -> "Adopted":
        """An adopted index that is there.

        Raises:
            DataError: if there is none, its table is gone or was embedded anew, or the encoder is of another teacher.
            InputError: if the encoder has no teacher, or a library is missing.
        """
        path = Path(path)
        pointer = read_pointer(path)
        if pointer.get("kind") != "adopted":
            raise DataError(f"{path} is an index of its own; open it with foresay.open_index")
        backend = open_backend(Place(pointer["source"], AdoptConfig(**pointer["config"])))
        there = _check_probes(path, pointer, backend)
        agreement = Agreement(**pointer["agreement"])
        if not there or pointer["teacher"] != _teacher(encoder) or agreement.axes == "own":  # axes are a checkpoint's
            agreement = compare(backend, encoder, pointer["config"]["sample"])
        return cls(path, backend, encoder, agreement)

    def __len__(self) -> int:
        """Rows: what another program calls a row may be a chunk."""
        return self.backend.count()

    def holds(self, ids: Sequence[str]) -> set[str]:
        """Those of some ids that are there."""
        return {name for block in blocks(check_texts(ids, "id"), _BLOCK) for name in self.backend.fetch(block).ids}

    def modes(self) -> tuple[str, ...]:
        """Dense alone, where the back end has no full-text search."""
        return MODES if self.backend.has_words else ("dense",)

    def close(self) -> None:
        """Ends the connection to the back end."""
        self.backend.close()

    def _table(self) -> Backend:
        return self.backend

    def _queries(self, texts: Sequence[str]) -> Array:
        return self._turned(self.encoder.encode_query(list(texts)))

    def _documents(self, texts: Sequence[str]) -> Array:
        return self._turned(self.encoder.encode_document(list(texts), on_cut="ignore"))

    def _turned(self, vectors: Array) -> Array:
        return vectors if self.agreement.axes == "own" else to_teacher_axes(self.encoder, vectors)


def adopt(source: str, encoder: Encoder, output: str | Path, config: AdoptConfig | None = None) -> Adopted:
    """Takes over an index without touching it.

    Args:
        source: a LanceDB folder, a .parquet or .npy file, `postgresql://HOST/DATABASE`, `qdrant:http://HOST:6333` or
            `qdrant:FOLDER`, or what a registered kind knows.
        encoder: trained on the teacher that made the vectors; where it embeds documents itself, it gets the teacher
            by `with_document_teacher`.
        output: folder to make; it holds no documents.
        config: table and columns, where they cannot be found out.

    Raises:
        DataError: if the vectors are not the teacher's, with the cosine found; if there is no such table or column;
            or if there is something at `output`.
        InputError: if the encoder has no teacher, no kind knows the source, or its library is missing.
    """
    path, config = Path(output), config or AdoptConfig()
    check_free(path)
    teacher = _teacher(encoder)
    resolved = _absolute(source)
    config = AdoptConfig(**{**asdict(config), **{name: _absolute(getattr(config, name)) for name in ("ids", "texts")}})
    backend = open_backend(Place(resolved, config))
    agreement = compare(backend, encoder, config.sample)
    probes = _good(backend.sample(_PROBES))
    path.mkdir(parents=True, exist_ok=True)
    with locked(path / LOCK):
        check_free(path)
        clear(path)
        np.save(path / "probes.npy", probes.vectors)
        what = {"source": resolved, "config": asdict(config), "teacher": teacher, "agreement": asdict(agreement)}
        write_pointer(path, {"kind": "adopted", **what, "probes": probes.ids})
    return Adopted(path, backend, encoder, agreement)


def compare(backend: Backend, encoder: Encoder, rows: int) -> Agreement:
    """Embeds stored texts again with the encoder's teacher, and compares.

    Raises:
        DataError: if the vectors are another model's, with the cosine found and what may be the reason; or if the
            back end cannot rank them by cosine.
    """
    teacher = encoder.load_document_teacher()
    if backend.dim != encoder.dim:
        inner = isinstance(teacher, WhitenedTeacher) and backend.dim == teacher.inner.dim
        raise DataError(
            f"the vectors of {backend.name} are {backend.dim} numbers wide, those of the teacher {teacher.name} "
            f"{encoder.dim}; " + (_BELOW if inner else "adopt it with a checkpoint trained on the teacher that made it")
        )
    found = _good(backend.sample(2 * rows))
    _check_lengths(backend, found.vectors)
    order = np.argsort([len(text) for text in found.texts], kind="stable")[: max(rows, 1)]
    texts, stored = [found.texts[i] for i in order], found.vectors[order]
    made = encoder.encode_document(texts, on_cut="ignore")
    spaces = {"teacher": to_teacher_axes(encoder, made)}
    if encoder.model.rotation is not None:
        spaces["own"] = made
    scores = {axes: cosines(stored, vectors) for axes, vectors in spaces.items()}
    axes = max(scores, key=lambda name: float(np.median(scores[name])))
    values = scores[axes]
    strange = int((values < _STRANGE).sum())
    agreement = Agreement(len(texts), float(np.median(values)), float(values.min()), strange, axes)
    if agreement.cosine < SAME or strange > max(1, _MOST_STRANGE * len(texts)):
        reason = _reason(agreement, encoder, texts, stored)
        raise DataError(
            f"the vectors of {backend.name} are not those of the teacher {teacher.name}: {len(texts)} stored texts "
            f"embedded again have a median cosine of {agreement.cosine:.3f} to them, the least is "
            f"{agreement.least:.3f} (expected at least {SAME}); {reason}"
        )
    return agreement


def to_teacher_axes(encoder: Encoder, vectors: Array) -> Array:
    """Embeddings (texts, dim) as the teacher spells them: a checkpoint that shortens them has axes of its own."""
    rotation = encoder.model.rotation
    return vectors if rotation is None else vectors @ rotation.cpu().numpy().T


_BELOW = (
    "they are of the width of the teacher below this whitened one: map them once with foresay whiten-index, and adopt "
    "what it writes"
)


def _reason(agreement: Agreement, encoder: Encoder, texts: Sequence[str], stored: Array) -> str:
    """What may be wrong, from how wrong it is."""
    teacher = encoder.load_document_teacher()
    if isinstance(teacher, WhitenedTeacher) and stored.shape[1] == teacher.inner.dim:
        if float(np.median(cosines(stored, teacher.inner.embed(texts)))) >= SAME:
            return "they are those of the teacher below this whitened one: map them once with foresay whiten-index"
    if agreement.cosine >= SAME:
        return f"{agreement.strange} of them were embedded by something else: embed these rows again where they are"
    if agreement.cosine > 0.7:
        return (
            "so near is the same model with a prompt before each text, another pooling, or vectors that were changed "
            "afterwards: train on that very embedder, or embed the rows again with bare texts"
        )
    return "so far is another model: use a checkpoint that was trained on the one that made them"


def _teacher(encoder: Encoder) -> dict[str, Any]:
    wanted = encoder.document_teacher
    if wanted is None:
        raise InputError(
            "this checkpoint embeds documents itself, so it does not say whose vectors an index may hold; name its "
            "teacher with --teacher, or hand it in by with_document_teacher"
        )
    return {"name": wanted.name, "revision": wanted.revision}


def _good(sample: Sample) -> Sample:
    """Rows that have a text and a vector of finite numbers.

    Raises:
        DataError: if there are none or too few, or one has no id.
    """
    if not sample.ids:
        raise DataError("the table has no rows, so there is nothing to search; fill it first")
    if nameless := sum(not name for name in sample.ids):
        raise DataError(
            f"of {len(sample.ids)} sampled rows {nameless} have no id; expected one in each: fill them in there, or "
            "name another column with --id-column"
        )
    fine = np.isfinite(sample.vectors).all(axis=1) & (np.abs(sample.vectors).max(axis=1, initial=0) > 0)
    picks = [i for i, text in enumerate(sample.texts) if text.strip() and fine[i]]
    if 2 * len(picks) < len(sample.texts) or not picks:
        raise DataError(
            f"of {len(sample.texts)} sampled rows {int((~fine).sum())} have no finite vector and "
            f"{sum(not text.strip() for text in sample.texts)} no text; expected rows with both: name the right columns"
        )
    return Sample([sample.ids[i] for i in picks], [sample.texts[i] for i in picks], sample.vectors[picks])


def _check_lengths(backend: Backend, vectors: Array) -> None:
    lengths = np.linalg.norm(vectors, axis=1)
    if backend.ranks_by != "cosine" and np.abs(lengths - 1).max() > _UNIT:
        raise DataError(
            f"{backend.name} ranks by {backend.ranks_by} and its vectors have lengths from {lengths.min():.3g} to "
            f"{lengths.max():.3g}, which is not the order of cosines; normalise them there, or rank by cosine"
        )


def _check_probes(path: Path, pointer: dict[str, Any], backend: Backend) -> bool:
    """Refuses a table whose vectors are not those that were adopted; whether any of the probes is still there."""
    probes = dict(zip(pointer["probes"], np.load(path / "probes.npy", allow_pickle=False), strict=True))
    now = backend.fetch(list(probes))
    if not now.ids:
        return False
    if now.vectors.shape[1] == len(next(iter(probes.values()))):
        cosine = float(np.median(cosines(now.vectors, np.stack([probes[name] for name in now.ids]))))
        if cosine >= SAME:
            return True
        found = f"the same rows have a median cosine of {cosine:.3f} to what they were"
    else:
        found = f"they are {now.vectors.shape[1]} numbers wide"
    raise DataError(
        f"{backend.name} was embedded anew since {path} adopted it: {found}; delete {path} and adopt it again"
    )


def _absolute(source: str) -> str:
    """A path that holds from anywhere; an address as it is."""
    prefix, found = ("qdrant:", source[7:]) if source.startswith("qdrant:") else ("", source)
    path = Path(found).expanduser()
    return prefix + str(path.resolve()) if found and path.exists() else source
