"""/v1/models, /health, /ready and the admin routes."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from .common import Strict


class ModelCard(BaseModel):
    """A checkpoint or the backbone."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: Literal["checkpoint", "backbone"]
    backbone: str
    dim: Annotated[int | None, Field(description="Width of an embedding.")] = None
    dims: Annotated[list[int], Field(description="Lengths that it may be shortened to.")] = []
    max_tokens: Annotated[int, Field(description="Longest input.")]
    prompts: list[str] = []
    decodes: bool = False
    documents: Annotated[str | None, Field(description="Who embeds documents: the checkpoint or its teacher.")] = None
    query_weight: Annotated[
        float, Field(description="Share of the teacher's own vector of the bare query in a query's embedding.")
    ] = 0.0


class ModelList(BaseModel):
    """Everything that is served."""

    object: Literal["list"]
    data: list[ModelCard]


class State(BaseModel):
    """Whether the server is well."""

    status: Literal["ok"]


class AddCheckpoint(Strict):
    """A checkpoint to serve."""

    path: Annotated[str, Field(min_length=1, max_length=4096, description="Folder or hub id.")]
    name: Annotated[str | None, Field(min_length=1, max_length=128)] = None


class Dropped(BaseModel):
    """A checkpoint that is no longer served."""

    id: str
    object: Literal["model"]
    deleted: bool
