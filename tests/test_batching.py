"""The one loop over rows of different lengths: what it cuts, where results go, what runs once."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from foresay.backbone import Backbone
from foresay.batching import Budget, length_batches, run_by_length, shared_prefix
from foresay.model import Model

Get = Callable[[str], Backbone]


def test_length_batches() -> None:
    """The longest first, full batches, and no batch with rows of very different lengths once it is large enough."""
    assert length_batches([1, 5, 3, 5], 10) == [[1, 3], [2, 0]]
    assert length_batches([50], 10) == [[0]]
    assert length_batches([10, 9, 5, 5], 100) == [[0, 1, 2, 3]]
    assert length_batches([10, 9, 5, 5], 100, 15) == [[0, 1], [2, 3]]
    assert length_batches([4, 4, 4, 4, 4], 100, most_rows=2) == [[0, 1], [2, 3], [4]]
    assert length_batches([], 10) == []


def test_results_go_where_their_rows_are() -> None:
    """Row i of every output is of row i, whatever the order in which they ran; numpy arrays fill in place."""
    rows = [[7] * n for n in (3, 1, 9, 2, 9, 0)]
    lengths, sums = np.full(6, -1.0, np.float32), torch.full((6, 2), -1.0)
    seen: list[list[int]] = []

    def run(batch: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append([len(row) for row in batch])
        total = torch.tensor([float(sum(row)) for row in batch], dtype=torch.float64)
        return torch.tensor([float(len(row)) for row in batch]), torch.stack([total, -total], dim=1)

    done: list[int] = []
    run_by_length(rows, run, [torch.from_numpy(lengths), sums], Budget(12, extra=1), done.append)  # type: ignore[arg-type]
    assert seen == [[9], [9], [3, 2, 1], [0]] and done == [1, 1, 3, 1]
    assert lengths.tolist() == [3, 1, 9, 2, 9, 0]
    assert sums.tolist() == [[21, -21], [7, -7], [63, -63], [14, -14], [63, -63], [0, 0]]
    run_by_length([], run, [torch.from_numpy(lengths[:0]), sums[:0]], Budget(12))  # type: ignore[arg-type]
    assert len(seen) == 4


def test_a_short_common_beginning_is_not_shared() -> None:
    """Six tokens pay for the mask that a cache brings; a single row shares with nobody."""
    assert shared_prefix([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 8], [1, 2, 3, 4, 5, 6]]) == 6
    assert shared_prefix([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 7]]) == 0
    assert shared_prefix([[1] * 9]) == shared_prefix([]) == 0


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_a_shared_beginning_runs_once(backbone: Get, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Model.run` gives each row its own states, and feeds a prompt to the model a single time."""
    model = Model(backbone(family), thought=1, compression=3, dim=8)
    prompt = list(range(10, 30))
    rows = [[*prompt, *range(n)] for n in (3, 8, 0, 5)]
    fed: list[int] = []
    whole = torch.cat([model.hidden([row]) for row in rows]).detach()
    inner = model.hidden

    def watched(batch: list[list[int]], prefix: object = None) -> torch.Tensor:
        fed.append(sum(map(len, batch)))
        return inner(batch, prefix)

    monkeypatch.setattr(model, "hidden", watched)
    states = torch.empty_like(whole)
    model.run(rows, lambda hidden: hidden, [states], batch_tokens=64)
    torch.testing.assert_close(states, whole, atol=1e-5, rtol=1e-5)
    assert len(fed) > 1 and sum(fed) == 3 + 8 + 0 + 5
