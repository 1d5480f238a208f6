"""`decode`, `decode_tokens` and `decode_stream` of an encoder: what its soft prompts say, in words.

In: texts, or soft prompts. Out: texts.
Careful: only soft prompts that were trained to be read say anything; of a checkpoint without them, all three refuse.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from numpy.typing import ArrayLike
from torch import Tensor

from .backbone import check_texts
from .config import DecodeConfig
from .embedded import Array, OnCut
from .errors import InputError
from .model import Model
from .reading.decode import Decoded, decode_stream, decode_texts, decode_tokens


class DecodeMethods:
    """Soft prompts back to text, on top of a model and its `soft_prompts`.

    Attributes:
        model: the backbone, the special tokens and the maps.
        decodes: whether soft prompts were trained to be read.
    """

    model: Model
    decodes: bool

    @abstractmethod
    def soft_prompts(
        self,
        texts: str | Sequence[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        batch_tokens: int = 8192,
        on_cut: OnCut = "warn",
    ) -> Array:
        """Soft prompts of texts (texts, compression, hidden)."""

    def decode(
        self,
        texts: str | Sequence[str] | None = None,
        *,
        soft_prompts: ArrayLike | Tensor | None = None,
        max_new_tokens: int | None = None,
        config: DecodeConfig | None = None,
        done: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Writes out what the embedding of each text stands for.

        Args:
            texts: one text or many, embedded as queries; or else
            soft_prompts: (batch, compression, hidden) from `soft_prompts`. Pooled embeddings cannot be decoded.
            max_new_tokens: longest answer, in tokens; the short way to that field of `config`.
            config: sampling, stop strings, a question, the batch size. Without it: greedy, at most 256 tokens.
            done: told after each batch how many have been decoded.

        Returns:
            one answer a text, up to the model's own stop token.

        Raises:
            InputError: unless exactly one of texts and soft_prompts is given, of the right shape and dtype.
        """
        return decode_texts(self.model, self._prompts_to_read(texts, soft_prompts), _how(config, max_new_tokens), done)

    def decode_tokens(
        self,
        texts: str | Sequence[str] | None = None,
        *,
        soft_prompts: ArrayLike | Tensor | None = None,
        max_new_tokens: int | None = None,
        config: DecodeConfig | None = None,
        done: Callable[[int], None] | None = None,
    ) -> list[Decoded]:
        """`decode`, with the log-probability of every token and why each text ends."""
        return decode_tokens(self.model, self._prompts_to_read(texts, soft_prompts), _how(config, max_new_tokens), done)

    def decode_stream(
        self,
        text: str | None = None,
        *,
        soft_prompts: ArrayLike | Tensor | None = None,
        max_new_tokens: int | None = None,
        config: DecodeConfig | None = None,
    ) -> Iterator[str]:
        """`decode` for one text or soft prompt, a piece at a time; closing the iterator stops the backbone."""
        texts = None if text is None else check_texts(text)
        return decode_stream(self.model, self._prompts_to_read(texts, soft_prompts), _how(config, max_new_tokens))

    def _prompts_to_read(
        self, texts: str | Sequence[str] | None, prompts: ArrayLike | Tensor | None
    ) -> ArrayLike | Tensor:
        if (texts is None) == (prompts is None):
            raise InputError("decode takes either texts or soft_prompts; give exactly one of them")
        if not self.decodes:
            raise InputError(
                "this checkpoint was made without the reconstruction loss, so nothing can read its soft prompts; "
                "to decode, make one with foresay train and --reconstruction-weight above 0"
            )
        if texts is not None:
            return self.soft_prompts([texts] if isinstance(texts, str) else texts, prompt_name="query")
        return prompts  # type: ignore[return-value]  # exactly one of the two is None


def _how(config: DecodeConfig | None, max_new_tokens: int | None) -> DecodeConfig:
    config = config or DecodeConfig()
    return config if max_new_tokens is None else replace(config, max_new_tokens=max_new_tokens)
