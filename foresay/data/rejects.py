"""The side file of rows that got no response: each row once, however often the command runs.

In: rejects. Out: JSON lines {"row", "reason", "line"}. The file is made when there is something to put in.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from ..files import Journal
from ..outputs import replacing
from .queries import Query, Reject
from .seen import Seen, content_id


def row_of(query: Query) -> str:
    """A query as the rejects show it."""
    return json.dumps({"id": query.id, "query": query.text}, ensure_ascii=False)


class Rejects:
    """The rows that were rejected, now or by an earlier run."""

    def __init__(self, path: Path, *, retry: bool = False) -> None:
        """Reads what an earlier run rejected; with `retry` those rows count as never seen."""
        self.path, self._known = path, Seen()
        self._kept = Seen()  # what the file holds, whether or not it is to be tried again
        if path.exists():
            with Journal(path) as journal:
                for _, row in journal.rows():
                    self._kept.setdefault(content_id(str(row.get("row"))), 1)
                    if not retry:
                        self._known.setdefault(content_id(str(row.get("row"))), 1)

    def __contains__(self, row: str) -> bool:
        """Whether a row was rejected."""
        return content_id(row) in self._known

    def add(self, rejects: Iterable[Reject]) -> None:
        """Writes those that are new."""
        new = {content_id(reject.row): asdict(reject) for reject in rejects if reject.row not in self}
        fresh = [row for digest, row in new.items() if digest not in self._kept]
        if fresh:
            with Journal(self.path) as journal:
                journal.append(fresh)
        for digest in new:
            self._known.setdefault(digest, 1)
            self._kept.setdefault(digest, 1)

    def forget(self, is_done: Callable[[str], bool]) -> None:
        """Takes the rows out of the file that have a response by now."""
        if not self.path.exists():
            return
        with Journal(self.path) as journal:
            rows = [row for _, row in journal.rows()]
        left = [row for row in rows if not is_done(str(row.get("row")))]
        if not left:
            self.path.unlink()
        elif len(left) < len(rows):
            with replacing(self.path) as part:
                part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in left), encoding="utf-8")
