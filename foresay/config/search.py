"""Options of a search index: how it is made, and how one that others made is read.

In: nothing. Out: `IndexConfig` and `AdoptConfig`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from .options import Options


@dataclass(frozen=True)
class IndexConfig(Options):
    """How an index cuts and embeds its documents."""

    chunk_tokens: Annotated[int, "Longest chunk, in tokens; 0 for as long as whoever embeds documents reads."] = 0
    overlap: Annotated[int, "Tokens that a chunk repeats of the one before it, at most."] = 0
    truncate_dim: Annotated[int, "Keep this many numbers of each vector: one of the checkpoint's dims; 0 for all."] = 0
    states: Annotated[
        Literal["none", "float16", "int8"],
        "Keep the states behind each vector, so that foresay rehead makes vectors anew and --explain decodes hits.",
    ] = "none"
    ann_rows: Annotated[
        int, "Rows from which a vector index answers, which is approximate; below, and with 0, the search is exact."
    ] = 200_000

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        self.at_least(0, "chunk_tokens", "overlap", "truncate_dim", "ann_rows")


@dataclass(frozen=True)
class AdoptConfig(Options):
    """Where the rows of an index are that somebody else made."""

    table: Annotated[str, "Table or collection, where there are several."] = ""
    vector_column: Annotated[str, "Column of vectors, where there are several."] = ""
    text_column: Annotated[str, "Column of texts, if it has an unusual name."] = ""
    id_column: Annotated[str, "Column of ids, if it has an unusual name; rows that share one are one document."] = ""
    ids: Annotated[str, "For an .npy: file of ids, in the order of the vectors; else NAME.ids.json beside it."] = ""
    texts: Annotated[str, "For an .npy: file of the documents that were embedded."] = ""
    sample: Annotated[int, "Stored texts that the teacher embeds again, to compare."] = 64

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        self.at_least(1, "sample")
