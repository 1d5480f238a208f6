"""Any index by its folder, whoever keeps the rows."""

from pathlib import Path

from ..encoder import Encoder
from .pointer import read_pointer
from .searching import Searcher


def open_index(path: str | Path, encoder: Encoder) -> Searcher:
    """An index that `foresay index` or `foresay adopt` made, open for searching.

    Args:
        path: its folder.
        encoder: of the model, or for an adopted index the teacher, that made its vectors.

    Raises:
        DataError: if there is none, it is of another version, or another model made its vectors.
        InputError: if a library is missing.
    """
    path = Path(path)
    if read_pointer(path).get("kind") == "adopted":
        from .adopt import Adopted

        return Adopted.open(path, encoder)
    from .index import Index

    return Index.open(path, encoder)
