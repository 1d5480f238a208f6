"""The folder of an index: `index.json`, which says what the index is, and the lock of whoever writes.

In: a folder. Out: what its `index.json` holds.
Careful: `index.json` comes last when an index is made, so a folder with the rest alone is one whose making was killed:
the same command makes it anew.
"""

import shutil
from pathlib import Path
from shlex import quote
from typing import Any

from .. import __version__
from ..errors import DataError
from ..files import read_json, write_json
from ..outputs import check_own

FORMAT = 1
LOCK = "writing.lock"
FILE = "index.json"
_OURS = {LOCK, "tables", "probes.npy", FILE + ".tmp"}
"""What the making of an index may leave behind."""


def read_pointer(path: Path) -> dict[str, Any]:
    """What the index in a folder is.

    Raises:
        DataError: if there is none, or one of another version.
    """
    if not (path / FILE).is_file():
        if path.is_dir() and _unfinished(path):
            raise DataError(f"{path} is an index whose making was stopped; make it again by the same command")
        raise DataError(
            f"there is no index at {path}; make one with: foresay index CHECKPOINT DOCUMENTS -o {quote(str(path))}"
        )
    pointer = read_json(path / FILE)
    if pointer.get("format") != "foresay-index" or pointer.get("format_version") != FORMAT:
        raise DataError(
            f"{path} is of index version {pointer.get('format_version')}, this is foresay {__version__}, which reads "
            f"{FORMAT}; make the index again"
        )
    return pointer


def write_pointer(path: Path, what: dict[str, Any]) -> None:
    """Says what the index in a folder is, in one move."""
    write_json(path / FILE, {"format": "foresay-index", "format_version": FORMAT, **what})


def check_free(path: Path) -> None:
    """Fails if something is at a path that is not the rest of an index whose making was killed.

    Raises:
        DataError: if so.
    """
    check_own(path, FILE, _OURS, "foresay")
    if (path / FILE).is_file():
        raise DataError(f"{path} is there already; open it, or use another place")


def clear(path: Path) -> None:
    """Takes away what a killed making left; whoever calls holds the lock."""
    shutil.rmtree(path / "tables", ignore_errors=True)
    (path / "probes.npy").unlink(missing_ok=True)


def _unfinished(path: Path) -> bool:
    names = {entry.name for entry in path.iterdir()}
    return FILE not in names and names <= _OURS
