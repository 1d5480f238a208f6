"""What routes share: the models, the engine, and waiting for it without losing sight of the client.

In: a request and what to run. Out: results; or the error that the client is told.
Be careful: `run` and `write` may end early: when the deadline passes, when the client leaves, when the engine stops.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request

from ..backbone import Backbone
from ..errors import BackboneError
from .checkpoints import Registry, Served
from .config import ServeConfig
from .engine.check import check_writing
from .engine.desk import Desk
from .engine.engine import Engine
from .engine.jobs import Full, Gone, Job, Late, Ticket
from .engine.lanes import Lane
from .engine.outlets import Collected, Outlet, Written
from .engine.sampling import Sampling
from .engine.writing import Prompt, Writing
from .errors import ApiError
from .metrics import Metrics

T = TypeVar("T")
GRACE = 1.0
"""Seconds past the deadline in which the engine may still say itself that it was too late."""


@dataclass(eq=False)
class Service:
    """Everything that answers requests.

    Attributes:
        config: what the server was told.
        registry: the checkpoints.
        engine: the thread that owns the model.
        metrics: what is counted.
        cannot_write: why texts cannot be written, if so.
        draining: whether the server is going down.
        helpers: threads for tokenising and serialising.
    """

    config: ServeConfig
    registry: Registry
    engine: Engine
    metrics: Metrics
    cannot_write: str | None
    draining: bool = False
    helpers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "foresay-helper"))

    @classmethod
    def make(cls, config: ServeConfig, served: Sequence[Served]) -> "Service":
        """Puts a service together; `engine.start` sets it going."""
        registry, metrics = Registry(served), Metrics()
        backbone = registry.backbone
        cannot_write = None
        try:
            check_writing(backbone)
        except BackboneError as error:
            cannot_write = str(error)
        desk = Desk(
            backbone,
            places=config.sequences,
            cache_tokens=config.cache_tokens,
            batch_tokens=config.batch_tokens,
        )
        engine = Engine(
            desk,
            metrics,
            queue_tokens=config.queue_tokens,
            batch_tokens=config.batch_tokens,
            share=config.chat_share,
        )
        metrics.checkpoints.set(len(registry))
        return cls(config, registry, engine, metrics, cannot_write)

    @property
    def backbone(self) -> Backbone:
        """The one copy that all share."""
        return self.registry.backbone

    # -- finding models ----------------------------------------------------------------------------------

    def checkpoint(self, name: str | None) -> tuple[Served, str | None]:
        """A checkpoint by a request's `model`, and the side that its name says.

        Raises:
            ApiError: 404 for an unknown name.
        """
        served, side = self.registry.get(name)
        if served is None:
            what = "is the backbone, which does not embed" if name == self.registry.backbone_name else "is not served"
            raise self._unknown(f"model {name!r} {what}; there are {', '.join(self.registry.names())}")
        return served, side

    def sideless(self, name: str | None, route: str) -> Served:
        """A checkpoint for a route that chooses the sides itself.

        Raises:
            ApiError: 404 for an unknown name, 400 for one that says a side.
        """
        served, side = self.checkpoint(name)
        if side is not None:
            message = f"model says {side!r}, and {route} chooses the side of each text itself; send {served.name!r}"
            raise ApiError(400, message, "invalid_value", param="model")
        return served

    def check_writer(self, name: str | None) -> str:
        """The name of the backbone, if a request's `model` is it or one of its checkpoints.

        Raises:
            ApiError: 404 for an unknown name, 400 if this backbone cannot write.
        """
        if name not in (None, self.registry.backbone_name) and self.registry.get(name)[0] is None:
            names = ", ".join([self.registry.backbone_name, *self.registry.names()])
            raise self._unknown(f"model {name!r} is not served; there are {names}")
        if self.cannot_write is not None:
            raise ApiError(400, self.cannot_write, "cannot_write", param="model")
        return self.registry.backbone_name

    @staticmethod
    def _unknown(message: str) -> ApiError:
        return ApiError(404, message, "model_not_found", param="model")

    # -- running -----------------------------------------------------------------------------------------

    def ticket(self) -> Ticket:
        """A new request's claim.

        Raises:
            ApiError: 503 while the server is going down.
            Full: if the queue is full already, before any work is done for the request.
        """
        if self.draining:
            raise ApiError(503, "the server is shutting down", "shutting_down", headers={"Retry-After": "5"})
        try:
            self.engine.queue.check(1)
        except Full:
            self.metrics.refused.labels("queue").inc()
            raise
        return Ticket.of(self.config.timeout)

    async def help(self, function: Callable[..., T], *arguments: Any) -> T:  # noqa: ANN401
        """Runs what takes long and needs no model, beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.helpers, function, *arguments)

    async def tokenize(self, function: Callable[..., T], *arguments: Any) -> T:  # noqa: ANN401
        """`help`, counted as tokenising."""
        start = time.perf_counter()
        found = await self.help(function, *arguments)
        self.metrics.tokenize.observe(time.perf_counter() - start)
        return found

    async def run(
        self, request: Request, ticket: Ticket, lane: Lane, payloads: Sequence[Any], tokens: Sequence[int]
    ) -> list[Any]:
        """Runs payloads through a lane.

        Returns:
            one result a payload.

        Raises:
            ApiError: 413 for more tokens than a request may have.
            Full, Late, Gone, Stopped, Exhausted: see jobs.py.
        """
        self.check_size(sum(tokens))
        job = Job(lane, payloads, tokens, ticket)
        self._count_refusal(lambda: self.engine.submit(job))
        return await self.wait(request, ticket, job.future)

    async def call(self, request: Request, ticket: Ticket, function: Callable[[], T]) -> T:
        """Runs a function in the engine's thread, before everything that waits."""
        job = self.engine.call(function, ticket)
        (found,) = await self.wait(request, ticket, job.future)
        return found  # type: ignore[no-any-return]

    async def write(
        self, request: Request, ticket: Ticket, prompts: Sequence[Prompt], samplings: Sequence[Sampling]
    ) -> list[Written]:
        """Writes texts, and waits for all of them."""
        outlets = [Collected() for _ in prompts]
        self.start_writing(ticket, prompts, samplings, outlets)
        return [await self.wait(request, ticket, outlet.future) for outlet in outlets]

    def start_writing(
        self, ticket: Ticket, prompts: Sequence[Prompt], samplings: Sequence[Sampling], outlets: Sequence[Outlet]
    ) -> None:
        """Lets texts be written into outlets.

        Raises:
            ApiError: 400 where prompt and text are longer than the model's positions, 413 for too many tokens.
            Full, Stopped: see jobs.py.
        """
        self.check_size(sum(prompt.length for prompt in prompts))
        most = self.backbone.max_positions
        for prompt, how in zip(prompts, samplings, strict=True):
            if prompt.length + how.max_tokens > most:
                raise ApiError(
                    400,
                    f"the prompt has {prompt.length} tokens and max_tokens is {how.max_tokens}; together at most "
                    f"{most} fit",
                    "context_length_exceeded",
                )
        texts = [
            Writing(prompt, how, self.backbone, ticket, outlet)
            for prompt, how, outlet in zip(prompts, samplings, outlets, strict=True)
        ]
        self._count_refusal(lambda: self.engine.write(texts))

    async def wait(self, request: Request, ticket: Ticket, future: "Future[T]") -> T:
        """Waits for a result, the deadline, or the client's leaving, whichever is first.

        Raises:
            Gone: if the client has left; its work is dropped.
            Late: if the deadline has passed.
        """
        result = asyncio.wrap_future(future)
        left = asyncio.ensure_future(_left(request))
        try:
            patience = ticket.deadline - time.monotonic() + GRACE
            both: set[asyncio.Future[Any]] = {result, left}
            await asyncio.wait(both, timeout=max(0.0, patience), return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            if left.done():
                ticket.cancel()
                raise Gone("the client has left")
            ticket.cancel()
            raise Late(f"no result within {self.config.timeout:g} s")
        finally:
            left.cancel()
            if not result.done():
                result.cancel()
                ticket.cancel()

    def check_size(self, tokens: int) -> None:
        """Refuses requests with more tokens than one may have.

        Raises:
            ApiError: 413.
        """
        if tokens > self.config.max_request_tokens:
            self.metrics.refused.labels("tokens").inc()
            raise ApiError(
                413,
                f"the request has {tokens} tokens, at most {self.config.max_request_tokens} may be in one; send fewer "
                "texts at a time",
                "too_many_tokens",
            )

    def check_items(self, count: int, param: str) -> None:
        """Refuses requests with no texts or too many.

        Raises:
            ApiError: 400 for none, 413 for too many.
        """
        if not count:
            raise ApiError(400, f"{param} is empty; expected one text or more", "invalid_value", param=param)
        if count > self.config.max_items:
            self.metrics.refused.labels("items").inc()
            most = self.config.max_items
            raise ApiError(413, f"{param} has {count} texts, at most {most} may be in one request", "too_many_items")

    def _count_refusal(self, submit: Callable[[], None]) -> None:
        try:
            submit()
        except Full:
            self.metrics.refused.labels("queue").inc()
            raise


def service_of(request: Request) -> Service:
    """The service of the app that a request came to."""
    service: Service = request.app.state.service
    return service


def note(request: Request, **fields: object) -> None:
    """Adds to a request's line in the log."""
    request.scope["state"].setdefault("log", {}).update(fields)


async def _left(request: Request) -> None:
    """Ends when the client leaves; the body has been read, so nothing else can come."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
