"""Any OpenAI-compatible endpoint as an engine: vLLM's server, Ollama, llama.cpp, or a hosted one.

In: jobs. Out: answers as they come, with a bounded number of requests under way. What fails in passing (429, 5xx, a
time-out, a closed connection, half an answer) is tried again after growing pauses with jitter, or after what the server
asks for in `Retry-After`; what cannot succeed is a rejected row.
Be careful with the key: it comes from the environment, and goes into no file and no message. And with a dead server: it
must stop the run, not reject ten million rows.
"""

import asyncio
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from ..config import EndpointConfig, RespondConfig
from ..data.responses import Finish
from ..errors import InputError
from .base import Answer, EngineOptions, Job

KEY = "OPENAI_API_KEY"
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds before the second attempt, doubled each time; and the longest pause, `Retry-After` included."""
TOO_MANY_FAILURES = 16
"""Rows in a row that failed in passing: then the server is down, and the run stops."""
_CHARACTERS_PER_TOKEN = 3
"""For the limit on tokens only; low, so that a run stays under it."""


class _Unusable(Exception):
    """An answer that is none, which another attempt may mend."""


def open_engine(options: EngineOptions) -> "OpenAIEngine":
    """An engine that asks the endpoint; nothing is sent yet.

    Raises:
        InputError: if the client is not installed.
    """
    return OpenAIEngine(options.model, options.config, options.endpoint)


class OpenAIEngine:
    """Asks the chat completions of an endpoint."""

    def __init__(self, model: str, config: RespondConfig, endpoint: EndpointConfig) -> None:
        """Looks for the client and the key.

        Raises:
            InputError: if the client is not installed, or the endpoint is not an address.
        """
        try:
            import aiolimiter  # noqa: F401
            import openai  # noqa: F401
            import tenacity  # noqa: F401
        except ImportError as error:
            raise InputError(f"--engine openai needs {error.name}: pip install 'foresay[openai]'") from error
        if urlsplit(endpoint.base_url).scheme not in ("http", "https"):
            raise InputError(f"base_url is {endpoint.base_url!r}; expected an address such as http://localhost:8000/v1")
        self.name, self.config, self.endpoint = model, config, endpoint
        self.window = 64 * config.batch_size
        self.tokens, self._since = 0, time.monotonic()
        self._failures = 0

    def manifest(self) -> dict[str, Any]:
        """What the responses depend on: the address without any name or password in it."""
        parts = urlsplit(self.endpoint.base_url)
        port = f":{parts.port}" if parts.port else ""
        return {"backbone": self.name, "base_url": f"{parts.scheme}://{parts.hostname}{port}{parts.path}"}

    def speed(self) -> str:
        """Tokens written a second, as the endpoint counts them."""
        return f"{self.tokens / max(time.monotonic() - self._since, 1e-9):.0f} tokens/s" if self.tokens else ""

    def refusals(self, texts: Sequence[str]) -> list[str | None]:
        """Which queries are too long, by a low estimate; the endpoint refuses others itself."""
        limit = self.config.max_query_tokens
        return [
            f"the query has {len(text)} characters, more than {limit} tokens" if len(text) > 16 * limit else None
            for text in texts
        ]

    def answer(self, jobs: Sequence[Job]) -> Iterator[Answer]:
        """Asks for all jobs, at most `batch_size` at once, from a thread of its own.

        Raises:
            InputError: if the endpoint refuses the key or the model, or has stopped answering.
        """
        done: queue.Queue[Answer | BaseException | None] = queue.Queue()
        stop = threading.Event()

        def work() -> None:
            try:
                asyncio.run(self._ask_all(jobs, done, stop))
                done.put(None)
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
                done.put(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (item := done.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join(timeout=5)

    async def _ask_all(
        self, jobs: Sequence[Job], done: "queue.Queue[Answer | BaseException | None]", stop: threading.Event
    ) -> None:
        import openai

        waiting = iter(jobs)
        key = os.environ.get(KEY) or "none"  # local servers ask for none, and the client for any
        options: dict[str, Any] = {"base_url": self.endpoint.base_url, "timeout": self.endpoint.timeout}
        async with openai.AsyncOpenAI(api_key=key, max_retries=0, **options) as client:
            limits = self._limits()

            async def work() -> None:
                for job in waiting:  # the workers share the iterator
                    if stop.is_set():
                        return
                    done.put(await self._ask(client, job, limits))

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.config.batch_size, len(jobs))):
                        group.create_task(work())
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None

    def _limits(self) -> list[tuple[Any, bool]]:
        """Limiters with whether they count tokens, else requests."""
        from aiolimiter import AsyncLimiter

        limits = ((self.endpoint.requests_per_minute, False), (self.endpoint.tokens_per_minute, True))
        # a tenth of a minute's worth at once: a burst of a whole minute would be over a server's own limit
        return [(AsyncLimiter(max(1, rate / 10), 6), counts) for rate, counts in limits if rate]

    async def _ask(self, client: Any, job: Job, limits: list[tuple[Any, bool]]) -> Answer:  # noqa: ANN401
        """One job, with its retries."""
        import openai

        try:
            answer = await self._retrying(client, job, limits)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise InputError(
                f"{self._where()} refuses the key or the model {self.name!r} (status {error.status_code}); "
                f"set {KEY}, or name another model with -m"
            ) from None
        except (_Unusable, openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
            self._failures += 1
            reason = _reason(error)
            if self._failures >= TOO_MANY_FAILURES:
                raise InputError(
                    f"{self._where()} has failed {self._failures} rows in a row, {self.endpoint.attempts} attempts "
                    f"each (the last: {reason}); when it answers again, repeat the command with --retry-rejected"
                ) from None
            return Answer(job, "", problem=f"{reason}, after {self.endpoint.attempts} attempts")
        except openai.APIError as error:  # what another attempt would not mend: a query that is too long, …
            return Answer(job, "", problem=_reason(error))
        self._failures = 0
        return answer

    async def _retrying(self, client: Any, job: Job, limits: list[tuple[Any, bool]]) -> Answer:  # noqa: ANN401
        import openai
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

        jitter = wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE)
        again = (_Unusable, openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError)
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(self.endpoint.attempts),
            retry=retry_if_exception_type(again),
            wait=lambda state: _asked_for(state.outcome.exception() if state.outcome else None) or jitter(state),
            reraise=True,
        ):
            with attempt:
                await self._wait(job, limits)
                return self._read(job, await self._post(client, job))
        raise AssertionError("unreachable: the last attempt raises")

    async def _wait(self, job: Job, limits: list[tuple[Any, bool]]) -> None:
        """Waits until the limits leave room."""
        tokens = len(job.text + self.config.system) // _CHARACTERS_PER_TOKEN + self.config.max_new_tokens
        for limiter, counts_tokens in limits:
            await limiter.acquire(min(tokens if counts_tokens else 1, limiter.max_rate))

    async def _post(self, client: Any, job: Job) -> Any:  # noqa: ANN401 - the client's own type
        config = self.config
        system = [{"role": "system", "content": config.system}] if config.system else []
        try:
            return await client.chat.completions.create(
                model=self.name,
                messages=[*system, {"role": "user", "content": job.text}],
                max_tokens=config.max_new_tokens,
                temperature=config.temperature,
                top_p=config.top_p,
                seed=job.seed % (1 << 31),
            )
        except ValueError as error:  # a body that is no JSON
            raise _Unusable(f"the endpoint sent no JSON ({error})") from None

    def _read(self, job: Job, found: Any) -> Answer:  # noqa: ANN401
        """The text of a completion.

        Raises:
            _Unusable: if there is no choice, or it is torn.
        """
        choices = getattr(found, "choices", None) or [None]
        message = getattr(choices[0], "message", None)
        if message is None:
            raise _Unusable("the endpoint sent no choice")
        finish = getattr(choices[0], "finish_reason", None)
        if finish not in ("stop", "length"):
            raise _Unusable(f"the endpoint ended the answer for the reason {finish!r}")
        usage = getattr(found, "usage", None)
        self.tokens += int(getattr(usage, "completion_tokens", 0) or 0)
        ends: Finish = "length" if finish == "length" else "stop"
        return Answer(job, str(message.content or "").strip(), ends)

    def _where(self) -> str:
        return str(self.manifest()["base_url"])


def _asked_for(error: BaseException | None) -> float:
    """Seconds that the server asks to wait; 0 if it does not say."""
    response = getattr(error, "response", None)
    value = response.headers.get("retry-after", "") if response is not None else ""
    try:
        return min(max(float(value), 0.0), LONGEST_PAUSE)
    except ValueError:
        return 0.0  # a date, or nothing


def _reason(error: BaseException) -> str:
    """What went wrong, in a line, without anything that was sent."""
    status = getattr(error, "status_code", None)
    words = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    key = os.environ.get(KEY)
    words = words.replace(key, "…") if key else words
    return f"status {status}: {words}" if status else words
