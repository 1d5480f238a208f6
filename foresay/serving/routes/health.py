"""/health, /ready and /metrics.

In: nothing. Out: whether the process lives; whether the model still gives its golden vectors; numbers.
Be careful: /ready runs the model, before everything that waits, so its answer is kept for two seconds: it needs no key.
"""

import asyncio
import time

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from ..engine.jobs import Ticket
from ..errors import ApiError, responses
from ..schemas.models import State
from ..service import Service, service_of

router = APIRouter(tags=["health"])

KEPT_SECONDS = 2.0
PATIENCE = 10.0
"""Seconds that the model may take for two short texts, the batch that runs before them included."""


@router.get("/health", responses=responses())
async def health(request: Request) -> State:
    """Whether the process and the engine's thread are alive."""
    if not service_of(request).engine.alive:
        raise ApiError(503, "the engine's thread has ended; restart the server", "dead")
    return State(status="ok")


@router.get("/ready", responses=responses())
async def ready(request: Request) -> State:
    """Whether every checkpoint gives its golden vectors, now."""
    service = service_of(request)
    if service.draining:
        raise ApiError(503, "the server is shutting down", "shutting_down")
    state = request.app.state
    async with state.ready_lock:
        if time.monotonic() - state.ready_at > KEPT_SECONDS:
            state.not_ready = await _prove(service)
            state.ready_at = time.monotonic()
    if state.not_ready is not None:
        raise ApiError(503, state.not_ready, "not_ready")
    return State(status="ok")


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _prove(service: Service) -> str | None:
    """Why the server is not ready, if so."""

    def prove() -> None:
        for served in service.registry.all():
            served.prove()

    try:
        job = service.engine.call(prove, Ticket.of(PATIENCE))
        await asyncio.wait_for(asyncio.wrap_future(job.future), PATIENCE)
    except TimeoutError:
        return f"the model has not answered for {PATIENCE:g} s"
    except Exception as error:  # whatever the model fails with, it is not ready
        return str(error) or type(error).__name__
    return None
