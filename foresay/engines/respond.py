"""Queries to responses: the backbone answers each query, through its chat template where it has one.

In: queries, a backbone. Out: a JSON lines file of responses; beside it a manifest of how they were made, and a
`.rejected.jsonl` of the rows that got none, with the reason.
Be careful: a batch is made of the same queries whether or not some are answered already.
Padding and sampling depend on the whole batch, so a partly answered batch is computed again and only its
missing rows are written: a killed run, repeated, ends in the same file as one that was never killed.
"""

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ..backbone import Backbone
from ..config import RespondConfig
from ..data.queries import Progress, Query, Reject, content_id
from ..data.responses import Response, parse_responses
from ..errors import DataError
from ..files import Journal, differences, read_json, write_json
from .transformers import Prompt, TransformersEngine, row_of

T = TypeVar("T")

_BLOCK = 64
"""Batches read together and sorted by length: enough that they pad little, few enough to hold in memory."""


@dataclass(frozen=True)
class Summary:
    """What a run did, in rows: written now, skipped since an earlier run wrote them, rejected.

    `cut` counts the responses written now that reached the longest length before they ended.
    """

    written: int
    skipped: int
    rejected: int
    cut: int


def respond(
    queries: Iterable[Query | Reject],
    backbone: Backbone,
    output: Path,
    config: RespondConfig | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Writes the backbone's response to each query; run again after a kill, it goes on where it stopped.

    Args:
        queries: each id once, as `read_queries` yields them; rejects among them go to the side file.
        backbone: who answers.
        output: JSON lines of `Response`, appended to and synced after each batch.
        config: lengths, sampling and batch size.
        progress: told after each batch; it may raise, and nothing that is written is lost.

    Raises:
        DataError: if the file was made otherwise (another backbone or option), holds another text under an
            id, is damaged, or is being written by another process.
        InputError: if the longest response leaves no room for a query.
    """
    config = config or RespondConfig()
    engine = TransformersEngine(backbone, config)
    total = len(queries) if isinstance(queries, Sized) else None
    with Journal(output) as journal:
        _claim(journal, engine.manifest())
        run = _Run(engine, journal)
        for chunk in _chunks(queries, _BLOCK * config.batch_size):
            prompts = run.refuse([engine.prompt(item) for item in chunk])
            prompts.sort(key=lambda prompt: len(prompt.ids), reverse=True)  # the longest first: what fails, fails early
            for batch in _chunks(prompts, config.batch_size):
                run.answer(batch)
                if progress:
                    progress(run.seen, total, engine.speed())
        return run.summary()


class Rejects:
    """The side file of rows that got no response: each row once, however often the command runs."""

    def __init__(self, path: Path) -> None:
        """Reads what an earlier run rejected. The file is only made when there is something to put in."""
        self.path = path
        self._known: set[str] = set()
        if path.exists():
            with Journal(path) as journal:
                self._known.update(content_id(str(row.get("row"))) for _, row in journal.rows())

    def __contains__(self, row: str) -> bool:
        """Whether a row was rejected, now or by an earlier run."""
        return content_id(row) in self._known

    def add(self, rejects: Iterable[Reject]) -> None:
        """Writes those that are new."""
        new = {content_id(reject.row): asdict(reject) for reject in rejects if reject.row not in self}
        if new:
            with Journal(self.path) as journal:
                journal.append(new.values())
            self._known.update(new)


class _Run:
    """One run over the queries: what is settled already, what gets written, and the counts."""

    def __init__(self, engine: TransformersEngine, journal: Journal) -> None:
        self.engine, self.journal = engine, journal
        self.rejects = Rejects(_beside(journal.path, "rejected.jsonl"))
        self.done = {r.id: content_id(r.query) for r in parse_responses(journal.rows(), journal.path)}
        self.seen = self.written = self.skipped = self.cut = 0

    def refuse(self, items: Iterable[Prompt | Reject]) -> list[Prompt]:
        """Puts the rejects into the side file; returns the rest."""
        prompts: list[Prompt] = []
        rejects: list[Reject] = []
        for item in items:
            if isinstance(item, Reject):
                rejects.append(item)
            else:
                prompts.append(item)
        self.rejects.add(rejects)
        self.seen += len(rejects)
        return prompts

    def answer(self, batch: Sequence[Prompt]) -> None:
        """Answers a batch and writes the rows that are missing."""
        self.seen += len(batch)
        answered = [self._answered(prompt.query) for prompt in batch]
        self.skipped += sum(answered)
        missing = [not a and row_of(p.query) not in self.rejects for a, p in zip(answered, batch, strict=True)]
        if not any(missing):
            return
        responses, empty = [], []
        for prompt, (text, finish), wanted in zip(batch, self.engine.answer(batch), missing, strict=True):
            if wanted and text:
                responses.append(Response(prompt.query.id, prompt.query.text, text, finish))
            elif wanted:
                empty.append(Reject(row_of(prompt.query), f"{self.engine.backbone.name} answered nothing"))
        self.journal.append(asdict(response) for response in responses)
        self.rejects.add(empty)
        self.written += len(responses)
        self.cut += sum(response.finish == "length" for response in responses)

    def summary(self) -> Summary:
        """The counts."""
        return Summary(self.written, self.skipped, self.seen - self.written - self.skipped, self.cut)

    def _answered(self, query: Query) -> bool:
        if self.done.get(query.id, content_id(query.text)) != content_id(query.text):
            raise DataError(
                f"{self.journal.path} answers another text under the id {query.id!r}: the queries have changed; "
                "delete that file, or use another -o"
            )
        return query.id in self.done


def _claim(journal: Journal, manifest: dict[str, Any]) -> None:
    """Makes the file ours: writes the manifest of a new one, compares that of an old one."""
    path = _beside(journal.path, "manifest.json")
    if not len(journal):
        _beside(journal.path, "rejected.jsonl").unlink(missing_ok=True)  # of a file that was deleted since
        write_json(path, manifest)
        return
    if not path.exists():
        raise DataError(f"{journal.path} was not written by foresay respond: there is no {path}; use another -o")
    changed = differences(read_json(path), manifest)
    if changed:
        raise DataError(f"{journal.path} was made otherwise: {changed}; use another -o, or delete that file")


def _beside(output: Path, ending: str) -> Path:
    return output.with_suffix(f".{ending}")


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
