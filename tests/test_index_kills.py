"""An index whose writers are killed at random moments loses and doubles nothing."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from foresay.retrieval.store import Store

RACE = """
import hashlib, sys, time
import numpy as np
from foresay import Index, IndexConfig, migrate
from foresay.backbone import Backbone
from foresay.encoder import Encoder
from foresay.model import Model
from foresay.retrieval import index, rewriting
from foresay.retrieval.documents import Document
place, folder, what = sys.argv[1:]
backbone = Backbone.load(folder, device="cpu")
encoders = [Encoder(Model(backbone, thought=1, compression=3, dim=12, seed=seed), max_tokens=64) for seed in (0, 1)]
for module in (index, rewriting):
    module.BLOCK, module.TIDY = 8, 3

def embed(self, texts, **_):
    time.sleep(0.06)
    seeds = [hashlib.sha256(f"{self is encoders[1]}{text}".encode()).digest()[:8] for text in texts]
    return np.stack([np.random.default_rng(int.from_bytes(s)).normal(size=12).astype(np.float32) for s in seeds])

Encoder.encode_document = embed
items = [Document(f"d{i}", f"text {i} version {'two' if i % 3 else 'one'} " * (1 + i % 5)) for i in range(96)]
print("ready", flush=True)
if what == "create":
    import os
    if not os.path.exists(place + "/index.json"):
        Index.create(place, encoders[0], IndexConfig(chunk_tokens=12)).add(
            Document(f"d{i}", f"text {i} version one " * (1 + i % 5)) for i in range(0, 96, 2))
    Index.open(place, encoders[0]).add(items)
else:
    migrate(place, encoders[1])
"""


def race(command: Sequence[str], kills: int) -> int:
    """Runs a command again and again, killed at random moments, the last time to its end: how often it was killed.

    Each run is a process of its own: a fork of one that has loaded torch and LanceDB can wait for ever for a lock that
    a thread held.
    """
    rng, killed = np.random.default_rng(7), 0
    for attempt in range(kills + 1):
        process = subprocess.Popen(
            command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        if attempt < kills:
            time.sleep(rng.uniform(0, 0.5))
            process.kill()
        _, said = process.communicate(timeout=120)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, said
        killed += 1
    return killed


@pytest.mark.slow
def test_kills_at_random_moments_lose_and_double_nothing(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """While an index is made and filled, and while it is migrated: every document once, in its last version."""
    place = tmp_path / "index"
    for what in ("create", "migrate"):
        command = [sys.executable, "-c", RACE, str(place), str(folder("qwen3")), what]
        assert race(command, kills=3) >= 2, "killed too rarely to show anything"
        name = "rows-1" if what == "create" else "rows-2"
        rows = Store.open(place / "tables", name).head(["id", "chunk", "start", "text"], 10_000).to_pylist()
        assert len({(row["id"], row["chunk"]) for row in rows}) == len(rows)
        assert {row["id"] for row in rows} == {f"d{i}" for i in range(96)}
        for i in range(96):
            found = sorted((row["start"], row["chunk"], row["text"]) for row in rows if row["id"] == f"d{i}")
            assert [chunk for _, chunk, _ in found] == list(range(len(found)))
            whole = (f"text {i} version {'two' if i % 3 else 'one'} " * (1 + i % 5)).split()
            assert " ".join(text for _, _, text in found).split() == whole
    assert Store.names(place / "tables") == ["rows-2"]
