"""Foresay against the reference implementation of LLM2Vec-Gen: the same weights, rows and losses on both sides.

    python benchmarks/against_reference.py --prepare      # makes the reference's environment, measures, writes

Out: `against_reference.md`, `.json` and `.png`, written anew after each round. Before anything is timed, both sides
must agree on losses, gradient, embeddings and decoded tokens. Each measurement is a process of its own, so that its
peak memory is its own, and the sides take turns. Seconds are those of the processor on one thread: other work on the
machine changes them less than the clock's, and far less than those of threads that wait for each other; the clock's
are beside. A ratio is reference / Foresay: above 1, Foresay is better.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from reference_report import draw, markdown
from timing import Result
from workbench import RESULTS, SMALL, SPECIAL_TOKENS, TINY, Shape, lengths, rows, write

HERE = Path(__file__).parent
REFERENCE_PACKAGES = (
    ("--no-deps", "llm2vec-gen==0.1.3"),  # its own list pins flash-attn, which needs a GPU to install
    ("transformers==4.56.2", "peft==0.18.0", "accelerate<1.13", "datasets", "torch==2.13.0"),
)
AGREEMENT = 1e-4
"""Largest relative difference between the two sides, in float32."""
QUANTITIES = ("seconds", "wall_seconds", "peak_bytes")


@dataclass(frozen=True)
class Size:
    """How much work: the model, and the lengths in tokens of rows as instruction data has them."""

    shape: Shape
    batch: int
    texts: int
    query_tokens: tuple[int, int]
    response_tokens: tuple[int, int]
    text_tokens: tuple[int, int]
    decoded_tokens: int
    rounds: int

    def spec(self) -> dict[str, Any]:
        """Everything both sides read, ready for JSON."""
        bounds = (self.query_tokens, self.response_tokens, self.text_tokens)
        counts, end = (self.batch, self.batch, self.texts), 1
        queries, responses, texts = (
            rows(lengths(count, limits, seed), self.shape.vocabulary, seed)
            for seed, (count, limits) in enumerate(zip(counts, bounds, strict=True))
        )
        return {
            "shape": asdict(self.shape),
            "dtype": "bfloat16",
            "pad_id": 0,
            "end_id": end,
            "soft_prompts": DECODED_TEXTS,
            "check_rows": 4,
            "queries": queries,
            "responses": [[*row[:-1], end] for row in responses],
            "texts": texts,
        }


DECODED_TEXTS = 16
SIZES = {
    "tiny": Size(TINY, 4, 8, (4, 20), (6, 40), (3, 30), decoded_tokens=16, rounds=1),
    "cpu": Size(SMALL, 32, 96, (10, 200), (30, 500), (5, 300), decoded_tokens=256, rounds=3),
}


@dataclass(frozen=True)
class Measure:
    """One task on both sides: what it is called, the arguments of each side's script, how often it is repeated."""

    name: str
    title: str
    reference: tuple[str, ...]
    foresay: tuple[str, ...]
    rounds: int


@dataclass(frozen=True)
class Claim:
    """What shall be shown: the ratio of a measure is at least `target`."""

    title: str
    quantity: str
    measure: str
    target: float


def measures(size: Size) -> list[Measure]:
    """What is run. The reference decodes texts one by one, so it is timed by the first of them."""
    train, decode = ("train",), ("decode", "--tokens", str(size.decoded_tokens))
    shipped, uncheckpointed = (*train, "--teacher", "--checkpointing"), (*train, "--teacher")
    many, every = (*decode, "--texts", str(DECODED_TEXTS)), size.rounds
    once = 1  # without checkpointing the reference takes 18 GB, which not every machine has for long
    return [
        Measure("train", "Training step, as each ships it", shipped, train, every),
        Measure("train_uncheckpointed", "The same, without its gradient checkpointing", uncheckpointed, train, once),
        Measure("train_given", "The same, and our targets handed to it", train, train, once),
        Measure("encode", f"Encoding {size.texts} texts of mixed length", ("encode",), ("encode",), every),
        Measure("decode", f"Decoding {size.decoded_tokens} tokens for {DECODED_TEXTS} texts", decode, many, every),
        Measure("decode_one", f"Decoding {size.decoded_tokens} tokens for one text", decode, decode, every),
    ]


CLAIMS = (
    Claim("Training step, time", "seconds", "train", 5),
    Claim("Training step, peak memory", "peak_bytes", "train", 2),
    Claim("Encoding, time", "seconds", "encode", 3),
    Claim("Decoding 16 texts, time", "seconds", "decode", 20),
)

# -- running -------------------------------------------------------------------------------------------------


def prepare_reference(folder: Path) -> None:
    """Makes the reference's environment."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    for packages in REFERENCE_PACKAGES:
        subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", *packages], check=True)


def run_side(python: str, script: str, folder: Path, arguments: tuple[str, ...]) -> Result:
    """One process of one side; its result. Both get the same environment, so the same memory allocator."""
    task, *options = arguments
    command = [python, str(HERE / script), task, str(folder), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def difference(ours: Any, theirs: Any) -> float:  # noqa: ANN401 - numbers or lists of them
    """Largest difference, relative to the largest number of the reference's."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a - b).max() / np.abs(b).max())


def check_agreement(ours: Result, theirs: Result) -> dict[str, float]:
    """Relative differences by quantity; an error where one is above `AGREEMENT`: it would be other work."""
    names = ("alignment", "reconstruction", "gradient", "embeddings", "decoded")
    differences = {name: difference(ours[name], theirs[name]) for name in names}
    apart = [f"{name} by {value:.1e}" for name, value in differences.items() if not value <= AGREEMENT]
    if apart:
        raise click.ClickException(f"the two sides do not compute the same: they differ in {', '.join(apart)}")
    return differences


def summarise(measure: Measure, rounds: list[tuple[Result, Result]]) -> Result:
    """Medians of both sides, and of the rounds' ratios."""
    summary: Result = {"title": measure.title}
    for side, name in enumerate(("reference", "foresay")):
        summary[name] = {quantity: median(pair[side][quantity] for pair in rounds) for quantity in QUANTITIES}
        summary[name]["seconds_range"] = _bounds([pair[side]["seconds"] for pair in rounds])
    ratios = {quantity: [a[quantity] / b[quantity] for a, b in rounds] for quantity in QUANTITIES}
    summary["ratio"] = {quantity: median(values) for quantity, values in ratios.items()}
    summary["ratio_range"] = {quantity: _bounds(values) for quantity, values in ratios.items()}
    return summary


def _bounds(values: list[float]) -> list[float]:
    return [min(values), max(values)]


def judge(claim: Claim, summaries: dict[str, Result]) -> Result:
    """Whether the median of the rounds' ratios reaches the target."""
    row = summaries[claim.measure]
    ratio = row["ratio"][claim.quantity]
    return {**asdict(claim), "ratio": ratio, "range": row["ratio_range"][claim.quantity], "met": ratio >= claim.target}


def measure_all(
    size: Size, peer: str, folder: Path, say: Callable[[str], None], finish: Callable[[Result], None]
) -> None:
    """Everything, round by round; `finish` gets what is known after each."""
    spec = size.spec()
    (folder / "spec.json").write_text(json.dumps(spec))
    sides = ((peer, "reference_side.py"), (sys.executable, "foresay_side.py"))
    run_side(*sides[1], folder, ("prepare",))
    theirs, ours = (run_side(*side, folder, ("check",)) for side in sides)
    about = {
        "hardware": ours["hardware"],
        "versions": {"reference": theirs["versions"], "foresay": ours["versions"]},
        "size": asdict(size),
        "parameters": size.shape.parameters,
        "special_tokens": SPECIAL_TOKENS,
        "tokens": {name: sum(map(len, spec[name])) for name in ("queries", "responses", "texts")},
        "agreement": check_agreement(ours, theirs),
    }
    say(
        "both sides compute the same: " + ", ".join(f"{name} {value:.0e}" for name, value in about["agreement"].items())
    )
    pairs: dict[str, list[tuple[Result, Result]]] = {measure.name: [] for measure in measures(size)}
    for number in range(size.rounds):
        once = cache(run_side)  # what several measures have in common runs once a round
        for measure in (measure for measure in measures(size) if number < measure.rounds):
            pair = once(*sides[0], folder, measure.reference), once(*sides[1], folder, measure.foresay)
            pairs[measure.name].append(pair)
            ratios = (pair[0][quantity] / pair[1][quantity] for quantity in ("seconds", "peak_bytes"))
            say("round {}, {}: time {:.1f}, memory {:.1f}".format(number + 1, measure.title, *ratios))
        summaries = {measure.name: summarise(measure, pairs[measure.name]) for measure in measures(size)}
        claims = [judge(claim, summaries) for claim in CLAIMS]
        finish({**about, "rounds": number + 1, "measures": summaries, "claims": claims})


@click.command(help=__doc__)
@click.option("--prepare", is_flag=True, help="Make the reference's environment first (pip, about 2 GB).")
@click.option("--size", type=click.Choice(sorted(SIZES)), default="cpu", show_default=True, help="How much work.")
@click.option("--peer", type=click.Path(path_type=Path), default=HERE / ".peer", help="The reference's environment.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=RESULTS, help="Where tables go.")
def main(prepare: bool, size: str, peer: Path, output: Path) -> None:
    """Measures and writes."""
    if prepare:
        prepare_reference(peer)
    python = peer / "bin" / "python"
    if not python.exists():
        raise click.ClickException(f"no environment of the reference in {peer}; run this command with --prepare")

    def finish(result: Result) -> None:
        write("against_reference", result, markdown(result), output)
        draw(result, output / "against_reference.png")

    with tempfile.TemporaryDirectory() as folder:
        measure_all(SIZES[size], str(python), Path(folder), click.echo, finish)
    click.echo((output / "against_reference.md").read_text())


if __name__ == "__main__":
    main()
