"""Queries to responses: an engine answers each query, through its chat template where it has one.

In: queries, an engine. Out: a JSON lines file of responses; beside it a manifest of how they were made, and a
`.rejected.jsonl` of the rows that got none, with the reason.
Be careful: the file is the only memory between two runs. An id that is in it is done; what was being written when a
run was killed is answered again, and comes out the same: a response depends on text, seed and model alone.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from operator import length_hint
from pathlib import Path
from typing import Any, TypeVar

from .. import __version__
from ..backbone import Backbone
from ..config import RespondConfig
from ..data.formats import printable
from ..data.likeness import reservoir, warn_of_texts
from ..data.queries import Progress, Query, Reject, content_id, problem_of
from ..data.rejects import Rejects, row_of
from ..data.responses import Response, problem_of_response, stream_responses
from ..data.seen import Seen
from ..errors import DataError, InputError
from ..files import Journal, differences, read_json, write_json
from .base import Answer, Engine, Job
from .transformers import TransformersEngine

T = TypeVar("T")

_ROWS, _SECONDS = 64, 2.0
"""Answers are written when there are so many, or after so long; a kill costs no more than these."""
ENDING = ".jsonl"


@dataclass(frozen=True)
class Summary:
    """What a run did, in rows.

    Attributes:
        written: responses written now.
        skipped: there before.
        rejected: without a response.
        cut: written now, and at the longest length before they ended.
        copied: written now without asking, since another id has the same text.
    """

    written: int
    skipped: int
    rejected: int
    cut: int
    copied: int = 0


def respond(
    queries: Iterable[Query | Reject | str],
    engine: Engine | Backbone,
    output: str | Path,
    config: RespondConfig | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Writes the response to each query; run again after a kill, it resumes.

    Args:
        queries: each id once, as `read_queries` yields them, or bare texts, whose ids then are hashes; rejects among
            them go to the side file. Read as a stream.
        engine: who answers; a backbone answers by the transformers library.
        output: JSON lines of `Response`, appended to and synced as rows end.
        config: lengths, sampling and batches.
        progress: told after each group of rows; it may raise, and nothing that is written is lost.

    Raises:
        DataError: if the file was made otherwise (another backbone or option), holds another text under an
            id, is damaged, cannot be written, or is being written by another process.
        InputError: if the longest response leaves no room for a query, or something else is among the queries.
    """
    config, output = config or RespondConfig(), Path(output)
    if output.suffix != ENDING:
        raise InputError(f"-o {output} does not end in {ENDING}, as responses do; try {output}{ENDING}")
    engine = TransformersEngine(engine, config) if isinstance(engine, Backbone) else engine
    total = length_hint(queries) or None
    with Journal(output) as journal:
        _claim(journal, manifest(engine, config))
        run = _Run(engine, journal, config)
        for chunk in _chunks(map(_as_query, queries), engine.window):
            for _ in run.answer(run.plan(chunk)):
                if progress:
                    progress(run.seen, total, engine.speed())
            run.seen_all(chunk)
            if progress:
                progress(run.seen, total, engine.speed())
        summary = run.finish()
    if summary.written:
        warn_of_texts(reservoir(row.response for row in stream_responses(output)), output)
    return summary


def manifest(engine: Engine, config: RespondConfig) -> dict[str, Any]:
    """What the responses of a file depend on."""
    kept = ("max_new_tokens", "temperature", "top_p", "seed", "max_query_tokens", "system")
    settings = {name: value for name, value in asdict(config).items() if name in kept}
    return {**engine.manifest(), "engine": config.engine, "config": settings, "version": __version__}


def beside(output: Path, ending: str) -> Path:
    """The side file of a responses file: `r.manifest.json` for `r.jsonl`."""
    return output.with_name(f"{output.name.removesuffix(ENDING)}.{ending}")


@dataclass
class _Wanted:
    """A job, and the queries that wait for its answer, each with the id of its row."""

    job: Job
    rows: list[tuple[str, Query]] = field(default_factory=list)


class _Run:
    """One run over the queries: what is done already, what gets written, and the counts."""

    def __init__(self, engine: Engine, journal: Journal, config: RespondConfig) -> None:
        self.engine, self.journal, self.config = engine, journal, config
        self.done, self.texts, self.ids = Seen(), Seen(), Seen()
        for _, offset, row in journal.places():
            self._note(_checked(row, journal.path), offset)
        self.rejects = Rejects(beside(journal.path, "rejected.jsonl"), retry=config.retry_rejected)
        self.rejects.forget(self._is_done)
        self.seen = self.written = self.skipped = self.cut = self.copied = self.rejected = 0
        self._pending = 0

    def plan(self, chunk: Sequence[Query | Reject]) -> dict[Job, _Wanted]:
        """What has to be asked; copies what another id's response answers, and rejects what cannot be asked."""
        queries = [item for item in chunk if isinstance(item, Query)]
        rejects = [item for item in chunk if isinstance(item, Reject)]
        self.rejects.add(rejects)
        self.rejected += len(rejects)
        open_rows = [(id, query, sample) for query in queries for id, sample in self._open(query)]
        texts = list(dict.fromkeys(query.text for _, query, _ in open_rows))
        refusals = dict(zip(texts, self.engine.refusals(texts), strict=True)) if texts else {}
        wanted: dict[Job, _Wanted] = {}
        copies: list[Response] = []
        for id, query, sample in open_rows:
            job = Job.of(query.text, sample, self.config.seed)
            known = self.texts.get(_key(query.text, sample))
            reason = refusals[query.text]
            if known is not None:
                row = self.journal.row_at(int(known))
                copies.append(Response(id, query.text, row["response"], row.get("finish", "stop")))
            elif reason:
                self._reject(query, reason)
            else:
                wanted.setdefault(job, _Wanted(job)).rows.append((id, query))
        self._write(copies)
        self.copied += len(copies)
        return wanted

    def answer(self, wanted: dict[Job, _Wanted]) -> Iterator[None]:
        """Asks, and writes answers in groups; yields after each group."""
        answers: list[Answer] = []
        since = time.monotonic()
        if wanted:
            for answer in self.engine.answer(list(wanted)):
                answers.append(answer)
                self._pending += 1
                if len(answers) >= _ROWS or time.monotonic() - since > _SECONDS:
                    self._settle(answers, wanted)
                    answers, since = [], time.monotonic()
                    yield
        self._settle(answers, wanted)

    def seen_all(self, chunk: Sequence[Query | Reject]) -> None:
        """Counts the rows of a chunk that is done."""
        self.seen, self._pending = self.seen - self._pending + len(chunk), 0

    def finish(self) -> Summary:
        """The counts; the rejects that have been answered meanwhile leave their file."""
        self.rejects.forget(self._is_done)
        return Summary(self.written, self.skipped, self.rejected, self.cut, self.copied)

    def _open(self, query: Query) -> list[tuple[str, int]]:
        """Ids and numbers of the responses that a query still lacks."""
        rows = [(query.id if n == 0 else f"{query.id}#{n}", n) for n in range(self.config.responses_per_query)]
        missing = []
        for id, sample in rows:
            digest = content_id(query.text)
            if len(rows) > 1 and self.ids.setdefault(id, owner := content_id(query.id)) != owner:
                raise DataError(
                    f"{id!r} is the id of a query, and of a further response to {id.rpartition('#')[0]!r}; "
                    "rename that query, or leave out --responses-per-query"
                )
            if self.done.get(id) not in (None, digest):
                raise DataError(
                    f"{self.journal.path} answers another text under the id {id!r}: the queries have changed; "
                    "use another -o, or delete that file"
                )
            if id in self.done:
                self.skipped += 1
            elif row_of(query) in self.rejects:
                self.rejected += sample == 0
                break
            else:
                missing.append((id, sample))
        return missing

    def _settle(self, answers: Sequence[Answer], wanted: dict[Job, _Wanted]) -> None:
        responses = []
        for answer in answers:
            for id, query in wanted[answer.job].rows:
                if answer.problem or not answer.text:
                    self._reject(query, answer.problem or f"{self.engine.name} answered nothing")
                    continue
                responses.append(Response(id, query.text, answer.text, answer.finish))
                self.cut += answer.finish == "length"
            self.copied += max(0, len(wanted[answer.job].rows) - 1) if answer.text and not answer.problem else 0
        self._write(responses)
        self.seen += len(answers)

    def _write(self, responses: Sequence[Response]) -> None:
        offsets = self.journal.append(asdict(response) for response in responses)
        for response, offset in zip(responses, offsets, strict=True):
            self._note(response, offset)
        self.written += len(responses)

    def _note(self, response: Response, offset: int) -> None:
        id, _, number = response.id.rpartition("#")
        self.done.setdefault(response.id, content_id(response.query))
        self.texts.setdefault(_key(response.query, int(number) if id and number.isdecimal() else 0), offset)

    def _reject(self, query: Query, reason: str) -> None:
        if row_of(query) not in self.rejects:
            self.rejects.add([Reject(row_of(query), reason)])
            self.rejected += 1

    def _is_done(self, row: str) -> bool:
        try:
            found = json.loads(row)
            id, query = str(found["id"]), found["query"]
        except (ValueError, KeyError, TypeError):
            return False
        return problem_of(query, "query") is None and self.done.get(id) == content_id(query)


def _as_query(item: Query | Reject | str) -> Query | Reject:
    if isinstance(item, str):
        reason = problem_of(item, "the text")
        return Reject(printable({"query": item}), reason) if reason else Query(content_id(item), item)
    if not isinstance(item, Query | Reject):
        raise InputError(f"a query is {item!r:.80}; expected a string, or a Query, as read_queries yields them")
    return item


def _key(text: str, sample: int) -> str:
    return f"{sample}:{text}"


def _checked(row: dict[str, Any], path: Path) -> Response:
    problem = problem_of_response(row)
    if problem:
        raise DataError(f"{path}: {problem}, in {json.dumps(row, ensure_ascii=False)[:80]}; repair or delete the line")
    return Response(row["id"], row["query"], row["response"], row.get("finish", "stop"))


def _claim(journal: Journal, made: dict[str, Any]) -> None:
    """Makes the file ours: writes the manifest of a new one, compares that of an old one."""
    path = beside(journal.path, "manifest.json")
    if not len(journal):
        beside(journal.path, "rejected.jsonl").unlink(missing_ok=True)  # of a file that was deleted since
        write_json(path, made)
        return
    if not path.exists():
        raise DataError(f"{journal.path} was not written by foresay respond: there is no {path}; use another -o")
    changed = differences(read_json(path), made)
    if changed:
        raise DataError(f"{journal.path} was made otherwise: {changed}; use another -o, or delete that file")


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
