"""An index as an embedder of `evaluate`: what is deployed is measured, chunks, filters of a table, hybrid and all.

In: an open index, and a mode. Out: what mteb asks a search for.
Careful: it is not mteb that indexes here. The index has to hold the documents of the task, under the same ids; others
that it holds count as wrong where they are found. Where its texts are not the task's, such as without their titles, a
warning says so.
"""

import logging
from collections.abc import Mapping
from typing import Any

from mteb.models import ModelMeta

from ..errors import DataError
from ..retrieval.index import Index
from ..retrieval.searching import Searcher
from ..retrieval.space import fingerprint
from ..teachers.base import digest

logger = logging.getLogger(__name__)

_COMPARED = 64
"""Documents whose texts are compared with the task's."""


class IndexSearch:
    """One mode of an index.

    Attributes:
        name: row of the table.
    """

    def __init__(self, index: Searcher, mode: str) -> None:
        """Takes an index that is open for the checkpoint that is measured."""
        self.name, self._index, self._mode = f"index, {mode}", index, mode
        what = digest(str(index.path), mode, str(len(index)), fingerprint(index.encoder))
        self.mteb_model_meta = ModelMeta.create_empty(overwrites={"name": f"foresay/index-{mode}", "revision": what})

    def index(self, corpus: Any, *, task_metadata: Any, **_: object) -> None:  # noqa: ANN401
        """Checks that the documents are there.

        Raises:
            DataError: if some are not.
        """
        wanted = [str(name) for name in corpus["id"]]
        there = self._index.holds(wanted)
        missing = [name for name in wanted if name not in there]
        if missing:
            raise DataError(
                f"{self._index.path} lacks {len(missing)} of {len(wanted)} documents of {task_metadata.name} (first: "
                f"{missing[0]!r}); index that task's own documents, under the same ids"
            )
        if len(self._index) > len(wanted):
            more = len(self._index) - len(wanted)
            logger.warning("%s holds %d documents that %s lacks", self._index.path, more, task_metadata.name)
        self._compare(corpus.select(range(min(_COMPARED, len(corpus)))), task_metadata.name)

    def _compare(self, corpus: Any, task: str) -> None:  # noqa: ANN401
        """Warns if some documents of a task have other texts in the index."""
        if not isinstance(self._index, Index) or self._mode != self._index.modes()[0]:
            return  # others' rows are not ours to mend, and one mode says it for all
        there = self._index.beginnings([str(name) for name in corpus["id"]])
        other = [
            str(row["id"])
            for row in corpus
            if not _words(f"{row.get('title') or ''} {row['text']}").startswith(_words(there[str(row["id"])]))
        ]
        if other:
            logger.warning(
                "%s holds other texts than %s for %d of %d documents (first: %r): it was made of another file, or by a "
                "version that left titles out; index the task's corpus.jsonl again",
                *(self._index.path, task, len(other), len(corpus), other[0]),
            )

    def search(
        self,
        queries: Any,  # noqa: ANN401
        *,
        top_k: int,
        top_ranked: Mapping[str, Any] | None = None,
        **_: object,
    ) -> dict[str, dict[str, float]]:
        """Documents of each query, with scores by rank.

        Raises:
            DataError: for a reranking task, which brings candidates of its own.
        """
        if top_ranked is not None:
            raise DataError(
                "a reranking task has candidates of its own for each query; leave it out, or leave out --index"
            )
        names, texts = [str(name) for name in queries["id"]], [str(text) for text in queries["text"]]
        found = self._index.search_many(texts, top_k, mode=self._mode)
        return {
            name: {hit.id: 1 / rank for rank, hit in enumerate(hits, 1)}  # trec_eval would order equal scores by id
            for name, hits in zip(names, found, strict=True)
        }


def _words(text: str) -> str:
    """A text whatever its white space."""
    return " ".join(text.split())


def searches_of(index: Searcher) -> list[IndexSearch]:
    """One for each mode that an index has."""
    return [IndexSearch(index, mode) for mode in index.modes()]
