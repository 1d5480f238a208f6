"""What reading costs, each thing beside what it is built on, in processor seconds of one run.

    python benchmarks/reading.py --backbone nano --output benchmarks/results/reading.md

In: a backbone. Out: a Markdown table: decoding 64 stored soft prompts beside the library's bare `generate` on the same
prompts; the lens at the last layer beside encoding the same texts; and how many forward passes explain runs.
Be careful with the order: the two sides of a row take turns, and the table has the median of their
ratios with extremes.
The special tokens are untrained, which changes no cost: the texts are as long as they are made to be.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from foresay.backbone import Backbone
from foresay.config import DecodeConfig, LensConfig
from foresay.data.queries import Query, read_queries
from foresay.encoder import Encoder
from foresay.model import Model
from foresay.reading import decode
from foresay.reading.explain import explain
from foresay.reading.lens import lens
from foresay.reconstruction import generate
from timing import hardware, timed

EXAMPLE = Path(__file__).parents[1] / "foresay" / "packaged" / "example" / "queries.jsonl"
HEAD = """# What reading costs

{backbone}, {dtype}, 10 special tokens, chat template; {hardware}. Processor seconds; the two sides of a row take turns,
median of {rounds} ratios (smallest–largest). Made with
`python benchmarks/reading.py --backbone {backbone} --texts {texts} --tokens {tokens} --rounds {rounds}
--output {output}`.

| | seconds | beside | seconds | ratio | promised |
|---|---|---|---|---|---|
"""


def beside(work: Callable[[], Any], base: Callable[[], Any], rounds: int) -> tuple[float, float, list[float]]:
    """Median seconds of both, and the ratios of each round; both run once before, unmeasured."""
    work()
    base()
    pairs = [(timed(work)["seconds"], timed(base)["seconds"]) for _ in range(rounds)]
    return (*(statistics.median(side) for side in zip(*pairs, strict=True)), [a / b for a, b in pairs])


def row(name: str, other: str, found: tuple[float, float, list[float]], promised: str) -> str:
    """A line of the table."""
    mine, theirs, ratios = found
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
    return f"| {name} | {mine:.2f} | {other} | {theirs:.2f} | {spread} | {promised} |\n"


def passes(model: Model, work: Callable[[], Any]) -> int:
    """Forward passes of the decoder during the work."""
    count = 0

    def note(*_: Any) -> None:  # noqa: ANN401
        nonlocal count
        count += 1

    handle = model.backbone.decoder.register_forward_pre_hook(note)
    work()
    handle.remove()
    return count


@click.command()
@click.option("--backbone", default="nano", show_default=True, help="Language model.")
@click.option("--texts", default=1000, show_default=True, help="Texts for the lens.")
@click.option("--tokens", default=64, show_default=True, help="Tokens that are decoded of each soft prompt.")
@click.option("--rounds", default=3, show_default=True, help="Repetitions.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Markdown file to write.")
def main(backbone: str, texts: int, tokens: int, rounds: int, output: Path) -> None:
    """Measures and writes the table."""
    torch.set_num_threads(1)
    loaded = Backbone.load(backbone, device="cpu")
    model = Model(loaded, thought=0, compression=10, dim=loaded.hidden_size, template="chat")
    encoder = Encoder(model)
    queries = [item.text for item in read_queries(EXAMPLE) if isinstance(item, Query)]
    queries = [queries[i % len(queries)] + (f" ({i})" if i >= len(queries) else "") for i in range(texts)]
    stored = torch.from_numpy(encoder.soft_prompts(queries[:64]))
    config = DecodeConfig(max_new_tokens=tokens)

    def bare(base: Backbone, prompts: torch.Tensor, count: int, **more: Any) -> torch.Tensor:  # noqa: ANN401 - the library's
        """Both sides write as many tokens, whatever an untrained prompt says."""
        return generate(base, prompts, count, min_new_tokens=count, **more)

    decode.generate = bare  # type: ignore[assignment, attr-defined]

    def theirs() -> torch.Tensor:
        return bare(loaded, stored, tokens)

    lines = [
        row(
            "decode 64 stored items",
            "bare `generate`",
            beside(lambda: encoder.decode(soft_prompts=stored, config=config), theirs, rounds),
            "at most 1.10",
        ),
        row(
            f"lens of {texts} texts at the last layer",
            "encoding them",
            beside(lambda: lens(encoder, queries, LensConfig()), lambda: encoder.encode_query(queries), rounds),
            "at most 1.20",
        ),
    ]
    pair = ("What are the symptoms of measles?", "Fever, cough and a rash that starts on the face.")
    encoded = passes(model, lambda: (encoder.encode_query(pair[0]), encoder.encode_document(pair[1])))
    mute = Encoder(model, decodes=False)
    explained = passes(model, lambda: explain(mute, pair))
    found = f"| explain one pair | {explained} passes | encoding both sides | {encoded} passes | | 1 more a side |\n"
    head = HEAD.format(
        backbone=backbone,
        dtype=loaded.dtype_name,
        hardware=hardware(),
        rounds=rounds,
        texts=texts,
        tokens=tokens,
        output=output,
    )
    output.write_text(head + "".join(lines) + found, encoding="utf-8")


if __name__ == "__main__":
    main()
