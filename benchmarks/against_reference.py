"""Foresay against the reference implementation of LLM2Vec-Gen: the same weights, rows and losses on both sides.

    python benchmarks/against_reference.py --prepare      # makes the reference's environment, measures, writes

Out: `against_reference.md`, `.json` and `.png`. Before anything is timed, both sides must agree on losses,
gradient, embeddings and decoded tokens. Each measurement is a process of its own, so that its peak memory is its
own, and the sides take turns. Seconds are those of the processor on one thread: other work on the machine changes
them less than the clock's, and far less than those of threads that wait for each other; the clock's are beside.
A ratio is reference / Foresay: above 1, Foresay is better. What a reader would get wrong: where the reference
leaves a choice, the one that is better *for it* counts.
"""

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

HERE = Path(__file__).parent
REFERENCE_PACKAGES = (
    ("--no-deps", "llm2vec-gen==0.1.3"),  # its own list pins flash-attn, which needs a GPU to install
    ("transformers==4.56.2", "peft==0.18.0", "accelerate<1.13", "datasets", "torch==2.13.0"),
)
AGREEMENT = 1e-4
"""Largest relative difference between the two sides, in float32."""

Result = dict[str, Any]
QUANTITIES = ("seconds", "wall_seconds", "peak_bytes")


@dataclass(frozen=True)
class Size:
    """How much work: the model, and the lengths in tokens of rows as instruction data has them."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    batch: int
    texts: int
    query_tokens: tuple[int, int]
    response_tokens: tuple[int, int]
    text_tokens: tuple[int, int]
    decoded_tokens: tuple[int, int] = (128, 256)
    rounds: int = 3
    dtype: str = "float32"  # a CPU without bfloat16 units is 3 times slower in bfloat16, on both sides

    def spec(self, seed: int = 0) -> dict[str, Any]:
        """Everything both sides read, ready for JSON; lengths are log-uniform, so that short ones are common."""
        draw = random.Random(seed)
        pad, end = 0, 1

        def rows(count: int, bounds: tuple[int, int], stop: bool = False) -> list[list[int]]:
            lengths = [round(bounds[0] * (bounds[1] / bounds[0]) ** draw.random()) for _ in range(count)]
            lengths[0] = bounds[1]  # one row of the full length in each batch: a limit is always reached
            return [draw.choices(range(2, self.vocabulary), k=n - stop) + [end] * stop for n in lengths]

        return {
            "seed": seed,
            "dtype": self.dtype,
            "special_tokens": 10,
            "pad_id": pad,
            "end_id": end,
            "soft_prompts": 16,
            "check_rows": min(4, self.batch),
            "model": {
                "vocab_size": self.vocabulary,
                "hidden_size": self.hidden,
                "intermediate_size": 3 * self.hidden,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.heads // 2,
                "head_dim": self.hidden // self.heads,
                "max_position_embeddings": 1024,
                "tie_word_embeddings": True,
            },
            "queries": rows(self.batch, self.query_tokens),
            "responses": rows(self.batch, self.response_tokens, stop=True),
            "texts": rows(self.texts, self.text_tokens),
        }


SIZES = {
    "tiny": Size(64, 2, 2, 1024, 4, 8, (4, 20), (6, 40), (3, 30), decoded_tokens=(8, 16), rounds=1),
    "cpu": Size(512, 14, 8, 32768, 32, 96, (10, 200), (30, 500), (5, 300), dtype="bfloat16"),
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
    """What shall be shown: the smallest of these ratios is at least `target`, later `later`."""

    title: str
    quantity: str
    measures: tuple[str, ...]
    target: float
    later: float


def measures(size: Size) -> list[Measure]:
    """What is run. Texts that the reference can only decode one by one are timed on it by the first of them."""
    short, long = size.decoded_tokens
    train, few, many = ("train",), ("decode", "--tokens", str(short)), ("decode", "--tokens", str(long))
    checkpointing = ("--teacher", "--checkpointing")
    all_rounds = size.rounds
    return [
        Measure("train", "Training step, as shipped (teacher online)", (*train, "--teacher"), train, all_rounds),
        Measure("train_checkpointing", "The same, its gradient checkpointing on", (*train, *checkpointing), train, 1),
        Measure("train_no_teacher", "The same, our targets handed to it", train, train, 1),
        Measure("encode", f"Encoding {size.texts} texts of mixed length", ("encode",), ("encode",), all_rounds),
        Measure("decode", f"Decoding {short} tokens for 4 texts", few, (*few, "--texts", "4"), all_rounds),
        Measure("decode_batch", f"Decoding {short} tokens for 16 texts", few, (*few, "--texts", "16"), all_rounds),
        Measure("decode_many", f"Decoding {long} tokens for 16 texts", many, (*many, "--texts", "16"), all_rounds),
    ]


CLAIMS = (
    Claim("Training step, time", "seconds", ("train", "train_checkpointing"), 3, 5),
    Claim("Training step, peak memory", "peak_bytes", ("train", "train_checkpointing"), 2, 2),
    Claim("Encoding, time", "seconds", ("encode",), 2, 3),
    Claim("Decoding, 4 texts", "seconds", ("decode",), 10, 10),
    Claim("Decoding, 16 texts", "seconds", ("decode_batch",), 10, 10),
    Claim("Decoding, 16 texts, twice as long", "seconds", ("decode_many",), 10, 20),
)

# -- running -------------------------------------------------------------------------------------------------


def prepare_reference(folder: Path) -> None:
    """Makes the reference's environment."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    for packages in REFERENCE_PACKAGES:
        subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", *packages], check=True)


def run_side(python: str, script: str, folder: Path, arguments: tuple[str, ...]) -> Result:
    """One process of one side; its result."""
    task, *options = arguments
    command = [python, str(HERE / script), task, str(folder), *options]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    lines = done.stdout.splitlines()
    return dict(json.loads(lines[-1])) if lines else {}


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
    """Medians of both sides, and of the ratios of the rounds, in which the two ran one after the other."""
    summary: Result = {"title": measure.title, "rounds": len(rounds)}
    for side, name in enumerate(("reference", "foresay")):
        summary[name] = {quantity: median(each(pair[side], quantity) for pair in rounds) for quantity in QUANTITIES}
        summary[name]["seconds_range"] = _bounds([each(pair[side], "seconds") for pair in rounds])
    ratios = {quantity: [each(a, quantity) / each(b, quantity) for a, b in rounds] for quantity in QUANTITIES}
    summary["ratio"] = {quantity: median(values) for quantity, values in ratios.items()}
    summary["ratio_range"] = {quantity: _bounds(values) for quantity, values in ratios.items()}
    return summary


def each(result: Result, quantity: str) -> float:
    """A quantity of one result; seconds are those of one text or step."""
    value = float(result[quantity])
    return value if quantity == "peak_bytes" else value / result["count"]


def _bounds(values: list[float]) -> list[float]:
    return [min(values), max(values)]


def judge(claim: Claim, summaries: dict[str, Result]) -> Result:
    """The smallest ratio of the claim's measures, which is that of the choice that is best for the reference."""
    worst = min((summaries[name] for name in claim.measures), key=lambda row: row["ratio"][claim.quantity])
    ratio = worst["ratio"][claim.quantity]
    spread = worst["ratio_range"][claim.quantity]
    return {**asdict(claim), "ratio": ratio, "range": spread, "met": ratio >= claim.target}


def measure_all(size: Size, peer: str, folder: Path, say: Callable[[str], None]) -> Result:
    """Everything, in one result."""
    (folder / "spec.json").write_text(json.dumps(size.spec()))
    sides = ((peer, "reference_side.py"), (sys.executable, "foresay_side.py"))
    run_side(*sides[1], folder, ("prepare",))
    theirs, ours = (run_side(*side, folder, ("check",)) for side in sides)
    agreement = check_agreement(ours, theirs)
    say("both sides compute the same: " + ", ".join(f"{name} {value:.0e}" for name, value in agreement.items()))
    summaries: dict[str, Result] = {}
    for measure in measures(size):
        rounds = []
        for _ in range(measure.rounds):
            pair = [
                run_side(*side, folder, arguments)
                for side, arguments in zip(sides, (measure.reference, measure.foresay), strict=True)
            ]
            rounds.append((pair[0], pair[1]))
        summaries[measure.name] = summarise(measure, rounds)
        say(f"{measure.title}: {summaries[measure.name]['ratio']['seconds']:.1f} times as fast")
    spec = size.spec()
    return {
        "hardware": hardware(rounds[0][1]["threads"]),
        "versions": {"reference": theirs["versions"], "foresay": ours["versions"]},
        "size": asdict(size),
        "parameters": parameters(spec["model"]),
        "tokens": {name: sum(map(len, spec[name])) for name in ("queries", "responses", "texts")},
        "agreement": agreement,
        "measures": summaries,
        "claims": [judge(claim, summaries) for claim in CLAIMS],
    }


def parameters(model: dict[str, int]) -> int:
    """Weights of the language model, norms left out."""
    hidden = model["hidden_size"]
    attention = 2 * hidden * hidden + 2 * hidden * model["num_key_value_heads"] * model["head_dim"]
    layer = attention + 3 * hidden * model["intermediate_size"]
    return model["vocab_size"] * hidden + model["num_hidden_layers"] * layer


def hardware(threads: int) -> str:
    """The processor, its cores, and what else decides about speed."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    allocator = Path(os.environ.get("LD_PRELOAD", "")).name.split(".")[0] or "the system's allocator"
    return f"{name}, {os.cpu_count()} cores, {threads} threads, {allocator}"


# -- writing -------------------------------------------------------------------------------------------------


def markdown(result: Result) -> str:
    """The tables."""
    size, tokens = result["size"], result["tokens"]
    lines = [
        "# Foresay against the reference implementation",
        "",
        "Ratios are reference / Foresay: above 1, Foresay is better. A claim counts the choice that is best for the",
        "reference: without gradient checkpointing for time, with it for memory.",
        "",
        "| claim | ratio (range of the rounds) | target | later target |",
        "|---|---|---|---|",
    ]
    for claim in result["claims"]:
        low, high = claim["range"]
        mark = "met" if claim["met"] else "**missed**"
        goal = f"≥ {claim['target']:g}: {mark} | ≥ {claim['later']:g}"
        lines.append(f"| {claim['title']} | **{claim['ratio']:.1f}** ({low:.1f}–{high:.1f}) | {goal} |")
    lines += [
        "",
        "| measured | reference, s (range) | Foresay, s (range) | ratio | by the clock "
        "| reference, GB | Foresay, GB | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["measures"].values():
        both, ratio = (row["reference"], row["foresay"]), row["ratio"]
        cells = [f"{side['seconds']:.2f} ({_span(side['seconds_range'])})" for side in both]
        cells += [f"**{ratio['seconds']:.1f}**", f"{ratio['wall_seconds']:.1f}"]
        cells += [f"{side['peak_bytes'] / 1e9:.2f}" for side in both]
        lines.append(f"| {row['title']} | {' | '.join(cells)} | **{ratio['peak_bytes']:.1f}** |")
    versions = "; ".join(
        f"{side}: {', '.join(f'{name} {number}' for name, number in listed.items())}"
        for side, listed in result["versions"].items()
    )
    agreement = ", ".join(f"{name} {value:.0e}" for name, value in result["agreement"].items())
    lines += [
        "",
        f"* Hardware: {result['hardware']}. Versions: {versions}.",
        f"* Model: random weights shaped as Qwen3, {result['parameters'] / 1e6:.1f} M parameters, {size['layers']} "
        f"layers of {size['hidden']}, vocabulary {size['vocabulary']}, {size['dtype']}.",
        f"* Batch of {size['batch']}: queries of {_span(size['query_tokens'])} tokens ({tokens['queries']} in all), "
        f"responses of {_span(size['response_tokens'])} ({tokens['responses']}). "
        f"Texts to encode: {size['texts']} of {_span(size['text_tokens'])} tokens ({tokens['texts']}).",
        "* Lengths are log-uniform between their bounds. The reference pads to the longest row, so its loss grows with "
        "the spread of the lengths; rows of one length would show only the other differences.",
        f"* Same work: before timing, in float32, the sides agreed to (relative difference) {agreement}.",
        "* A training step is both losses, their gradient and AdamW. The reference runs its teacher in each step, "
        "Foresay reads targets computed once; the third row hands the same targets to the reference.",
        "* Seconds are of the processor, on one thread. Those of decoding are a text's: the reference decodes texts "
        "one after another, so one text is timed on it.",
        f"* Median of {size['rounds']} rounds (one for the second and third row), the sides in turn, each run in a "
        "process of its own behind a warm-up. Memory is the peak of that process, libraries included.",
    ]
    return "\n".join(lines) + "\n"


def _span(bounds: list[float]) -> str:
    return "–".join(f"{bound:.2f}" if isinstance(bound, float) else str(bound) for bound in bounds)


def draw(result: Result, path: Path) -> None:
    """Bars of the claims' ratios, each with its targets."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    claims = result["claims"][::-1]
    figure, axes = pyplot.subplots(figsize=(8, 0.62 * len(claims) + 1.3), layout="constrained")
    for place, claim in enumerate(claims):
        low, high = claim["range"]
        error = [[claim["ratio"] - low], [high - claim["ratio"]]]
        axes.barh(place, claim["ratio"], height=0.58, color="#2f6f8f" if claim["met"] else "#c9733c")
        axes.errorbar(claim["ratio"], place, xerr=error, color="#1b2a33", capsize=3, linewidth=1)
        for goal, color in ((claim["later"], "#e8b4bb"), (claim["target"], "#d1495b")):
            axes.plot([goal] * 2, [place - 0.38, place + 0.38], color=color, linewidth=2.5)
        axes.text(high * 1.06, place, f"{claim['ratio']:.1f} ×", va="center", fontweight="bold")
    axes.plot([], [], color="#d1495b", linewidth=2.5, label="target")
    axes.plot([], [], color="#e8b4bb", linewidth=2.5, label="later target")
    axes.set_xscale("log")
    axes.set_xlim(min(1, *(claim["range"][0] for claim in claims)), 1.5 * max(claim["range"][1] for claim in claims))
    ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 50, 100, 200) if tick < axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick} ×" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(claims)), [claim["title"] for claim in claims])
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower right", ncols=2, frameon=False)
    axes.set_title("The reference needs this many times as much as Foresay", loc="left", fontsize=11)
    figure.savefig(path, dpi=160)
    pyplot.close(figure)


@click.command(help=__doc__)
@click.option("--prepare", is_flag=True, help="Make the reference's environment first (pip, about 2 GB).")
@click.option("--size", type=click.Choice(sorted(SIZES)), default="cpu", show_default=True, help="How much work.")
@click.option("--peer", type=click.Path(path_type=Path), default=HERE / ".peer", help="The reference's environment.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=HERE / "results", help="Where tables go.")
def main(prepare: bool, size: str, peer: Path, output: Path) -> None:
    """Measures and writes."""
    if prepare:
        prepare_reference(peer)
    python = peer / "bin" / "python"
    if not python.exists():
        raise click.ClickException(f"no environment of the reference in {peer}; run this command with --prepare")
    with tempfile.TemporaryDirectory() as folder:
        result = measure_all(SIZES[size], str(python), Path(folder), click.echo)
    output.mkdir(parents=True, exist_ok=True)
    (output / "against_reference.json").write_text(json.dumps(result, indent=1) + "\n")
    (output / "against_reference.md").write_text(markdown(result))
    draw(result, output / "against_reference.png")
    click.echo(markdown(result))


if __name__ == "__main__":
    main()
