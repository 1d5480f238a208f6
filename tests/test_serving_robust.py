"""What real networks do to a server: clients that leave, stall or send halves, kills, and signals to end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from foresay.backbone import Backbone

from .serving import Running, make_checkpoint, running

Get = Callable[[str], Backbone]
ENDLESS: dict[str, Any] = {
    "prompt": "x",
    "max_tokens": 400,
    "temperature": 0,
    "stream": True,
    "logit_bias": {"2": -100},
}


@pytest.fixture(scope="module")
def checkpoint(backbone: Get, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint."""
    return make_checkpoint(backbone("qwen3"), tmp_path_factory.mktemp("served") / "one")


@pytest.fixture
def server(backbone: Get, checkpoint: Path) -> Iterator[Running]:
    """A server without much patience."""
    with running([checkpoint], backbone("qwen3"), client_timeout=1.0) as found:
        yield found


def connect(server: Running) -> socket.socket:
    """A bare connection."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def head(body: bytes, path: str = "/v1/embeddings") -> bytes:
    """The beginning of a POST."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Waits for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_a_client_that_leaves_a_stream_costs_nothing_more(server: Running) -> None:
    """Its text is no longer written, and its place is free."""
    slow = server.service.engine.desk.step

    def step() -> int:
        time.sleep(0.01)
        return slow()

    server.service.engine.desk.step = step  # type: ignore[method-assign]
    body = json.dumps(ENDLESS).encode()
    with connect(server) as connection:
        connection.sendall(head(body, "/v1/completions") + body)
        while b"data:" not in connection.recv(1000):
            pass
        assert len(server.service.engine.desk) == 1
    until(lambda: not len(server.service.engine.desk), 3)
    assert server.metric("foresay_dropped_total") == 1
    assert server.service.engine.queue.waiting == 0


def test_a_client_that_leaves_while_it_waits_costs_nothing_more(server: Running) -> None:
    """Its texts leave the queue without being run."""
    from threading import Event

    gate = Event()
    server.service.engine.call(lambda: gate.wait(20), server.service.ticket())
    body = json.dumps({"input": ["x"] * 50}).encode()
    with connect(server) as connection:
        connection.sendall(head(body) + body)
        until(lambda: server.service.engine.queue.waiting > 0)
    time.sleep(0.2)
    gate.set()
    until(lambda: server.service.engine.queue.waiting == 0)
    assert server.metric("foresay_dropped_total") == 1
    assert server.metric("foresay_batch_items_count") == 0


@pytest.mark.parametrize("part", ["request line", "headers", "body"])
def test_halves_are_not_waited_for(part: str, server: Running) -> None:
    """The connection is closed after `--client-timeout`, with 408 where there is a request to answer."""
    body = json.dumps({"input": "x"}).encode()
    sent = {"request line": b"POST /v1", "headers": head(body)[:-20], "body": head(body) + body[:5]}[part]
    with connect(server) as connection:
        connection.sendall(sent)
        started, answer = time.monotonic(), b""
        while piece := connection.recv(1000):
            answer += piece
        assert 0.5 < time.monotonic() - started < 10
    assert (b" 408 " in answer) == (part == "body")
    assert server.post("/v1/embeddings", {"input": "x"}).status == 200
    assert server.service.engine.alive


def test_a_client_that_reads_nothing_is_let_go(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Its text is dropped once the buffers are full, and others are served meanwhile."""
    prompt = {**ENDLESS, "prompt": ["x"] * 16, "n": 8, "logprobs": 20}
    body = json.dumps(prompt).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(head(body, "/v1/completions") + body)
        until(lambda: len(server.service.engine.desk) > 0)
        assert server.post("/v1/embeddings", {"input": "x"}).status == 200
        until(lambda: server.metric("foresay_refused_total") == 1, 60)
        until(lambda: not len(server.service.engine.desk), 5)
        until(lambda: server.metric("foresay_requests_in_progress") == 1, 5)  # that which asks
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_connection_is_used_again(server: Running) -> None:
    """Longer than `--client-timeout` after it was opened, which is for the headers of one request alone."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
    for pause in (0.6, 0.6, 0.6, 0):
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b'{"status":"ok"}'
        time.sleep(pause)
    connection.close()


def test_overload_refuses_and_recovers(backbone: Get, checkpoint: Path) -> None:
    """Many times what fits: every answer is 200 or 429, and afterwards all is as before."""
    with running(
        [checkpoint], backbone("qwen3"), queue_tokens=2000, max_request_tokens=2000, max_requests=40
    ) as server:

        def ask(i: int) -> int:
            if i % 3:
                return server.post("/v1/embeddings", {"input": ["some words"] * (i % 40 + 1)}).status
            chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 20}
            return server.post("/v1/chat/completions", chat).status

        with ThreadPoolExecutor(80) as pool:
            found = list(pool.map(ask, range(300)))
        assert 200 in found and set(found) <= {200, 429}  # how many depends on the speed of the machine
        assert set(map(ask, range(6))) == {200}
        engine = server.service.engine
        assert (engine.queue.waiting, len(engine.queue), len(engine.desk)) == (0, 0, 0)


def slow_down(server: Running) -> None:
    """Lets each token take its time."""
    fast = server.service.engine.desk.step

    def step() -> int:
        time.sleep(0.05)
        return fast()

    server.service.engine.desk.step = step  # type: ignore[method-assign]


def test_what_outlasts_the_drain_is_told_so(backbone: Get, checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A whole answer becomes a 503 that says when to come back, a stream ends with the same error."""
    with running([checkpoint], backbone("qwen3"), drain=1) as server, ThreadPoolExecutor(2) as pool:
        slow_down(server)
        both = [pool.submit(server.post, "/v1/completions", {**ENDLESS, "stream": stream}) for stream in (False, True)]
        until(lambda: len(server.service.engine.desk) == 2)
        server.terminate()
        whole, stream = (one.result(30) for one in both)
    assert (whole.status, whole.code, whole.headers["retry-after"]) == (503, "shutting_down", "5")
    assert stream.status == 200
    last = json.loads(stream.body.decode().split("\n\n")[-2].removeprefix("data: "))
    assert last["error"]["code"] == "shutting_down"
    assert not [record for record in caplog.records if record.exc_info]


def test_who_leaves_while_the_server_drains_is_no_error(
    backbone: Get, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The text of a client that has left is dropped, and the server ends without waiting for it."""
    with running([checkpoint], backbone("qwen3")) as server:
        slow_down(server)
        body = json.dumps(ENDLESS).encode()
        with connect(server) as connection:
            connection.sendall(head(body, "/v1/completions") + body)
            while b"data:" not in connection.recv(1000):
                pass
            server.terminate()
        until(lambda: not len(server.service.engine.desk), 5)
    assert not [record for record in caplog.records if record.exc_info]


# -- as a process ----------------------------------------------------------------------------------------


class Process:
    """`foresay serve` as its user starts it."""

    def __init__(self, backbone_folder: Path, checkpoint: Path, log: Path) -> None:
        """Starts it, and waits until it is ready."""
        self.log = log
        command = [sys.executable, "-m", "foresay", "serve", str(checkpoint), "-m", str(backbone_folder), "--port", "0"]
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, stderr=out, stdout=out, env={**os.environ, "OMP_NUM_THREADS": "1"})
        until(lambda: self.process.poll() is not None or b'"listening"' in log.read_bytes(), 300)
        assert self.process.poll() is None, log.read_text()
        line = next(line for line in log.read_text().splitlines() if '"listening"' in line)
        self.port = json.loads(line)["address"][1]

    def ask(self, path: str, body: object) -> tuple[int, bytes]:
        """One request."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found


def test_kill_restart_and_drain(backbone: Get, checkpoint: Path, folder: Callable[[str], Path], tmp_path: Path) -> None:
    """SIGKILL leaves nothing that hinders a restart; SIGTERM finishes what was begun and ends with 0."""
    first = Process(folder("qwen3"), checkpoint, tmp_path / "first.log")
    before = first.ask("/v1/embeddings", {"input": "x"})
    assert before[0] == 200
    first.process.send_signal(signal.SIGKILL)
    assert first.process.wait(20) == -signal.SIGKILL
    second = Process(folder("qwen3"), checkpoint, tmp_path / "second.log")
    assert second.ask("/v1/embeddings", {"input": "x"}) == before
    body = json.dumps(ENDLESS).encode()
    with socket.create_connection(("127.0.0.1", second.port), timeout=60) as connection:
        connection.sendall(head(body, "/v1/completions") + body)
        answer = connection.recv(1000)
        second.process.send_signal(signal.SIGTERM)
        while piece := connection.recv(100_000):
            answer += piece
    assert answer.count(b'"finish_reason": "length"') == 1 and b"[DONE]" in answer
    assert second.process.wait(120) == 0
    assert '"draining"' in second.log.read_text()
