"""/v1/embeddings and /v1/soft_prompts.

In: texts or token ids. Out: vectors as numbers, or as base64 of little-endian float32.
Be careful: `cut` and `input_type` are additions to OpenAI's shape, which its clients ignore.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StrictStr

from .common import Encoding, Options, Texts, TextsOrIds, Usage


class EmbeddingsRequest(Options):
    """Texts to embed."""

    input: Annotated[TextsOrIds, Field(description="A text, texts, token ids, or several lists of token ids.")]
    encoding_format: Encoding = "float"
    dimensions: Annotated[int | None, Field(ge=1, description="The width, or one of the checkpoint's dims.")] = None
    normalize: Annotated[bool | None, Field(description="Scale to length 1. Default: what the server was told.")] = None


class Embedding(BaseModel):
    """One vector."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | StrictStr


class EmbeddingsResponse(BaseModel):
    """The vectors, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
    input_type: Annotated[str, Field(description="Whose prompt was used: query, document, or a prompt's name.")]
    cut: Annotated[list[int], Field(description="Which texts were too long and were cut.")]


class SoftPromptsRequest(Options):
    """Texts whose soft prompts are wanted; /v1/decode takes these back."""

    input: Texts
    encoding_format: Encoding = "base64"


class SoftPrompt(BaseModel):
    """One soft prompt, (compression, hidden)."""

    object: Literal["soft_prompt"]
    index: int
    soft_prompt: list[list[float]] | StrictStr
    shape: list[int]
    dtype: Literal["float32"]


class SoftPromptsResponse(BaseModel):
    """The soft prompts, in the order of the texts."""

    object: Literal["list"]
    data: list[SoftPrompt]
    model: str
    usage: Usage
    input_type: str
    cut: list[int]
