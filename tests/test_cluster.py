"""A step's work on a Ray cluster: a head and two machines, all of them here. `make test-cluster`.

What one machine would have written comes out, also when a worker and then a machine die; a row that kills its workers
ends among the rejects.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foresay.backbone import Backbone
from foresay.checkpoints.save import save
from foresay.cluster.ray_pool import TRIES, RayPool, _Part
from foresay.config import ClusterConfig, RespondConfig, TeachConfig
from foresay.data.queries import Query
from foresay.encoder import Encoder
from foresay.engines.pooled import PooledEngine
from foresay.engines.respond import Summary, respond
from foresay.errors import BackboneError, DataError, InputError
from foresay.evaluation import load_scores
from foresay.model import Model
from foresay.teachers.load import load_teacher
from foresay.teachers.remote import RemoteTeacher, TeachWork
from foresay.teachers.teach import teach

from .cluster_works import Backwards, Fails
from .commands import run
from .made_tasks import write

QUERIES = [Query(f"q{n}", f"{'first' if n < 20 else 'then'} {n}") for n in range(60)]
ROOT = Path(__file__).parents[1]


# -- without a cluster -----------------------------------------------------------------------------------


def test_a_part_that_kills_is_halved() -> None:
    """Once more as it is, then in halves; the item that does it is given up after three deaths of its own workers."""
    poison, todo, deaths, good = 5, [_Part(0, range(8), "abcdefgh")], 0, set[int]()
    given_up: list[int] = []
    alone = 0
    while todo:
        part = todo.pop()
        if poison not in part.places:
            good.update(part.places)
            continue
        deaths += 1
        alone += len(part.items) == 1
        given_up += part.given_up()
        todo.extend(part.again())
    assert good == set(range(8)) - {poison} and given_up == [poison]
    assert deaths >= TRIES and deaths <= 2 + 3 + alone and 1 < alone <= TRIES


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names the command; options of a cluster need one."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--cluster needs Ray: pip install 'foresay\[cluster\]'"):
        RayPool(Backwards(), ClusterConfig(cluster="auto"))
    with pytest.raises(InputError, match="--worker-gpus is of a cluster's workers; add --cluster"):
        ClusterConfig(worker_gpus=0.5)


# -- with one --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head without a place for workers, and two machines with one each."""
    pytest.importorskip("ray", reason="pip install 'foresay[cluster]'")
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        memory = {"object_store_memory": 80_000_000}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory})
        for _ in range(2):
            cluster.add_node(num_cpus=1, **memory)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
        ray.shutdown()
        cluster.shutdown()


cluster = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.filterwarnings("default")]


def marked(test: Callable[..., None]) -> Callable[..., None]:
    """A test that needs the cluster."""
    for mark in cluster:
        test = mark(test)
    return test


def lines(path: Path) -> list[bytes]:
    """A file's rows, in an order of their own."""
    return sorted(path.read_bytes().splitlines())


def answer(work: Backwards, output: Path, queries: list[Query], progress: Any = None) -> Summary:  # noqa: ANN401
    """A run over the cluster, in pieces of up to eight rows."""
    with RayPool(work, ClusterConfig(cluster="auto")) as pool:
        return respond(queries, PooledEngine(pool, pool.workers, 1), output, RespondConfig(), progress)


@marked
def test_the_commands(
    machines: Any,  # noqa: ANN401
    folder: Callable[[str], Path],
    backbone: Callable[[str], Backbone],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """respond, teach, encode and evaluate with a tiny model: byte for byte what one machine writes."""
    model, source, checkpoint = folder("qwen3"), tmp_path / "q.jsonl", tmp_path / "checkpoint"
    source.write_text("".join(json.dumps({"id": q.id, "query": q.text}) + "\n" for q in QUERIES[:20]))
    save(checkpoint, Encoder(Model(backbone("qwen3"), thought=0, compression=3, dim=8)))
    write(tmp_path / "sts", "sts")
    here, there = ["--device", "cpu"], ["--device", "cpu", "--cluster", "auto"]
    for name, where in (("one", here), ("many", there)):
        run("respond", source, "-m", model, "-o", tmp_path / f"{name}.jsonl", "--max-new-tokens", 6, *where)
        run("teach", tmp_path / "one.jsonl", "-t", "self", "-m", model, "-o", tmp_path / f"{name}-targets", *where)
        shards = ["--shards", "npy", "--shard-rows", 6]
        run("encode", checkpoint, source, "-o", tmp_path / f"{name}-vectors", *shards, *where)
        run("evaluate", checkpoint, tmp_path / "sts", "-o", tmp_path / f"{name}-scores", *where)
    assert lines(tmp_path / "one.jsonl") == lines(tmp_path / "many.jsonl")
    one, many = (load_scores(tmp_path / f"{name}-scores") for name in ("one", "many"))
    assert [(score.metric, score.value) for score in one] == [(score.metric, score.value) for score in many]
    for name in ("targets", "vectors"):
        first, second = tmp_path / f"one-{name}", tmp_path / f"many-{name}"
        assert sorted(f.name for f in first.iterdir()) == sorted(f.name for f in second.iterdir())
        for file in first.iterdir():
            assert file.read_bytes() == (second / file.name).read_bytes(), file.name
    assert (tmp_path / "one.manifest.json").read_text() == (tmp_path / "many.manifest.json").read_text()
    # several blocks, side by side
    monkeypatch.setattr("foresay.teachers.teach.BLOCK", 4)
    monkeypatch.setattr("foresay.teachers.remote.BLOCK", 4)
    alone = load_teacher("self", backbone("qwen3"), "cpu", TeachConfig())
    teach(tmp_path / "one.jsonl", alone, tmp_path / "blocks-one")
    with RayPool(TeachWork("self", str(model), "auto", TeachConfig()), ClusterConfig(cluster="auto"), "cpu") as pool:
        teach(tmp_path / "one.jsonl", RemoteTeacher(pool, pool.workers), tmp_path / "blocks-many")
    assert np.array_equal(*(np.load(tmp_path / f"blocks-{name}" / "vectors.npy") for name in ("one", "many")))


@marked
def test_a_row_that_kills_its_workers(machines: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """It is rejected, and so is one that the engine refuses; the others are answered, and the run resumes."""
    queries = [*QUERIES[:10], Query("bad", "poison"), Query("long", "x" * 101)]
    summary = answer(Backwards(), tmp_path / "r.jsonl", queries)
    assert (summary.written, summary.rejected) == (10, 2)
    side = [json.loads(line) for line in (tmp_path / "r.rejected.jsonl").read_text().splitlines()]
    assert {json.loads(row["row"])["id"]: row["reason"] for row in side} == {
        "bad": f"its worker died each of the {TRIES} times it was tried",
        "long": "too long",
    }
    assert answer(Backwards(), tmp_path / "r.jsonl", queries) == Summary(0, 10, 2, 0)


@marked
def test_a_work_that_cannot_be_opened(machines: Any) -> None:  # noqa: ANN401
    """Its own error, as on one machine; and one line where the workers die of it."""
    with pytest.raises(BackboneError, match="no such model here"), RayPool(Fails(False), ClusterConfig("auto")) as pool:
        pool.describe()
    with pytest.raises(DataError, match="3 workers in a row died"), RayPool(Fails(True), ClusterConfig("auto")) as pool:
        pool.describe()


@marked
def test_a_worker_and_a_machine_die(machines: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """In the middle of a run, one after the other: it costs time, and nothing else."""
    respond(QUERIES, Backwards(), tmp_path / "one.jsonl", RespondConfig())
    died_at: list[int] = []

    def progress(now: int, total: int | None, note: str) -> None:
        if not died_at and (tmp_path / "mark").exists():  # a worker has died by then
            machines.remove_node(machines.worker_nodes.copy().pop(), allow_graceful=False)
            died_at.append(now)

    work = Backwards(str(tmp_path / "mark"), pause=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foresay.engines.respond._ROWS", 1)
        summary = answer(work, tmp_path / "many.jsonl", QUERIES, progress)
    assert summary == Summary(len(QUERIES), 0, 0, 0) and died_at[0] < len(QUERIES) / 2
    assert lines(tmp_path / "many.jsonl") == lines(tmp_path / "one.jsonl")
    assert len(machines.list_all_nodes()) == 2
