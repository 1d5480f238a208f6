"""One text being written: what it continues, how, and what there is of it.

In: a prompt, which is token ids, a soft prompt, or both; then tokens. Out: pieces of text, to the text's outlet.
Be careful: `written` lacks the stop token, so a text that ended holds only what can be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...backbone import Backbone
from .jobs import Ticket
from .outlets import Outlet, Piece
from .sampling import Chosen, Sampler, Sampling
from .stream import TextStream


@dataclass(frozen=True)
class Prompt:
    """What a text continues.

    Attributes:
        ids: token ids.
        soft_prompt: (compression, hidden), read before the ids.
        before: token ids before the soft prompt.
    """

    ids: Sequence[int] = ()
    soft_prompt: Tensor | None = None
    before: Sequence[int] = ()

    @property
    def length(self) -> int:
        """Places that it takes."""
        return len(self.before) + len(self.ids) + (0 if self.soft_prompt is None else len(self.soft_prompt))


class Writing:
    """One text being written."""

    def __init__(self, prompt: Prompt, sampling: Sampling, backbone: Backbone, ticket: Ticket, outlet: Outlet) -> None:
        """Starts with nothing written.

        Args:
            prompt: what it continues.
            sampling: how.
            backbone: whose tokenizer and stop tokens count.
            ticket: whose text it is.
            outlet: where its pieces go.
        """
        self.prompt, self.sampling, self.ticket, self.outlet = prompt, sampling, ticket, outlet
        self.written: list[int] = []
        self._sampler = Sampler(sampling)
        self._stops = set(backbone.stop_ids or [backbone.end_id])
        self._stream = TextStream(backbone.tokenizer.backend_tokenizer, sampling.stop)

    @property
    def sampler(self) -> Sampler:
        """What chooses its tokens."""
        return self._sampler

    @property
    def length(self) -> int:
        """Places of its prompt and of what is written."""
        return self.prompt.length + len(self.written)

    @property
    def longest(self) -> int:
        """Places that it may come to need."""
        return self.prompt.length + self.sampling.max_tokens

    def put(self, chosen: Chosen) -> bool:
        """Takes the next token; whether the text ends with it."""
        if chosen.id in self._stops:
            self.outlet.put(Piece(self._stream.finish(), None, "stop"))
            return True
        self.written.append(chosen.id)
        text = self._stream.push(chosen.id)
        if self._stream.stopped:
            self.outlet.put(Piece(text, chosen, "stop"))
            return True
        if len(self.written) >= self.sampling.max_tokens:
            text += self._stream.finish()
            self.outlet.put(Piece(text, chosen, "stop" if self._stream.stopped else "length"))
            return True
        self.outlet.put(Piece(text, chosen))
        return False
