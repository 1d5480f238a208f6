"""Keys, limits, health, metrics, logs, admin routes: what keeps a server in one piece, and others out of it."""

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from foresay.backbone import Backbone
from foresay.errors import InputError
from foresay.serving.auth import Keys, read_keys
from foresay.serving.config import ServeConfig
from foresay.serving.errors import ApiError
from foresay.serving.limits import Limits
from foresay.serving.logs import JsonLines
from foresay.serving.metrics import Metrics
from foresay.serving.serve import serve

from .serving import Running, make_checkpoint, running

Get = Callable[[str], Backbone]
KEYS = {"shop": "k" * 20, "law": "l" * 20}
SECRET = "the patient's name is Ada"


@pytest.fixture(scope="module")
def checkpoint(backbone: Get, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint."""
    return make_checkpoint(backbone("qwen3"), tmp_path_factory.mktemp("served") / "one")


@pytest.fixture
def server(backbone: Get, checkpoint: Path) -> Iterator[Running]:
    """A server with small limits, for a test alone."""
    with running([checkpoint], backbone("qwen3"), max_body=20_000, max_request_tokens=600, queue_tokens=600) as found:
        yield found


def test_a_web_page_may_send_its_key(backbone: Get, checkpoint: Path) -> None:
    """Of an origin that `--cors` names: in either header that the server reads keys from."""
    page = "http://app.example"
    with running([checkpoint], backbone("qwen3"), KEYS, cors=(page,)) as server:
        asked = {"Origin": page, "Access-Control-Request-Method": "POST"}
        for header in ("x-api-key", "authorization"):
            wanted = {"Access-Control-Request-Headers": f"{header},content-type"}
            answer = server.ask("OPTIONS", "/v1/embeddings", headers={**asked, **wanted})
            assert answer.status == 200, answer.body
            assert header in answer.headers["access-control-allow-headers"]
        others = server.ask("OPTIONS", "/v1/embeddings", headers={**asked, "Origin": "http://other.example"})
        assert others.status == 400


# -- keys ------------------------------------------------------------------------------------------------


def test_keys_open_and_are_named(backbone: Get, checkpoint: Path) -> None:
    """Every route but health and readiness needs one; requests are counted by its name."""
    with running([checkpoint], backbone("qwen3"), keys=KEYS) as server:
        for path in ("/v1/models", "/metrics", "/docs", "/openapi.json", "/nothing"):
            refused = server.get(path)
            assert (refused.status, refused.code) == (401, "invalid_api_key")
            assert refused.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer kkk", "Bearer ", "Basic " + "k" * 20, "k" * 20, "Bearer \xff"):
            assert server.get("/v1/models", Authorization=wrong).status == 401
        for path in ("/health", "/ready"):
            assert server.get(path).status == 200
        assert server.get("/v1/models", Authorization="Bearer " + KEYS["law"]).status == 200
        assert server.ask("GET", "/v1/models", headers={"X-API-Key": KEYS["shop"]}).status == 200
        text = server.get("/metrics", Authorization="Bearer " + KEYS["shop"]).body.decode()
        assert 'foresay_requests_total{key="law",route="/v1/models",status="200"} 1.0' in text


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """In constant time each, and all of them, so that the time does not tell which one is right."""
    import hmac

    compared, compare = [], hmac.compare_digest

    def noting(left: bytes, right: bytes) -> bool:
        compared.append(right)
        return compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    keys = Keys(KEYS)
    for key, name in ((KEYS["shop"], "shop"), (KEYS["law"], "law"), ("none", None)):
        compared.clear()
        assert keys.name_of(key) == name
        assert len(compared) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shop:" + "k" * 15, "entry 1"),
        ("# keys\n\nshop " + "k" * 20, "entry 3"),
        ("a:" + "k" * 20 + "\na:" + "l" * 20, "already"),
        ("", "no API keys"),
        ("my shop:" + "k" * 20, "entry 1"),
    ],
)
def test_keys_that_cannot_be_used_are_refused(text: str, message: str, tmp_path: Path) -> None:
    """With the entry at fault, and never with the key."""
    path = tmp_path / "keys.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as refused:
        read_keys(str(path))
    assert "kkk" not in str(refused.value)


def test_keys_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file goes first."""
    monkeypatch.setenv("FORESAY_API_KEYS", "a:" + "k" * 20 + ", b:" + "l" * 20)
    assert read_keys("").names == ["a", "b"]
    path = tmp_path / "keys.txt"
    path.write_text("c:" + "m" * 20)
    assert read_keys(str(path)).names == ["c"]
    with pytest.raises(InputError, match="cannot read"):
        read_keys(str(tmp_path / "missing"))


def test_an_open_address_needs_keys_or_the_word(checkpoint: Path) -> None:
    """Before anything is loaded."""
    with pytest.raises(InputError, match="--open"):
        serve([str(checkpoint)], ServeConfig(host="0.0.0.0"))


def test_a_web_page_cannot_reach_a_server_on_loopback(server: Running, backbone: Get, checkpoint: Path) -> None:
    """Neither under a name of its own, nor from an origin that nobody allowed."""
    assert server.get("/v1/models", Host="evil.example").code == "wrong_host"
    for host in ("localhost:1", "127.0.0.1", "[::1]:80"):
        assert server.get("/v1/models", Host=host).status == 200
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in server.ask("OPTIONS", "/v1/embeddings", headers=asked).headers
    plain = {"Content-Type": "text/plain"}  # what a page may send without asking
    assert server.post("/v1/embeddings", b'{"input": "x"}', plain).code == "invalid_json"
    with running([checkpoint], backbone("qwen3"), cors=("https://a.example",)) as other:
        allowed = other.ask("OPTIONS", "/v1/embeddings", headers=asked).headers
        assert allowed["access-control-allow-origin"] == "https://a.example"
        foreign = {**asked, "Origin": "https://b.example"}
        assert "access-control-allow-origin" not in other.ask("OPTIONS", "/v1/embeddings", headers=foreign).headers


def test_every_answer_has_secure_headers_and_an_id(server: Running) -> None:
    """Errors too; an id of the client's is kept if it is one."""
    for path in ("/v1/models", "/nothing", "/docs", "/health"):
        headers = server.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
        assert headers["x-request-id"]
    assert server.ask("GET", "/health", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert server.ask("GET", "/health", headers={"X-Request-Id": "a b\tc"}).headers["x-request-id"] != "a b\tc"


def test_routes_and_methods_that_do_not_exist(server: Running) -> None:
    """In OpenAI's shape."""
    assert server.get("/nothing").code == "unknown_route"
    wrong = server.get("/v1/embeddings")
    assert (wrong.status, wrong.code, wrong.headers["allow"]) == (405, "unknown_method", "POST")
    assert server.post("/admin/checkpoints", {"path": "x"}).code == "unknown_route"


# -- limits ----------------------------------------------------------------------------------------------


def test_bodies_are_bounded_whatever_they_announce(server: Running) -> None:
    """By Content-Length at once, and by what comes where there is none."""
    large = {"input": ["word " * 100] * 60}
    assert (answer := server.post("/v1/embeddings", large)).status == 413 and answer.code == "body_too_large"
    raw = json.dumps(large).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(raw[i : i + 999]), raw[i : i + 999]) for i in range(0, len(raw), 999))
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            connection.sendall(chunks + b"0\r\n\r\n")
        except OSError:
            pass  # it has heard enough
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    while_sending = server.post("/v1/embeddings", {"input": "word " * 4_000_000})  # 20 MB: no socket buffers that much
    assert (while_sending.status, while_sending.code) == (413, "body_too_large")
    assert server.post("/v1/embeddings", {"input": ["word " * 300] * 12}).code == "too_many_tokens"
    assert server.post("/v1/embeddings", {"input": "x"}).status == 200


@pytest.mark.parametrize("pieces", [[b"x" * 9], [b"x" * 3, b"x" * 9], [b"x" * 9, b"x" * 3]])
def test_a_body_that_is_too_large_is_answered_once_it_has_been_heard(pieces: list[bytes]) -> None:
    """Whatever its pieces are, the one that is too much can be the last; nothing is waited for after that."""
    waiting: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": more > 1}
        for piece, more in zip(pieces, range(len(pieces), 0, -1), strict=True)
    ]

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()  # for ever
        return waiting.pop(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ApiError):  # a framework answers whatever goes wrong while it reads
            while (await receive())["more_body"]:
                pass

    async def send(message: Message) -> None:
        raise AssertionError("the answer is the gate's to give")

    async def ask() -> None:
        limits = Limits(app, Metrics(), max_body=8, max_requests=1, patience=60)
        scope = {"type": "http", "path": "/v1/embeddings", "headers": []}
        with pytest.raises(ApiError) as refused:
            await asyncio.wait_for(limits(scope, receive, send), 20)
        assert refused.value.status == 413 and not waiting

    asyncio.run(ask())


def test_a_full_queue_refuses_with_the_time_to_wait(server: Running) -> None:
    """429 and Retry-After while it is full; afterwards all goes on."""
    gate, ticket = Event(), server.service.ticket()
    server.service.engine.call(lambda: gate.wait(20), ticket)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(server.post, "/v1/embeddings", {"input": ["some words"] * 4}) for _ in range(20)]
        deadline = time.monotonic() + 20
        while sum(one.done() for one in asked) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        gate.set()
        answers = [one.result() for one in asked]
    refused = [answer for answer in answers if answer.status == 429]
    assert refused and all(answer.status in (200, 429) for answer in answers)
    assert {answer.code for answer in refused} == {"queue_full"}
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
    assert server.post("/v1/embeddings", {"input": "x"}).status == 200
    assert server.service.engine.queue.waiting == 0
    assert server.metric("foresay_refused_total") >= len(refused)


def test_a_request_that_takes_too_long_fails(backbone: Get, checkpoint: Path) -> None:
    """With 504, also when the model hangs, and its work is dropped."""
    with running([checkpoint], backbone("qwen3"), timeout=0.5) as server:
        gate = Event()
        server.service.engine.call(lambda: gate.wait(20), server.service.ticket())
        started = time.monotonic()
        late = server.post("/v1/embeddings", {"input": "x"})
        assert (late.status, late.code) == (504, "timeout")
        assert time.monotonic() - started < 5
        gate.set()
        assert server.post("/v1/embeddings", {"input": "x"}).status == 200


# -- health ----------------------------------------------------------------------------------------------


def test_ready_fails_when_the_model_does(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that gives other vectors, or none, is not ready; the process is alive all the same."""
    from foresay.serving.routes import health

    monkeypatch.setattr(health, "KEPT_SECONDS", 0.0)
    assert server.get("/ready").status == 200
    model = server.service.registry.all()[0].encoder.model
    weights = model.special_tokens.data.clone()
    model.special_tokens.data.mul_(3)
    assert (answer := server.get("/ready")).status == 503 and "golden" in answer.json["error"]["message"]
    model.special_tokens.data.fill_(float("nan"))
    assert server.get("/ready").status == 503
    broken = server.post("/v1/embeddings", {"input": "x"})
    assert (broken.status, broken.code) == (500, "model_error")
    assert server.get("/health").status == 200
    model.special_tokens.data.copy_(weights)
    assert server.get("/ready").status == 200
    monkeypatch.setattr(health, "PATIENCE", 0.2)
    gate = Event()
    server.service.engine.call(lambda: gate.wait(20), server.service.ticket())
    assert server.get("/ready").status == 503
    gate.set()


def test_health_fails_when_the_engine_is_dead(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ended its thread; and nobody waits for it."""

    def die() -> None:
        raise SystemExit

    monkeypatch.setattr(server.service.engine, "_sweep", die)
    answer = server.post("/v1/embeddings", {"input": "x"})
    assert (answer.status, answer.code) == (503, "shutting_down")
    assert server.get("/health").status == 503
    assert server.get("/ready").status == 503


def test_metrics_tell_what_happens(server: Running) -> None:
    """Times of every stage, tokens, batch fill, refusals."""
    server.post("/v1/embeddings", {"input": ["a few words", "x"]})
    server.post("/v1/completions", {"prompt": "x", "max_tokens": 3, "logit_bias": {"2": -100}})
    text = server.get("/metrics").body.decode()
    for name in ("tokenize", "queue", "serialize", "run", "request"):
        assert server.metric(f"foresay_{name}_seconds_count") >= 1, name
    assert 'foresay_tokens_total{kind="written"} 3.0' in text
    assert server.metric("foresay_batch_fill_count") == 1
    server.post("/v1/embeddings", {"input": "x", "colour": "red"})
    assert 'route="/v1/embeddings",status="400"' in server.get("/metrics").body.decode()


def test_logs_hold_no_text(server: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of requests that succeed, not of refused ones, and not of errors whose message quotes one."""
    caplog.set_level(logging.DEBUG)
    lane = server.service.registry.all()[0].embeddings

    def quote(rows: Any) -> Any:  # noqa: ANN401
        raise ValueError(f"what is {SECRET}?")

    chat = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 3}
    server.post("/v1/embeddings", {"input": SECRET})
    server.post("/v1/embeddings", {"input": SECRET, "colour": SECRET, SECRET: 1})
    server.post("/v1/embeddings", {"input": [SECRET, 3]})
    server.post("/v1/chat/completions", chat)
    server.post("/v1/rerank", {"query": SECRET, "documents": [SECRET]})
    object.__setattr__(lane, "run", quote)
    broken = server.post("/v1/embeddings", {"input": SECRET}, {"X-Request-Id": "find-me"})
    assert (broken.status, broken.code) == (500, "internal") and "find-me" in broken.json["error"]["message"]
    lines = [JsonLines().format(record) for record in caplog.records if record.name.startswith(("foresay", "uvicorn"))]
    objects = [json.loads(line) for line in lines]
    assert not [line for line in lines if "Ada" in line]
    assert SECRET.encode() not in broken.body
    assert [one for one in objects if one.get("id") == "find-me" and one.get("error") == "ValueError"]
    first = next(one for one in objects if one["message"] == "request")
    assert {"id", "route", "status", "seconds", "tokens", "items", "key", "time", "level"} <= set(first)


# -- checkpoints at run time -----------------------------------------------------------------------------


def test_checkpoints_come_and_go_while_the_server_runs(backbone: Get, checkpoint: Path, tmp_path: Path) -> None:
    """With the admin key alone; one of another backbone, or damaged, is refused by name."""
    other = make_checkpoint(backbone("qwen3"), tmp_path / "two", seed=1)
    foreign = make_checkpoint(backbone("llama"), tmp_path / "foreign")
    damaged = make_checkpoint(backbone("qwen3"), tmp_path / "damaged")
    (damaged / "foresay.safetensors").write_bytes((other / "foresay.safetensors").read_bytes())
    admin = {"Authorization": "Bearer " + "a" * 20}
    with running([checkpoint], backbone("qwen3"), keys=KEYS, admin="a" * 20) as server:
        user = {"Authorization": "Bearer " + KEYS["shop"]}

        def add(path: Path, headers: dict[str, str] = admin, **name: str) -> Any:  # noqa: ANN401
            return server.post("/admin/checkpoints", {"path": str(path), **name}, headers)

        def embed(model: str) -> int:
            return server.post("/v1/embeddings", {"input": "x", "model": model}, user).status

        assert add(other, user).status == 401
        assert server.ask("GET", "/v1/models", headers=admin).status == 401
        assert embed("new") == 404
        added = add(other, name="new")
        assert (added.status, added.json["id"]) == (201, "new")
        assert embed("new") == 200
        assert add(other, name="new").status == 400
        refused = add(foreign)
        assert refused.status == 409 and "foreign" in refused.json["error"]["message"]
        assert (broken := add(damaged)).status == 409 and "golden" in broken.json["error"]["message"]
        assert add(tmp_path / "missing").status == 409
        assert server.ask("DELETE", "/admin/checkpoints/new", headers=user).status == 401
        assert server.ask("DELETE", "/admin/checkpoints/new", headers=admin).json["deleted"]
        assert embed("new") == 404
        assert server.ask("DELETE", "/admin/checkpoints/new", headers=admin).status == 404
        assert server.ask("DELETE", "/admin/checkpoints/one", headers=admin).status == 400
        assert embed("one") == 200


def test_an_address_that_cannot_be_listened_on(tmp_path: Path) -> None:
    """Said with host, port and repair, before a model is loaded."""
    missing = [str(tmp_path / "missing")]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"127\.0\.0\.1 port {port}: another program .* --port"):
            serve(missing, ServeConfig(port=port))
    with pytest.raises(InputError, match=r"--host not\.a\.host is no name"):
        serve(missing, ServeConfig(host="not.a.host", open=True))
    with pytest.raises(InputError, match=r"192\.0\.2\.1 port 8000: this machine does not have"):
        serve(missing, ServeConfig(host="192.0.2.1", open=True))


def test_a_port_that_is_none() -> None:
    """Said before a model is loaded."""
    with pytest.raises(InputError, match="port is 99999; expected at most 65535"):
        ServeConfig(port=99_999)
