"""The responses of several shards joined to one file, after a look at whether they belong together.

In: files that `respond --shard` wrote. Out: one file with its manifest, as one machine would have written it but for
the order of its rows; and what was found: repeated rows, and queries without a response.
Be careful: nothing is written until every shard has been read once, and the queries too.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import DataError, InputError
from ..files import differences, read_json, write_json
from ..outputs import check_output, replacing
from .queries import Query, Reject
from .responses import Response, check_responses, stream_responses
from .seen import Seen, content_id

_SHARD = re.compile(r"-(\d+)-of-(\d+)\.jsonl$")


@dataclass(frozen=True)
class Merged:
    """What was joined.

    Attributes:
        rows: in the new file.
        repeated: rows that several shards had, alike; one of each is kept.
        gaps: queries without a response, where the queries were given.
        rejected: rows in the shards' reject files.
    """

    rows: int
    repeated: int
    gaps: int | None
    rejected: int


def merge(shards: Sequence[Path], output: Path, queries: Iterable[Query | Reject] | None = None) -> Merged:
    """Joins shards.

    Args:
        shards: responses files, each with its manifest beside it.
        output: the file to make; it must not be there.
        queries: what should have been answered; gaps are counted only then.

    Raises:
        DataError: if a file is missing, shards were made otherwise, one of a split is missing, one id has two different
            responses, or the queries cannot be read. Nothing has been written then.
        InputError: if the output is there already.
    """
    if output.exists():
        raise InputError(f"{output} is there already; name another -o, or delete it")
    if output.suffix != ".jsonl":
        raise InputError(f"-o {output} does not end in .jsonl, as responses do; try {output}.jsonl")
    check_output(output)
    made = _made_alike(shards)
    _check_numbers(shards)
    seen = Seen()
    repeated = sum(_is_repeated(row, seen, shard) for shard in shards for row in stream_responses(shard))
    gaps = None if queries is None else sum(isinstance(q, Query) and q.id not in seen for q in queries)
    rows = 0
    written = Seen()
    with replacing(output) as part, part.open("w", encoding="utf-8") as file:
        for row in (row for shard in shards for row in stream_responses(shard)):
            if written.setdefault(row.id, rows) == rows:
                file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
                rows += 1
    write_json(_side(output, "manifest.json"), made)
    rejected = _join_rejects(shards, output)
    return Merged(rows, repeated, gaps, rejected)


def _side(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.{ending}")


def _made_alike(shards: Sequence[Path]) -> dict[str, object]:
    """The manifest that all shards share."""
    first: dict[str, object] | None = None
    for shard in shards:
        check_responses(shard)
        found = read_json(_side(shard, "manifest.json"))
        changed = differences(first, found) if first is not None else ""
        if changed:
            raise DataError(f"{shard} was made otherwise than {shards[0]}: {changed}; merge only what was made alike")
        first = first or found
    if first is None:
        raise InputError("there is no shard to merge; name two or more files")
    return first


def _check_numbers(shards: Sequence[Path]) -> None:
    """DataError if the names say that a shard is missing."""
    named = [found.groups() for found in (_SHARD.search(shard.name) for shard in shards) if found]
    if len(named) < len(shards):
        return  # other names: the user knows
    counts = {count for _, count in named}
    missing = sorted(set(range(1, int(max(counts, key=int)) + 1)) - {int(number) for number, _ in named})
    if len(counts) > 1:
        raise DataError(f"the shards are of {' and of '.join(sorted(counts))} parts; merge those of one split")
    if missing:
        raise DataError(f"shard {missing[0]} of {counts.pop()} is missing; answer it, or wait until it is done")


def _is_repeated(row: Response, seen: Seen, shard: Path) -> bool:
    before, digest = len(seen), content_id(f"{row.query}\0{row.response}")
    if seen.setdefault(row.id, digest) != digest:
        raise DataError(f"{shard}: the id {row.id!r} has another response in an earlier shard; keep one of the two")
    return len(seen) == before


def _join_rejects(shards: Sequence[Path], output: Path) -> int:
    found = [_side(shard, "rejected.jsonl") for shard in shards]
    lines = list(dict.fromkeys(line for path in found if path.exists() for line in path.read_bytes().splitlines()))
    if lines:
        with replacing(_side(output, "rejected.jsonl")) as part:
            part.write_bytes(b"".join(line + b"\n" for line in lines))
    return len(lines)
