"""What a client may send, and how long it may take: body size, seconds between two pieces, requests in progress.

In: ASGI calls. Out: the same, with limits. A body is counted as it comes, whatever Content-Length says.
Be careful: once the body is whole, `receive` waits for the client to leave, and that may take as long as it likes.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .engine.jobs import Gone
from .errors import ApiError
from .metrics import Metrics

TOO_LARGE = 413
_LINGER = 64 << 20
"""Most bytes that are read of a body that is too large, before the client is told so all the same."""


class Limits:
    """An ASGI application inside limits."""

    def __init__(self, app: ASGIApp, metrics: Metrics, *, max_body: int, max_requests: int, patience: float) -> None:
        """Takes the limits.

        Args:
            app: what is inside.
            metrics: counts refusals.
            max_body: bytes.
            max_requests: in progress at the same time.
            patience: seconds for a client to send or to read the next piece.
        """
        self.app, self.metrics = app, metrics
        self.max_body, self.max_requests, self.patience = max_body, max_requests, patience
        self.in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs one request."""
        if scope["type"] != "http" or scope["path"] in ("/health", "/ready", "/metrics"):
            await self.app(scope, receive, send)
            return
        if self.in_progress >= self.max_requests:
            self.metrics.refused.labels("requests").inc()
            raise ApiError(429, f"{self.in_progress} requests are in progress", "too_many_requests", headers=_SOON)
        headers = dict(scope["headers"])
        announced = headers.get(b"content-length", b"0")
        size = int(announced) if announced.isdigit() else 0
        waits = b"expect" in headers or size > self.max_body + _LINGER  # or would send for too long
        body = _Body(self, receive)
        self.in_progress += 1
        try:
            if size > self.max_body:
                body.error = self._too_large()
            else:
                await self.app(scope, body.receive, self._timed(scope, send, body))
            too_large = isinstance(body.error, ApiError) and body.error.status == TOO_LARGE
            if too_large and not waits and not body.whole:
                await self._hear_out(receive)
        except _Stalled:
            raise Gone("the client does not read") from None
        finally:
            self.in_progress -= 1
        if body.error is not None:
            raise body.error

    async def _hear_out(self, receive: Receive) -> None:
        """Reads the rest of a body that is too large, and forgets it.

        A client that is still sending when the connection closes sees a reset in place of the answer.
        """
        heard = 0
        try:
            async with asyncio.timeout(self.patience):
                while heard < _LINGER:
                    message = await receive()
                    heard += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            return

    def note(self, message: Message, seen: int) -> None:
        """Looks at a piece of a body of which so many bytes have come.

        Raises:
            ApiError: 413 for too many.
            Gone: if there will be no more pieces.
        """
        if message["type"] == "http.disconnect":
            raise Gone("the client left before its body was whole")
        if seen > self.max_body:
            raise self._too_large()

    def too_slow(self) -> ApiError:
        """What a client is told that sends nothing."""
        self.metrics.refused.labels("slow").inc()
        return ApiError(408, f"nothing came for {self.patience:g} s", "slow_client", headers=_CLOSE)

    def _too_large(self) -> ApiError:
        self.metrics.refused.labels("body").inc()
        message = f"the body is larger than {self.max_body} bytes; send fewer texts at a time"
        return ApiError(TOO_LARGE, message, "body_too_large", headers=_CLOSE)

    def _timed(self, scope: Scope, send: Send, body: "_Body") -> Send:
        async def limited(message: Message) -> None:
            if body.error is not None:
                return  # the framework's own answer to it
            try:
                await asyncio.wait_for(send(message), self.patience)
            except TimeoutError:
                self.metrics.refused.labels("slow").inc()
                scope["state"].get("abort", _nothing)()  # closing would wait until what is buffered has been read
                await asyncio.sleep(0)
                raise _Stalled from None

        return limited


class _Stalled(Exception):
    """A client that reads no more; no handler of the framework's may take it for an answer to give."""


def _nothing() -> None:
    pass


class _Body:
    """A body as it comes.

    The framework answers whatever is raised while it reads a body with a 400 of its own, so the error is kept, and
    raised again where that answer would have been.
    """

    def __init__(self, limits: Limits, receive: Receive) -> None:
        self._limits, self._receive = limits, receive
        self._seen = 0
        self.whole = False
        self.error: Exception | None = None

    async def receive(self) -> Message:
        """The next piece; once the body is whole, the client's leaving."""
        if self.whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._limits.patience)
            self._seen += len(message.get("body", b""))
            self.whole = not message.get("more_body", False)
            self._limits.note(message, self._seen)
        except TimeoutError:
            self.error = self._limits.too_slow()
        except (ApiError, Gone) as error:
            self.error = error
        if self.error is not None:
            raise self.error
        return message


_CLOSE = {"Connection": "close"}
_SOON = {"Retry-After": "1"}
