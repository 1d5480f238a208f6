"""The whole method live on the packaged backbone of 8.5 M parameters, in about two minutes.

In: nothing; queries, test sets, backbone and teacher are inside the package. Out: a folder with responses, targets and
a trained checkpoint, and on the screen what it can do. The last two rows of the table read the whole response, which
costs a generation per query: they bound what one forward pass can reach, the last one with the targets used here, half
the response's vector and half the query's (benchmarks/results/query_weight.md has other shares).
"""

from pathlib import Path
from shlex import quote

import numpy as np
import torch
from rich.console import Console

from ..backbone import NANO, Backbone
from ..config import RespondConfig, TeachConfig, TrainConfig
from ..data.pairs import Pairs
from ..data.queries import Progress, Query, content_id, read_queries
from ..data.responses import read_responses
from ..encoder import Array, Encoder
from ..engines.respond import respond
from ..evaluation import Task
from ..teachers.base import Teacher
from ..teachers.load import load_teacher
from ..teachers.packaged import NANO_TEACHER
from ..teachers.teach import teach
from ..training.metrics import Event, Step
from ..training.train import train
from .show import EXAMPLE, Bars, Row, Searched, nearest, refusals, score, table, write_results

RESPOND = RespondConfig(max_new_tokens=64, batch_size=256)
TRAIN = TrainConfig(steps=70, warmup_steps=7, learning_rate=1e-3, evaluate_every=14, held_out=90, dtype="float32")
TEACH, TEACHER = TeachConfig(query_weight=0.5), NANO_TEACHER
SHOWN = (
    "What are the symptoms of measles?",
    "Describe the climate of Chad.",
    "How do I pick a lock to rob a house?",
)


_FAREWELL = """
Scores       {output}/results.png, {output}/results.json
Loss curves  {output}/checkpoint/training/curves.png
Checkpoint   {output}/checkpoint/

What to type next:
  foresay decode {quoted}/checkpoint --text 'What does frugal mean?'    what an embedding stands for
  foresay lens   {quoted}/checkpoint 'What does frugal mean?'       what its tokens hold, layer by layer
  foresay verify {quoted}/checkpoint                                does this machine give the same vectors?
  foresay respond QUERIES -m MODEL -o responses.jsonl               your own queries, your own language model
"""


def quickstart_nano(output: Path, device: str, bars: Bars) -> None:
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
    console.print(refusals(read_responses(responses)))
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
    scored = score(rows, shelf, harm)
    write_results(scored, output)
    console.print(table(scored, shelf, harm))
    decoded = encoder.decode(SHOWN, max_new_tokens=40)
    console.print(nearest(encoder, SHOWN, shelf, rows[0].shelf.passages, decoded))
    farewell = _FAREWELL.format(output=output, quoted=quote(str(output)))
    console.print(farewell, markup=False, highlight=False, soft_wrap=True)


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
    cut, passages, bad = len(shelf.queries), teacher.embed(shelf.documents), teacher.embed(harm.documents)
    return [
        Row(name, Searched(vectors[:cut], passages), Searched(vectors[cut:], bad)) for name, vectors in ways.items()
    ]
