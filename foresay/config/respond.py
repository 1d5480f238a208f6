"""Options of the first step: how queries are answered, and by which endpoint.

In: nothing. Out: `RespondConfig`, `EndpointConfig` for `--engine openai`, `VLLMConfig` for `--engine vllm`.
"""

from dataclasses import dataclass
from typing import Annotated

from .options import Options, require, settled


@dataclass(frozen=True)
class RespondConfig(Options):
    """How the backbone writes its responses."""

    max_new_tokens: Annotated[int, "Longest response, in tokens."] = 500
    temperature: Annotated[float, "Sampling temperature; 0 takes the most likely token each time."] = 0.0
    top_p: Annotated[float, "Sample from the smallest set of tokens with this much probability."] = 1.0
    seed: Annotated[int, "Seed of the sampling; the same text and seed give the same response."] = 0
    responses_per_query: Annotated[
        int, "Responses to each query, with ids such as q1, q1#1, q1#2; more than one needs a temperature."
    ] = 1
    system: Annotated[str, "A system prompt before every query."] = ""
    max_query_tokens: Annotated[int, "Longer queries are refused (to the .rejected.jsonl file)."] = 2048
    retry_rejected: Annotated[bool, "Try the rows again that an earlier run has rejected."] = False
    engine: Annotated[
        str,
        "Who answers: transformers or vllm, here; openai, any endpoint that speaks its language (--base-url).",
    ] = "transformers"
    batch_size: Annotated[int, "Most queries answered side by side (by the endpoint: requests under way)."] = 64
    batch_tokens: Annotated[
        int, "Most tokens that transformers holds at once, prompts and responses together; halved if memory runs out."
    ] = 65_536

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        self.at_least(1, "max_new_tokens")
        self.at_least(0, "temperature")
        object.__setattr__(self, "temperature", settled(self.temperature))
        require(0 < self.top_p <= 1, f"top_p is {self.top_p}; expected a number above 0 and at most 1")
        self.at_least(1, "batch_size", "batch_tokens", "responses_per_query", "max_query_tokens")
        require(
            self.responses_per_query == 1 or self.temperature > 0,
            f"responses_per_query is {self.responses_per_query} and temperature is 0, so all would be the same; "
            "set a temperature",
        )


@dataclass(frozen=True)
class EndpointConfig(Options):
    """An OpenAI-compatible server; its key is read from OPENAI_API_KEY, and written nowhere."""

    SECTIONS = {"base_url": "An endpoint (--engine openai)"}

    base_url: Annotated[str, "Address of the server, such as http://localhost:8000/v1."] = "https://api.openai.com/v1"
    timeout: Annotated[float, "Seconds until a request counts as failed."] = 120.0
    attempts: Annotated[int, "Times a request is tried, with growing pauses, before its row is rejected."] = 6
    requests_per_minute: Annotated[int, "Most requests a minute; 0 for no limit."] = 0
    tokens_per_minute: Annotated[int, "Most tokens a minute, prompts and longest responses; 0 for no limit."] = 0

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        require(self.timeout > 0, f"timeout is {self.timeout}; expected a number above 0")
        self.at_least(1, "attempts")
        self.at_least(0, "requests_per_minute", "tokens_per_minute")


@dataclass(frozen=True)
class VLLMConfig(Options):
    """How vLLM holds the model; the names are its own."""

    SECTIONS = {"tensor_parallel_size": "vLLM (--engine vllm)"}

    tensor_parallel_size: Annotated[int, "GPUs that share each layer of the model."] = 1
    max_model_len: Annotated[int, "Longest prompt and response together; 0 for as long as a row can become."] = 0
    gpu_memory_utilization: Annotated[float, "Share of the memory that vLLM may fill; the rest is left free."] = 0.9
    enforce_eager: Annotated[bool, "Compile nothing: it starts a minute sooner and writes more slowly."] = False

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        self.at_least(1, "tensor_parallel_size")
        require(self.max_model_len >= 0, f"max_model_len is {self.max_model_len}; expected 1 or more, or 0")
        require(
            0 < self.gpu_memory_utilization <= 1,
            f"gpu_memory_utilization is {self.gpu_memory_utilization}; expected a number above 0 and at most 1",
        )
