"""What a query costs: embedded in one pass, in two, or answered in full and then embedded, as HyDE does.

    python benchmarks/smollm2_time.py --data ../shared/data --output benchmarks/results/smollm2_time.md

In: the packaged checkpoint of SmolLM2, questions. Out: seconds a query, in batches, in turn over several rounds of one
run. Be careful: only the ratios mean something on a shared machine; HyDE's answers are cut at 96 tokens.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch

from foresay import Encoder
from foresay.config import RespondConfig
from foresay.data.queries import Query, content_id
from foresay.data.responses import read_responses
from foresay.engines.respond import respond

LONGEST = 96


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path))
@click.option("--queries", "count", default=64)
@click.option("--rounds", default=3)
@click.option("--output", required=True, type=click.Path(path_type=Path))
def main(data: Path, count: int, rounds: int, output: Path) -> None:
    """Measures the three in turn."""
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in (data / "medquad" / "queries.jsonl").read_text().splitlines()]
    texts = [row["text"] for row in rows[:count]]
    encoder = Encoder.from_pretrained("smollm2", device="cpu")
    one_pass, two_passes = encoder.with_query_weight(0), encoder.with_query_weight(0.25)
    teacher = encoder.load_document_teacher()
    queries = [Query(content_id(text), text) for text in texts]

    def hyde() -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "responses.jsonl"
            respond(queries, encoder.model.backbone, path, RespondConfig(max_new_tokens=LONGEST))
            teacher.embed([row.response for row in read_responses(path)])

    ways: dict[str, Callable[[], object]] = {
        "Foresay, one pass": lambda: one_pass.encode_query(texts),
        "Foresay, with the query's own part": lambda: two_passes.encode_query(texts),
        "HyDE: answered, then embedded": hyde,
    }
    one_pass.encode_query(texts[:4])
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            took[name].append(seconds(run))
    base = np.array(took["Foresay, one pass"])
    lines = [
        f"# What a query costs: SmolLM2-135M-Instruct, {len(texts)} questions of medquad, one CPU thread, bfloat16\n",
        f"Median of {rounds} rounds, the ways in turn; in brackets lowest and highest ratio of a round.\n",
        "| | ms a query | times one pass |\n|---|---|---|",
    ]
    for name, found in took.items():
        ratio = np.array(found) / base
        lines.append(
            f"| {name} | {1000 * float(np.median(found)) / len(texts):.0f} | "
            f"{float(np.median(ratio)):.1f} ({ratio.min():.1f} to {ratio.max():.1f}) |"
        )
    output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
