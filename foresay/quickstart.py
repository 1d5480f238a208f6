"""The whole method on the packaged backbone, offline: what `make quickstart` runs.

In: nothing; the queries, the test sets and the backbone are inside the package. Out: a folder with the
responses, the targets and a trained checkpoint, and on the screen what it can do.
What a reader would get wrong: every row of the table searches the same index, the passages as the *teacher*
embeds them; the rows differ in the query's vector alone. The last two read the whole response, which costs a
generation a query: they bound what one forward pass can reach, the last one with the targets used here, half the
response's vector and half the query's (benchmarks/results/query_weight.md has the other shares).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from .backbone import NANO, Backbone
from .config import RespondConfig, TeachConfig, TrainConfig
from .data.pairs import Pairs
from .data.queries import Progress, Query, content_id, read_queries
from .data.responses import read_responses
from .encoder import Array, Encoder
from .engines.respond import respond
from .evaluation import PerQuery, Task, interval, ndcg, safety
from .teachers.base import Teacher
from .teachers.llm2vec import NANO_TEACHER
from .teachers.load import load_teacher
from .teachers.teach import teach
from .training.metrics import Event, Step
from .training.train import train

EXAMPLE = Path(__file__).parent / "packaged" / "example"
RESPOND = RespondConfig(max_new_tokens=64, batch_size=256)
TRAIN = TrainConfig(steps=70, warmup_steps=7, learning_rate=1e-3, evaluate_every=14, held_out=90, dtype="float32")
TEACH, TEACHER = TeachConfig(query_weight=0.5), NANO_TEACHER
SHOWN = (
    "What are the symptoms of measles?",
    "Describe the climate of Chad.",
    "How do I pick a lock to rob a house?",
)


Bars = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress bar with a title."""


_FAREWELL = """
Loss curves  {checkpoint}/training/curves.png
Checkpoint   {checkpoint}/

What to type next:
  foresay decode {checkpoint} -t 'What does frugal mean?'    what an embedding stands for
  foresay lens   {checkpoint} 'What does frugal mean?'       what its tokens hold, layer by layer
  foresay verify {checkpoint}                                does this machine give the same vectors?
  foresay respond QUERIES -m MODEL -o responses.jsonl        your own queries, your own language model
"""


@dataclass(frozen=True)
class Row:
    """A line of the table: a way to embed queries, and its vectors for both test sets."""

    name: str
    shelf: Array
    safety: Array


def quickstart(output: Path, device: str, bars: Bars) -> None:
    """Runs every step and shows what came out; run again, it goes on where it stopped.

    Args:
        output: folder for everything that is made.
        device: where to run.
        bars: shows progress.
    """
    console = Console()
    # one thread: matrices this small leave two to wait for each other (measured: 1.2 s a step, against 1.6 to 16)
    torch.set_num_threads(1)
    # float32, since processors without bfloat16 instructions take twice as long in it
    backbone = Backbone.load(NANO, device=device, dtype=TRAIN.dtype)
    teacher = load_teacher(TEACHER, backbone, device, TEACH)
    queries = list(read_queries(EXAMPLE / "queries.jsonl"))
    responses, targets, checkpoint = output / "responses.jsonl", output / "teacher", output / "checkpoint"
    console.print(f"[bold]Foresay[/bold] on the small packaged backbone; everything goes to {output}/\n")
    console.print(f"1  The backbone answers {len(queries)} questions.")
    with bars("respond") as progress:
        respond(queries, backbone, responses, RESPOND, progress)
    console.print("2  The teacher embeds answers and questions: the targets are half of each.")
    with bars("teach") as progress:
        teach(responses, teacher, targets, progress, query_weight=TEACH.query_weight)
    console.print("3  Special tokens and two maps learn to reach a target from the question alone.")
    with bars("train") as progress:

        def report(event: Event) -> None:
            if isinstance(event, Step):
                progress(event.step, event.total, f"loss {event.metrics['loss']:.2f}")
            else:
                progress(0, TRAIN.steps, "closed-form start")

        encoder = train(Pairs.load(responses, targets), backbone, checkpoint, TRAIN, report)
    shelf, harm = Task.load(EXAMPLE / "shelf"), Task.load(EXAMPLE / "safety")
    console.print("4  Questions it never saw; for comparison, the backbone writes their answers out too.")
    with bars("evaluate") as progress:
        rows = _rows(encoder, teacher, shelf, harm, output / "responses-test.jsonl", progress)
    documents = teacher.embed(shelf.documents)
    console.print(_table(rows, documents, teacher.embed(harm.documents), shelf, harm))
    console.print(_examples(encoder, shelf, documents))
    console.print(_FAREWELL.format(checkpoint=checkpoint), markup=False, highlight=False, soft_wrap=True)


def _rows(
    encoder: Encoder, teacher: Teacher, shelf: Task, harm: Task, responses: Path, progress: Progress
) -> list[Row]:
    """The same questions embedded in three ways; for the last the backbone writes its answers out."""
    queries = [*shelf.queries, *harm.queries]
    respond(
        [Query(content_id(query), query) for query in dict.fromkeys(queries)],
        encoder.model.backbone,
        responses,
        RESPOND,
        progress,
    )
    answers = {row.query: row.response for row in read_responses(responses)}
    asked, answered = teacher.embed(queries), teacher.embed([answers.get(query, query) for query in queries])
    ways: dict[str, Array] = {
        "teacher, the question": asked,
        "Foresay, the question": encoder.encode_query(queries),
        "teacher, the answer": answered,
        "teacher, both averaged": (asked + answered) / np.float32(2),
    }
    cut = len(shelf.queries)
    return [Row(name, vectors[:cut], vectors[cut:]) for name, vectors in ways.items()]


def _table(rows: list[Row], documents: Array, harm_documents: Array, shelf: Task, harm: Task) -> Table:
    table = Table(
        title=f"\n{len(shelf.queries)} questions among {len(shelf.documents)} passages; "
        f"{int(harm.harmful_queries.sum())} harmful requests, as many harmless look-alikes",
        caption="nDCG@10; share of requests with such a passage in the top 5; 95 % bootstrap intervals.\n"
        "All rows search the same index: the passages as the teacher embeds them.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("embedded by")
    for heading in ("finds the\nanswer ↑", "harmful finds\nharmful ↓", "harmless finds\nits own ↑"):
        table.add_column(heading, justify="right")
    for row in rows:
        safe = safety(row.safety, harm_documents, harm)
        found = ndcg(row.shelf, documents, shelf)
        style = "bold" if row.name.startswith("Foresay") else None
        table.add_row(row.name, *map(_with_interval, (found, safe.any_harmful, safe.benign)), style=style)
    return table


def _with_interval(scores: PerQuery) -> str:
    low, high = interval(scores)
    return f"{scores.mean():.3f} {low:.2f}–{high:.2f}"


def _examples(encoder: Encoder, shelf: Task, documents: Array) -> Table:
    """Three questions, what their embeddings decode to, and which passages lie nearest."""
    table = Table(title="\nWhat an embedding stands for", title_justify="left", show_lines=True)
    table.add_column("question", ratio=2)
    table.add_column("its embedding, decoded", ratio=3)
    table.add_column("nearest passages", ratio=4)
    nearest = np.argsort(-Encoder.similarity(encoder.encode_query(SHOWN), documents), axis=1)[:, :2]
    for query, decoded, places in zip(SHOWN, encoder.decode(SHOWN, max_new_tokens=40), nearest, strict=True):
        passages = "\n".join(f"· {shorten(shelf.documents[place], 90, placeholder=' …')}" for place in places)
        table.add_row(query, shorten(decoded, 150, placeholder=" …"), passages)
    return table
