"""Why a query finds a document: the similarity, what both embeddings say, and the words that matter.

In: an encoder and pairs of texts. Out: an `Explanation` a pair: Foresay's view and, side by side, that of the teacher,
which embeds the query as it is: the difference is what generative embedding changed.
Be careful with documents: where the teacher embeds them, both views share its vectors, and what is decoded of a
document is what the checkpoint itself would make of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..encoder import Encoder
from ..errors import InputError
from .attribution import Embed, View, view

if TYPE_CHECKING:
    from ..teachers.base import Teacher

Pair = tuple[str, str]


@dataclass(frozen=True)
class Explanation:
    """Why a pair is alike.

    Attributes:
        query, document: the two texts.
        query_reads, document_reads: their embeddings, decoded; None where the checkpoint cannot decode.
        views: Foresay's, then the teacher's, if there is one.
    """

    query: str
    document: str
    query_reads: str | None
    document_reads: str | None
    views: list[View]


def explain(
    encoder: Encoder,
    pairs: Pair | Sequence[Pair],
    *,
    teacher: "Teacher | None" = None,
    max_new_tokens: int = 64,
    batch_tokens: int = 8192,
) -> list[Explanation]:
    """Explains pairs of a query and a document.

    Args:
        encoder: whose similarity to explain.
        pairs: a pair, or many.
        teacher: whose view to show beside it; by default the one that embeds the checkpoint's documents.
        max_new_tokens: longest decoded text, in tokens.
        batch_tokens: most padded tokens in one forward pass of the encoder.

    Raises:
        InputError: for a pair that is not two texts, or an empty one.
    """
    checked = _checked([pairs] if isinstance(pairs, tuple) else pairs)
    views = {"Foresay": _own_view(encoder, batch_tokens)} | teacher_view(encoder, teacher)
    queries = _read(encoder, [query for query, _ in checked], "query", max_new_tokens)
    documents = _read(encoder, [document for _, document in checked], "document", max_new_tokens)
    return [
        Explanation(*pair, query, document, [view(name, pair, *embed) for name, embed in views.items()])
        for pair, query, document in zip(checked, queries, documents, strict=True)
    ]


def _read(encoder: Encoder, texts: list[str], side: str, max_new_tokens: int) -> Sequence[str | None]:
    """What the embeddings of one side read as."""
    if not encoder.decodes:
        return [None] * len(texts)
    prompts = encoder.soft_prompts(texts, prompt_name=side)
    return encoder.decode(soft_prompts=prompts, max_new_tokens=max_new_tokens)


def _own_view(encoder: Encoder, batch_tokens: int) -> tuple[Embed, Embed]:
    if encoder.document_teacher is not None:
        return partial(encoder.encode_query, batch_tokens=batch_tokens), encoder.encode_document
    return partial(encoder.encode_query, batch_tokens=batch_tokens), partial(
        encoder.encode_document, batch_tokens=batch_tokens
    )


def teacher_view(encoder: Encoder, teacher: "Teacher | None") -> dict[str, tuple[Embed, Embed]]:
    """What embeds both sides as the teacher sees them, under its name; nothing without a teacher."""
    if teacher is not None:
        return {_name(teacher.name): (teacher.embed, teacher.embed)}
    if encoder.document_teacher is None:
        return {}
    # encode_document is the teacher here, and turns its vectors into the embedding's axes
    return {_name(encoder.document_teacher.name): (encoder.encode_document, encoder.encode_document)}


def _name(teacher: str) -> str:
    return f"teacher alone ({teacher.rstrip('/').rpartition('/')[2]})"


def _checked(pairs: Sequence[Pair]) -> list[Pair]:
    checked = []
    for number, pair in enumerate(pairs):
        if len(pair) != 2 or not all(isinstance(text, str) and text.strip() for text in pair):
            raise InputError(f"pair {number} is {pair!r}; expected a query and a document, both with some text")
        checked.append((pair[0], pair[1]))
    if not checked:
        raise InputError("there are no pairs to explain")
    return checked
