"""The folder of a checkpoint: found here or on the hub, its files read, and new files put in their place.

In: names and drafts. Out: folders and tensors.
Careful: `appear` replaces only what the record of an earlier checkpoint lists. Anything else in a folder is somebody's
work, and stays.
"""

import os
import shutil
from pathlib import Path

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import CheckpointError
from ..files import load_object, sync
from .record import RECORD


def find(path: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: a local one, or one fetched from the hub.

    Raises:
        CheckpointError: if there is neither.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(str(path), revision=revision))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"no checkpoint at {path}: no such folder, and not from the hub either ({reason})"
        ) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; the checkpoint is incomplete: get or make it again") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); get or make the checkpoint again") from None


def new_draft(folder: Path) -> Path:
    """An empty folder beside `folder`, to fill before it appears there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f".{folder.name}.saving"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    return draft


def appear(draft: Path, folder: Path) -> None:
    """Moves a finished draft to its place; what an earlier save left there and this one lacks goes.

    A new folder appears by one rename. In a folder that is there already, `foresay.json` goes first and comes back
    last: without it the folder is no checkpoint, and `Record.load` says so.
    """
    settle(draft)
    if not folder.exists():
        os.replace(draft, folder)
        sync(folder.parent)
        return
    before = listed(folder)
    (folder / RECORD).unlink(missing_ok=True)
    for name in {*before, *os.listdir(draft)}:
        remove(folder / name)
    for path in sorted(draft.iterdir(), key=lambda p: p.name == RECORD):
        os.replace(path, folder / path.name)
    sync(folder)
    draft.rmdir()


def listed(folder: Path) -> list[str]:
    """The files that the record in a folder lists, whatever format it has; none without a record."""
    path = folder / RECORD
    found = load_object(path.read_bytes()) if path.is_file() else None
    return [str(name) for name in (found or {}).get("files", [])]


def settle(draft: Path) -> None:
    """Makes the files of a draft readable for others, and returns when they are on the disk."""
    for path in draft.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # safetensors writes for the owner alone; a checkpoint is there to be shared
        sync(path)
    sync(draft)


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
