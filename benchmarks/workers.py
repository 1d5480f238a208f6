"""`teach` against bare `SentenceTransformer.encode`, and how much faster two workers of a Ray cluster are than one.

In: a responses file, a teacher that sentence-transformers opens, a backbone. Out: benchmarks/results/workers.json, and
its table on the screen.
Be careful: the two ways of teaching take turns and their ratio is reported. Of workers the clock counts, without their
start, so the machine has to be quiet; each has one thread.

    python benchmarks/workers.py responses.jsonl --teacher sentence-transformers/all-MiniLM-L6-v2 --backbone nano
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import timing
from foresay.cluster.ray_pool import RayPool
from foresay.config import ClusterConfig, RespondConfig, TeachConfig
from foresay.data.queries import Query
from foresay.data.responses import stream_responses
from foresay.engines.base import EngineOptions
from foresay.engines.pooled import PooledEngine, RespondWork
from foresay.engines.respond import respond
from foresay.teachers.load import load_teacher
from foresay.teachers.teach import teach

RESULT = Path(__file__).parent / "results" / "workers.json"


def teaching(responses: Path, teacher: str, turns: int) -> dict[str, Any]:
    """Median ratio of rows a second: `teach`, files and all, against the bare call on the same texts."""
    from sentence_transformers import SentenceTransformer

    texts = [row.response for row in stream_responses(responses)]
    bare, ours = SentenceTransformer(teacher, device="cpu"), load_teacher(teacher, None, "cpu", TeachConfig())
    bare.max_seq_length = ours.max_tokens
    seconds: dict[str, list[float]] = {"bare": [], "teach": []}
    for _ in range(turns):
        start = time.process_time()
        bare.encode(texts, batch_size=64)
        seconds["bare"].append(time.process_time() - start)
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            teach(responses, ours, Path(folder) / "targets")
            seconds["teach"].append(time.process_time() - start)
    ratios = [b / t for b, t in zip(seconds["bare"], seconds["teach"], strict=True)]
    return {"rows": len(texts), "ratio": statistics.median(ratios), "ratios": ratios, "seconds": seconds}


def clustering(backbone: str, rows: int, counts: Sequence[int]) -> list[dict[str, float]]:
    """Rows a second of `respond` by so many workers, and their share of what so many times one would do."""
    config = RespondConfig(max_new_tokens=32, batch_size=16)
    work = RespondWork("transformers", EngineOptions(backbone, config, dtype="float32"))
    found: list[dict[str, float]] = []
    for count in counts:
        with RayPool(work, ClusterConfig(cluster="auto", workers=count), "cpu") as pool:
            engine = PooledEngine(pool, count, config.batch_size)
            with tempfile.TemporaryDirectory() as folder:
                warm = (Query(f"w{n}", f"What is {n}, please?") for n in range(32 * count))
                respond(warm, engine, Path(folder) / "warm.jsonl", config)
                start = time.perf_counter()
                queries = (Query(f"q{n}", f"What is number {n}?") for n in range(rows))
                respond(queries, engine, Path(folder) / "r.jsonl", config)
                speed = rows / (time.perf_counter() - start)
        first = found[0]["rows_a_second"] / found[0]["workers"] if found else speed / count
        found.append({"workers": count, "rows_a_second": speed, "efficiency": speed / count / first})
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("responses", type=Path)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--backbone", default="nano")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": timing.hardware(), "backbone": options.backbone, "teacher": options.teacher}
    with tempfile.TemporaryDirectory() as folder:
        some = Path(folder) / "responses.jsonl"
        with options.responses.open(encoding="utf-8") as file:
            some.write_text("".join(islice(file, options.rows)), encoding="utf-8")
        result["teach"] = teaching(some, options.teacher, options.turns)
    print(f"teach: {result['teach']['ratio']:.2f} times the bare call's rows a second")  # noqa: T201
    if options.workers:
        result["workers"] = clustering(options.backbone, options.rows, options.workers)
    for row in result.get("workers", []):
        rate, share = row["rows_a_second"], row["efficiency"]
        print(f"{row['workers']} workers: {rate:.1f} rows a second, efficiency {share:.2f}")  # noqa: T201
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
