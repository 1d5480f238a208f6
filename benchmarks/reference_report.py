"""The table and the picture of `against_reference.py`.

In: its result. Out: Markdown, and a PNG of the claims' ratios with their targets.
The plot's axis is logarithmic, so that 2 and 100 fit on it.
"""

from collections.abc import Sequence
from pathlib import Path

from timing import Result


def markdown(result: Result) -> str:
    """The tables, and what was measured."""
    lines = [
        "# Foresay against the reference implementation",
        "",
        "![Ratios of the claims](against_reference.png)",
        "",
        "Ratios are reference / Foresay: above 1, Foresay is better. The goals are for what each side ships.",
        "",
        "| claim | ratio (range of the rounds) | goal |",
        "|---|---|---|",
    ]
    for claim in result["claims"]:
        low, high = claim["range"]
        goal = f"≥ {claim['target']:g}: {'met' if claim['met'] else '**missed**'}"
        lines.append(f"| {claim['title']} | **{claim['ratio']:.1f}** ({low:.1f}–{high:.1f}) | {goal} |")
    lines += [
        "",
        "| measured | reference, s (range) | Foresay, s (range) | ratio | ratio by the clock "
        "| reference, GB | Foresay, GB | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["measures"].values():
        both, ratio = (row["reference"], row["foresay"]), row["ratio"]
        cells = [f"{side['seconds']:.2f} ({_span(side['seconds_range'])})" for side in both]
        cells += [f"**{ratio['seconds']:.1f}**", f"{ratio['wall_seconds']:.1f}"]
        cells += [f"{side['peak_bytes'] / 1e9:.2f}" for side in both]
        lines.append(f"| {row['title']} | {' | '.join(cells)} | **{ratio['peak_bytes']:.1f}** |")
    return "\n".join([*lines, "", *_notes(result)]) + "\n"


def _notes(result: Result) -> list[str]:
    size, tokens, shape = result["size"], result["tokens"], result["size"]["shape"]
    agreement = ", ".join(f"{name} {value:.0e}" for name, value in result["agreement"].items())
    versions = "; ".join(
        f"{side}: {', '.join(f'{name} {number}' for name, number in listed.items())}"
        for side, listed in result["versions"].items()
    )
    rounds = "1 round" if result["rounds"] == 1 else f"Median of {result['rounds']} rounds"
    return [
        f"* Hardware: {result['hardware']}, the same for both. Versions: {versions}.",
        f"* Model: random weights shaped as Qwen3, {result['parameters'] / 1e6:.1f} M parameters, {shape['layers']} "
        f"layers of {shape['hidden']}, vocabulary {shape['vocabulary']}, bfloat16; {result['special_tokens']} special "
        "tokens.",
        f"* Batch of {size['batch']}: queries of {_span(size['query_tokens'])} tokens ({tokens['queries']} in all), "
        f"responses of {_span(size['response_tokens'])} ({tokens['responses']}). "
        f"Texts to encode: {size['texts']} of {_span(size['text_tokens'])} tokens ({tokens['texts']}). "
        "Lengths are log-uniform between their bounds. The reference pads to the longest row, so its cost grows with "
        "the spread of the lengths; rows of one length would show only the other differences.",
        f"* Same work: before timing, in float32, the sides agreed to (relative difference) {agreement}.",
        "* A training step is both losses, their gradient and AdamW. As shipped, the reference runs its teacher in "
        "each step and checkpoints gradients; Foresay reads targets computed once and has no checkpointing. The next "
        "row switches the reference's checkpointing off, and the one after it hands it our targets too. The one pass "
        "of the teacher that computes our targets before training is not counted.",
        "* Seconds are of the processor, on one thread. Those of decoding are a text's: the reference decodes texts "
        "one after another and without a key/value cache, so one text is timed on it.",
        f"* {rounds}, of the second and third row one, the sides in turn, each run in a process of its own behind a "
        "warm-up. Memory is the peak of that process, libraries included.",
    ]


def _span(bounds: Sequence[float]) -> str:
    return "–".join(f"{bound:.2f}" if isinstance(bound, float) else str(bound) for bound in bounds)


def draw(result: Result, path: Path) -> None:
    """Bars of the claims' ratios, each with its target."""
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
        axes.plot([claim["target"]] * 2, [place - 0.38, place + 0.38], color="#d1495b", linewidth=2.5)
        axes.text(high * 1.06, place, f"{claim['ratio']:.1f} ×", va="center", fontweight="bold")
    axes.plot([], [], color="#d1495b", linewidth=2.5, label="goal")
    axes.set_xscale("log")
    axes.set_xlim(min(1, *(claim["range"][0] for claim in claims)), 1.7 * max(claim["range"][1] for claim in claims))
    ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 50, 100, 200) if tick < axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick} ×" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(claims)), [claim["title"] for claim in claims])
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower right", frameon=False)
    axes.set_title("The reference needs this many times as much as Foresay", loc="left", fontsize=11)
    figure.savefig(path, dpi=160)
    pyplot.close(figure)
