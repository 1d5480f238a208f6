"""Texts being written: all of them get a token at a step, and new ones join between two steps.

In: texts. Out: tokens, to each of them.
The library's continuous batching does not serve here: it takes token ids alone, no soft prompts, and runs in a thread
of its own, which would run beside the embeddings instead of between them.
Be careful: `step` does one forward pass, so that the engine can do something else after it.
"""

from collections import deque

import torch
from torch import Tensor
from transformers import Cache

from ...backbone import Backbone
from ...batching import length_batches
from .cache import join, keep, new_cache
from .jobs import Exhausted
from .sampling import Chosen, choose
from .writing import Writing


class Desk:
    """The texts that are being written, and those that wait for a place.

    Attributes:
        waiting: in the order in which they came.
        active: those that get a token at the next step.
    """

    def __init__(self, backbone: Backbone, *, places: int, cache_tokens: int, batch_tokens: int) -> None:
        """Starts empty.

        Args:
            backbone: who writes.
            places: most texts at a time.
            cache_tokens: most tokens, padding included, in the cache.
            batch_tokens: most padded tokens in the pass that reads prompts.
        """
        self.backbone, self.places = backbone, places
        self.cache_tokens, self.batch_tokens = cache_tokens, batch_tokens
        self.waiting: deque[Writing] = deque()
        self.active: list[Writing] = []
        self._cache: Cache | None = None
        self._joining: list[Writing] = []
        self._one_by_one = 0

    def __len__(self) -> int:
        """Texts that are not finished."""
        return len(self.waiting) + len(self.active)

    def sweep(self) -> list[Writing]:
        """Drops the texts that nobody waits for, each failed with the reason."""
        dropped = []
        for one in (*self.waiting, *self.active):
            if (trouble := one.ticket.trouble()) is not None:
                one.outlet.fail(trouble)
                dropped.append(one)
        if dropped:
            self.waiting = deque(one for one in self.waiting if one not in dropped)
            self._keep([one for one in self.active if one not in dropped])
        return dropped

    @torch.inference_mode()
    def step(self) -> int:
        """One forward pass: reads the prompts of texts that join, or gives every active text its next token.

        Returns:
            how many tokens were written.
        """
        self._joining = [] if self._joining and self.active else self._next_to_join()
        return self._read(self._joining) if self._joining else self._write()

    def _next_to_join(self) -> list[Writing]:
        found: list[Writing] = []
        width = max((one.longest for one in self.active), default=0)
        read = 0
        most = 1 if self._one_by_one else self.places
        self._one_by_one = max(0, self._one_by_one - 1)
        while self.waiting and len(found) < most and len(self.active) + len(found) < self.places:
            one = self.waiting[0]
            width, read = max(width, one.longest), max(read, one.length)
            texts = len(self.active) + len(found) + 1
            too_much = texts * width > self.cache_tokens or (len(found) + 1) * read > self.batch_tokens
            if texts > 1 and too_much:
                break
            found.append(self.waiting.popleft())
        return found

    def _read(self, joining: list[Writing]) -> int:
        """Runs prompts of similar length together; those that do not fit the first batch wait on."""
        (first, *rest) = length_batches([one.length for one in joining], self.batch_tokens, self.backbone.least_tokens)
        late = sorted(i for batch in rest for i in batch)
        group = [joining[i] for i in sorted(first)]
        cache = new_cache()
        scores = self._prefill(group, cache)
        joined = join(self._cache if self.active else None, cache)
        chosen = choose(scores, [one.sampler for one in group])
        self._cache, self.active = joined, [*self.active, *group]
        self.waiting.extendleft(joining[i] for i in reversed(late))
        self._hand_out(group, chosen)
        return len(group)

    def _prefill(self, group: list[Writing], cache: Cache) -> Tensor:
        backbone = self.backbone
        lengths = torch.tensor([one.length for one in group], device=backbone.device)
        longest = int(lengths.max())
        rows = []
        for one in group:
            before, row = (
                backbone.embedding(torch.tensor(ids, dtype=torch.long, device=backbone.device))
                for ids in (one.prompt.before, [*one.prompt.ids, *one.written])
            )
            if one.prompt.soft_prompt is not None:
                row = torch.cat([before, one.prompt.soft_prompt.to(row.device, row.dtype), row])
            rows.append(torch.nn.functional.pad(row, (0, 0, longest - len(row), 0)))
        places = torch.arange(longest, device=backbone.device)[None]
        start = (longest - lengths)[:, None]
        return self._pass(torch.stack(rows), places >= start, (places - start).clamp(min=0), cache)

    def _write(self) -> int:
        group = list(self.active)
        if not group:
            return 0
        device = self.backbone.device
        lengths = torch.tensor([one.length for one in group], device=device)
        last = torch.tensor([[one.written[-1]] for one in group], device=device)
        places = torch.arange(int(lengths.max()), device=device)[None]
        seen = places >= (lengths.max() - lengths)[:, None]
        assert self._cache is not None
        scores = self._pass(self.backbone.embedding(last), seen, (lengths - 1)[:, None], self._cache)
        self._hand_out(group, choose(scores, [one.sampler for one in group]))
        return len(group)

    def _pass(self, inputs: Tensor, seen: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Scores (texts, vocabulary) after the last place."""
        backbone = self.backbone
        out = backbone.decoder(
            inputs_embeds=inputs,
            attention_mask=None if bool(seen.all()) else seen.long(),
            position_ids=positions,
            **backbone.cached(cache),
        )
        return backbone.logits(out.last_hidden_state[:, -1].contiguous())

    def _hand_out(self, group: list[Writing], chosen: list[Chosen]) -> None:
        done = [one for one, token in zip(group, chosen, strict=True) if one.put(token)]
        if done:
            self._keep([one for one in self.active if one not in done])

    def _keep(self, kept: list[Writing]) -> None:
        """Lets all other texts leave, and with them the padding that they alone needed."""
        if len(kept) == len(self.active):
            return
        if not kept:
            self._cache, self.active = None, []
            return
        assert self._cache is not None
        # the cache lacks the token that was written last
        keep(self._cache, [self.active.index(one) for one in kept], max(one.length for one in kept) - 1)
        self.active = kept

    def after_error(self, error: Exception, *, memory: bool) -> None:
        """Makes the next step possible after one that failed, and fails no more texts than it must.

        Args:
            error: what the step failed with.
            memory: whether memory ran out: then there will be fewer texts at a time, and nothing written is lost.
        """
        joining = [one for one in self._joining if one not in self.active and one not in self.waiting]
        self._joining = []
        if len(joining) > 1:
            self.waiting.extendleft(reversed(joining))
            self._one_by_one = len(joining)
        elif joining and memory and self.active:  # there may be room when others have left
            self.waiting.appendleft(joining[0])
            self.places = max(1, len(self.active))
        elif joining:
            joining[0].outlet.fail(_refusal(error, memory))
        elif memory and len(self.active) > 1:
            last = self.active[-1]
            self.places = len(self.active) - 1
            self._keep(self.active[:-1])
            self.waiting.appendleft(last)
        else:
            for one in self.active:
                one.outlet.fail(_refusal(error, memory))
            self._cache, self.active = None, []

    def clear(self, error: Exception) -> list[Writing]:
        """Fails everything; the texts that were in work."""
        failed = [*self.active, *self.waiting]
        for one in failed:
            one.outlet.fail(error)
        self.waiting.clear()
        self._cache, self.active = None, []
        return failed


def _refusal(error: Exception, memory: bool) -> Exception:
    return Exhausted("there is not enough memory for this text; ask for fewer tokens") if memory else error
