"""Evaluating with a pool's workers: the scores of this process, and one line where a block has no vectors."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foresay.backbone import Backbone
from foresay.checkpoints.record import Training
from foresay.checkpoints.save import save
from foresay.cluster.work import Done, Here, Piece
from foresay.config import EvaluateConfig
from foresay.encoder import Encoder
from foresay.errors import DataError
from foresay.evaluation import Score
from foresay.evaluation import mteb_model as embedding
from foresay.evaluation.checkpoint_teacher import teacher_of
from foresay.evaluation.encoders import load_encoders, with_documents
from foresay.evaluation.folder_tasks import folder_task
from foresay.evaluation.mteb_model import MtebModel
from foresay.evaluation.remote import EvaluateWork, RemoteEncoder
from foresay.evaluation.run import run_tasks
from foresay.model import Model

from .made_tasks import write


class Backward(Here):
    """A pool of one whose pieces are done last first, as on a cluster they may be."""

    def map(self, pieces: Iterable[Piece]) -> Iterator[Done]:
        """All of them, and then in another order."""
        return reversed(list(super().map(pieces)))


class Loses(Here):
    """A pool whose workers die of everything."""

    def map(self, pieces: Iterable[Piece]) -> Iterator[Done]:
        """Nothing."""
        return (Done(piece.number, [], {0: "its worker died"}) for piece in pieces)


@pytest.fixture
def places(backbone: Callable[[str], Backbone], tmp_path: Path) -> list[str]:
    """Two seeds of a checkpoint whose teacher is the backbone itself."""
    for name, seed in (("a", 1), ("b", 2)):
        model = Model(backbone("qwen3"), thought=1, compression=2, dim=32, seed=seed)
        made = Training("closed form", {}, {"teacher": "self", "max_tokens": 64})
        save(tmp_path / name, Encoder(model, prompts={"query": "Q: "}), made)
    return [str(tmp_path / name) for name in "ab"]


def refuse(*_: object, **__: object) -> Any:  # noqa: ANN401
    """Nothing is embedded in this process."""
    raise AssertionError("embedded here")


def plain(scores: list[Score]) -> list[tuple[str, str, str, float]]:
    """What the two runs have in common."""
    return [(score.task, score.metric, score.embedder, score.value) for score in scores]


@pytest.mark.parametrize("documents", ["own", "teacher"])
def test_a_pool_embeds_the_same(
    documents: Any,  # noqa: ANN401
    places: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks of three texts that come back in another order: each vector is its text's, to the bit."""
    monkeypatch.setattr(embedding, "_BLOCK", 3)
    config = EvaluateConfig(device="cpu", documents=documents)
    tasks = [folder_task(write(tmp_path / "tasks" / kind, kind)) for kind in ("retrieval", "sts", "clustering")]

    def opened() -> list[Encoder]:
        encoders = load_encoders(places, config, "cpu")
        return with_documents(encoders, config, teacher_of(places[0], encoders[0].model.backbone, "cpu"))

    here = run_tasks(dict(zip("ab", opened(), strict=True)), tasks, tmp_path / "here")
    with Backward(EvaluateWork(places, config), "cpu") as pool:
        assert len(set(pool.describe()["encoders"])) == 2
        remote = {}
        for number, (name, encoder) in enumerate(zip("ab", opened(), strict=True)):
            monkeypatch.setattr(encoder, "embed", refuse)
            remote[name] = RemoteEncoder(encoder, pool, number)
        there = run_tasks(remote, tasks, tmp_path / "there")
    assert len(here) == 6 and plain(there) == plain(here)
    for one, other in zip(here, there, strict=True):
        assert one.items.keys() == other.items.keys()
        assert all(np.array_equal(one.items[name], other.items[name]) for name in one.items)
    assert {score.seconds_per_query > 0 for score in there} == {True}


def test_a_block_that_has_no_vectors(places: list[str], tmp_path: Path) -> None:
    """The run ends with its first text, and what was embedded before is kept."""
    config = EvaluateConfig(device="cpu")
    encoder = load_encoders(places[:1], config, "cpu")[0]
    with Here(EvaluateWork(places[:1], config), "cpu") as pool:
        kept = MtebModel("a", RemoteEncoder(encoder, pool, 0), tmp_path).embed(["a fox"], "query")
    with Loses(EvaluateWork(places[:1], config), "cpu") as pool:
        model = MtebModel("a", RemoteEncoder(encoder, pool, 0), tmp_path)
        np.testing.assert_array_equal(model.embed(["a fox"], "query"), kept)
        with pytest.raises(DataError, match="a block of 1 texts, the longest beginning 'rain', has no vectors: its w"):
            model.embed(["a fox", "rain"], "query")
