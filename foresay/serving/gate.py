"""Every request passes here first and last: its id, its key, its errors, its line in the log, its headers.

In: ASGI calls. Out: the same, for those who may; an error in OpenAI's shape, whatever happened inside.
Be careful: this is the outermost layer but CORS, so nothing that goes wrong inside reaches uvicorn's own log, which
would print messages that may quote a client's text.
"""

import asyncio
import logging
import re
import secrets
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .auth import Keys, bearer
from .config import LOOPBACK
from .engine.jobs import Gone, Stopped
from .errors import CLIENT_LEFT, ApiError, translate
from .metrics import Metrics

logger = logging.getLogger(__name__)

OPEN_PATHS = ("/health", "/ready")
"""Answered without a key: they say nothing but yes or no."""
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class Gate:
    """An ASGI application behind keys."""

    def __init__(self, app: ASGIApp, metrics: Metrics, keys: Keys, admin: Keys, *, local_only: bool) -> None:
        """Takes what it needs.

        Args:
            app: what is inside.
            metrics: counts requests.
            keys: who may ask; empty lets everyone in.
            admin: who may use the admin routes.
            local_only: answer only requests that name this machine as their host, so that no web page can reach a
                server on loopback under a name of its own (DNS rebinding).
        """
        self.app, self.metrics, self.keys, self.admin, self.local_only = app, metrics, keys, admin, local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call = _Call(scope, send)
        self.metrics.in_progress.inc()
        try:
            call.key = self._who(scope)
            scope["state"]["key"] = call.key
            await self.app(scope, receive, call.send)
        except Exception as error:
            await self._answer(call, error)
        except asyncio.CancelledError:  # by uvicorn, once --drain has passed; or for a reason of somebody else's
            if not scope["app"].state.service.draining:
                raise
            await self._answer(call, Stopped("the server is shutting down"))
        finally:
            self.metrics.in_progress.dec()
            if (ticket := scope["state"].get("ticket")) is not None:
                ticket.cancel()
            self._note(call)

    def _who(self, scope: Scope) -> str:
        """Whose request it is.

        Raises:
            ApiError: if it must not be answered.
        """
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"]
        if self.local_only and _host(headers.get(b"host", "")) not in LOOPBACK:
            raise ApiError(403, "this server answers requests to localhost only; --host sets another", "wrong_host")
        if path in OPEN_PATHS:
            return ""
        key = bearer(headers.get(b"authorization", "")) or headers.get(b"x-api-key", "")
        keys = self.admin if path.startswith("/admin") else self.keys
        if not keys:
            return ""
        name = keys.name_of(key)
        if name is None:
            self.metrics.refused.labels("key").inc()
            what = "no API key was sent" if not key else "the API key is not one of this server's"
            raise ApiError(
                401,
                f"{what}; send Authorization: Bearer KEY",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return name

    async def _answer(self, call: "_Call", error: Exception) -> None:
        if call.whole:
            return
        told = translate(error)
        if isinstance(error, Gone) or (told and told.status == CLIENT_LEFT):
            call.status = CLIENT_LEFT
            return
        if told is None:
            logger.error("an unexpected error", exc_info=error, extra={"fields": {"id": call.id}})
            told = ApiError(500, f"something went wrong in the server; its log has more, at id {call.id}", "internal")
        if call.status:  # the response has begun: all that is left is to end it early, so that it is seen to be torn
            raise _Torn
        await told.response()(call.scope, _nothing, call.send)

    def _note(self, call: "_Call") -> None:
        route = getattr(call.scope.get("route"), "path", "other")
        seconds = time.perf_counter() - call.start
        status = call.status or CLIENT_LEFT
        self.metrics.requests.labels(route, status, call.key).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if route in (*OPEN_PATHS, "/metrics") and status == 200:
            return
        fields = {"id": call.id, "method": call.scope["method"], "route": route, "status": status, "key": call.key}
        fields |= {"seconds": round(seconds, 4), **call.scope["state"].get("log", {})}
        logger.info("request", extra={"fields": fields})


class _Torn(Exception):
    """Ends a response that cannot be finished; uvicorn closes the connection."""


class _Call:
    """One request: its id, what was answered, and how long it took."""

    def __init__(self, scope: Scope, send: Send) -> None:
        scope.setdefault("state", {})
        headers = dict(scope["headers"])
        asked = headers.get(b"x-request-id", b"").decode("latin-1")
        self.id = asked if _ID.fullmatch(asked) else secrets.token_hex(8)
        self.scope, self._send = scope, send
        self.status, self.key, self.whole = 0, "", False
        self.start = time.perf_counter()

    async def send(self, message: Message) -> None:
        """Adds the headers that every response has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.id
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)
        self.whole = message["type"] == "http.response.body" and not message.get("more_body", False)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _host(header: str) -> str:
    """The name in a Host header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()
