"""What answers queries: the protocol that every engine keeps, and the registry of engines.

In: jobs, one a response that is wanted. Out: answers, in whatever order they are done.
An engine knows nothing of files. `respond` gives it only what is missing, writes what it answers, and puts what it
cannot answer among the rejects, so an engine may be killed at any moment.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast, runtime_checkable

from ..config import EndpointConfig, RespondConfig, VLLMConfig
from ..data.responses import Finish
from ..errors import InputError


@dataclass(frozen=True)
class Job:
    """A response that is wanted.

    Attributes:
        text: the query.
        sample: the first response to a query is 0, the next 1, …
        seed: of the sampling; it follows from the text, the sample and the run's seed alone, so that the same row gets
            the same response in every batch, shard and order.
    """

    text: str
    sample: int
    seed: int

    @classmethod
    def of(cls, text: str, sample: int, seed: int) -> "Job":
        """The job for a query's response of this number, in a run with this seed."""
        digest = hashlib.sha256(f"{seed}:{sample}:{text}".encode()).digest()
        return cls(text, sample, int.from_bytes(digest[:7]))


@dataclass(frozen=True)
class Answer:
    """What came of a job: a text and how it ended, or the reason why there is none."""

    job: Job
    text: str
    finish: Finish = "stop"
    problem: str | None = None


@runtime_checkable
class Engine(Protocol):
    """Whatever answers queries.

    Attributes:
        name: the model's, as the manifest and messages show it.
        window: jobs it likes to be given together: it may sort them and refill its places from them.
    """

    name: str
    window: int

    def manifest(self) -> dict[str, Any]:
        """What the responses depend on, as JSON; two engines with equal manifests may write one file."""
        ...

    def refusals(self, texts: Sequence[str]) -> list[str | None]:
        """For each query why it cannot be answered, or None."""
        ...

    def answer(self, jobs: Sequence[Job]) -> Iterator[Answer]:
        """An answer a job, each as soon as it is done."""
        ...

    def speed(self) -> str:
        """A note for the progress bar."""
        ...


@dataclass(frozen=True)
class EngineOptions:
    """What an engine may be opened with; each takes what concerns it.

    Attributes:
        model: hub id, folder or the endpoint's name of the model.
        config: lengths, sampling and batches.
        endpoint: address and limits of a server.
        revision: commit, branch or tag on the hub.
        device: where to run.
        dtype: of the weights.
        vllm: how vLLM holds the model.
    """

    model: str
    config: RespondConfig
    endpoint: EndpointConfig = EndpointConfig()
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    vllm: VLLMConfig = VLLMConfig()


Opener = Callable[[EngineOptions], Engine]
_ENGINES: dict[str, str | Opener] = {
    "transformers": "foresay.engines.transformers:open_engine",
    "vllm": "foresay.engines.vllm:open_engine",
    "openai": "foresay.engines.openai:open_engine",
}
"""What opens each engine; ours by the name of module and function, since they load only when asked for."""


def register(name: str, opener: Opener) -> None:
    """Makes an engine known by its name.

    Args:
        name: what `--engine` takes.
        opener: opens the engine with the options of a run.

    Raises:
        InputError: if another engine has that name.
    """
    if _ENGINES.get(name, opener) is not opener:
        raise InputError(f"there is an engine {name!r} already; give this one another name")
    _ENGINES[name] = opener


def open_engine(name: str, options: EngineOptions) -> Engine:
    """Opens an engine by name.

    Raises:
        InputError: if there is no such engine, or what it needs is not installed.
        BackboneError: if the model cannot be loaded.
    """
    if name not in _ENGINES:
        raise InputError(f"there is no engine {name!r}; expected one of {', '.join(_ENGINES)}")
    opener = _ENGINES[name]
    if isinstance(opener, str):
        module, _, function = opener.partition(":")
        opener = cast(Opener, getattr(import_module(module), function))
    return opener(options)
