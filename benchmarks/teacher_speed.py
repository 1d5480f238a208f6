"""What making and using a teacher costs beside the least it could: a bare PEFT loop, and the causal model.

    python benchmarks/teacher_speed.py

Out: `results/teacher_speed.{json,md}`. The bare loop is what one writes by hand with PEFT for the same model, adapter,
rows and losses: the batch padded to its longest row, one forward pass, logits at the blanks only, AdamW. Both sides
take turns in one process. A share is ours / bare. For the tokens a second of training,
1 or more is good; for the seconds of encoding, 1 or less.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

from foresay.backbone import Backbone
from foresay.config import TeachConfig, TeacherConfig
from foresay.teachers.base import Teacher
from foresay.teachers.bidirectional import Bidirectional
from foresay.teachers.llm2vec import LLM2VecTeacher
from foresay.teachers.make import RANK
from foresay.teachers.objectives import DROPOUT, SCALE, Blank, blank, mntp_gradient, simcse_gradient
from foresay.teachers.pooled import SelfTeacher
from timing import Result, hardware, timed
from workbench import (
    FIRST,
    RESULTS,
    SMALL,
    TINY,
    Shape,
    lengths,
    rows,
    texts,
    versions,
    write,
)

SLOWEST_TRAINING, SLOWEST_ENCODING = 0.85, 1.10
"""Least share of the bare loop's tokens a second, and most of the causal model's seconds."""


@dataclass(frozen=True)
class Size:
    """How much work; lengths in tokens."""

    shape: Shape
    mntp: tuple[int, tuple[int, int]]
    simcse: tuple[int, tuple[int, int]]
    encode: tuple[int, tuple[int, int]]
    rounds: int


SIZES = {
    "full": Size(SMALL, (32, (20, 200)), (32, (10, 64)), (64, (30, 500)), rounds=3),  # the bare loop takes 8 GB
    "tiny": Size(TINY, (4, (4, 20)), (4, (4, 12)), (6, (4, 30)), rounds=1),
}

# -- the bare loop -----------------------------------------------------------------------------------------


def bare_model(backbone: Backbone) -> nn.Module:
    """A copy of the model with full attention and a new adapter, by PEFT alone."""
    model = copy.deepcopy(backbone.model.base_model)
    model.config.is_causal = False
    adapted: nn.Module = get_peft_model(
        model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", bias="none")
    )
    for weight in adapted.parameters():
        weight.data = weight.data.float() if weight.requires_grad else weight.data
    return adapted


def padded(of_rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask of a whole batch."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in of_rows], batch_first=True)
    longest = torch.arange(ids.shape[1])[None]
    return ids, (longest < torch.tensor([[len(row)] for row in of_rows])).long()


def bare_mntp(model: nn.Module, head: nn.Module, of_rows: list[list[int]], places: Sequence[Blank]) -> float:
    """Stage 1 in one pass: the gradient, and the loss."""
    ids, mask = padded(of_rows)
    row, at, labels = torch.tensor(places).T
    states = model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    loss = functional.cross_entropy(head(states[row, at - 1]).float(), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def bare_simcse(model: nn.Module, of_rows: list[list[int]]) -> float:
    """Stage 2 with both views in one pass: the gradient, and the loss."""
    ids, mask = padded([*of_rows, *of_rows])
    states = model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
    mean = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    one, other = functional.normalize(mean, dim=-1).chunk(2)
    loss = functional.cross_entropy(SCALE * one @ other.T, torch.arange(len(of_rows)))
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def stepping(weights: list[nn.Parameter], work: Callable[[], float]) -> Callable[[], float]:
    """The gradient, and an update at a rate so small that rounds are alike."""
    optimizer = torch.optim.AdamW(weights, lr=1e-7, weight_decay=0.0)

    def step() -> float:
        loss = work()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


# -- measuring ---------------------------------------------------------------------------------------------


def compare(ours: Callable[[], object], bare: Callable[[], object], rounds: int) -> Result:
    """Processor seconds of both, in turns behind a warm-up, and the median of the rounds' ratios."""
    ours(), bare()
    pairs = [(timed(ours)["seconds"], timed(bare)["seconds"]) for _ in range(rounds)]
    ratios = [mine / theirs for mine, theirs in pairs]
    return {
        "ours": median(mine for mine, _ in pairs),
        "bare": median(theirs for _, theirs in pairs),
        "seconds_ratio": median(ratios),
        "seconds_ratio_range": [min(ratios), max(ratios)],
    }


def measure_training(size: Size, backbone: Backbone) -> Iterator[Result]:
    """Both stages; before, the losses of both sides are compared, so that it is the same work.

    Rows of one length show the cost of a pass alone; where lengths are mixed, the bare loop also computes its padding.
    """
    reader = Bidirectional(backbone)
    reader.new_adapter(RANK, seed=0)
    bare = bare_model(backbone)
    weights = list(reader.trained().values())
    bare_weights = [weight for weight in bare.parameters() if weight.requires_grad]
    for stage, (count, bounds) in (("stage 1", size.mntp), ("stage 2", size.simcse)):
        if stage == "stage 2":
            reader.set_attention_dropout(DROPOUT)
            set_dropout(bare, DROPOUT)
        middle = round(float(np.sqrt(bounds[0] * bounds[1])))
        for limits in (bounds, (middle, middle)):
            of_lengths = lengths(count, limits)
            work, bare_work = works(stage, reader, bare, of_lengths)
            ours, theirs = stepping(weights, work), stepping(bare_weights, bare_work)
            reader.model.eval(), bare.eval()  # no dropout, which cannot be alike on both sides
            losses = (ours(), theirs())
            reader.model.train(), bare.train()
            row = compare(ours, theirs, size.rounds)
            share = 1 / row["seconds_ratio"]
            about = {"stage": stage, "texts": count, "lengths": limits, "tokens": sum(of_lengths), "losses": losses}
            yield {**about, **row, "throughput": share, "met": share >= SLOWEST_TRAINING}


def works(
    stage: str, reader: Bidirectional, bare: nn.Module, of_lengths: list[int]
) -> tuple[Callable[[], float], Callable[[], float]]:
    """The gradient of a batch on both sides."""
    backbone, limit = reader.backbone, TeacherConfig().micro_batch_tokens
    if stage == "stage 1":
        of_rows = rows(of_lengths, backbone.embedding.num_embeddings)
        blanked, places = blank(of_rows, 2, np.random.default_rng(0))
        head = backbone.model.get_output_embeddings()
        ours = partial(mntp_gradient, reader, blanked, places, limit)
        return ours, partial(bare_mntp, bare, head, blanked, places)
    of_rows = rows(of_lengths, 2 * FIRST)  # of few words: else no two texts are alike, and the loss is zero
    return partial(simcse_gradient, reader, of_rows, 0, limit), partial(bare_simcse, bare, of_rows)


def set_dropout(model: nn.Module, share: float) -> None:
    """Attention dropout, where Qwen3 keeps it."""
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            setattr(module, "attention_dropout", share)  # noqa: B010  # the type of a module's attributes is unknown


def measure_encoding(size: Size, backbone: Backbone) -> Iterator[Result]:
    """The teacher's `embed` beside the causal model's, both pooled by the mean; with the adapter beside and merged."""
    count, bounds = size.encode
    config = TeachConfig(batch_size=8)  # neighbours of similar length, as among the 4,096 texts that `teach` sorts
    of_rows = rows(lengths(count, bounds), size.shape.vocabulary)
    said = texts(of_rows)
    causal = SelfTeacher(backbone, config)
    for name in ("adapter beside the shared weights", "adapter merged"):
        merged = name == "adapter merged"
        reader = Bidirectional(
            Backbone(copy.deepcopy(backbone.model), backbone.tokenizer, "copy") if merged else backbone
        )
        reader.new_adapter(RANK, seed=0)
        if merged:
            reader.merge()
        else:
            reader.narrow()
        teacher: Teacher = LLM2VecTeacher(reader, name, config)
        row = compare(partial(teacher.embed, said), partial(causal.embed, said), size.rounds)
        tokens = sum(map(len, of_rows))
        met = row["seconds_ratio"] <= SLOWEST_ENCODING
        yield {"teacher": name, "texts": count, "tokens": tokens, **row, "met": met}


# -- writing -----------------------------------------------------------------------------------------------


def markdown(result: Result) -> str:
    """The tables."""
    lines = [
        "# What a teacher costs",
        "",
        "Training, tokens a second beside a bare PEFT loop: the goal is at least 0.85 of it.",
        "",
        "| stage | texts | of tokens | in all | bare, tokens/s | Foresay, tokens/s | Foresay / bare (range) | goal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["training"]:
        low, high = (1 / value for value in reversed(row["seconds_ratio_range"]))
        speeds = (row["tokens"] / row["bare"], row["tokens"] / row["ours"])
        cells = [row["stage"], str(row["texts"]), _span(row["lengths"]), str(row["tokens"])]
        cells += [f"{speed:.0f}" for speed in speeds]
        cells += [f"**{row['throughput']:.2f}** ({low:.2f}–{high:.2f})", "met" if row["met"] else "**missed**"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Encoding, seconds beside the causal model's, both pooled by the mean: the goal is at most 1.10 of them.",
        "",
        "| teacher | texts | tokens | causal model, s | teacher, s | teacher / causal (range) | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["encoding"]:
        low, high = row["seconds_ratio_range"]
        cells = [row["teacher"], str(row["texts"]), str(row["tokens"]), f"{row['bare']:.2f}", f"{row['ours']:.2f}"]
        cells += [f"**{row['seconds_ratio']:.2f}** ({low:.2f}–{high:.2f})", "met" if row["met"] else "**missed**"]
        lines.append(f"| {' | '.join(cells)} |")
    listed = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    losses = "; ".join("{:.4f}, {:.4f}".format(*row["losses"]) for row in result["training"])
    lines += [
        "",
        f"* Hardware: {result['hardware']}. {listed}.",
        f"* Random weights shaped as Qwen3, {result['parameters'] / 1e6:.1f} M parameters, bf16; LoRA of rank {RANK} "
        "on every linear layer, in float32 while it is trained.",
        f"* Mixed lengths are log-uniform; texts to encode have {_span(result['size']['encode'][1])} tokens. The bare "
        "loop pads a batch to its longest row, Foresay cuts it into passes of similar length; rows of one length leave "
        "that out.",
        f"* The same work: before timing, without dropout, the losses of the rows above were (Foresay, bare) {losses}.",
        "* Seconds are of the processor; median of the rounds, the sides in turn. A teacher that is loaded alone has "
        "its adapter merged into its weights; one that shares the weights of the causal backbone keeps it beside them, "
        "in their number type, and pays for its products.",
    ]
    return "\n".join(lines) + "\n"


def _span(bounds: Sequence[int]) -> str:
    return str(bounds[0]) if bounds[0] == bounds[1] else f"{bounds[0]}–{bounds[1]}"


@click.command(help=__doc__)
@click.option("--size", "size_name", type=click.Choice(sorted(SIZES)), default="full", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=RESULTS, help="Where results go.")
def main(size_name: str, output: Path) -> None:
    """Measures and writes."""
    size = SIZES[size_name]
    backbone = size.shape.backbone()
    measured: dict[str, list[Result]] = {}
    for task, work in (("encoding", measure_encoding), ("training", measure_training)):
        measured[task] = []
        for row in work(size, backbone):
            measured[task].append(row)
            click.echo(f"{task}, {row.get('stage') or row['teacher']}: {row['seconds_ratio']:.2f} of the bare seconds")
    result = {
        "hardware": hardware(),
        "versions": versions(),
        "size": asdict(size),
        "parameters": size.shape.parameters,
        **measured,
    }
    write("teacher_speed", result, markdown(result), output)
    click.echo(markdown(result))


if __name__ == "__main__":
    main()
