"""BM25: how far words in common go, without any model.

In: a retrieval or reranking task of mteb. Out: what it finds, by mteb's own baseline (English stop words and stemming).
It has no vectors, so there is no score for similarity, classification or clustering.
"""

import logging
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import bm25s  # noqa: F401  # mteb imports it only while it searches, too late for a clear message
import Stemmer  # noqa: F401
from mteb import get_model_meta
from mteb.models.model_implementations.bm25 import BM25Search

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs each step at debug, into whatever handler there is


class Bm25(BM25Search):  # type: ignore[misc]  # mteb is not type-checked here
    """mteb's, but for reranking: it ranks all candidates, not only those among the first thousand of the corpus."""

    name, fingerprint = "bm25", "bm25"
    mteb_model_meta = get_model_meta("mteb/baseline-bm25s")

    def index(self, corpus: Any, **options: Any) -> None:  # noqa: ANN401
        """As mteb's, without the six progress bars that cannot be turned off."""
        with redirect_stderr(StringIO()):
            super().index(corpus, **options)

    def search(self, queries: Any, *, top_k: int, top_ranked: Any = None, **options: Any) -> Any:  # noqa: ANN401
        """Documents of each query with their scores; see mteb's SearchProtocol."""
        depth = top_k if top_ranked is None else len(self.corpus_idx_to_id)
        with redirect_stderr(StringIO()):
            return super().search(queries, top_k=depth, top_ranked=top_ranked, **options)
