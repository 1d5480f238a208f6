"""Long documents to chunks that whoever embeds them can read whole.

In: a text. Out: chunks with their places in the text, cut where meaning allows (paragraphs, then sentences, then
words) by semantic-text-splitter.
Careful: that library looks at a text's levels from the top, which takes minutes for a million words; so a text goes to
it in sections, cut at white space.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

from ..encoder import Encoder
from ..errors import InputError

_SECTION = 20_000
"""Characters that the splitter gets at once."""
_SLACK = 4
"""Tokens kept free: a chunk's first word may be tokenized otherwise than inside its document."""


@dataclass(frozen=True)
class Chunk:
    """A part of a document: its text, and where it begins and ends there, in characters."""

    text: str
    start: int
    end: int


class Chunker:
    """Cuts texts to a number of tokens, as whoever embeds documents counts them.

    Attributes:
        tokens: longest chunk.
        overlap: tokens that a chunk repeats of the one before it, at most.
    """

    def __init__(self, encoder: Encoder, tokens: int = 0, overlap: int = 0) -> None:
        """Takes the tokenizer of whoever embeds documents.

        Args:
            encoder: who it is.
            tokens: longest chunk; 0 for as long as fits.
            overlap: tokens that a chunk repeats of the one before it, at most.

        Raises:
            InputError: if so long a chunk does not fit, or the overlap is not shorter than a chunk.
        """
        tokenizer, room = _reader(encoder)
        self.tokens, self.overlap = tokens or room, overlap
        if not 0 < self.tokens <= room:
            raise InputError(f"chunk_tokens is {tokens}; expected 1 to {room}, which whoever embeds documents can read")
        if not 0 <= overlap < self.tokens:
            raise InputError(f"overlap is {overlap}; expected 0 to {self.tokens - 1}, less than a chunk")
        self._theirs = tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        """A copy that cuts and pads nothing, made when the first text comes."""
        copy = Tokenizer.from_str(self._theirs.to_str())
        copy.no_truncation()
        copy.no_padding()
        return copy

    @cached_property
    def _splitter(self) -> TextSplitter:
        return TextSplitter.from_huggingface_tokenizer(self._tokenizer, self.tokens, self.overlap)

    def __call__(self, text: str) -> list[Chunk]:
        """The chunks of a text: the text itself, where it fits."""
        if len(text) <= _SECTION and len(self._tokenizer.encode(text, add_special_tokens=False)) <= self.tokens:
            return [Chunk(text, 0, len(text))]
        return [
            Chunk(part, begin + start, begin + start + len(part))
            for begin, section in _sections(text)
            for start, part in self._splitter.chunk_indices(section)
        ]


def _sections(text: str) -> Iterator[tuple[int, str]]:
    """Parts of a text with their places: each ends at the last blank line, line or white space that fits."""
    begin = 0
    while begin < len(text):
        end = min(begin + _SECTION, len(text))
        if end < len(text):
            half = begin + _SECTION // 2
            cuts = (text.rfind(mark, half, end) for mark in ("\n\n", "\n", ". ", " "))
            end = next((cut + 1 for cut in cuts if cut > half), end)
        yield begin, text[begin:end]
        begin = end


def _reader(encoder: Encoder) -> tuple[Tokenizer, int]:
    """The tokenizer of whoever embeds documents, and how many tokens of a text it reads."""
    own: Tokenizer = encoder.tokenizer.backend_tokenizer
    if encoder.document_teacher is None:
        (prompt,) = encoder.tokenize("", prompt_name="document")
        model = encoder.model
        fixed = len(model.prefix_ids) + len(model.suffix_ids) + model.tokens + len(prompt)
        return own, encoder.max_tokens - fixed - _SLACK
    teacher = encoder.load_document_teacher()
    library = getattr(getattr(teacher, "model", None), "tokenizer", None)
    tokenizer: Tokenizer = own if library is None else library.backend_tokenizer
    return tokenizer, teacher.max_tokens - teacher.count_tokens([""])[0] - _SLACK
