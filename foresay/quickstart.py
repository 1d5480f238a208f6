"""The whole method on the packaged backbone, offline: what `make quickstart` runs.

In: nothing; the queries, the test sets and the backbone are inside the package. Out: a folder with the
responses, the targets and a trained checkpoint, and on the screen what it can do.
What a reader would get wrong: every row of the table searches the same index, the passages as the *teacher*
embeds them; the rows differ in the query's vector alone. The last row reads the whole response, which costs a
generation a query: it is the bound that one forward pass is after.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from .backbone import NANO, Backbone
from .config import RespondConfig, TeachConfig, TrainConfig
from .data import Progress, Query, content_id, read_queries, read_responses
from .encoder import Array, Encoder
from .evaluate import Scores, Task, interval, ndcg, safety
from .respond import respond
from .teach import Teacher, load_teacher, teach
from .train import Figures, Pairs, train

EXAMPLE = Path(__file__).parent / "example"
RESPOND = RespondConfig(max_new_tokens=64, batch_size=256)
TRAIN = TrainConfig(steps=150, warmup_steps=15, learning_rate=1e-3, template="chat", evaluate_every=25, held_out=90)
SHOWN = (
    "What are the symptoms of measles?",
    "Describe the climate of Chad.",
    "How do I pick a lock to rob a house?",
)


Bars = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress bar with a title."""


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
    backbone = Backbone.load(NANO, device=device)
    teacher = load_teacher("self", backbone, device, TeachConfig())
    console.print(f"[bold]Foresay[/bold] on the packaged backbone ({NANO}), everything under {output}/\n")
    responses, targets, checkpoint = output / "responses.jsonl", output / "teacher", output / "checkpoint"
    with bars("1 respond: the backbone answers the bundled queries") as progress:
        respond(list(read_queries(EXAMPLE / "queries.jsonl")), backbone, responses, RESPOND, progress)
    with bars("2 teach: the teacher embeds the answers") as progress:
        teach(responses, teacher, targets, progress)
    with bars("3 train: special tokens and maps") as progress:

        def report(step: int, figures: Figures) -> None:
            progress(step, TRAIN.steps, f"loss {figures['loss']:.2f}")

        encoder = train(Pairs.load(responses, targets), backbone, checkpoint, TRAIN, report)
    shelf, harm = Task.load(EXAMPLE / "shelf"), Task.load(EXAMPLE / "safety")
    with bars("4 evaluate: questions the training never saw") as progress:
        rows = _rows(encoder, teacher, shelf, harm, output / "responses-test.jsonl", progress)
    documents = teacher.embed(shelf.documents)
    console.print(_table(rows, documents, teacher.embed(harm.documents), shelf, harm))
    console.print(_examples(encoder, shelf, documents))
    console.print(
        f"\nLoss curves  {checkpoint}/training/curves.png\nCheckpoint   {checkpoint}/\n\n"
        "What to type next:\n"
        f"  foresay decode {checkpoint} -t 'What does frugal mean?'     what an embedding stands for\n"
        f"  foresay lens   {checkpoint} 'What does frugal mean?'        what its tokens hold, layer by layer\n"
        f"  foresay verify {checkpoint}                                 the same vectors here as where it was made?\n"
        "  foresay respond QUERIES -m MODEL -o responses.jsonl         your own queries, your own language model\n",
        markup=False,
        soft_wrap=True,
    )


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
    ways = {
        "teacher on the question": teacher.embed(queries),
        "Foresay on the question": encoder.encode_query(queries),
        "teacher on the whole answer": teacher.embed([answers.get(query, query) for query in queries]),
    }
    cut = len(shelf.queries)
    return [Row(name, vectors[:cut], vectors[cut:]) for name, vectors in ways.items()]


def _table(rows: list[Row], documents: Array, harm_documents: Array, shelf: Task, harm: Task) -> Table:
    table = Table(
        title=f"\n{len(shelf.queries)} questions, {len(shelf.documents)} passages; "
        f"{int(harm.harmful_queries.sum())} harmful requests and as many harmless look-alikes",
        caption="95 % bootstrap intervals over the queries. All rows search the teacher's index of the passages.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("query vector")
    table.add_column("finds the answer\n(nDCG@10, higher is better)", justify="right")
    table.add_column("harmful finds harmful\n(top 5, lower is safer)", justify="right")
    table.add_column("harmless finds its own\n(top 5, higher is better)", justify="right")
    for row in rows:
        safe = safety(row.safety, harm_documents, harm)
        found = ndcg(row.shelf, documents, shelf)
        style = "bold" if row.name.startswith("Foresay") else None
        table.add_row(row.name, *map(_with_interval, (found, safe.any_harmful, safe.benign)), style=style)
    return table


def _with_interval(scores: Scores) -> str:
    low, high = interval(scores)
    return f"{scores.mean():.3f} [{low:.3f}, {high:.3f}]"


def _examples(encoder: Encoder, shelf: Task, documents: Array) -> Table:
    """Three questions, what their embeddings decode to, and which passages lie nearest."""
    table = Table(title="\nWhat an embedding stands for", title_justify="left", show_lines=True)
    table.add_column("question", ratio=2)
    table.add_column("its embedding, decoded", ratio=3)
    table.add_column("nearest passages", ratio=4)
    nearest = np.argsort(-Encoder.similarity(encoder.encode_query(SHOWN), documents), axis=1)[:, :2]
    for query, decoded, places in zip(SHOWN, encoder.decode(SHOWN, max_new_tokens=48), nearest, strict=True):
        table.add_row(query, decoded.strip(), "\n".join(f"· {shelf.documents[place]}" for place in places))
    return table
