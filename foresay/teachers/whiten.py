"""Whitens a teacher, in seconds and without labels; makes one of a bare language model the same way.

In: a teacher or a backbone, and texts. Out: the folder of a `WhitenedTeacher`; vectors of an existing index, mapped;
verdicts on a folder that came from elsewhere.
Careful: the texts decide. Queries with their responses are the best pairs there are; halves of plain texts serve too.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from .. import __version__
from ..backbone import Backbone
from ..checkpoints.folder import drafting
from ..config import TeachConfig, WhitenConfig
from ..errors import InputError, VerifyError
from ..files import write_json
from ..outputs import holding
from .base import Teacher, Vectors
from .card import write_whitened_card
from .folder import CONFIG, appear, check_whitened
from .llm2vec import BOTH
from .llm2vec_folder import FORMAT, GOLDEN, read_about
from .load import load_teacher
from .whitened import WhitenedTeacher
from .whitening import FILE, Choice, Whitening, choose_whitening, halves

GOLDEN_TEXTS = ("What does frugal mean?", "Measles begins with fever, a cough and red eyes.", "x", "Ça va? 日本語 🙂")
TOLERANCE = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1}
"""Largest relative distance to the golden vectors: whitening enlarges what other kernels change."""


def whiten(
    teacher: Teacher, texts: Sequence[str] | Sequence[tuple[str, str]], output: Path, config: WhitenConfig | None = None
) -> tuple[WhitenedTeacher, Choice]:
    """Makes a whitened teacher of another one, and writes its folder.

    Args:
        teacher: any; one that is whitened already is whitened anew.
        texts: pairs of texts that belong together, such as queries and their responses; or plain texts, whose halves
            then are the pairs.
        output: folder to make.
        config: options.

    Raises:
        InputError: if there are too few texts, or other values among them; if more axes are asked for than there are;
            or if something that is no whitened teacher is in `output`.
        DataError: if nothing can be written there.
    """
    config, output = config or WhitenConfig(), Path(output).resolve()
    check_whitened(output)
    with holding(output):
        return _whiten(teacher, texts, output, config)


def _whiten(
    teacher: Teacher, texts: Sequence[str] | Sequence[tuple[str, str]], output: Path, config: WhitenConfig
) -> tuple[WhitenedTeacher, Choice]:
    inner = teacher.inner if isinstance(teacher, WhitenedTeacher) else teacher
    pairs = _pairs(texts)
    left, right = (inner.embed([pair[side] for pair in pairs]) for side in (0, 1))
    strength = None if config.strength < 0 else config.strength
    whitening, choice = choose_whitening(left, right, axes=config.axes or None, strength=strength, seed=config.seed)
    return save_whitened(output, inner, whitening, choice), choice


def _pairs(texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs, or the halves of plain texts."""
    plain = [text for text in texts if isinstance(text, str)]
    if plain and len(plain) == len(texts):
        return halves(plain)
    for text in texts:
        if not isinstance(text, tuple | list) or len(text) != 2 or not all(isinstance(side, str) for side in text):
            raise InputError(f"among the texts is {text!r:.80}; expected strings alone, or pairs of strings alone")
    return [(text[0], text[1]) for text in texts]


def closed_form_teacher(
    backbone: Backbone,
    texts: Sequence[str] | Sequence[tuple[str, str]],
    output: Path,
    config: WhitenConfig | None = None,
) -> tuple[WhitenedTeacher, Choice]:
    """A teacher without training: the backbone read in both directions, its mean state, whitened.

    See `whiten` for the arguments.
    """
    config = config or WhitenConfig()
    lengths = TeachConfig(max_tokens=config.max_tokens, batch_size=config.batch_size)
    return whiten(load_teacher(BOTH, backbone, config=lengths), texts, output, config)


def save_whitened(folder: Path, inner: Teacher, whitening: Whitening, choice: Choice) -> WhitenedTeacher:
    """Writes a whitened teacher, whole or not at all; it may replace another whitened one."""
    folder = Path(folder).resolve()
    check_whitened(folder)
    teacher = WhitenedTeacher(inner, whitening, str(folder))
    with drafting(folder) as draft:
        _write_whitened(draft, teacher, choice)
        appear(draft, folder)
    return teacher


def _write_whitened(folder: Path, teacher: WhitenedTeacher, choice: Choice) -> None:
    """Writes a whitened teacher into an empty folder."""
    inner = teacher.inner
    teacher.whitening.save(folder)
    plain = teacher.export(folder, None, whole=False)
    golden = {"vectors": torch.from_numpy(teacher.embed(GOLDEN_TEXTS))}
    save_file(golden | inner.golden(), folder / GOLDEN)
    about: dict[str, Any] = {
        "format": "foresay-teacher",
        "format_version": FORMAT,
        "foresay_version": __version__,
        **inner.source(),
        "max_tokens": inner.max_tokens,
        "whitening": asdict(choice),
        "plain": plain,
    }
    write_whitened_card(folder, about)
    write_json(folder / CONFIG, about)


def whiten_index(teacher: Teacher, vectors: Vectors) -> Vectors:
    """Vectors that the teacher below a whitened one made, as the whitened one makes them.

    Args:
        teacher: a whitened one.
        vectors: (texts, dim) of the teacher below.

    Raises:
        InputError: if the teacher is not whitened, or the vectors are of another width, no real numbers, or not finite.
    """
    if not isinstance(teacher, WhitenedTeacher):
        raise InputError(
            f"{teacher.name} is not a whitened teacher; make one with: foresay whiten TEXTS -t {quote(teacher.name)}"
        )
    width = len(teacher.whitening.mean)
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise InputError(
            f"the vectors have shape {vectors.shape}; expected (texts, {width}), as {teacher.inner.name} makes them"
        )
    if vectors.dtype.kind not in "fiu":
        raise InputError(f"the vectors are {vectors.dtype}; expected real numbers")
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise InputError(f"{len(broken)} vectors are not finite, the first in row {broken[0]}; embed those texts anew")
    return teacher.whitening(np.asarray(vectors, np.float32))


# -- verifying -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TeacherVerdict:
    """How far one way of computing the golden vectors is off: largest relative distance, and what is allowed."""

    way: str
    distance: float
    tolerance: float


def verify_teacher(folder: Path, device: str = "auto") -> list[TeacherVerdict]:
    """Recomputes a whitened teacher's golden vectors, by Foresay and by plain sentence-transformers.

    Raises:
        VerifyError: if one of them disagrees.
        InputError: if the folder holds no whitened teacher, or the one below is gone.
    """
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise InputError(f"{folder} holds no {FILE}, so there are no golden vectors; make one with foresay whiten")
    about, golden = read_about(folder), load_file(folder / GOLDEN)["vectors"].numpy()
    ways = {"foresay": load_teacher(str(folder), device=device).embed(GOLDEN_TEXTS)}
    if about["plain"]:
        from .sentence_transformers import SentenceTransformerTeacher

        ways["sentence-transformers"] = SentenceTransformerTeacher(str(folder), device).embed(GOLDEN_TEXTS)
    allowed = TOLERANCE[about.get("backbone", {}).get("dtype", "float32")]
    verdicts = []
    for way, found in ways.items():
        distance = float((np.linalg.norm(found - golden, axis=1) / np.linalg.norm(golden, axis=1)).max())
        verdicts.append(TeacherVerdict(way, distance, allowed))
        if not distance <= allowed:
            raise VerifyError(
                f"{folder} does not give its golden vectors here: {way} is off by {distance:.2g}, allowed "
                f"{allowed:.2g}; do not use it here"
            )
    return verdicts
