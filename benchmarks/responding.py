"""`respond` against a bare `generate` loop and against vLLM, and its memory with a million rows, on this machine.

In: a backbone's name. Out: benchmarks/results/responding.json, and its table on the screen.
Be careful: two ways take turns, several times, and their ratio is reported: other work on the machine slows both. The
bare loop gets what nobody has, perfect batches: rows of like length together, as many as respond has places. vLLM needs
the Python of an environment of its own (`make test-vllm` makes one); there the clock counts, so the machine has to be
quiet, and loading and compiling are not counted.

    python benchmarks/responding.py nano --vllm .venv-vllm/bin/python
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import timing
from foresay.backbone import Backbone
from foresay.batching import length_batches, pad
from foresay.config import RespondConfig
from foresay.data.queries import Query
from foresay.engines.base import Answer, EngineOptions, Job, open_engine
from foresay.engines.respond import respond
from foresay.engines.transformers import TransformersEngine

RESULT = Path(__file__).parent / "results" / "responding.json"
SIZES = (10_000, 100_000, 1_000_000)


def bare(engine: TransformersEngine, texts: Sequence[str]) -> int:
    """A loop around `generate`; the number of tokens written, those after a row's end not counted."""
    backbone, config = engine.backbone, engine.config
    prompts = engine.prompter.prompts(texts)
    written = 0
    for batch in length_batches([len(row) for row in prompts], 1 << 30, most_rows=config.batch_size):
        ids, lengths = pad([prompts[i] for i in batch], backbone.pad_id, left=True, device=backbone.device)
        mask = torch.arange(ids.shape[1], device=ids.device) >= ids.shape[1] - lengths[:, None]
        out = backbone.model.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            max_new_tokens=config.max_new_tokens,
            do_sample=False,
            eos_token_id=engine.stops,
            pad_token_id=backbone.pad_id,
        )
        for row in out[:, ids.shape[1] :].tolist():
            ends = [place for place, token in enumerate(row) if token in engine.stops]
            written += ends[0] if ends else len(row)
    return written


def ours(engine: TransformersEngine, texts: Sequence[str]) -> int:
    """Our engine; the number of tokens written."""
    before = engine.tokens
    for _ in engine.answer([Job.of(text, 0, 0) for text in texts]):
        pass
    return engine.tokens - before


def compare(engine: TransformersEngine, texts: Sequence[str], turns: int) -> dict[str, Any]:
    """Median ratio of the rows a second, both ways in turns."""
    ways: dict[str, Callable[[TransformersEngine, Sequence[str]], int]] = {"bare": bare, "ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, int] = {}
    for _ in range(turns):
        for name, way in ways.items():
            start = time.process_time() if engine.backbone.device.type == "cpu" else time.perf_counter()
            tokens[name] = way(engine, texts)
            now = time.process_time() if engine.backbone.device.type == "cpu" else time.perf_counter()
            seconds[name].append(now - start)
    ratios = [b / o for b, o in zip(seconds["bare"], seconds["ours"], strict=True)]
    return {"ratio": statistics.median(ratios), "ratios": ratios, "seconds": seconds, "tokens": tokens}


def by_places(backbone: Backbone, counts: Sequence[int], rows: int) -> list[dict[str, float]]:
    """Tokens written a second of processor time, by the number of rows that are written side by side."""
    found = []
    for count in counts:
        engine = TransformersEngine(backbone, RespondConfig(max_new_tokens=64, batch_size=count))
        start = time.process_time()
        tokens = ours(engine, mixed(max(8, min(rows, 4 * count))))
        found.append({"places": count, "tokens_a_second": tokens / (time.process_time() - start)})
    return found


class Stub:
    """An engine that answers at once."""

    name, window = "stub", 2048

    def manifest(self) -> dict[str, Any]:
        """Its name."""
        return {"backbone": self.name}

    def refusals(self, texts: Sequence[str]) -> list[str | None]:
        """None."""
        return [None] * len(texts)

    def answer(self, jobs: Sequence[Job]) -> Iterator[Answer]:
        """Forty words each."""
        return (Answer(job, f"{job.text} " + "word " * 40) for job in jobs)

    def speed(self) -> str:
        """None."""
        return ""


def memory(counts: Sequence[int]) -> list[dict[str, float]]:
    """Peak memory and seconds of a run with a stub engine, the smaller number of rows first."""
    found = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            respond((Query(f"q{i}", f"text {i}") for i in range(count)), Stub(), Path(folder) / "r.jsonl")
            seconds = time.process_time() - start
            size = (Path(folder) / "r.jsonl").stat().st_size / 1e6
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found.append({"rows": count, "seconds": seconds, "peak_mb": peak, "file_mb": size})
    return found


def memory_alone() -> Any:  # noqa: ANN401
    """The same in a process that holds nothing else."""
    command = [sys.executable, __file__, "nano", "--only", "memory"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def clocked(name: str, backbone: str, rows: int, turns: int) -> dict[str, Any]:
    """Seconds by the clock in which an engine answers mixed rows, in bfloat16; the first turn does not count."""
    config = RespondConfig(engine=name, max_new_tokens=64, batch_size=64)
    engine, seconds = open_engine(name, EngineOptions(backbone, config, device="cpu", dtype="bfloat16")), []
    for turn in range(turns + 1):
        jobs = [Job.of(f"{text} ({turn})", 0, 0) for text in mixed(rows)]  # new texts: a prefix cache knows none
        start = time.perf_counter()
        answers = list(engine.answer(jobs))
        seconds.append(time.perf_counter() - start)
        if len(answers) != rows or any(answer.problem for answer in answers):
            raise RuntimeError(f"{name} left rows without an answer")
    return {"rows": rows, "seconds": seconds[1:]}


def against_vllm(python: str, options: argparse.Namespace) -> dict[str, Any]:
    """Rows a second of both engines, each in a process of its own, in turns."""
    found: dict[str, list[float]] = {"transformers": [], "vllm": []}
    for _ in range(options.turns):
        for name, place in (("transformers", sys.executable), ("vllm", python)):
            command = [place, __file__, options.backbone, "--only", name, "--rows", str(options.rows), "--turns", "1"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
            said = [line for line in done.stdout.splitlines() if line.startswith("{")]  # vLLM has more to say
            found[name] += json.loads(said[-1])["seconds"]
    ratios = [v / t for v, t in zip(found["vllm"], found["transformers"], strict=True)]
    return {"ratio": statistics.median(ratios), "ratios": ratios, "seconds": found}


def mixed(rows: int) -> list[str]:
    """Texts of 16 lengths."""
    return [f"{'Tell me about it. ' * (i % 16)}What is {i}?" for i in range(rows)]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for."""
    torch.set_num_threads(1)
    result: dict[str, Any] = {"backbone": options.backbone, "rows": options.rows, "machine": timing.hardware()}
    backbone = Backbone.load(options.backbone, device=options.device, dtype="float32")
    like = [f"What does the word number {100 + i} mean?" for i in range(options.rows)]
    config = RespondConfig(max_new_tokens=64, batch_size=64)
    free, to_the_end = TransformersEngine(backbone, config), TransformersEngine(backbone, config)
    to_the_end.stops = [backbone.text_config.vocab_size]  # nothing ends a row but the length
    result["one length, to the end"] = compare(to_the_end, like, options.turns)
    result["mixed lengths"] = compare(free, mixed(options.rows), options.turns)
    if options.places:
        result["places"] = by_places(backbone, options.places, options.rows)
    if options.vllm:
        result["vllm"] = against_vllm(options.vllm, options)
    if options.million:
        result["memory"] = memory_alone()
    return result


def main(words: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backbone")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--million", action="store_true", help="also a million rows with a stub engine")
    parser.add_argument("--places", type=int, nargs="*", default=[1, 4, 16, 64, 256], help="rows side by side")
    parser.add_argument("--vllm", help="the Python of an environment with vLLM")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    options = parser.parse_args(words)
    if options.only == "memory":
        print(json.dumps(memory(SIZES)))  # noqa: T201
        return
    if options.only:
        print(json.dumps(clocked(options.only, options.backbone, options.rows, options.turns)))  # noqa: T201
        return
    result = measure(options)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    for name in ("one length, to the end", "mixed lengths"):
        print(f"{name}: {result[name]['ratio']:.2f} times the bare loop's rows a second")  # noqa: T201
    for row in result.get("places", []):
        print(f"{row['places']:>4} rows side by side: {row['tokens_a_second']:.0f} tokens a second of one core")  # noqa: T201
    if "vllm" in result:
        print(f"mixed lengths, bfloat16: {result['vllm']['ratio']:.2f} times vLLM's rows a second")  # noqa: T201
    for row in result.get("memory", []):
        print(f"{row['rows']:>9} rows: {row['peak_mb']:.0f} MB at most, {row['seconds']:.0f} s")  # noqa: T201


if __name__ == "__main__":
    main()
