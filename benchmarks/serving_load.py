"""The server under load, from a process of its own: 50 clients, mixed lengths, and every vector checked.

In: how long. Out: a JSON file and a plot of the server's memory in `results/`: requests, failures, the largest
difference to `Encoder`, p50/p95/p99 of the seconds a request takes, and texts a second, also of `encode` in process.
Be careful: server, clients and whatever else runs share the machine, so only the ratio of the two speeds means
something. The speed in process is measured before and after, to show how much the machine itself wavers. Where the
clients need the server's cores, `share_of_processor_time` says what the server itself adds: the processor time of
a text in process over that of a text served.
"""

import argparse
import json
import random
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]

import serving_bench
from foresay import Encoder

RESULTS = Path(__file__).parent / "results"
WORDS = "the river town salt market fever answer question why how measles copper early law harbour thrift".split()


@dataclass
class Tally:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)
    texts: int = 0
    failures: list[str] = field(default_factory=list)
    worst: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 1 to 300 words, most of them short."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=min(300, 1 + int(rng.expovariate(1 / 30))))) for _ in range(count)]


def client(port: int, texts: list[str], wanted: Any, end: float, tally: Tally, seed: int) -> None:  # noqa: ANN401
    """Asks for 1 to 32 texts at a time until the end."""
    rng = random.Random(seed)
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    while time.monotonic() < end:
        chosen = rng.sample(range(len(texts)), rng.choice((1, 1, 2, 4, 8, 32)))
        body = json.dumps({"input": [texts[i] for i in chosen], "encoding_format": "float"})
        start = time.monotonic()
        try:
            connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            found = json.loads(answer.read())
            took = time.monotonic() - start
            vectors = np.array([one["embedding"] for one in found["data"]], np.float32)
            off = float(np.abs(vectors - wanted[chosen]).max())
        except Exception as error:  # counted: a load test goes on
            with tally.lock:
                tally.failures.append(f"{type(error).__name__}: {error}"[:200])
            connection.close()
            continue
        with tally.lock:
            tally.seconds.append(took)
            tally.texts += len(chosen)
            tally.worst = max(tally.worst, off)
    connection.close()


def in_process(encoder: Encoder, texts: list[str], seconds: float) -> tuple[float, float]:
    """Texts a second of `encode_query`, called as often as fits, and its seconds of processor time a text."""
    start, spent, done = time.monotonic(), time.process_time(), 0
    while time.monotonic() - start < seconds:
        encoder.encode_query(texts, on_cut="ignore")
        done += len(texts)
    return done / (time.monotonic() - start), (time.process_time() - spent) / done


def measure(seconds: float, clients: int) -> dict[str, Any]:
    """Runs the load."""
    import tempfile

    texts = make_texts(400)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "nano-random"
        encoder = serving_bench.make_checkpoint(folder)
        wanted = encoder.encode_query(texts, on_cut="ignore")
        before, cost_before = in_process(encoder, texts, seconds / 4)
        with serving_bench.server(checkpoint=folder) as url:
            port = int(url.rpartition(":")[2])
            process = _listener(port)
            tally, memory, idle = Tally(), [], process.cpu_times()
            end = time.monotonic() + seconds
            start = time.monotonic()
            threads = [
                threading.Thread(target=client, args=(port, texts, wanted, end, tally, i)) for i in range(clients)
            ]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                memory.append((round(time.monotonic() - start, 1), round(process.memory_info().rss / 2**20)))
                time.sleep(0.5)
            took, busy = time.monotonic() - start, process.cpu_times()
        after, cost_after = in_process(encoder, texts, seconds / 4)
    speed = tally.texts / took
    served = (busy.user + busy.system - idle.user - idle.system) / max(1, tally.texts)
    p50, p95, p99 = np.percentile(tally.seconds, (50, 95, 99)).tolist()
    return {
        "seconds": took,
        "clients": clients,
        "requests": len(tally.seconds),
        "texts": tally.texts,
        "failures": len(tally.failures),
        "first_failures": tally.failures[:3],
        "largest_difference": tally.worst,
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "texts_per_second": speed,
        "in_process_before": before,
        "in_process_after": after,
        "share_of_in_process": speed / ((before + after) / 2),
        "share_of_processor_time": (cost_before + cost_after) / 2 / served,
        "memory_mib": memory,
    }


def _listener(port: int) -> psutil.Process:
    """The process that listens on a port."""
    me = psutil.Process()
    return next(one for one in me.children() if any(c.laddr.port == port for c in one.net_connections("tcp")))


def plot(found: dict[str, Any], path: Path) -> None:
    """The server's memory over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    seconds, mib = zip(*found["memory_mib"], strict=True)
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(seconds, mib)
    axes.set(xlabel="seconds", ylabel="resident memory, MiB", ylim=(0, None), title=f"{found['clients']} clients")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    """Writes `results/serving_load.json` and the plot beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=50)
    given = parser.parse_args()
    found = measure(given.seconds, given.clients)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "serving_load.json").write_text(json.dumps(found) + "\n")
    plot(found, RESULTS / "serving_load.png")
    print(json.dumps({name: value for name, value in found.items() if name != "memory_mib"}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
