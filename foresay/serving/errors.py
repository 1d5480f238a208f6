"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}}.

In: whatever a route raises. Out: the response, with the right status.
Be careful: no message repeats a text of the client's, and an unexpected error says only its id, which the
log names too.
"""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ..errors import BackboneError, CheckpointError, ForesayError, InputError
from .engine.jobs import Exhausted, Full, Gone, Late, Stopped
from .problems import located

CLIENT_LEFT = 499
"""nginx's status for a client that closed the connection; it is only ever logged."""


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """OpenAI's shape of an error."""

    error: ErrorBody


class ApiError(Exception):
    """An error that a client is told.

    Attributes:
        status: of the response.
        message: what was found, what was expected, and what repairs it.
        code: for programs.
        param: the field at fault.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Takes what the client is told."""
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The error in OpenAI's shape."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    def response(self) -> Response:
        """The response."""
        return Response(self.body(), self.status, self.headers, "application/json")


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a route documents its errors; those that any route may have are always among them."""
    return {status: {"model": ErrorResponse} for status in sorted({400, 401, 413, 429, 500, 503, 504, *statuses})}


def translate(error: Exception) -> ApiError | None:
    """An error of ours as the client is told it; None for an unexpected one."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Full):
        retry = {"Retry-After": str(error.retry_after)}
        return ApiError(429, f"the server is busy: {error}", "queue_full", headers=retry)
    simple: list[tuple[type[Exception], int, str]] = [
        (Late, 504, "timeout"),
        (Gone, CLIENT_LEFT, "client_left"),
        (Exhausted, 503, "out_of_memory"),
        (InputError, 400, "invalid_input"),
        (BackboneError, 409, "other_backbone"),
        (CheckpointError, 409, "checkpoint_error"),
    ]
    for kind, status, code in simple:
        if isinstance(error, kind):
            return ApiError(status, str(error), code)
    if isinstance(error, Stopped):
        return ApiError(503, str(error), "shutting_down", headers={"Retry-After": "5"})
    return ApiError(500, str(error), "model_error") if isinstance(error, ForesayError) else None


def install(app: FastAPI) -> None:
    """Makes an app answer with these errors."""

    async def foreseen(request: Request, error: Exception) -> Response:
        told = translate(error)
        if told is None:
            raise error
        return told.response()

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _invalid(error).response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _http(error, request).response()

    for kind in (ApiError, ForesayError, Full, Late, Gone, Exhausted, Stopped):
        app.add_exception_handler(kind, foreseen)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _invalid(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body, without the value that was found."""
    if error.errors()[0]["type"] == "json_invalid":
        return ApiError(400, "the body is not JSON", "invalid_json")
    first = located(error.errors(), error.body)
    place = ".".join(map(str, first.place))
    if first.kind == "extra_forbidden":
        return ApiError(400, f"{place!r} is not an option of this route; leave it out", "unknown_option", param=place)
    if not place and first.kind in ("model_attributes_type", "dict_type", "missing"):
        message = "the body: expected a JSON object, sent with Content-Type: application/json"
        return ApiError(400, message, "invalid_json")
    message = f"{place or 'the body'}: {first.message}"
    return ApiError(400, message, "invalid_value", param=place or None)


def _http(error: HTTPException, request: Request) -> ApiError:
    if error.status_code == 404:
        return ApiError(404, f"no route {request.method} {request.url.path}; /docs lists them", "unknown_route")
    if error.status_code == 405:
        allow = dict(error.headers or {})
        return ApiError(405, f"{request.method} is not a method of this route", "unknown_method", headers=allow)
    if error.status_code == 400 and "parsing the body" in str(error.detail):
        return ApiError(400, "the body is not JSON", "invalid_json")
    return ApiError(error.status_code, str(error.detail), "http_error", headers=error.headers)
