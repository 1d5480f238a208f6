"""Many texts to a folder of shards: the same numbers however often it is killed, by any number of processes."""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from sentence_transformers import quantize_embeddings

from foresay.backbone import Backbone
from foresay.bulk_encoding import EncodeWork, encode_shards
from foresay.checkpoints.save import save
from foresay.cluster.processes import Processes, parse_devices
from foresay.cluster.work import Done, Here, Piece
from foresay.config import ShardsConfig
from foresay.data.queries import Query, Reject
from foresay.encoder import Encoder
from foresay.errors import DataError, DeviceError, InputError
from foresay.model import Model

from .commands import run
from .kills import start

TEXTS = [Query(f"t{n}", f"text {n} {'of some words ' * (n % 5)}") for n in range(23)]


class Rows:
    """A worker that needs no model: eight numbers that follow from the text; a test may kill it."""

    def open(self, device: str) -> "Rows":
        """Itself."""
        return self

    def describe(self) -> dict[str, Any]:
        """Its width."""
        return {"encoder": "rows", "dim": 8}

    def work(self, items: Sequence[str]) -> Any:  # noqa: ANN401
        """A number for each of the first eight bytes of the text's hash."""
        return np.stack([np.random.default_rng(sum(map(ord, text))).normal(size=8) for text in items]).astype(
            np.float32
        )


class Dies(Rows):
    """Ends its own process at one text."""

    def work(self, items: Sequence[str]) -> Any:  # noqa: ANN401
        """As a process ends that is out of memory."""
        if any("text 13 " in text for text in items):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().work(items)


class Loses:
    """A pool that loses one text, as a cluster does whose workers die of it."""

    def __init__(self) -> None:
        """Around a pool of one."""
        self.pool = Here(Rows(), "cpu")

    def __enter__(self) -> "Loses":
        """Opened."""
        self.pool.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def describe(self) -> dict[str, Any]:
        """The pool's."""
        return self.pool.describe()

    def map(self, pieces: Any) -> Iterator[Done]:  # noqa: ANN401
        """The second text of each piece has no result."""
        for piece in pieces:
            (done,) = self.pool.map([Piece(piece.number, [t for i, t in enumerate(piece.items) if i != 1])])
            yield Done(done.number, done.results, {1: "its worker died"} if len(piece.items) > 1 else {})


def stored(folder: Path) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Ids and vectors of a folder of .npy shards."""
    files = sorted(folder.glob("shard-*.npy"))
    ids = [json.loads(line)["id"] for f in files for line in f.with_suffix(".ids.jsonl").read_text().splitlines()]
    return ids, np.concatenate([np.load(file) for file in files])


def small(**changes: Any) -> ShardsConfig:  # noqa: ANN401
    """Shards of five rows."""
    return ShardsConfig(**{"shards": "npy", "shard_rows": 5, **changes})


def encode(folder: Path, texts: Sequence[Query | Reject] = TEXTS, **changes: Any) -> Any:  # noqa: ANN401
    """A run with the worker that needs no model."""
    with Here(Rows(), "cpu") as pool:
        return encode_shards(iter(texts), pool, folder, small(**changes))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, backbone: Callable[[str], Backbone]) -> Path:
    """A small untrained checkpoint."""
    place = tmp_path_factory.mktemp("shards") / "checkpoint"
    save(place, Encoder(Model(backbone("qwen3"), thought=0, compression=3, dim=8)))
    return place


def test_the_command_in_two_processes(checkpoint: Path, tmp_path: Path) -> None:
    """The vectors of plain `encode`, by two processes and by one; a second run finds nothing to do."""
    source = tmp_path / "texts.jsonl"
    lines = [json.dumps({"id": row.id, "text": row.text}) for row in TEXTS]
    source.write_text("\n".join([*lines, "no json"]))
    expected = Encoder.from_pretrained(checkpoint, device="cpu").encode_query([row.text for row in TEXTS])
    how = ["--shards", "npy", "--shard-rows", 6]
    for name, where in (("two", ["--devices", "cpu,cpu"]), ("one", ["--device", "cpu"])):
        printed = run("encode", checkpoint, source, "-o", tmp_path / name, *how, *where)
        assert "23 embeddings of width 8 as float32, 23 of them new, 1 rows rejected" in printed
        ids, vectors = stored(tmp_path / name)
        assert ids == [row.id for row in TEXTS]
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert np.array_equal(stored(tmp_path / "one")[1], stored(tmp_path / "two")[1])
    again = run("encode", checkpoint, source, "-o", tmp_path / "one", *how, "--device", "cpu")
    assert "23 embeddings of width 8 as float32, 0 of them new, 1 rows rejected" in again
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert (manifest["rows"], manifest["shards"], manifest["as"]) == (23, 4, "query")
    changed = run("encode", checkpoint, source, "-o", tmp_path / "one", *how, "--normalize", "--device", "cpu", code=1)
    assert "was made otherwise: normalize was False and is now True" in changed


MANY = [Query(f"t{n}", f"text {n} x") for n in range(400)]


def encode_many(folder: Path) -> None:
    """A run in a process of its own."""
    os.fsync = lambda fd: None  # a killed process needs none, only a machine without power does
    encode(folder, MANY, precision="int8")


@pytest.mark.skipif(sys.platform == "win32", reason="no fork server")
def test_killed_at_any_moment(tmp_path: Path) -> None:
    """SIGKILL at 25 random moments, in a process of its own: in the end the folder of a run left alone."""
    killed, seen, draw = tmp_path / "killed", set[int](), random.Random(0)
    start(encode_many, tmp_path / "warm-up").join()
    begun = time.perf_counter()
    start(encode_many, tmp_path / "whole").join()
    whole_run = time.perf_counter() - begun
    for kill in range(25):
        process = start(encode_many, killed)
        process.join(draw.random() * whole_run)
        process.kill()
        process.join()
        shards = len(list(killed.glob("shard-*.npy"))) if killed.exists() else 0
        if kill < 24 and shards == len(MANY) // 5:
            shutil.rmtree(killed)  # all done: begin anew, so that the kills hit something
        else:
            seen.add(shards)
    assert len(seen) > 3
    encode(killed, MANY, precision="int8")
    names = [
        sorted(p.name for p in folder.iterdir() if not p.name.endswith(".tmp"))
        for folder in (killed, tmp_path / "whole")
    ]
    assert names[0] == names[1]
    for name in names[0]:
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_precisions_are_the_librarys(tmp_path: Path, precision: Any, kind: str) -> None:  # noqa: ANN401
    """Against sentence-transformers on all vectors at once; int8 by the ranges of the first shard."""
    encode(tmp_path / "v", precision=precision, shards=kind)
    vectors = Rows().work([row.text for row in TEXTS])
    ranges = np.stack([vectors[:5].min(0), vectors[:5].max(0)])
    expected = quantize_embeddings(vectors, precision, ranges=ranges if "int8" in precision else None)
    if kind == "npy":
        ids, found = stored(tmp_path / "v")
    else:
        tables = [parquet.read_table(file) for file in sorted((tmp_path / "v").glob("*.parquet"))]
        ids = [id for table in tables for id in table.column("id").to_pylist()]
        found = np.array([row for table in tables for row in table.column("embedding").to_pylist()], expected.dtype)
    assert ids == [row.id for row in TEXTS]
    assert found.dtype == expected.dtype and np.array_equal(found, expected)
    assert encode(tmp_path / "v", precision=precision, shards=kind).new == 0


def test_rows_are_added(tmp_path: Path) -> None:
    """A last shard that was not full is made again; the others stay."""
    encode(tmp_path / "v", TEXTS[:12])
    before = (tmp_path / "v" / "shard-00001.npy").stat().st_mtime_ns
    made = encode(tmp_path / "v")
    assert (made.rows, made.new) == (23, 13)
    assert (tmp_path / "v" / "shard-00001.npy").stat().st_mtime_ns == before
    assert stored(tmp_path / "v")[0] == [row.id for row in TEXTS]
    assert np.array_equal(stored(tmp_path / "v")[1], Rows().work([row.text for row in TEXTS]))


def test_another_input_is_refused(tmp_path: Path) -> None:
    """A changed text, fewer texts, and shards of nobody: one line each, and nothing is touched."""
    encode(tmp_path / "v")
    with pytest.raises(DataError, match="holds other texts than are now in its place"):
        encode(tmp_path / "v", [*TEXTS[:3], Query("t3", "changed"), *TEXTS[4:]])
    with pytest.raises(DataError, match="beyond the last text"):
        encode(tmp_path / "v", TEXTS[:10])
    (tmp_path / "v" / "manifest.json").unlink()
    with pytest.raises(DataError, match="holds shards or ranges.npy but no manifest.json"):
        encode(tmp_path / "v")
    with pytest.raises(InputError, match="--precision stores a folder of shards; add --shards npy"):
        ShardsConfig(precision="int8")


def test_lost_rows_are_rejected(tmp_path: Path) -> None:
    """They are in no shard, are named with the reason, and are not asked again."""
    with Loses() as pool:
        made = encode_shards(iter(TEXTS), pool, tmp_path / "v", small())
    lost = ["t1", "t6", "t11", "t16", "t21"]
    assert (made.rows, made.rejected) == (18, 5)
    side = [json.loads(line) for line in (tmp_path / "v" / "rejected.jsonl").read_text().splitlines()]
    assert [json.loads(row["row"])["id"] for row in side] == lost
    assert stored(tmp_path / "v")[0] == [row.id for row in TEXTS if row.id not in lost]
    again = encode(tmp_path / "v")
    assert (again.rows, again.new, again.rejected) == (18, 0, 5)


def test_a_process_that_dies(tmp_path: Path) -> None:
    """One line; what is finished stays, and the run goes on where it was."""
    with (
        pytest.raises(DataError, match="a worker process has died.*repeat the command"),
        Processes(Dies(), ["cpu"]) as pool,
    ):
        encode_shards(iter(TEXTS), pool, tmp_path / "v", small())
    made = encode(tmp_path / "v")
    assert made.rows == 23 and made.new < 23


def test_devices() -> None:
    """By name; `all` needs a GPU."""
    assert parse_devices("cpu, cpu") == ["cpu", "cpu"]
    with pytest.raises(InputError, match="expected all, or names"):
        parse_devices(" ,")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.device_count", lambda: 3)
        assert parse_devices("all") == ["cuda:0", "cuda:1", "cuda:2"]
        patch.setattr("torch.cuda.device_count", lambda: 0)
        with pytest.raises(DeviceError, match="no GPU"):
            parse_devices("all")


def test_work_goes_to_workers_by_name() -> None:
    """A work holds no model, so that it is small to send."""
    import pickle

    assert len(pickle.dumps(EncodeWork("checkpoint"))) < 1000
