"""The engine for OpenAI-compatible endpoints, against a real server on the loopback interface that misbehaves."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from foresay.config import EndpointConfig, RespondConfig
from foresay.data.queries import Query
from foresay.data.responses import read_responses
from foresay.engines import openai as module
from foresay.engines.openai import OpenAIEngine
from foresay.engines.respond import respond
from foresay.errors import InputError

KEY = "sk-very-secret-key"


def completion(text: str | None, finish: str | None = "stop") -> dict[str, Any]:
    """What an endpoint sends."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


class Server(ThreadingHTTPServer):
    """Answers each query backwards; what it does before that is said by the query's first word."""

    daemon_threads = True

    def __init__(self) -> None:
        """Listens on a free port."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.tries: Counter[str] = Counter()
        self.times: dict[str, list[float]] = {}
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.under_way = self.most = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802 - the library's name
        """Counts, misbehaves once or always, else answers."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text, server = body["messages"][-1]["content"], self.server
        with server.lock:
            server.under_way += 1
            server.most = max(server.most, server.under_way)
            server.tries[text] += 1
            server.times.setdefault(text, []).append(time.monotonic())
            server.bodies.append(body)
            server.keys.add(self.headers["Authorization"])
            first = server.tries[text] == 1
        try:
            way = WAYS.get(text.split()[0])
            if way is not None and (first or text.startswith("always")):
                way(self)
            else:
                time.sleep(0.01)
                self.send(200, completion(text[::-1]))
        except OSError:
            pass  # the client has gone
        finally:
            with server.lock:
                server.under_way -= 1

    def send(self, status: int, body: object, **headers: str) -> None:
        """A whole reply."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def half(self) -> None:
        """Says more than it sends, and hangs up."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(b'{"id": "c", "choi')
        self.close_connection = True

    def hang_up(self) -> None:
        """Closes the connection without a word."""
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


WAYS: dict[str, Callable[[Handler], None]] = {
    "busy": lambda h: h.send(429, {"error": {"message": "slow down"}}, Retry_After="0.3"),
    "broken": lambda h: h.send(500, {"error": {"message": "oops"}}),
    "slow": lambda h: time.sleep(1.5),
    "half": Handler.half,
    "closed": Handler.hang_up,
    "garbled": lambda h: h.send(200, b'{"choices": [tor'),
    "none": lambda h: h.send(200, {**completion(""), "choices": []}),
    "filtered": lambda h: h.send(200, completion("x", "content_filter")),
    "long": lambda h: h.send(400, {"error": {"message": f"context is too long for {KEY}"}}),
    "cut": lambda h: h.send(200, completion("some words", "length")),
    "silent": lambda h: h.send(200, completion(None)),
    "alwaysbroken": lambda h: h.send(503, {"error": {"message": "overloaded"}}),
    "forbidden": lambda h: h.send(401, {"error": {"message": f"wrong key {KEY}"}}),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server, short pauses, and a key."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv(module.KEY, KEY)
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def engine(server: Server, config: RespondConfig | None = None, **endpoint: Any) -> OpenAIEngine:  # noqa: ANN401
    """An engine for the server."""
    options = {"base_url": server.url, "timeout": 0.6, "attempts": 4, **endpoint}
    return OpenAIEngine("m", config or CONFIG, EndpointConfig(**options))


CONFIG = RespondConfig(engine="openai", max_new_tokens=9, batch_size=4, system="Be kind.", temperature=0.5, top_p=0.9)


def test_a_server_that_misbehaves(server: Server, tmp_path: Path) -> None:
    """What passes is tried again; what does not is a reject; the rest comes out; and the key is nowhere."""
    words = [*WAYS, *(f"fine {i}" for i in range(12))]
    queries = [Query(word, f"{word} query") for word in words if word != "forbidden"]
    path = tmp_path / "r.jsonl"
    summary = respond(queries, engine(server), path, CONFIG)
    found = {row.id: row for row in read_responses(path)}
    rejected = {
        json.loads(row["row"])["id"]: row["reason"]
        for row in map(json.loads, (tmp_path / "r.rejected.jsonl").read_text().splitlines())
    }
    assert rejected.keys() == {"long", "silent", "alwaysbroken"}
    assert "status 400" in rejected["long"] and "status 503" in rejected["alwaysbroken"]
    assert "after 4 attempts" in rejected["alwaysbroken"] and rejected["silent"] == "m answered nothing"
    assert found.keys() == {query.id for query in queries} - rejected.keys()
    assert (found["cut"].response, found["cut"].finish) == ("some words", "length")
    assert all(row.response == row.query[::-1] for id, row in found.items() if id != "cut")
    passing = {"busy", "broken", "slow", "half", "closed", "garbled", "none", "filtered"}
    assert {word for word in passing if server.tries[f"{word} query"] == 2} == passing
    assert server.tries["alwaysbroken query"] == 4 and server.tries["long query"] == 1
    first, second = server.times["busy query"]
    assert second - first >= 0.3  # as the server has asked
    assert server.most <= 4 and summary.written == len(found)
    assert server.keys == {f"Bearer {KEY}"}
    assert not [file for file in tmp_path.iterdir() if KEY in file.read_text()]
    (body,) = [body for body in server.bodies if body["messages"][-1]["content"] == "fine 3 query"]
    assert body["messages"][0] == {"role": "system", "content": "Be kind."}
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["model"]) == (0.5, 0.9, 9, "m")


def test_it_resumes(server: Server, tmp_path: Path) -> None:
    """What is answered is not asked again; another endpoint's file is refused; no password is kept."""
    path, queries = tmp_path / "r.jsonl", [Query(f"q{i}", f"fine {i}") for i in range(9)]
    respond(queries[:5], engine(server), path, CONFIG)
    asked = len(server.bodies)
    respond(queries, engine(server), path, CONFIG)
    assert asked == 5 and len(server.bodies) == 9
    url = server.url.replace("http://", "http://me:hidden@")
    assert engine(server, base_url=url).manifest() == engine(server).manifest()
    assert json.loads((tmp_path / "r.manifest.json").read_text())["base_url"] == server.url


def test_a_wrong_key_ends_the_run(server: Server, tmp_path: Path) -> None:
    """At once, in one line that does not hold it."""
    with pytest.raises(InputError, match=r"refuses the key or the model 'm' \(status 401\)") as caught:
        respond([Query("a", "forbidden query")], engine(server), tmp_path / "r.jsonl", CONFIG)
    assert KEY not in str(caught.value) and server.tries["forbidden query"] == 1


def test_a_dead_server_ends_the_run(server: Server, tmp_path: Path) -> None:
    """It does not reject every row there is."""
    queries = [Query(f"q{i}", f"alwaysbroken {i}") for i in range(200)]
    with pytest.raises(InputError, match="has failed .* rows in a row, 1 attempts each .*status 503"):
        respond(queries, engine(server, attempts=1), tmp_path / "r.jsonl", CONFIG)
    assert len(server.bodies) < 40


def test_limits_a_minute(server: Server, tmp_path: Path) -> None:
    """A burst of a tenth of a minute's worth, then no more than the rate."""
    limits: list[tuple[str, dict[str, Any]]] = [
        ("requests", {"requests_per_minute": 200}),
        ("tokens", {"tokens_per_minute": 200 * 12}),
    ]
    for name, limit in limits:
        start = time.monotonic()
        queries = [Query(f"q{i}", f"fine {i:03d}") for i in range(24)]
        respond(queries, engine(server, **limit), tmp_path / f"{name}.jsonl", CONFIG)
        assert 1.0 <= time.monotonic() - start < 20  # 20 at once, 4 more at 3.3 a second


def test_bad_addresses() -> None:
    """Said before anything is sent."""
    with pytest.raises(InputError, match="base_url is 'localhost:8000'; expected an address such as"):
        OpenAIEngine("m", CONFIG, EndpointConfig(base_url="localhost:8000"))
