"""The process: loads and proves the checkpoints, listens, and ends gracefully.

In: checkpoints and a `ServeConfig`. Out: nothing; it serves until SIGTERM or SIGINT.
Be careful: after the signal no new work is accepted, and work in progress gets `drain` seconds.
"""

import errno
import logging
import signal
import socket
from asyncio import TimerHandle, Transport
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..backbone import Backbone
from ..errors import InputError
from .app import create_app
from .auth import admin_key, read_keys
from .checkpoints import Served
from .config import ServeConfig
from .logs import log_as_json
from .service import Service

logger = logging.getLogger(__name__)


def run(
    checkpoints: Sequence[str],
    config: ServeConfig,
    *,
    backbone: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> None:
    """Does what `serve` says."""
    keys, admin = read_keys(config.api_keys), admin_key()
    if not (config.on_loopback or keys or config.open):
        raise InputError(
            f"--host {config.host} lets others reach the server, and there are no API keys; pass --api-keys FILE, or "
            "--open to answer everyone"
        )
    check_address(config.host, config.port)
    if config.threads:
        torch.set_num_threads(config.threads)
    log_as_json()
    service = Service.make(config, load_all(checkpoints, backbone, device, dtype))
    names = ", ".join(service.registry.names())
    logger.info("serving %s on %s", names, service.registry.backbone_name)
    app = create_app(service, keys, admin)
    server = _Server(
        uvicorn.Config(
            app,
            host=config.host,
            port=config.port,
            http=_Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=config.drain,
        ),
        service,
    )
    # uvicorn raises the signal again once it has drained: what it then meets decides the exit code, and 0 is right
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: None)
    server.run()


_SKIPPED = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""What one of a name's several addresses may lack, such as localhost's ::1 without IPv6."""


def check_address(host: str, port: int) -> None:
    """Finds out whether one can listen there, before a model is loaded for minutes.

    Raises:
        InputError: if not, with what would help.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--host {host} is no name or address that can be found ({error}); 127.0.0.1 serves this machine alone, "
            "0.0.0.0 everyone"
        ) from None
    problems = [_try_address(family, address) for family, _, _, _, address in found]
    for problem in problems:
        if problem is not None and (None not in problems or problem.errno not in _SKIPPED):
            raise InputError(f"cannot listen on {host} port {port}: {_repair(problem)}")


def _try_address(family: int, address: Any) -> OSError | None:  # noqa: ANN401 - as the system has it
    """Why one cannot listen on an address, if so."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
    except OSError as error:
        return error
    return None


def _repair(problem: OSError) -> str:
    """What is wrong with an address, and what would help."""
    if problem.errno == errno.EADDRINUSE:
        return "another program does already; choose another with --port, or let --port 0 find a free one"
    if problem.errno in (errno.EACCES, errno.EPERM):
        return "that is not allowed; choose a port from 1024 on with --port"
    if problem.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address; --host takes one of its own, or 0.0.0.0 for all"
    return f"{problem.strerror}; choose others with --host and --port"


def load_all(checkpoints: Sequence[str], backbone: str | None, device: str, dtype: str) -> list[Served]:
    """Loads checkpoints around one copy of their backbone."""
    shared = Backbone.load(backbone, device=device, dtype=dtype) if backbone else None
    served: list[Served] = []
    for spec in checkpoints:
        served.append(Served.load(spec, shared, device=device, dtype=dtype))
        shared = served[0].encoder.model.backbone
    return served


class _Server(uvicorn.Server):
    """uvicorn's server; refuses new work as soon as the signal comes, and says where it listens."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup()
        for one in self.servers:
            for listener in one.sockets:
                logger.info("listening", extra={"fields": {"address": listener.getsockname()[:2]}})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.draining = True
        logger.info("draining", extra={"fields": {"signal": sig}})
        super().handle_exit(sig, frame)


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which lets a client take forever over its request line and headers; this one does not."""

    _late: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._await_headers()
        super().on_message_begin()
        self.scope["state"]["abort"] = self.transport.abort  # limits.py

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def _await_headers(self) -> None:
        if self._late is None:
            patience = self.config.app.state.service.config.client_timeout  # type: ignore[union-attr]
            self._late = self.loop.call_later(patience, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
