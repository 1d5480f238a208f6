"""What the tests of the server share: tiny checkpoints on disk, a server in a thread, and a plain HTTP client."""

import json
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any

import uvicorn

from foresay.backbone import Backbone
from foresay.checkpoints.save import save
from foresay.encoder import Encoder
from foresay.model import Model
from foresay.serving.app import create_app
from foresay.serving.auth import Keys
from foresay.serving.checkpoints import Served
from foresay.serving.config import ServeConfig
from foresay.serving.server import _Protocol, _Server
from foresay.serving.service import Service

DOCUMENT_PROMPT = "Summarize: "


def make_checkpoint(
    backbone: Backbone,
    folder: Path,
    seed: int = 0,
    dim: int = 12,
    **changes: Any,  # noqa: ANN401
) -> Path:
    """A checkpoint with random weights, an embedding of 12 numbers that may be cut to 4 or 8, and 64 tokens."""
    model = Model(backbone, thought=1, compression=3, dim=dim, template="chat", rotated=True, seed=seed)
    settings = {"prompts": {"document": DOCUMENT_PROMPT, "topic": "Topic: "}, "dims": (4, 8), "max_tokens": 64}
    save(folder, Encoder(model, **{**settings, **changes}))
    return folder


class Answer:
    """A response that was read to its end."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Takes what came."""
        self.status, self.body = status, body
        self.headers = {name.lower(): value for name, value in headers.items()}

    @property
    def json(self) -> Any:  # noqa: ANN401
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The server-sent events, without the last `[DONE]`."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line]
        assert lines.pop() == "[DONE]", self.body[-300:]
        return [json.loads(line) for line in lines]

    @property
    def code(self) -> str:
        """The code of an error in OpenAI's shape."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return str(error["code"])


class Running:
    """A server in a thread, on a free port of the loopback interface."""

    def __init__(self, service: Service, server: _Server) -> None:
        """Takes what was started."""
        self.service, self._server = service, server
        self.port = server.servers[0].sockets[0].getsockname()[1]

    def terminate(self) -> None:
        """Does what SIGTERM does to a process."""
        self._server.handle_exit(signal.SIGTERM, None)

    @property
    def url(self) -> str:
        """Where OpenAI's clients find it."""
        return f"http://127.0.0.1:{self.port}/v1"

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request. A body that is not bytes is sent as JSON."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if raw is not None else {}
        connection.request(method, path, raw, {**sent, **(headers or {})})
        response = connection.getresponse()
        answer = Answer(response.status, dict(response.getheaders()), response.read())
        connection.close()
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        """A GET."""
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        """A POST."""
        return self.ask("POST", path, body, headers)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)


@contextmanager
def running(
    folders: list[Path | str],
    backbone: Backbone,
    keys: Mapping[str, str] | None = None,
    admin: str = "",
    **options: Any,  # noqa: ANN401
) -> Iterator[Running]:
    """Serves checkpoints in a thread for as long as the block runs."""
    config = ServeConfig(port=0, **{"client_timeout": 20.0, **options})
    service = Service.make(config, [Served.load(str(folder), backbone) for folder in folders])
    app = create_app(service, Keys(keys or {}), Keys({"admin": admin} if admin else {}))
    server = _Server(
        uvicorn.Config(
            app,
            port=0,
            http=_Protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=config.drain,
        ),
        service,
    )
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        yield Running(service, server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not end"
