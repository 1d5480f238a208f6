"""The application: routes inside limits, inside keys, inside the origins that may call it.

In: a `Service` that is made, and keys. Out: an ASGI application; its lifespan starts and stops the engine.
Be careful: what is added last is outermost.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse

from .. import __version__
from . import errors
from .auth import Keys
from .gate import Gate
from .limits import Limits
from .page import documentation
from .routes import chat, comparing, completions, decode, embeddings, health, models
from .service import Service

DESCRIPTION = "One language model in memory that chats, embeds what it would answer, and decodes embeddings to text."


def create_app(service: Service, keys: Keys, admin: Keys) -> FastAPI:
    """Puts an application together.

    Args:
        service: what answers.
        keys: who may ask; empty lets everyone in.
        admin: who may add and drop checkpoints; without it there are no routes for that.
    """
    config = service.config

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        app.state.ready_lock = asyncio.Lock()
        yield
        service.draining = True
        await asyncio.to_thread(service.engine.stop)
        service.helpers.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="Foresay",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service, app.state.ready_at, app.state.not_ready = service, float("-inf"), None
    for group in (embeddings, models, chat, completions, decode, comparing, health):
        app.include_router(group.router)
    if admin:
        app.include_router(models.admin)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(documentation(app.openapi()))

    errors.install(app)
    app.add_middleware(
        Limits,
        metrics=service.metrics,
        max_body=config.max_body,
        max_requests=config.max_requests,
        patience=config.client_timeout,
    )
    local_only = config.on_loopback and not keys
    app.add_middleware(Gate, metrics=service.metrics, keys=keys, admin=admin, local_only=local_only)
    if config.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    return app
