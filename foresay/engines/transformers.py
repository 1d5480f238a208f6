"""The transformers library as an engine: the backbone writes responses on the device where it is.

In: queries. Out: prompts, and the text of each response.
Be careful: padding and sampling depend on the whole batch.
"""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .. import __version__
from ..backbone import Backbone
from ..batching import pad
from ..config import RespondConfig
from ..data.queries import Query, Reject
from ..data.responses import Finish
from ..errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """A query and its token ids, template included."""

    query: Query
    ids: list[int]


class TransformersEngine:
    """Answers batches with the transformers library, on the device where the backbone is."""

    def __init__(self, backbone: Backbone, config: RespondConfig) -> None:
        """Works out the template and the longest query.

        Raises:
            InputError: if `max_new_tokens` and the template fill all positions of the backbone.
        """
        self.backbone, self.config = backbone, config
        self.template = "chat" if backbone.tokenizer.chat_template else "none"
        self.prefix, self.suffix = backbone.frame(self.template)
        self.stops = backbone.stop_ids or [backbone.end_id]
        room = backbone.max_positions - len(self.prefix) - len(self.suffix) - config.max_new_tokens
        if room < 1:
            raise InputError(
                f"max_new_tokens is {config.max_new_tokens}, which leaves no room for a query in the "
                f"{backbone.max_positions} positions of {backbone.name}; lower max_new_tokens"
            )
        self.limit = min(config.max_query_tokens, room)
        self.tokens, self.seconds = 0, 0.0

    def manifest(self) -> dict[str, Any]:
        """What the responses depend on."""
        return {
            "backbone": self.backbone.name,
            "revision": self.backbone.revision,
            "dtype": self.backbone.dtype_name,
            "template": self.template,
            "config": asdict(self.config),
            "version": __version__,
        }

    def speed(self) -> str:
        """Tokens written a second, so far."""
        return f"{self.tokens / self.seconds:.0f} tokens/s" if self.seconds else ""

    def prompt(self, item: Query | Reject) -> Prompt | Reject:
        """A query's prompt, or why it cannot have one."""
        if isinstance(item, Reject):
            return item
        (ids,) = self.backbone.tokenize([item.text])
        if len(ids) > self.limit:
            return Reject(row_of(item), f"the query has {len(ids)} tokens; the limit is {self.limit}")
        return Prompt(item, [*self.prefix, *ids, *self.suffix])

    def answer(self, batch: Sequence[Prompt]) -> list[tuple[str, Finish]]:
        """The text of each response and how it ended. A batch that memory cannot hold is halved."""
        start = time.perf_counter()
        try:
            rows = self._generate(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            rows = []
        if not rows:  # outside the except clause, whose traceback keeps the tensors of the failed batch alive
            torch.cuda.empty_cache()
            logger.warning("out of memory with %d queries at once; trying half: lower batch_size", len(batch))
            half = len(batch) // 2
            return self.answer(batch[:half]) + self.answer(batch[half:])
        self.seconds += time.perf_counter() - start
        return [self._read(row) for row in rows]

    def _generate(self, batch: Sequence[Prompt]) -> list[list[int]]:
        """New token ids of each prompt, padded behind their stop token."""
        device = self.backbone.device
        ids, lengths = pad([prompt.ids for prompt in batch], self.backbone.pad_id, left=True, device=device)
        places = torch.arange(ids.shape[1], device=device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self._seed(batch))
            out = self.backbone.model.generate(
                input_ids=ids,
                attention_mask=(places >= ids.shape[1] - lengths[:, None]).long(),
                max_new_tokens=self.config.max_new_tokens,
                eos_token_id=self.stops,
                pad_token_id=self.backbone.pad_id,
                **self._sampling(),
            )
        rows: list[list[int]] = out[:, ids.shape[1] :].tolist()
        return rows

    def _sampling(self) -> dict[str, Any]:
        """Every setting is given, or else the model's own would sneak in (Qwen3: top-k 20, temperature 0.6)."""
        if self.config.temperature == 0:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "repetition_penalty": 1.0}
        chosen = {"temperature": self.config.temperature, "top_p": self.config.top_p}
        return {"do_sample": True, "top_k": 0, "repetition_penalty": 1.0, **chosen}

    def _seed(self, batch: Sequence[Prompt]) -> int:
        """Each batch has its own seed, so its responses do not depend on which batches ran before it."""
        key = json.dumps([self.config.seed, *(prompt.query.id for prompt in batch)])
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7])

    def _read(self, row: list[int]) -> tuple[str, Finish]:
        # the first stop token ends the response; the padding behind it may be the same token
        end = next((place for place, token in enumerate(row) if token in self.stops), None)
        self.tokens += len(row) if end is None else end + 1
        text = self.backbone.tokenizer.decode(row[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).strip(), "length" if end is None else "stop"


def row_of(query: Query) -> str:
    """A query as the rejects show it."""
    return json.dumps({"id": query.id, "query": query.text}, ensure_ascii=False)
