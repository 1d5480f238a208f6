"""The plain folder inside LangChain, Haystack and LlamaIndex: each runs the code that the checkpoint's card has for it.

They run in an environment of their own, which `make test-hosts` makes. What they rely on, that the folder embeds no
text that does not say its side, is tested in every environment.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from foresay.backbone import Backbone
from foresay.encoder import Encoder
from foresay.model import Model

from .conftest import SENTENCES, save_and_export
from .taught import can_save, fitted, taught

Get = Callable[[str], Backbone]
ROOT = Path(__file__).parents[1]
HOSTS = ROOT / ".venv-hosts" / "bin" / "python"
"""What `make test-hosts` makes."""
PROMPTS = {"query": "Answer this: ", "document": "Sum up: "}


@pytest.fixture
def checkpoints(backbone: Get, tmp_path: Path) -> dict[str, Path]:
    """One that embeds its documents itself, and one whose documents a teacher embeds."""
    base = backbone("qwen3")
    own = Encoder(Model(base, thought=0, compression=3, dim=8), prompts=PROMPTS, max_tokens=60)
    save_and_export(tmp_path / "own", own)
    fitted(tmp_path / "taught", base, taught("sentence-transformers", base, tmp_path))
    return {"own": tmp_path / "own", "taught": tmp_path / "taught"}


def test_no_text_is_embedded_without_its_side(backbone: Get, checkpoints: dict[str, Path]) -> None:
    """The plain library refuses it and names `task`; with it, both sides are the encoder's, from one copy in memory."""
    for folder in checkpoints.values():
        plain = SentenceTransformer(str(folder), device="cpu")
        encoder = Encoder.from_pretrained(folder, backbone=backbone("qwen3"))
        for wrong in ({}, {"prompt_name": "document"}, {"prompt_name": "query"}):
            with pytest.raises(ValueError, match="task|prompt"):
                plain.encode(SENTENCES, **wrong)
        np.testing.assert_allclose(plain.encode_query(SENTENCES), encoder.encode_query(SENTENCES), atol=1e-5)
        np.testing.assert_allclose(plain.encode_document(SENTENCES), encoder.encode_document(SENTENCES), atol=1e-5)
    sides = SentenceTransformer(str(checkpoints["own"]), device="cpu")[0].sub_modules
    assert sides["query"][0] is sides["document"][0]


@can_save
def test_saved_again(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """What the plain library saves gives the same vectors."""
    for folder in checkpoints.values():
        plain = SentenceTransformer(str(folder), device="cpu")
        plain.save_pretrained(str(tmp_path / "again"))
        again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
        np.testing.assert_array_equal(again.encode_document(SENTENCES), plain.encode_document(SENTENCES))


def test_without_prompts_there_are_no_sides(backbone: Get, tmp_path: Path) -> None:
    """Then `encode` cannot be wrong, and works; the card says so."""
    encoder = Encoder(Model(backbone("qwen3"), thought=0, compression=3, dim=8), max_tokens=60)
    save_and_export(tmp_path / "c", encoder)
    plain = SentenceTransformer(str(tmp_path / "c"), device="cpu")
    np.testing.assert_allclose(plain.encode(SENTENCES), encoder.encode_document(SENTENCES), atol=1e-5)
    assert "embedded alike" in (tmp_path / "c" / "README.md").read_text(encoding="utf-8")


@pytest.mark.hosts
@pytest.mark.skipif(not HOSTS.exists(), reason="needs the environment that `make test-hosts` makes")
@pytest.mark.parametrize("kind", ["own", "taught"])
@pytest.mark.parametrize("host", ["langchain", "haystack", "llama_index"])
def test_a_host(backbone: Get, checkpoints: dict[str, Path], host: str, kind: str) -> None:
    """The card's code gives the encoder's vectors on both sides; the host's default is refused aloud."""
    folder = checkpoints[kind]
    command = [str(HOSTS), str(ROOT / "tests" / "hosts" / "run_card.py"), host, str(folder), json.dumps(SENTENCES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    encoder = Encoder.from_pretrained(folder, backbone=backbone("qwen3"))
    for side, expected in (
        ("queries", encoder.encode_query(SENTENCES)),
        ("documents", encoder.encode_document(SENTENCES)),
    ):
        lengths = np.linalg.norm(found[side], axis=1) / np.linalg.norm(expected, axis=1)
        np.testing.assert_allclose(np.array(found[side]) / lengths[:, None], expected, atol=1e-4)
    assert "task" in found["without a side"]
