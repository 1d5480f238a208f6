"""Requests generated from the OpenAPI description: none ends in a server error or in an undocumented answer.

A short run; `make fuzz` does 50,000 calls.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

import serving_fuzz
from foresay.backbone import Backbone

from .serving import make_checkpoint, running


@pytest.mark.filterwarnings("ignore")  # the generator's own
def test_generated_requests(backbone: Callable[[str], Backbone], tmp_path: Path) -> None:
    """Valid and invalid ones, for every route."""
    with running([make_checkpoint(backbone("qwen3"), tmp_path / "one")], backbone("qwen3"), max_new_tokens=4) as server:
        found = serving_fuzz.fuzz(f"http://127.0.0.1:{server.port}", calls=300, seconds=25)
        assert not found["failures"], found["failures"][:3]
        assert found["calls"] >= 30 and {200, 400} <= set(found["statuses"])
        assert server.get("/ready").status == 200
