"""The folder of a checkpoint: found here or on the hub, its files read, and new files put in their place.

In: names and drafts. Out: folders and tensors.
Careful: `appear` replaces only what the record of an earlier checkpoint lists. Anything else in a folder is somebody's
work, and stays.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import mkdtemp

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..backbone_sources import SMOLLM2
from ..errors import CheckpointError
from ..files import load_object, write_json
from ..outputs import holding, holds, sync, writing
from .record import GOLDEN, RECORD, WEIGHTS, Record

_OWN = ".foresay-files.json"
PACKAGED = {SMOLLM2: Path(__file__).parents[1] / "packaged" / "smollm2"}
"""Checkpoints that come with the package; a local one of that name goes first."""
_NAMES = (
    RECORD,
    WEIGHTS,
    GOLDEN,
    "README.md",
    *("adapter_config.json", "adapter_model.safetensors", "config.json", "config_sentence_transformers.json"),
    *("modules.json", "router_config.json", "sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("query", "document", "0_Transformer", "1_CNN", "1_Dense", "2_Router", "2_WordWeights", "3_Pooling"),
)
"""All that a checkpoint may hold."""


def find(path: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint: a local one, the packaged one called `smollm2`, or one fetched from the hub.

    Raises:
        CheckpointError: if there is none of these.
    """
    folder = Path(path).expanduser()
    if str(path) in PACKAGED and not (folder / RECORD).is_file():
        return PACKAGED[str(path)]
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise CheckpointError(f"{path} is a file; expected a checkpoint's folder, which goes first, or a hub id")
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


def claim(folder: Path, command: str, *, overwrite: bool, mine: Callable[[Record], bool] | None = None) -> Path:
    """Makes sure, before any work, that a checkpoint may be written to a folder, and can be.

    Args:
        folder: to be written.
        command: what would write it, for the message.
        overwrite: whether a checkpoint that is there may be replaced, whatever it is.
        mine: whether the checkpoint of this record may be replaced without that.

    Returns:
        the folder, by its full path.

    Raises:
        CheckpointError: if there is another checkpoint, a file that is not a checkpoint's has the name of one, or the
            place cannot be written. Nothing has been touched.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; {command} writes a folder: use another -o")
    _refuse_foreign(folder, _NAMES)
    if (folder / RECORD).is_file() and not overwrite:
        found = _record(folder)
        if found is None or mine is None or not mine(found):
            made = "another format" if found is None else f"{found.training.method}, {found.backbone.name}"
            raise CheckpointError(
                f"{folder} holds a checkpoint already ({made}); use another -o, or say --overwrite to lose it"
            )
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for place in (folder.parent, folder):
            if place.is_dir():
                os.rmdir(mkdtemp(prefix=f".{folder.name}.", dir=place))
    return folder


@contextmanager
def claimed(
    folder: Path, command: str, *, overwrite: bool, mine: Callable[[Record], bool] | None = None
) -> Iterator[Path]:
    """As `claim`, and nobody else writes a checkpoint there until the block ends.

    Raises:
        CheckpointError: as `claim` does.
        DataError: if another process is writing one there.
    """
    folder = claim(folder, command, overwrite=overwrite, mine=mine)
    with holding(folder):
        yield claim(folder, command, overwrite=overwrite, mine=mine)  # somebody may have been faster


def _record(folder: Path) -> Record | None:
    try:
        return Record.load(folder)
    except CheckpointError:
        return None


def _refuse_foreign(folder: Path, names: Iterable[str]) -> None:
    """Fails if one of these names is in a folder and no checkpoint's record lists it."""
    own = set(listed(folder))
    foreign = sorted(name for name in names if name not in own and os.path.lexists(folder / name))
    if foreign:
        raise CheckpointError(
            f"{folder / foreign[0]} is not part of a checkpoint and would be replaced by one; move it, or use "
            "another -o"
        )


def new_draft(folder: Path) -> Path:
    """An empty folder beside `folder`, to fill before it appears there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f".{folder.name}.saving"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    return draft


@contextmanager
def drafting(folder: Path) -> Iterator[Path]:
    """A draft to fill; after an error, a full disk among them, it is gone and `folder` is as it was.

    Raises:
        DataError: if another process is writing the folder, or nothing can be written there.
    """
    with nullcontext() if holds(folder) else holding(folder):
        with writing(folder):
            draft = new_draft(folder)
        try:
            with writing(folder):
                yield draft
        except BaseException:
            remove(draft)
            raise


def appear(draft: Path, folder: Path) -> None:
    """Moves a finished draft to its place; what an earlier save left there and this one lacks goes.

    A new folder appears by one rename. In a folder that is there already, `foresay.json` goes first and comes back
    last: without it the folder is no checkpoint, and `Record.load` says so. Meanwhile `.foresay-files.json` lists what
    is the checkpoint's, so that the next save after a kill may replace it.

    Raises:
        CheckpointError: if a file that no record lists is in the way; then nothing has been touched.
    """
    names = os.listdir(draft)
    _refuse_foreign(folder, names)
    settle(draft)
    if not folder.exists():
        os.replace(draft, folder)
        sync(folder.parent)
        return
    before = listed(folder)
    write_json(folder / _OWN, {"files": sorted({*before, *names})})
    remove(folder / RECORD)
    for name in {*before, *names}:
        remove(folder / name)
    for path in sorted(draft.iterdir(), key=lambda p: p.name == RECORD):
        os.replace(path, folder / path.name)
    remove(folder / _OWN)
    sync(folder)
    draft.rmdir()


def listed(folder: Path) -> list[str]:
    """The files in a folder that belong to a checkpoint: those that its record lists, whatever its format."""
    names: set[str] = set()
    for name in (RECORD, _OWN):
        path = folder / name
        found = load_object(path.read_bytes()) if path.is_file() else None
        if found is not None and (name == _OWN or found.get("format") == "foresay"):
            names |= {str(entry) for entry in found.get("files", []) if _is_name(str(entry))}
            names |= {RECORD} if name == RECORD else set()
    return sorted(names - {"training"})


def _is_name(name: str) -> bool:
    return Path(name).name == name != ".."


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
