"""An index of contextual token states: the folder on disk, and exact search in it.

In: a folder that `latent-index` made, and states. Out: the nearest stored tokens by cosine, with their sentences.

    manifest.json         backbone, layers, storage, how far it is built
    layer_08.npy          states of layer 8, of length 1: (rows, hidden) float16, or int8 in units of scale.npy
    tokens.npy            (rows, 4) int32: token id, sentence, first and last character in it
    sentences.bin, .npy   the sentences as UTF-8, and where each begins
    backbone.npy          a few of the backbone's weights, which tell another one

A converted index has a table of tokens for each layer. Everything is mapped into memory and searched a block at a
time, so an index may be larger than memory.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import __version__
from ..backbone import Backbone, same_backbone
from ..errors import BackboneError, DataError, InputError
from ..files import read_json, write_json
from ..outputs import check_folder
from .lenses import Hit

FORMAT = 1
_MANIFEST = "manifest.json"
_BEGUN = ".latent-index"
_FILES = (_MANIFEST, "tokens.npy", "backbone.npy", "scale.npy", "sentences.npy", "sentences.bin")
_BLOCK_NUMBERS = 1 << 24
"""Numbers of a layer that are compared at once: 64 MiB in float32."""
_RAW: dict[str, Any] = {"float16": np.float16, "int8": np.int8}


@dataclass(frozen=True)
class IndexManifest:
    """What an index was made from and holds.

    Attributes:
        backbone: name of the language model, and
        revision: its revision.
        hidden: width of a state.
        layers: which layers are stored.
        storage: `float16` or `int8`.
        rows: stored states of a layer; of a converted index, of each layer.
        sentences: how many.
        source: what decides about the content, for a build that goes on: hash of the corpus and the options.
        done: sentences that are finished.
    """

    backbone: str
    revision: str | None
    hidden: int
    layers: list[int]
    storage: str
    rows: list[int]
    sentences: int
    source: dict[str, Any] = field(default_factory=dict)
    done: int = 0
    format: int = FORMAT
    version: str = __version__

    @classmethod
    def read(cls, folder: Path, backbone: str = "BACKBONE") -> Self:
        """The manifest in a folder; DataError if there is none that this version reads, with how one is made."""
        if not (folder / _MANIFEST).is_file():
            raise DataError(
                f"there is no latent index in {folder}; make one with: "
                f"foresay latent-index TEXTS -m {quote(backbone)} -o {quote(str(folder))}"
            )
        try:
            manifest = cls(**read_json(folder / _MANIFEST))
        except TypeError:
            manifest = None
        if manifest is None or manifest.format != FORMAT:
            raise DataError(f"{folder} is no latent index of format {FORMAT}; make it again with: foresay latent-index")
        return manifest

    def write(self, folder: Path) -> None:
        """Replaces the manifest in a folder in one move."""
        write_json(folder / _MANIFEST, asdict(self))


def layer_file(folder: Path, layer: int) -> Path:
    """Where a layer's states are."""
    return folder / f"layer_{layer:02d}.npy"


def own_tokens_file(folder: Path, layer: int) -> Path:
    """Where a layer's own table of tokens is, if it has one."""
    return folder / f"layer_{layer:02d}.tokens.npy"


def begin(folder: Path) -> None:
    """Makes the folder of an index and marks it, so that a call after a kill knows the files in it for its own.

    Raises:
        InputError: if a file that is no index's has the name of one of its files. Nothing has been touched.
        DataError: if nothing can be written there.
    """
    check_index_folder(folder)
    (folder / _BEGUN).touch()


def begun(folder: Path, manifest: IndexManifest) -> None:
    """Writes the first manifest: all other files are there."""
    manifest.write(folder)
    (folder / _BEGUN).unlink()


def _is_manifest(file: Path) -> bool:
    """Whether a file says what an index holds; that of another format does too, and is refused when it is read."""
    try:
        return file.is_file() and {"layers", "sentences", "format"} <= read_json(file).keys()
    except DataError:
        return False


def check_index_folder(folder: Path) -> None:
    """Fails now if `begin` would fail later; makes the folder."""
    mine = (folder / _BEGUN).is_file() or _is_manifest(folder / _MANIFEST)
    layers = (path.name for path in folder.glob("layer_*.npy"))
    check_folder(folder, [*_FILES, *layers], mine=mine, command="foresay latent-index")


@dataclass(frozen=True)
class _Near:
    """A stored token that is near: its cosine, its layer and row, and which token of the corpus it is."""

    score: float
    layer: int
    row: int
    place: tuple[int, int]


class LatentIndex:
    """A finished index, mapped into memory."""

    def __init__(self, folder: Path, backbone: Backbone) -> None:
        """Opens an index for a backbone.

        Raises:
            DataError: if it is missing, unfinished or damaged.
            InputError: if it is of another backbone.
        """
        self.folder, self.manifest = folder, IndexManifest.read(folder, backbone.name)
        manifest = self.manifest
        if manifest.done < manifest.sentences:
            raise DataError(
                f"{folder} holds {manifest.done} of {manifest.sentences} sentences; repeat the command that builds it"
            )
        self._check(backbone)
        self.states: dict[int, NDArray[Any]] = {}
        self.tokens: dict[int, NDArray[np.int32]] = {}
        for layer, rows in zip(manifest.layers, manifest.rows, strict=True):
            own = own_tokens_file(folder, layer)
            self.states[layer] = _map(layer_file(folder, layer), (rows, manifest.hidden), _RAW[manifest.storage])
            self.tokens[layer] = _map(own if own.exists() else folder / "tokens.npy", (rows, 4), np.int32)
        self._starts = _map(folder / "sentences.npy", (manifest.sentences + 1,), np.int64)
        self._text = _map_bytes(folder / "sentences.bin", int(self._starts[-1]))
        shape = (len(manifest.layers), manifest.hidden)
        scales = _map(folder / "scale.npy", shape, np.float32) if manifest.storage == "int8" else None
        self._scale = {
            layer: None if scales is None else torch.from_numpy(np.array(scales[at]))
            for at, layer in enumerate(manifest.layers)
        }

    def _check(self, backbone: Backbone) -> None:
        manifest = self.manifest
        message = (
            f"{self.folder} is an index of {manifest.backbone} (width {manifest.hidden}), not of {backbone.name} "
            f"(width {backbone.hidden_size}); make one with: "
            f"foresay latent-index TEXTS -m {quote(backbone.name)} -o FOLDER"
        )
        if manifest.hidden != backbone.hidden_size:
            raise InputError(message)
        try:
            same_backbone(backbone, manifest.backbone, torch.from_numpy(np.load(self.folder / "backbone.npy")))
        except BackboneError:
            raise InputError(message) from None
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.folder / 'backbone.npy'} is missing or damaged ({error}); make the index again"
            ) from None

    def search(self, states: Tensor, top: int, layers: list[int] | None = None) -> list[list[Hit]]:
        """The nearest tokens of the corpus for each state, exactly; each of its tokens once, at its nearest layer.

        Args:
            states: (states, hidden).
            top: hits a state.
            layers: where to search; all that are stored by default.

        Raises:
            InputError: for a layer that is not stored, and states of another width or not finite.
        """
        layers = self.manifest.layers if layers is None else layers
        missing = [layer for layer in layers if layer not in self.states]
        if missing:
            raise InputError(
                f"{self.folder} holds the layers {', '.join(map(str, self.manifest.layers))}, not {missing[0]}"
            )
        if states.ndim != 2 or states.shape[1] != self.manifest.hidden or not states.isfinite().all():
            raise InputError(f"expected finite states (any, {self.manifest.hidden}), found {tuple(states.shape)}")
        queries = torch.nn.functional.normalize(states.float(), dim=-1)
        near: list[list[_Near]] = [[] for _ in range(len(states))]
        for layer in layers:
            scores, rows = self._search_layer(queries, layer, top)
            table = self.tokens[layer]
            for found, some, places in zip(near, scores.tolist(), rows.tolist(), strict=True):
                found += [
                    _Near(score, layer, row, (int(table[row, 1]), int(table[row, 2])))
                    for score, row in zip(some, places, strict=True)
                ]
        return [self._hits(found, top) for found in near]

    def _search_layer(self, queries: Tensor, layer: int, top: int) -> tuple[Tensor, Tensor]:
        """Cosines and rows of the nearest states of one layer: (queries, at most top) each."""
        stored = self.states[layer]
        block = max(1, _BLOCK_NUMBERS // self.manifest.hidden)
        best = queries.new_empty((len(queries), 0))
        rows = torch.empty((len(queries), 0), dtype=torch.long, device=queries.device)
        for start in range(0, len(stored), block):
            part = self._floats(layer, slice(start, start + block)).to(queries.device)
            cosines = queries @ part.T / part.norm(dim=1).clamp(min=1e-12)
            places = torch.arange(start, start + len(part), device=queries.device).expand(len(queries), -1)
            every, every_row = torch.cat([best, cosines], dim=1), torch.cat([rows, places], dim=1)
            best, chosen = every.topk(min(top, every.shape[1]), dim=1)
            rows = every_row.gather(1, chosen)
        return best, rows

    def _floats(self, layer: int, rows: slice) -> Tensor:
        part = torch.from_numpy(np.array(self.states[layer][rows])).float()
        scale = self._scale[layer]
        return part if scale is None else part * scale

    def _hits(self, near: list[_Near], top: int) -> list[Hit]:
        """The best of what each layer found. A token's best layer is always among them: no other beats it there."""
        kept: dict[tuple[int, int], _Near] = {}
        for one in sorted(near, key=lambda one: (-one.score, one.layer, one.row)):
            kept.setdefault(one.place, one)
        return [self._hit(one) for one in list(kept.values())[:top]]

    def _hit(self, one: _Near) -> Hit:
        _, sentence, start, end = map(int, self.tokens[one.layer][one.row])
        text = self.sentence(sentence)
        start, end = whole_word(text, start, end)
        return Hit(text[start:end], one.score, text, start, end, one.layer)

    def sentence(self, number: int) -> str:
        """One sentence of the corpus."""
        first, last = int(self._starts[number]), int(self._starts[number + 1])
        return bytes(self._text[first:last]).decode()


def whole_word(text: str, start: int, end: int) -> tuple[int, int]:
    """A token's place in a text, widened to the word that it is a piece of."""
    while start < end and text[start].isspace():
        start += 1
    while 0 < start < end and _in_word(text[start]) and _in_word(text[start - 1]):
        start -= 1
    while start < end < len(text) and _in_word(text[end - 1]) and _in_word(text[end]):
        end += 1
    return start, end


def _in_word(character: str) -> bool:
    return character.isalnum() or character in "'’-"


def _map(path: Path, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:  # noqa: ANN401
    """An array mapped into memory; DataError if it is not what the manifest says."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is missing or damaged ({error}); make the index again") from error
    if array.shape != shape or array.dtype != dtype:
        raise DataError(
            f"{path} holds {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}; make the index again"
        )
    return array


def _map_bytes(path: Path, size: int) -> NDArray[np.uint8]:
    if not path.is_file() or path.stat().st_size != size:
        raise DataError(f"{path} is missing or not {size} bytes long; make the index again")
    return np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
