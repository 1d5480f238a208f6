"""Soft prompts to text: the frozen backbone writes on from them.

In: a model and soft prompts (batch, compression, hidden). Out: one `Decoded` each, or the pieces of one as they come.
The text ends at the backbone's own stop token, before a stop string, or at the longest length.
Be careful with sampled text: every row draws from a generator of its own, so it does not depend on its batch.
Log-probabilities are the backbone's own, before temperature and nucleus.
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList, TextIteratorStreamer

from ..config import DecodeConfig
from ..errors import InputError
from ..model import Model
from ..reconstruction import generate
from .generate_hooks import Cancelled, Draw, Record

_LOOKED_THROUGH = 1024
"""Soft prompts that are checked at a time."""


@dataclass(frozen=True)
class Token:
    """One token of a decoded text.

    Attributes:
        text: what it adds to the text; empty for a control token, and for a part of a character that a later one ends.
        log_prob: natural logarithm of its probability.
    """

    text: str
    log_prob: float

    @property
    def probability(self) -> float:
        """Its probability."""
        return math.exp(self.log_prob)


@dataclass(frozen=True)
class Decoded:
    """What a soft prompt reads as.

    Attributes:
        text: without control tokens, and without the stop string.
        tokens: all that was written, the stop token or stop string included.
        finish: `stop`, or `length` where the longest length cut it.
    """

    text: str
    tokens: list[Token]
    finish: Literal["stop", "length"]

    @property
    def log_prob(self) -> float:
        """Natural logarithm of the probability of all that was written."""
        return sum(token.log_prob for token in self.tokens)


def checked_prompts(model: Model, soft_prompts: ArrayLike | Tensor) -> NDArray[Any] | Tensor:
    """Soft prompts (batch, compression, hidden) as they are; one alone becomes a batch of one.

    An array that is mapped into memory stays there, and is looked through a part at a time.

    Raises:
        InputError: for another shape or dtype, and for numbers that are not finite.
    """
    prompts = soft_prompts if isinstance(soft_prompts, Tensor) else np.asanyarray(soft_prompts)
    prompts = prompts[None] if prompts.ndim == 2 else prompts
    expected = (model.compression, model.backbone.hidden_size)
    if prompts.ndim != 3 or tuple(prompts.shape[1:]) != expected:
        raise InputError(
            f"soft_prompts have shape {tuple(prompts.shape)}; expected (batch, {expected[0]}, {expected[1]}) "
            "from soft_prompts() of this checkpoint; a pooled embedding cannot be decoded"
        )
    if not (prompts.is_floating_point() if isinstance(prompts, Tensor) else np.issubdtype(prompts.dtype, np.floating)):
        raise InputError(f"soft_prompts are {str(prompts.dtype).removeprefix('torch.')}; expected float32 or float16")
    for start in range(0, len(prompts), _LOOKED_THROUGH):
        finite = _part(prompts, start, start + _LOOKED_THROUGH).isfinite().flatten(1).all(dim=1)
        if not finite.all():
            bad = start + int((~finite).nonzero()[0])
            raise InputError(f"soft prompt {bad} holds NaN or infinity; make it again from its text")
    return prompts


def _part(prompts: NDArray[Any] | Tensor, start: int, end: int) -> Tensor:
    """Some of the soft prompts, as float32 in memory."""
    part = prompts[start:end]
    return part.float() if isinstance(part, Tensor) else torch.from_numpy(np.array(part, np.float32))


Done = Callable[[int], None]
"""Told after each batch how many soft prompts have been decoded."""


def decode_texts(
    model: Model, soft_prompts: ArrayLike | Tensor, config: DecodeConfig, done: Done | None = None
) -> list[str]:
    """The text of each soft prompt; see `decode_tokens`, which also gives log-probabilities."""
    return [_trim(model, row, config)[1] for ids in _batches(model, soft_prompts, config, None, done) for row in ids]


def decode_tokens(
    model: Model, soft_prompts: ArrayLike | Tensor, config: DecodeConfig, done: Done | None = None
) -> list[Decoded]:
    """What each soft prompt reads as, with the log-probability of every token.

    Args:
        model: whose soft prompts they are.
        soft_prompts: (batch, compression, hidden).
        config: length, sampling, stop strings, a question.
        done: told of the progress.

    Raises:
        InputError: for soft prompts that are not this model's.
    """
    record, decoded = Record(), []
    for ids in _batches(model, soft_prompts, config, record, done):
        for row, log_probs in zip(ids, record.take(ids).tolist(), strict=True):
            kept, text, finish = _trim(model, row, config)
            pieces = _pieces_of(model, kept)
            tokens = [Token(piece, log_prob) for piece, log_prob in zip(pieces, log_probs, strict=False)]
            decoded.append(Decoded(text, tokens, finish))
    return decoded


def decode_stream(model: Model, soft_prompt: ArrayLike | Tensor, config: DecodeConfig) -> Iterator[str]:
    """The text of one soft prompt, a piece at a time; closing the iterator stops the backbone after its current token.

    Raises:
        InputError: unless it is one soft prompt of this model.
    """
    prompt = checked_prompts(model, soft_prompt)
    if len(prompt) != 1:
        raise InputError(f"expected one soft prompt to stream, found {len(prompt)}; decode takes many")
    return _hold_back(_pieces(model, _part(prompt, 0, 1), config), config.stop)


def _pieces(model: Model, prompt: Tensor, config: DecodeConfig) -> Generator[str]:
    """Text as the backbone writes it in a thread of its own, which ends with this iterator."""
    streamer = TextIteratorStreamer(model.backbone.tokenizer, skip_special_tokens=True)
    cancelled, failed = Event(), []

    def write() -> None:
        try:
            options = _options(model, config, range(1), None)
            options["stopping_criteria"] = StoppingCriteriaList([Cancelled(cancelled)])
            asked = _with_question(model, prompt, config)
            generate(model.backbone, asked, config.max_new_tokens, streamer=streamer, **options)
        except BaseException as error:  # handed to the reader below
            failed.append(error)
            streamer.end()

    thread = Thread(target=write, daemon=True)
    thread.start()
    try:
        yield from streamer
    finally:
        cancelled.set()
        thread.join()
    if failed:
        raise failed[0]


def _hold_back(pieces: Generator[str], stops: Sequence[str]) -> Iterator[str]:
    """The pieces up to the first stop string; what may be the beginning of one waits for the next piece."""
    held = ""
    with closing(pieces):
        for piece in pieces:
            held += piece
            found = _first(held, stops)
            safe = len(held) - max((_overlap(held, stop) for stop in stops), default=0) if found is None else found
            if safe:
                yield held[:safe]
            if found is not None:
                return
            held = held[safe:]
    if held:
        yield held


def _first(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop string in a text begins."""
    return min((at for at in map(text.find, stops) if at >= 0), default=None)


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text are a stop string's beginning."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def _batches(
    model: Model,
    soft_prompts: ArrayLike | Tensor,
    config: DecodeConfig,
    record: Record | None,
    done: Done | None = None,
) -> Iterator[Tensor]:
    """Token ids of each batch (rows, at most max_new_tokens)."""
    prompts = checked_prompts(model, soft_prompts)
    for start in range(0, len(prompts), config.batch_size):
        part = _part(prompts, start, start + config.batch_size)
        options = _options(model, config, range(start, start + len(part)), record)
        yield generate(model.backbone, _with_question(model, part, config), config.max_new_tokens, **options)
        if done:
            done(start + len(part))


def _options(model: Model, config: DecodeConfig, rows: range, record: Record | None) -> dict[str, Any]:
    """What the library's `generate` is told besides the prompts."""
    processors: list[LogitsProcessor] = [] if record is None else [record]
    if config.temperature:
        processors.append(Draw(config, rows))
    options: dict[str, Any] = {"logits_processor": LogitsProcessorList(processors)}
    if config.stop:
        options |= {"stop_strings": list(config.stop), "tokenizer": model.backbone.tokenizer}
    return options


def question_ids(model: Model, ask: str) -> tuple[list[int], list[int]]:
    """Token ids before and after a soft prompt that is asked something; none where nothing is asked.

    With the chat template, soft prompt and question are one user's turn, and the model answers. With the bare question
    after the soft prompt, SmolLM2 wrote nothing at all 20 of 22 times. Without a template the question follows the soft
    prompt, and the model writes on.
    """
    if not ask:
        return [], []
    backbone = model.backbone
    if model.template == "none":
        return [], backbone.tokenize([ask])[0]
    return model.prefix_ids, [*backbone.tokenize(["\n" + ask])[0], *model.suffix_ids]


def _with_question(model: Model, prompts: Tensor, config: DecodeConfig) -> Tensor:
    """Soft prompts with what is before and after each: (batch, before + compression + after, hidden)."""
    backbone = model.backbone
    before, after = (
        backbone.embedding(torch.tensor(ids, dtype=torch.long, device=backbone.device)).detach()
        for ids in question_ids(model, config.ask)
    )
    prompts = prompts.to(before.device, before.dtype)
    return torch.cat([before.expand(len(prompts), -1, -1), prompts, after.expand(len(prompts), -1, -1)], dim=1)


def _trim(model: Model, row: Tensor, config: DecodeConfig) -> tuple[list[int], str, Literal["stop", "length"]]:
    """The ids that were written before padding began, how they read, and why they end."""
    backbone = model.backbone
    ids = row.tolist()
    ends = set(backbone.stop_ids or [backbone.end_id])
    length = next((at + 1 for at, i in enumerate(ids) if i in ends), None)
    ids = ids[:length]
    text = str(backbone.tokenizer.decode(ids, skip_special_tokens=True))
    found = _first(text, config.stop)
    if found is None:
        return ids, text, "length" if length is None else "stop"
    whole = backbone.tokenizer.decode
    parts = (whole(ids[:n], skip_special_tokens=True) for n in range(1, len(ids) + 1))
    count = next(n for n, part in enumerate(parts, 1) if _first(part, config.stop) is not None)
    return ids[:count], text[:found], "stop"


def _pieces_of(model: Model, ids: list[int]) -> list[str]:
    """What each token adds to the text; the first bytes of a character add nothing until its last one comes."""
    pieces, known = [], ""
    for count in range(1, len(ids) + 1):
        text = str(model.backbone.tokenizer.decode(ids[:count], skip_special_tokens=True))
        whole = count == len(ids) or not text.endswith("\ufffd")
        pieces.append(text[len(known) :] if whole else "")
        known = text if whole else known
    return pieces
