"""/v1/rerank, /rerank, /v1/similarity and /v1/lens.

In: texts to compare or to read. Out: scores, or words.
Be careful: scores are cosines, -1 to 1; Cohere's and Jina's are 0 to 1.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Discriminator, Field, StrictStr, Tag

from .common import InputType, ModelName, Options, Strict, Usage, User


class Document(Strict):
    """A document, as Cohere's older clients send it."""

    text: StrictStr


class RerankRequest(Strict):
    """A query, and documents to put into the order in which they answer it."""

    model: ModelName = None
    query: StrictStr
    documents: list[StrictStr | Document]
    top_n: Annotated[int | None, Field(ge=1)] = None
    return_documents: bool = False
    truncate: bool = True
    user: User = None


class RerankResult(BaseModel):
    """One document."""

    index: int
    relevance_score: float
    document: Document | None = None


class RerankResponse(BaseModel):
    """The documents, best first."""

    id: str
    object: Literal["list"]
    model: str
    results: list[RerankResult]
    usage: Usage
    cut: Annotated[list[int], Field(description="Which documents were cut; -1 is the query.")]


class TeiRerankRequest(Strict):
    """The same, as text-embeddings-inference has it."""

    query: StrictStr
    texts: list[StrictStr]
    return_text: bool = False
    raw_scores: Annotated[bool, Field(description="False: scores from 0 to 1, half of 1 + cosine.")] = True
    truncate: bool = True
    truncation_direction: Literal["Right", "right"] = "Right"


def _shape(body: object) -> str:
    """Which of two shapes a request to /rerank has."""
    return COHERE if isinstance(body, dict) and "documents" in body else TEI


COHERE, TEI = "with documents", "with texts"
AnyRerankRequest = Annotated[
    Annotated[RerankRequest, Tag(COHERE)] | Annotated[TeiRerankRequest, Tag(TEI)], Discriminator(_shape)
]
"""Cohere, Jina and vLLM call the list `documents`, text-embeddings-inference `texts`."""


class TeiRank(BaseModel):
    """One text."""

    index: int
    score: float
    text: str | None = None


class SimilarityRequest(Strict):
    """Texts to compare, each of `left` with each of `right`; with each other where there is no `right`."""

    model: ModelName = None
    left: list[StrictStr]
    right: list[StrictStr] | None = None
    left_type: Annotated[
        InputType | None, Field(description="Default: the side that the model's name says, else query.")
    ] = None
    right_type: InputType | None = None
    truncate: bool = True
    user: User = None


class SimilarityResponse(BaseModel):
    """Cosines (left, right)."""

    object: Literal["similarity"]
    model: str
    scores: list[list[float]]
    usage: Usage


class LensRequest(Options):
    """A text whose compression tokens are to be read."""

    input: StrictStr
    top: Annotated[int, Field(ge=1, le=50, description="Words a token.")] = 5
    layers: Annotated[
        str, Field(max_length=256, description="all, or numbers such as 0,4,8: 0 is the input embedding.")
    ] = "all"


class Hit(BaseModel):
    """A word with its probability."""

    text: str
    score: float


class LensLayer(BaseModel):
    """What the tokens read as at one layer."""

    layer: Annotated[int, Field(description="0 is the input embedding, the last is what the head sees.")]
    tokens: Annotated[list[list[Hit]], Field(description="The likeliest words of each compression token.")]
    merged: Annotated[list[Hit], Field(description="Those of the mean over all compression tokens.")]


class LensResponse(BaseModel):
    """The layers, from the input on."""

    object: Literal["lens"]
    model: str
    layers: list[LensLayer]
    usage: Usage
    cut: list[int]
