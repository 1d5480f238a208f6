"""/v1/chat/completions, /v1/completions and /v1/decode.

In: what to continue, and how. Out: texts, whole or as server-sent events.
Be careful: options of OpenAI's that this server does not have are refused, unless they say what it does anyway.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictInt, StrictStr, model_validator

from .common import ModelName, Strict, TextsOrIds, Usage, User

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "metadata": (None, {}),
    "reasoning_effort": (None, "none"),
}
"""Options of OpenAI's with the values that ask for nothing; with any other value they are refused by name."""

Temperature = Annotated[float, Field(ge=0, le=2, description="0 takes the likeliest token each time.")]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Seed = Annotated[int | None, Field(ge=-(1 << 63), lt=1 << 63, description="The same seed gives the same text.")]


class StreamOptions(Strict):
    """What a stream tells."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Writing(Strict):
    """How texts are written."""

    model: ModelName = None
    temperature: Temperature | None = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    n: Annotated[int, Field(ge=1, le=16)] = 1
    stop: Annotated[Stop | Annotated[list[Stop], Field(max_length=16)] | None, Field()] = None
    seed: Seed = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]] | None, Field(max_length=1024)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: User = None

    @model_validator(mode="before")
    @classmethod
    def leave_out_neutral(cls, data: Any) -> Any:  # noqa: ANN401
        """Drops OpenAI's options that ask for nothing; the others are refused as unknown."""
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if not (name in NEUTRAL and value in NEUTRAL[name])}

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: StrictStr


class Message(Strict):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | Annotated[list[TextPart], Field(min_length=1)]
    name: None = None

    @property
    def text(self) -> str:
        """What it says."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Writing):
    """A conversation to continue."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None


class CompletionRequest(Writing):
    """Text to continue."""

    prompt: TextsOrIds
    max_tokens: Annotated[int | None, Field(ge=1)] = 16
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None


class WritingUsage(Usage):
    """Tokens read and written."""

    completion_tokens: int


class TopLogProb(BaseModel):
    """A token that might have been written."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogProb(TopLogProb):
    """A token that was written."""

    top_logprobs: list[TopLogProb]


class ChatLogProbs(BaseModel):
    """Natural logarithms of the probabilities of the tokens written."""

    content: list[TokenLogProb]


class ChatMessage(BaseModel):
    """What the model says."""

    role: Literal["assistant"]
    content: str


Finish = Literal["stop", "length"]


class ChatChoice(BaseModel):
    """One continuation."""

    index: int
    message: ChatMessage
    logprobs: ChatLogProbs | None
    finish_reason: Finish


class ChatResponse(BaseModel):
    """OpenAI's chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: WritingUsage


class CompletionLogProbs(BaseModel):
    """OpenAI's older shape."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One continuation."""

    index: int
    text: str
    logprobs: CompletionLogProbs | None
    finish_reason: Finish


class CompletionResponse(BaseModel):
    """OpenAI's completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: WritingUsage


class RawSoftPrompt(Strict):
    """A soft prompt as raw little-endian numbers."""

    data: Annotated[str, Field(max_length=1 << 24, description="base64 of the numbers, row by row.")]
    shape: Annotated[list[StrictInt], Field(min_length=2, max_length=2, description="compression, hidden.")]
    dtype: Literal["float32", "float16"] = "float32"


class DecodeRequest(Strict):
    """What to write out: either texts, embedded as queries, or soft prompts."""

    model: ModelName = None
    input: StrictStr | list[StrictStr] | None = None
    soft_prompts: list[RawSoftPrompt] | None = None
    max_tokens: Annotated[int, Field(ge=1)] = 256
    temperature: Temperature = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Seed = 0
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    ask: Annotated[
        str, Field(max_length=4096, description="Asked of the soft prompt, such as 'What is this about?'.")
    ] = ""
    logprobs: bool = False
    stream: bool = False
    user: User = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class DecodedText(BaseModel):
    """What a soft prompt reads as."""

    index: int
    text: str
    finish_reason: Finish
    logprobs: ChatLogProbs | None


class DecodeResponse(BaseModel):
    """The texts, in the order of what was sent."""

    object: Literal["list"]
    data: list[DecodedText]
    model: str
    usage: WritingUsage
