"""Soft prompts on disk, beside the vectors they belong to: any stored item can be decoded later without its text.

In: soft prompts as they are made. Out: `NAME.npy`, (items, compression, hidden) float32 and mapped into memory, and
`NAME.json`, which says whose they are.
Be careful with checkpoints: a soft prompt is read by the backbone alone, so any checkpoint of the same backbone with as
many tokens decodes it; another backbone is refused.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from ..backbone import same_backbone
from ..errors import BackboneError, DataError, InputError
from ..files import read_json, write_json
from ..model import Model
from ..outputs import replacing

FORMAT = 1


@dataclass(frozen=True)
class StoredManifest:
    """Whose soft prompts a file holds.

    Attributes:
        backbone: name of the language model, and
        revision: its revision.
        backbone_sample: a few of its weights, which tell another one.
        items: how many soft prompts.
        compression, hidden: shape of one.
        ids: of the items, in order.
    """

    backbone: str
    revision: str | None
    backbone_sample: list[float | None]
    items: int
    compression: int
    hidden: int
    ids: list[str]
    format: int = FORMAT


@dataclass(frozen=True, eq=False)
class SoftPrompts:
    """Stored soft prompts: `array` (items, compression, hidden) float32, mapped into memory, and whose they are."""

    array: NDArray[np.float32]
    manifest: StoredManifest
    path: Path

    @classmethod
    @contextmanager
    def creating(cls, path: Path, model: Model, ids: Sequence[str]) -> Iterator[Self]:
        """A new file, to be filled through `array`; at the end of the block it takes the place of an earlier one.

        After an error, the earlier one is as it was.

        Raises:
            DataError: if it cannot be written, or another process is writing it.
        """
        sample = [None if value != value else value for value in model.backbone.sample().tolist()]
        shape = (len(ids), model.compression, model.backbone.hidden_size)
        manifest = StoredManifest(model.backbone.name, model.backbone.revision, sample, *shape, list(ids))
        with replacing(path) as part:
            array = open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
            yield cls(array, manifest, path)
            array.flush()
            del array  # Windows moves no file that is mapped into memory
            _manifest_path(path).unlink(missing_ok=True)  # so that a kill leaves no soft prompts with another's ids
        write_json(_manifest_path(path), asdict(manifest))

    @staticmethod
    def delete(path: Path) -> None:
        """Deletes soft prompts and their manifest. A file without a manifest stays: it may be somebody else's."""
        manifest = _manifest_path(path)
        if manifest.is_file():
            manifest.unlink()
            path.unlink(missing_ok=True)

    @classmethod
    def open(cls, path: Path, model: Model) -> Self:
        """Opens a file for a model that is to decode it.

        Raises:
            DataError: if it is missing, unfinished or damaged.
            InputError: if it is of another backbone, or of soft prompts of another shape.
        """
        if not path.is_file():
            raise DataError(f"there are no soft prompts in {path}; store some with: foresay encode --keep-soft-prompts")
        if not _manifest_path(path).is_file():
            raise DataError(_without_manifest(path))
        try:
            manifest = StoredManifest(**read_json(_manifest_path(path)))
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (TypeError, OSError, ValueError) as error:
            raise DataError(f"{path} is damaged, or of another version ({error}); repeat foresay encode") from error
        shape = (manifest.items, manifest.compression, manifest.hidden)
        if array.shape != shape or array.dtype != np.float32:
            raise DataError(
                f"{path} holds {array.dtype} {array.shape}, its manifest says float32 {shape}; store it again"
            )
        cls._check(path, manifest, model)
        return cls(array, manifest, path)

    @staticmethod
    def _check(path: Path, manifest: StoredManifest, model: Model) -> None:
        found, expected = (manifest.compression, manifest.hidden), (model.compression, model.backbone.hidden_size)
        other = f"{path} holds soft prompts of {manifest.backbone}, and this checkpoint is of {model.backbone.name}"
        if found[1] == expected[1]:
            values: list[Any] = [float("nan") if value is None else value for value in manifest.backbone_sample]
            try:
                same_backbone(model.backbone, manifest.backbone, torch.tensor(values))
            except BackboneError:
                raise InputError(f"{other}, whose weights differ; name the checkpoint that encoded them") from None
        if found != expected:
            raise InputError(
                f"{other}: theirs are {found[0]} × {found[1]}, its own {expected[0]} × {expected[1]}; "
                "name the checkpoint that encoded them"
            )

    def rows(self, wanted: Sequence[int] = ()) -> NDArray[np.float32]:
        """Some of them, or all, in memory only as they are read: (items, compression, hidden).

        Raises:
            InputError: for a row that is not there.
        """
        return self.array[self._checked(wanted)] if wanted else self.array

    def ids_of(self, wanted: Sequence[int] = ()) -> list[str]:
        """Ids of some of them, or of all."""
        return [self.manifest.ids[row] for row in self._checked(wanted)] if wanted else self.manifest.ids

    def _checked(self, wanted: Sequence[int]) -> list[int]:
        missing = [row for row in wanted if not 0 <= row < self.manifest.items]
        if missing:
            raise InputError(f"{self.path} has the rows 0 to {self.manifest.items - 1}, not {missing[0]}")
        return list(wanted)


def _without_manifest(path: Path) -> str:
    """What a file without a manifest is: vectors with soft prompts beside them, or unfinished soft prompts."""
    meant = path.with_suffix(".soft_prompts.npy")
    if meant.is_file():
        return f"{path} holds no soft prompts, but {meant} beside it does; name that one"
    return f"{_manifest_path(path)} is missing, so {path} is unfinished; repeat foresay encode"


def _manifest_path(path: Path) -> Path:
    return path.with_suffix(".json")
