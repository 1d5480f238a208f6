"""What may be written where: looked at before the first second of work, and written whole or not at all.

In: the path of an output. Out: nothing, or one line that says why nothing can be written there.
Be careful: an output may replace what an earlier call of the same command wrote, and nothing else. An input, a file of
another kind and a folder of the user's are refused before anything is touched.
"""

import errno
import logging
import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import DataError, InputError
from .shown import size

try:
    import fcntl
except ImportError:  # Windows has no flock; not to start two writers is up to the user there
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_HELD: dict[Path, int] = {}
"""What `holding` keeps others from, and the thread that does."""

_FULL = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the quota is used up; free some space",
    errno.EFBIG: "the file system takes no larger file; use another one",
    errno.EROFS: "the file system is read-only; use another place",
    errno.EIO: "the disk is full, or it fails; free some space, or use another place",
}
"""Reasons that only writing can have."""
_UNWRITABLE = _FULL | {
    errno.EACCES: "no permission to write there; use another place",
    errno.EPERM: "no permission to write there; use another place",
    errno.EISDIR: "it is a folder; name a file",
    errno.ENOTDIR: "a part of the path is a file; name another place",
    errno.EEXIST: "a part of the path is a file; name another place",
    errno.ENAMETOOLONG: "the name is too long; use a shorter one",
    errno.ENOENT: "no such file can be made there; use another place",
    errno.ELOOP: "the path is a link to itself; name another place",
    errno.EINVAL: "the system takes no such name there; use another one",
}
_SQLITE = {"disk is full": errno.ENOSPC, "disk I/O error": errno.EIO, "readonly database": errno.EACCES}
"""How SQLite tells them; without room for its log it speaks of an I/O error."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the reasons why nothing can be written into one line that says what to do; others pass.

    Raises:
        DataError: for a full disk, a folder without permission and the like.
    """
    try:
        yield
    except Exception as error:
        advice = _UNWRITABLE.get(_number(error))
        if advice is None or (isinstance(error, FileNotFoundError) and not _is_of(str(error.filename), path)):
            raise
        raise DataError(f"cannot write {path}: {advice}, then repeat the command") from error


def _is_of(name: str, path: Path) -> bool:
    """Whether a file is the output, a folder above it, or one that is written on the way to it."""
    found = Path(name)
    return found in (path, *path.parents) or found.parent == path.parent


def unwritable(error: Exception) -> str | None:
    """What a full or read-only disk has to be told as, whichever library met it; None for any other error."""
    advice = _FULL.get(_number(error))
    name = getattr(error, "filename", None)
    return advice and f"cannot write {name or 'the output'}: {advice}, then repeat the command"


def _number(error: Exception) -> int:
    """The system's number of an error; libraries in Rust, such as safetensors, tell it in words: `(os error 28)`.

    NumPy says how much it wanted to write and how much it could, which a full disk or a limit cuts short.
    """
    if isinstance(error, OSError):
        is_short = re.search(r"\d+ requested and \d+ written", str(error))
        return error.errno or (errno.ENOSPC if is_short else 0)
    if isinstance(error, sqlite3.OperationalError):
        return next((number for words, number in _SQLITE.items() if words in str(error)), 0)
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0


def check_output(path: Path) -> None:
    """Fails now if a file could not be written at a path later; makes its folder.

    Raises:
        DataError: if the path is a folder, or the folder cannot be made or written.
    """
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("r+b").close()
        else:
            probe = path.with_name(f".{path.name}.{os.getpid()}.probe")
            probe.touch()
            probe.unlink()


def check_file(
    path: Path, endings: Iterable[str], inputs: Iterable[str | Path | None] = (), option: str = "-o"
) -> None:
    """As `check_output`, of a file that may replace one of its own kind, but no input.

    Args:
        path: to be written.
        endings: that its name may have; none for any.
        inputs: what the command reads, a path or something else.
        option: how the user said it, for the message.

    Raises:
        InputError: if the name has another ending, or is that of an input.
        DataError: as `check_output`.
    """
    allowed = tuple(endings)
    if allowed and path.suffix.lower() not in allowed and not path.is_dir():
        raise InputError(f"{option} {path} does not end in {' or '.join(allowed)}; try {path}{allowed[0]}")
    for source in inputs:
        read = Path(source or "").expanduser()
        if source and path.exists() and read.exists() and path.samefile(read):
            raise InputError(f"{option} {path} is what the command reads, and would be replaced; name another file")
    check_output(path)


def check_folder(folder: Path, names: Iterable[str], *, mine: bool, command: str) -> None:
    """Fails now if a folder could not be written later, or holds something of the user's; makes it.

    Args:
        folder: to be written.
        names: of the files and folders that the command writes there.
        mine: whether an earlier call of the command wrote those that are there.
        command: for the message.

    Raises:
        InputError: if it is a file, or something else has one of these names.
        DataError: as `check_output`.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; {command} writes a folder: use another -o")
    taken = [] if mine else sorted(name for name in names if os.path.lexists(folder / name))
    if taken:
        raise InputError(
            f"{folder / taken[0]} is there already, and {command} would replace it; move it, or use another -o"
        )
    check_output(folder / ".probe")


def check_own(folder: Path, manifest: str, names: Iterable[str], command: str) -> None:
    """Fails now if something is in a folder that the command did not begin; touches nothing.

    Args:
        folder: to be written.
        manifest: the file by which the command knows a folder of its own again.
        names: what a killed command may leave there without it; locks and the like besides.
        command: for the message.

    Raises:
        DataError: if so, or if it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; {command} writes a folder: use another -o")
    if not folder.is_dir() or (folder / manifest).is_file():
        return
    known = set(names)
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in known and not _passing(path.name))
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise DataError(f"{folder} holds {foreign[0]}{more}, which {command} did not write; use another -o")


def _passing(name: str) -> bool:
    """Whether a file is there only while something is written."""
    return name.startswith(".") and name.endswith((".lock", ".probe", ".tmp"))


def check_space(folder: Path, needed: int) -> None:
    """Fails now if a folder has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder} needs {size(needed)} and the disk has {size(free)}; free some space, then repeat the command"
        )


def hold(file: IO[bytes], what: Path) -> None:
    """Locks an open file until it is closed, or its process ends, however it ends.

    Raises:
        DataError: if another process holds it; names `what` it is writing.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"another process is writing {what}; wait for it or stop it, or use another -o") from None
    except OSError as error:  # some network file systems cannot lock
        logger.warning("cannot lock %s (%s): make sure that nothing else writes there", what, error)


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Nobody else writes a file or folder until the block ends, or its process does, however it ends.

    The lock is a hidden file beside it.

    Raises:
        DataError: if another process or thread is writing it, or nothing can be written there.
    """
    path = path.resolve()
    lock = path.with_name(f".{path.name}.lock")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(lock, path)
    _HELD[path] = threading.get_ident()
    try:
        yield
    finally:
        del _HELD[path]
        if fcntl is None:
            file.close()  # Windows removes no file that is open
        lock.unlink(missing_ok=True)
        file.close()


def holds(path: Path) -> bool:
    """Whether this thread is inside `holding` of a file or folder."""
    return _HELD.get(path.resolve()) == threading.get_ident()


def _locked(lock: Path, what: Path) -> IO[bytes]:
    """A lock's file, held, and still the one of that name: whoever held it before has removed it."""
    while True:
        file = lock.open("ab")
        try:
            hold(file, what)
            if fcntl is None or os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write instead of `path`, which it replaces in one move; after an error nothing has changed.

    Raises:
        DataError: if it cannot be written, or another process is writing it.
    """
    part = path.with_name(path.name + ".tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = part.open("ab")
    with lock:
        hold(lock, path)
        if fcntl is None:
            lock.close()  # Windows moves no file that is open
        try:
            with writing(path):
                yield part
                sync(part)
                os.replace(part, path)
                sync(path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def sync(path: Path) -> None:
    """Returns when a file's content, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folder
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
