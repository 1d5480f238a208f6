"""Vectors of texts, kept on the disk: what a language model reads once serves every variant and seed of a table.

In: a folder, the name of a way to embed, texts. Out: arrays, of which only the missing rows were computed.
Be careful with the name: it has to say all that the vectors depend on, model, reading and longest text included.
A killed run keeps its finished blocks; two processes may fill the same folder, since each block is a file of its own.
"""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
_BLOCK_TOKENS = 6000
"""About so many words between two files: a few seconds to a minute of work."""


def key(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.sha256(text.encode()).digest()[:16]


class Kept:
    """The vectors of one way to embed."""

    def __init__(self, folder: Path, name: str) -> None:
        """Opens what earlier runs kept."""
        self.folder = folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._at: dict[bytes, tuple[Path, int]] = {}
        self._seen: set[Path] = set()
        self.refresh()

    def refresh(self) -> None:
        """Looks at what other processes added."""
        for path in sorted(self.folder.glob("*.keys.npy")):
            if path not in self._seen:
                self._seen.add(path)
                vectors = path.with_name(path.name.replace(".keys.", ".vectors."))
                self._at |= {bytes(row): (vectors, i) for i, row in enumerate(np.load(path))}

    def __contains__(self, text: str) -> bool:
        """Whether a text was embedded already."""
        return key(text) in self._at

    def fill(self, texts: Sequence[str], embed: Callable[[Sequence[str]], Array], say: str = "") -> None:
        """Computes and keeps what is missing, in blocks of texts of similar length."""
        self.refresh()
        missing = sorted({text for text in texts if text not in self}, key=lambda text: (len(text), text))
        total, done = len(missing), 0
        while missing:
            words, block = 0, []
            while missing and words < _BLOCK_TOKENS:
                block.append(missing.pop())
                words += 4 + len(block[-1].split())
            self._write(block, embed(block))
            done += len(block)
            if say:
                sys.stderr.write(f"{time.strftime('%H:%M:%S')} {say}: {done} of {total}\n")

    def _write(self, block: list[str], vectors: Array) -> None:
        stem = f"{time.time_ns():x}-{os.getpid()}"
        keys = np.frombuffer(b"".join(map(key, block)), np.uint8).reshape(len(block), 16)
        np.save(self.folder / f"{stem}.vectors.npy", vectors.astype(np.float16))
        np.save(self.folder / f"{stem}.draft.npy", keys)
        os.replace(self.folder / f"{stem}.draft.npy", self.folder / f"{stem}.keys.npy")  # last: then the block counts
        self.refresh()

    def read(self, texts: Sequence[str], part: slice = slice(None)) -> Array:
        """(texts, width) float32; `part` picks columns. KeyError for a text that was never embedded."""
        places = [self._at[key(text)] for text in texts]
        files = {path: np.load(path, mmap_mode="r") for path in {path for path, _ in places}}
        first = next(iter(files.values()))
        out = np.empty((len(texts), first[:0, part].shape[1]), np.float32)
        for i, (path, row) in enumerate(places):
            out[i] = files[path][row, part]
        return out
