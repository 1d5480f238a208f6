"""What requests and responses have in common.

In: JSON. Out: checked objects.
Be careful: no value is ever repeated in an error (errors.py), since it may be somebody's text.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

InputType = Literal[
    "query", "document", "search_query", "search_document", "passage", "retrieval.query", "retrieval.passage",
    "classification", "clustering", "text-matching",
]  # fmt: skip
"""OpenAI has none of these. `query` and `document` are Voyage's, `search_…`, `classification` and `clustering`
Cohere's, `passage` NVIDIA's, `retrieval.…` and `text-matching` Jina's."""

Encoding = Literal["float", "base64"]
Texts = StrictStr | list[StrictStr]
TextsOrIds = StrictStr | list[StrictStr] | list[StrictInt] | list[list[StrictInt]]
ModelName = Annotated[
    str | None,
    Field(max_length=256, description="A name of /v1/models; without it the first checkpoint, or the backbone."),
]
User = Annotated[str | None, Field(max_length=256, description="Who asks; ignored.")]


class Strict(BaseModel):
    """A request: unknown options are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Options(Strict):
    """What every request that embeds may say."""

    model: ModelName = None
    input_type: Annotated[
        InputType | None,
        Field(description="Which side of a search the texts are; several spellings. Default: query."),
    ] = None
    prompt_name: Annotated[str | None, Field(max_length=256, description="One of the checkpoint's prompts.")] = None
    truncate: Annotated[bool, Field(description="False: too long texts are refused with 422 instead of cut.")] = True
    user: User = None


class Usage(BaseModel):
    """Tokens of a request, template and special tokens included."""

    prompt_tokens: int
    total_tokens: int
