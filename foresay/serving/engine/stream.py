"""Tokens to text as they come, up to a stop string.

In: token ids, one at a time. Out: the text that is certain by now. What may be the beginning of a stop string or of a
character waits for the next token, so the pieces put together are the whole text.
Be careful: `finish` may still have a piece.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class TextStream:
    """The text of tokens that come one at a time.

    Attributes:
        stopped: whether a stop string was found; what comes after it is of no account.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        """Starts an empty text."""
        self._tokenizer, self._stops = tokenizer, stops
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._seen = ""
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that one more token makes certain."""
        self._ids.append(token)
        return self._take(self._stream.step(self._tokenizer, token) or "")

    def finish(self) -> str:
        """The rest: what was held back, and a last character that never became whole."""
        if self.stopped:
            return ""
        whole = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        rest = whole[len(self._seen) :] if whole.startswith(self._seen) else ""
        piece, self._held = self._take(rest) + self._held, ""
        return piece

    def _take(self, piece: str) -> str:
        self._seen += piece
        self._held += piece
        found = min((at for at in map(self._held.find, self._stops) if at >= 0), default=None)
        if found is not None:
            self.stopped = True
            out, self._held = self._held[:found], ""
            return out
        wait = max((overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - wait
        out, self._held = self._held[:cut], self._held[cut:]
        return out


def overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text are a stop string's beginning."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
