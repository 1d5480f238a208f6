"""The transformers library as an engine: the backbone writes responses on the device where it is.

In: jobs. Out: answers as they end; rows are written side by side in places that are refilled (slots.py). A backbone
whose memory is more than attention is run by the library's own `generate`, a batch of similar lengths at a time.
Be careful: nothing of the model's own `generation_config` applies, on either way: no beams, no penalties, no minimum
length. The same row gives the same response in every batch, as far as float32 goes.
"""

import inspect
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ..backbone import Backbone
from ..batching import length_batches, pad
from ..config import RespondConfig
from ..data.responses import Finish
from .base import Answer, EngineOptions, Job
from .prompts import Prompter
from .sampling import Sampling
from .slots import Limits, Slot, Writer

_PLAIN = {"full_attention", "sliding_attention"}


def open_engine(options: EngineOptions) -> "TransformersEngine":
    """Loads the backbone."""
    backbone = Backbone.load(options.model, revision=options.revision, device=options.device, dtype=options.dtype)
    return TransformersEngine(backbone, options.config)


class TransformersEngine:
    """Answers with a loaded backbone."""

    def __init__(self, backbone: Backbone, config: RespondConfig) -> None:
        """Works out the template and the longest query.

        Raises:
            InputError: if `max_new_tokens` and the template fill all positions of the backbone.
        """
        self.backbone, self.config, self.name = backbone, config, backbone.name
        self.window = 32 * config.batch_size
        self.prompter = Prompter(backbone, config.system, config.max_query_tokens, config.max_new_tokens)
        self.stops = backbone.stop_ids or [backbone.end_id]
        self.sampling = Sampling(config.temperature, config.top_p)
        self.tokens, self.seconds = 0, 0.0
        self._plain = has_plain_cache(backbone)

    def manifest(self) -> dict[str, Any]:
        """What the responses depend on."""
        return {
            "backbone": self.backbone.name,
            "revision": self.backbone.revision,
            "dtype": self.backbone.dtype_name,
            "template": self.prompter.template,
        }

    def speed(self) -> str:
        """Tokens written a second, so far."""
        return f"{self.tokens / self.seconds:.0f} tokens/s" if self.seconds else ""

    def refusals(self, texts: Sequence[str]) -> list[str | None]:
        """For each query why it is too long, or None."""
        return self.prompter.refusals(texts)

    def answer(self, jobs: Sequence[Job]) -> Iterator[Answer]:
        """Answers in the order in which the rows end."""
        prompts = self.prompter.prompts([job.text for job in jobs])
        slots = [Slot(i, ids, job.seed) for i, (ids, job) in enumerate(zip(prompts, jobs, strict=True))]
        start = time.perf_counter()
        for slot, finish in self._write(slots):
            self.tokens += len(slot.written)
            self.seconds += time.perf_counter() - start
            text = self.backbone.tokenizer.decode(
                slot.written, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            yield Answer(jobs[slot.index], str(text).strip(), finish)
            start = time.perf_counter()

    def _write(self, slots: list[Slot]) -> Iterator[tuple[Slot, Finish]]:
        config = self.config
        if self._plain:
            read = 4 * self.backbone.least_tokens
            limits = Limits(config.batch_size, config.batch_tokens, config.max_new_tokens, read)
            return Writer(self.backbone, self.sampling, self.stops, limits).write(slots)
        return self._generate(slots)

    def _generate(self, slots: list[Slot]) -> Iterator[tuple[Slot, Finish]]:
        lengths = [len(slot.prompt) + self.config.max_new_tokens for slot in slots]
        for batch in length_batches(lengths, self.config.batch_tokens, most_rows=self.config.batch_size):
            yield from self._halving([slots[i] for i in batch])

    def _halving(self, slots: list[Slot]) -> Iterator[tuple[Slot, Finish]]:
        """A batch by `generate`; one that memory cannot hold is halved."""
        rows: list[list[int]] = []
        try:
            rows = self._continue(slots)
        except torch.OutOfMemoryError:
            if len(slots) == 1:
                raise
        if not rows:
            torch.cuda.empty_cache()
            for half in (slots[: len(slots) // 2], slots[len(slots) // 2 :]):
                yield from self._halving(half)
            return
        for slot, row in zip(slots, rows, strict=True):
            end = next((place for place, token in enumerate(row) if token in self.stops), None)
            yield replace(slot, written=row[:end]), "length" if end is None else "stop"

    def _continue(self, slots: list[Slot]) -> list[list[int]]:
        """New token ids of each prompt, padded after their stop token."""
        device = self.backbone.device
        ids, lengths = pad([slot.prompt for slot in slots], self.backbone.pad_id, left=True, device=device)
        mask = torch.arange(ids.shape[1], device=device) >= ids.shape[1] - lengths[:, None]
        model, own = self.backbone.model, self.backbone.model.generation_config
        model.generation_config = GenerationConfig()  # what is not given below would come from the model's own
        try:
            out = model.generate(
                input_ids=ids,
                attention_mask=mask.long(),
                generation_config=GenerationConfig(
                    max_new_tokens=self.config.max_new_tokens,
                    do_sample=False,
                    eos_token_id=self.stops,
                    pad_token_id=self.backbone.pad_id,
                ),
                logits_processor=LogitsProcessorList([_Draw(self.sampling, slots, ids.shape[1])]),
            )
        finally:
            model.generation_config = own
        rows: list[list[int]] = out[:, ids.shape[1] :].tolist()
        return rows


class _Draw(LogitsProcessor):  # type: ignore[misc]
    """Leaves of each row's scores only the token that our own sampling chooses."""

    def __init__(self, sampling: Sampling, slots: list[Slot], start: int) -> None:
        self.sampling, self.slots, self.start = sampling, slots, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary), all but one of each row minus infinity."""
        step = input_ids.shape[1] - self.start
        chosen = self.sampling.choose(scores, [(slot.seed, step) for slot in self.slots])
        only = torch.full_like(scores, float("-inf"))
        return only.scatter(1, torch.tensor(chosen, device=scores.device)[:, None], 0.0)


def has_plain_cache(backbone: Backbone) -> bool:
    """Whether what the backbone keeps of a prompt is keys and values alone, at positions that it is told."""
    config = backbone.text_config
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    takes = inspect.signature(backbone.decoder.forward).parameters
    known = {"position_ids", backbone.cache_keyword} <= set(takes)
    stateful = bool(getattr(backbone.model, "_is_stateful", False))
    return known and not stateful and layers <= _PLAIN
