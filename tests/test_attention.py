"""The attention of a training step: plain for short rows on a CPU in bfloat16, with the same gradient, and set back."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from foresay.backbone import Backbone
from foresay.model import Model
from foresay.training import attention
from foresay.training.step import gradient
from step_attention import measure

from .making import QUERIES, RESPONSES, small

Get = Callable[[str], Backbone]


def step(base: Backbone, **changes: object) -> tuple[float, torch.Tensor]:
    """The loss of a step and its gradient, all weights in a row."""
    model = Model(base, thought=1, compression=3, dim=8, readout="tokens", reconstruct="tokens", template="chat")
    rows, _ = model.rows(QUERIES[:8], 60)
    answers = [[*ids, base.end_id] for ids in base.tokenize(RESPONSES[:8])]
    targets = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    loss = gradient(model, rows, answers, targets, small(**changes))["loss"]
    return loss, torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "mistral", "gpt_neox"])
def test_both_give_the_same_gradient(folder: Callable[[str], Path], family: str) -> None:
    """In float32, where rounding hides nothing; padded rows and sliding windows too."""
    base = Backbone.load(str(folder(family)), device="cpu")
    found = {}
    for kind in ("sdpa", "eager"):
        base.model.set_attn_implementation(kind)
        found[kind] = step(base)
    assert found["eager"][0] == pytest.approx(found["sdpa"][0], rel=1e-5)
    torch.testing.assert_close(found["eager"][1], found["sdpa"][1], rtol=1e-4, atol=1e-5)


def test_short_rows_in_bfloat16(folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A step runs the plain one, within rounding of the other, however it is cut; afterwards all is as before."""
    base = Backbone.load(str(folder("qwen3")), device="cpu", dtype="bfloat16")
    seen = []
    decoder = base.decoder
    decoder.register_forward_pre_hook(lambda *_: seen.append(base.model.config._attn_implementation))
    plain, cut = step(base), step(base, micro_batch_tokens=60)
    assert set(seen) == {"eager"} and base.model.config._attn_implementation == "sdpa"
    monkeypatch.setattr(attention, "LONGEST", 0)
    seen.clear()
    fused = step(base)
    assert set(seen) == {"sdpa"}
    for loss, slope in (plain, cut):
        assert loss == pytest.approx(fused[0], rel=1e-2)
        assert torch.nn.functional.cosine_similarity(slope, fused[1], dim=0) > 0.99


def test_when_it_is_not_worth_it(backbone: Get, folder: Callable[[str], Path]) -> None:
    """In float32, for long rows, and where the attention is another one already."""
    assert not attention.keeps_matrix(backbone("qwen3"), 20)
    half = Backbone.load(str(folder("qwen3")), device="cpu", dtype="bfloat16")
    assert attention.keeps_matrix(half, attention.LONGEST) and not attention.keeps_matrix(half, attention.LONGEST + 1)
    half.model.set_attn_implementation("eager")
    assert not attention.keeps_matrix(half, 20)


def test_it_is_set_back_after_an_error(folder: Callable[[str], Path]) -> None:
    """As memory that runs out in the middle of a step."""
    half = Backbone.load(str(folder("qwen3")), device="cpu", dtype="bfloat16")
    with pytest.raises(torch.OutOfMemoryError), attention.attention_for(half, 20):
        assert half.model.config._attn_implementation == "eager"
        raise torch.OutOfMemoryError("no more")
    assert half.model.config._attn_implementation == "sdpa"


def test_the_benchmark_runs(folder: Callable[[str], Path]) -> None:
    """On a tiny model; a matrix that is kept takes memory."""
    half = Backbone.load(str(folder("qwen3")), device="cpu", dtype="bfloat16")
    found = measure(half, rows=2, query=5, response=300, repeats=1)
    assert found["eager"][1] > found["sdpa"][1] > 0 and min(found["eager"][0], found["sdpa"][0]) > 0
