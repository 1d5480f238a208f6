"""Two embedding servers of the same language model on the same machine, one after the other, under the same clients.

    python benchmarks/serving_compare.py --model FOLDER --vllm .venv-vllm/bin/python \\
        --output benchmarks/results/serving_compare.md

In: a folder with the language model, a checkpoint of it (the packaged smollm2), the Python of vLLM's environment. Out:
for each number of clients the requests a second and the seconds a request takes; and the most requests a second with
which 99 of 100 are answered within a given time.
Be careful: the two do not compute the same. vLLM in pooling mode reads the bare text; Foresay reads the text inside a
chat template with ten special tokens behind it, and the text once more. So vLLM is also given as many tokens as Foresay
reads. Both run in bfloat16 with the same number of threads.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import click
import numpy as np

from foresay import Encoder
from serving_load import make_texts

LIMITS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Seconds within which 99 of 100 requests are to be answered."""


@contextmanager
def serving(command: list[str], port: int, threads: int) -> Iterator[None]:
    """A server as a process of its own, from its first answer on until it is stopped."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{threads - 1}"  # by itself it takes all cores
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with {process.returncode}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def as_long(texts: list[str]) -> list[list[int]]:
    """Token ids of each text, repeated until they are as many as Foresay reads of it in its two passes."""
    encoder = Encoder.from_pretrained("smollm2")
    teacher = encoder.load_document_teacher()
    read = [whole + bare for whole, bare in zip(encoder.embed(texts).tokens, teacher.count_tokens(texts), strict=True)]
    rows = encoder.tokenize(texts)
    return [(ids * -(-count // len(ids)))[:count] for ids, count in zip(rows, read, strict=True)]


def load(port: int, texts: Sequence[str | list[int]], clients: int, seconds: float) -> tuple[float, list[float]]:
    """Requests a second, and what each took, of clients that ask for one text after the other."""
    took: list[float] = []
    lock, end = threading.Lock(), time.monotonic() + seconds

    def ask(seed: int) -> None:
        rng, connection = random.Random(seed), HTTPConnection("127.0.0.1", port, timeout=120)
        while time.monotonic() < end:
            body = json.dumps({"model": "smollm2", "input": rng.choice(texts)})
            start = time.monotonic()
            connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            found = json.loads(answer.read())
            assert answer.status == 200, found
            with lock:
                took.append(time.monotonic() - start)
        connection.close()

    start = time.monotonic()
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(took) / (time.monotonic() - start), took


def at_equal_p99(found: Mapping[str, Sequence[tuple[int, float, float]]], limits: Sequence[float]) -> str:
    """The highest rate of each server whose p99 stays within a limit, and the clients that it had then; Markdown.

    Args:
        found: by server, what each number of clients got: clients, requests a second, p99 in seconds.
        limits: seconds.
    """
    lines = [f"| p99 within | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for limit in limits:
        within = [[(rate, clients) for clients, rate, p99 in rows if p99 <= limit] for rows in found.values()]
        cells = [f"{max(rates)[0]:.1f} ({max(rates)[1]})" if rates else "none" for rates in within]
        lines.append(f"| {limit:g} s | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--model", required=True, type=click.Path(path_type=Path), help="The language model's folder.")
@click.option("--vllm", required=True, type=click.Path(path_type=Path))
@click.option("--clients", default="1,2,4,8,16,32,64")
@click.option("--seconds", default=30.0)
@click.option("--threads", default=1)
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(model: Path, vllm: Path, clients: str, seconds: float, threads: int, output: Path) -> None:
    """Measures both."""
    ours = [sys.executable, "-m", "foresay", "serve", "smollm2", "--port", "8771"]
    theirs = [
        str(vllm),
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(model),
        "--runner",
        "pooling",
        "--convert",
        "embed",
        "--dtype",
        "bfloat16",
    ]
    theirs += ["--max-model-len", "1024", "--port", "8772", "--served-model-name", "smollm2"]
    theirs += ["--no-enable-prefix-caching"]  # the texts come again and again
    texts = make_texts(200)
    long = as_long(texts)
    sides = (
        ("foresay serve", ours, 8771, texts),
        ("vLLM, pooling, bare texts", theirs, 8772, texts),
        ("vLLM, pooling, as many tokens as Foresay", theirs, 8772, long),
    )
    rows = []
    found: dict[str, list[tuple[int, float, float]]] = {}
    for name, command, port, asked in sides:
        with serving(command, port, threads):
            load(port, asked, 2, 5)
            for count in map(int, clients.split(",")):
                rate, took = load(port, asked, count, seconds)
                p50, p99 = np.percentile(took, (50, 99))
                found.setdefault(name, []).append((count, rate, float(p99)))
                rows.append(f"| {name} | {count} | {rate:.1f} | {p50:.2f} | {p99:.2f} |")
                sys.stderr.write(rows[-1] + "\n")
    head = "# Two servers of SmolLM2-135M-Instruct, one text a request\n\n"
    head += f"{threads} thread, bfloat16, texts of 1 to 300 words (30 on average), {seconds:g} s a row.\n"
    head += "Foresay reads a text in its chat template with ten special tokens, and once more bare: "
    head += f"{np.mean([len(ids) for ids in long]):.0f} tokens on average.\n"
    head += "vLLM is given the bare texts, and then as many tokens as Foresay reads.\n\n"
    head += "| server | clients | requests a second | p50, s | p99, s |\n|---|---|---|---|---|\n"
    tail = "\n## At equal p99\n\nThe most requests a second of those above, and with how many clients.\n\n"
    output.write_text(head + "\n".join(rows) + "\n" + tail + at_equal_p99(found, LIMITS))


if __name__ == "__main__":
    main()
