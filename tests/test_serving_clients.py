"""Real clients: the openai package, mteb and curl. LangChain and LlamaIndex run in an environment of their own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import openai
import pytest

from foresay.backbone import Backbone
from foresay.encoder import Encoder

from .conftest import SENTENCES
from .serving import Running, make_checkpoint, running

KEY = "k" * 24
CLIENTS = Path(__file__).parents[1] / ".venv-clients" / "bin" / "python"
"""What `make test-clients` makes."""


@pytest.fixture(scope="module")
def checkpoint(backbone: Callable[[str], Backbone], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint."""
    return make_checkpoint(backbone("qwen3"), tmp_path_factory.mktemp("served") / "one", max_tokens=400)


@pytest.fixture(scope="module")
def server(backbone: Callable[[str], Backbone], checkpoint: Path) -> Iterator[Running]:
    """A server with a key."""
    with running([checkpoint], backbone("qwen3"), keys={"test": KEY}, max_items=100) as found:
        yield found


@pytest.fixture(scope="module")
def encoder(backbone: Callable[[str], Backbone], checkpoint: Path) -> Encoder:
    """The checkpoint in process."""
    return Encoder.from_pretrained(checkpoint, backbone=backbone("qwen3"))


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    """OpenAI's own client."""
    with openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0) as found:
        yield found


def test_openai_embeds(client: openai.OpenAI, encoder: Encoder) -> None:
    """With its default, which is base64, and with options of ours."""
    found = client.embeddings.create(model="one", input=SENTENCES)
    vectors = np.array([one.embedding for one in found.data])
    np.testing.assert_allclose(vectors, encoder.encode_query(SENTENCES), atol=1e-5)
    assert found.usage.prompt_tokens > 0
    shorter = client.embeddings.create(
        model="one", input=SENTENCES, dimensions=4, encoding_format="float", extra_body={"input_type": "document"}
    )
    wanted = encoder.encode_document(SENTENCES, truncate_dim=4)
    np.testing.assert_allclose([one.embedding for one in shorter.data], wanted, atol=1e-5)


def test_openai_chats_and_streams(client: openai.OpenAI) -> None:
    """The pieces of a stream are the whole answer."""
    how: dict[str, Any] = {
        "model": "one",
        "messages": [{"role": "user", "content": SENTENCES[0]}],
        "temperature": 0,
        "max_completion_tokens": 20,
    }
    whole = client.chat.completions.create(**how)
    pieces = list(client.chat.completions.create(**how, stream=True, stream_options={"include_usage": True}))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == whole.choices[0].message.content
    assert pieces[-1].usage == whole.usage
    completion = client.completions.create(model="one", prompt="Once", max_tokens=5, temperature=0, logprobs=2)
    assert completion.choices[0].logprobs is not None
    assert completion.choices[0].logprobs.top_logprobs is not None
    assert len(completion.choices[0].logprobs.top_logprobs[0]) == 2


def test_openai_finds_models_and_understands_errors(client: openai.OpenAI, server: Running) -> None:
    """Each with the class that its users catch."""
    assert [model.id for model in client.models.list()][0] == "one"
    assert client.models.retrieve("one").owned_by == "foresay"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="two", input="x")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="one", input="x", dimensions=5)
    with pytest.raises(openai.UnprocessableEntityError):
        client.embeddings.create(model="one", input="x " * 500, extra_body={"truncate": False})
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=server.url, api_key="wrong", max_retries=0).models.list()


class _Characters:
    """In place of tiktoken's tokenizers, which are files on the network; the wrapper only counts with them."""

    def encode(self, text: str) -> list[int]:
        return list(map(ord, text))

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def test_mteb(client: openai.OpenAI, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its wrapper of OpenAI's API, empty text and short width included."""
    wrapper = pytest.importorskip("mteb.models.model_implementations.openai_models")
    names = {"get_encoding": lambda _: _Characters()}
    monkeypatch.setitem(sys.modules, "tiktoken", SimpleNamespace(**names))
    for width in (encoder.model.dim, 4):
        model = wrapper.OpenAIModel("foresay/one", max_tokens=8191, embed_dim=width, client=client)
        batches = [{"text": SENTENCES[:2]}, {"text": [" ", *SENTENCES[2:]]}]
        found = model.encode(batches, task_metadata=None, hf_split="test", hf_subset="default")
        assert not found[2].any()
        wanted = encoder.encode_query(SENTENCES, truncate_dim=width)
        np.testing.assert_allclose(np.delete(found, 2, axis=0), wanted, atol=1e-5)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed on this machine")
def test_curl(server: Running, encoder: Encoder) -> None:
    """The lines of docs/serving.md."""
    body = json.dumps({"model": "one", "input": SENTENCES})
    command = ["curl", "--silent", "--fail", f"{server.url}/embeddings", "-H", "Content-Type: application/json"]
    out = subprocess.run(
        [*command, "-H", f"Authorization: Bearer {KEY}", "-d", body], capture_output=True, check=True, timeout=60
    ).stdout
    vectors = [one["embedding"] for one in json.loads(out)["data"]]
    np.testing.assert_allclose(vectors, encoder.encode_query(SENTENCES), atol=1e-5)
    refused = subprocess.run([*command, "-d", body], capture_output=True, timeout=60)
    assert refused.returncode == 22  # curl's code for an HTTP error


@pytest.mark.clients
@pytest.mark.skipif(not CLIENTS.is_file(), reason="make test-clients makes the environment that this needs")
@pytest.mark.parametrize("framework", ["langchain", "llama_index"])
def test_frameworks(framework: str, server: Running, encoder: Encoder) -> None:
    """Their OpenAI classes, in a process of their own, give the encoder's vectors and the server's text."""
    script = Path(__file__).parent / "clients" / f"{framework}_client.py"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    out = subprocess.run(
        [str(CLIENTS), str(script), server.url, KEY, json.dumps(SENTENCES)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert out.returncode == 0, out.stderr
    found = json.loads(out.stdout.splitlines()[-1])
    np.testing.assert_allclose(found["queries"], encoder.encode_query(SENTENCES), atol=1e-5)
    np.testing.assert_allclose(found["documents"], encoder.encode_document(SENTENCES), atol=1e-5)
    body = {"messages": [{"role": "user", "content": SENTENCES[0]}], "temperature": 0, "max_tokens": 20}
    answer = server.post("/v1/chat/completions", body, {"Authorization": f"Bearer {KEY}"}).json
    assert found["chat"] == found["stream"] == answer["choices"][0]["message"]["content"]


def test_the_command_line_serves(tmp_path: Path) -> None:
    """`--help` needs neither torch nor the server's libraries."""
    code = (
        "import sys, foresay.cli.main as m\n"
        "try: m.main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'fastapi'} & set(sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "--api-keys" in out and "foresay serve checkpoint" in out
