"""What one call of an encoder is asked for, and what it gives.

In: keywords, as the users of sentence-transformers know them. Out: an `Ask`, checked, and an `Embedded`.
Careful: every keyword is honoured or refused by its name with what to do instead; none is swallowed.
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .backbone import check_texts
from .batching import Progress
from .errors import BackboneError, InputError

logger = logging.getLogger(__name__)

Array = NDArray[np.float32]
OnCut = Literal["warn", "error", "ignore"]


@dataclass(frozen=True, eq=False)
class Embedded:
    """What one call gave.

    Attributes:
        vectors: (texts, dim) float32.
        tokens: tokens of each text as it was read, template and special tokens included.
        cut: which texts were too long and lost their end, by their number from 0.
    """

    vectors: Array
    tokens: list[int]
    cut: list[int]


@dataclass(frozen=True, eq=False)
class Ask:
    """How texts are to be embedded.

    Attributes:
        normalize: scale each embedding to length 1.
        truncate_dim: keep this many numbers of each.
        batch_size: most texts in one forward pass.
        batch_tokens: most padded tokens in one forward pass; None for 8192, or as the teacher likes it.
        on_cut: what to do about texts that are too long.
        progress: show a bar.
        soft_prompts: an array (texts, compression, hidden) float32 to fill with the soft prompts of the same pass.
    """

    normalize: bool = False
    truncate_dim: int | None = None
    batch_size: int | None = None
    batch_tokens: int | None = None
    on_cut: OnCut = "warn"
    progress: bool = False
    soft_prompts: Array | None = None

    def __post_init__(self) -> None:
        """Refuses values that mean nothing."""
        if self.on_cut not in ("warn", "error", "ignore"):
            raise InputError(f"on_cut is {self.on_cut!r}; expected 'warn', 'error' or 'ignore'")
        for name in ("batch_size", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
                raise InputError(f"{name} is {value!r}; expected a whole number of 1 or more")

    def handle_cut(self, cut: Sequence[int], texts: int, limit: int) -> None:
        """Warns about texts that were cut, or refuses them, as asked."""
        if not cut or self.on_cut == "ignore":
            return
        message = f"{len(cut)} of {texts} texts are longer than {limit} tokens"
        if self.on_cut == "error":
            raise InputError(f"{message}, first number {cut[0]}; shorten them, or pass on_cut='warn'")
        logger.warning("%s and were cut; pass on_cut='error' to refuse them", message)

    @contextmanager
    def bar(self, total: int) -> Iterator[Progress]:
        """A bar on stderr, if one is wanted; in a pipe or a log, one every ten seconds and one at the end."""
        drawn = sys.stderr.isatty()
        pause = 0.1 if drawn else 10.0
        with tqdm(total=total, desc="encoding", disable=not self.progress, leave=not drawn, mininterval=pause) as bar:
            yield lambda rows: bar.update(rows) and None


def refuse_keywords(
    device: object, *, own_device: object, output_value: str, precision: str, to_numpy: bool, to_tensor: bool
) -> None:
    """Refuses what sentence-transformers' `encode` can and ours cannot, with what to do instead."""
    if to_tensor or not to_numpy:
        raise InputError(
            "convert_to_tensor=True is not available: an Encoder gives numpy arrays; take torch.from_numpy(vectors), "
            "or as_sentence_transformer(encoder), which has that library's whole interface"
        )
    if output_value != "sentence_embedding":
        raise InputError(
            f"output_value={output_value!r} is not available: an embedding reads the special tokens, not those of the "
            "text; soft_prompts gives what each compression token holds"
        )
    if precision != "float32":
        raise InputError(
            f"precision={precision!r} is not available: use sentence_transformers.quantize_embeddings on the vectors"
        )
    if device is not None and str(device) not in (str(own_device), str(own_device).partition(":")[0]):
        raise InputError(
            f"device={str(device)!r} is not available: the backbone is on {own_device}; load it elsewhere with "
            "Encoder.from_pretrained(path, device=...)"
        )


def texts_of(texts: str | Sequence[str]) -> list[str]:
    """A list of texts; a dictionary, whose keys would be taken for texts, is refused."""
    if isinstance(texts, Mapping):
        raise InputError("texts is a dictionary; expected a string or a list of strings: pass list(texts.values())")
    return check_texts(texts)


def finish(vectors: Array, lengths: Sequence[int], ask: Ask) -> Array:
    """Shortens vectors (texts, dim) to one of `lengths` and scales them, where asked."""
    length = ask.truncate_dim
    if length is not None and length not in lengths:
        known = ", ".join(map(str, lengths))
        raise InputError(
            f"embeddings of this checkpoint can have the lengths {known}, not {length}; "
            "others are made by training with --dims"
        )
    vectors = vectors[:, :length]
    if ask.normalize:
        vectors = unit(vectors)
    return np.ascontiguousarray(vectors, dtype=np.float32)


def check_finite(made: Embedded, texts: Sequence[str] = ()) -> Embedded:
    """The vectors, if all of them are numbers; a model that overflows its dtype gives NaN, without a word of its own.

    Raises:
        BackboneError: if not; names the first text.
    """
    bad = np.flatnonzero(~np.isfinite(made.vectors).all(axis=1)).tolist()
    if bad:
        first = f", first {texts[bad[0]][:60]!r}" if texts else f", first number {bad[0]}"
        raise BackboneError(
            f"the vectors of {len(bad)} of {len(made.vectors)} texts are not finite{first}: float16 overflows first, "
            "so load the language model, or the teacher, in bfloat16 or float32; in these, the weights are to blame"
        )
    return made


def unit(vectors: Array) -> Array:
    """Vectors (…, dim) scaled to length 1; a zero vector stays."""
    scaled: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return scaled
