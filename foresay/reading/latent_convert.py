"""A published latentlens index to one of ours; only this file knows that format.

    layer_8/embeddings_cache.pt   {"embeddings": (states, hidden), "metadata": a dictionary for each state with
                                  token_str, token_id, caption, position}

In: a folder or hub id. Out: a folder that `LatentIndex` opens. Source: `ContextualIndex.save` of the latentlens package
0.1.0 (arXiv 2602.00462), whose older indices choose other tokens in every layer.
Be careful with the files: they are pickles, and a pickle can run code. They are read with `weights_only`, which loads
tensors and plain containers and refuses everything else.
"""

import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..backbone import Backbone
from ..config import Storage
from ..errors import DataError, InputError
from ..outputs import holding
from .latent_build import quantize, write_sentences
from .latent_index import IndexManifest, begin, begun, check_index_folder, layer_file, own_tokens_file

_FILE = "embeddings_cache.pt"
_LAYER = re.compile(r"layer_(\d+)")


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer of the published index."""

    states: Tensor
    metadata: list[dict[str, Any]]


def convert_latent_index(
    source: str | Path, backbone: Backbone, output: Path, storage: Storage = "float16"
) -> IndexManifest:
    """Reads a published index and writes it as one of ours.

    Args:
        source: folder, or hub id.
        backbone: the language model that the index is of; the format does not name it.
        output: folder to make.
        storage: numbers of the stored states.

    Raises:
        DataError: if a file is missing, holds anything but tensors and plain values, or is not of this format.
        InputError: if the backbone is another one, or the output is there already.
    """
    folder = _folder(source)
    if (output / "manifest.json").exists():
        check_index_folder(output)
        raise InputError(f"{output} holds an index already; delete it, or use another -o")
    paths = {int(found[1]): path / _FILE for path in folder.glob("layer_*") if (found := _LAYER.fullmatch(path.name))}
    if not paths:
        raise DataError(f"{folder} holds no layer_N/{_FILE}; expected an index that the latentlens package saved")
    with holding(output):
        begin(output)
        return _convert(source, paths, backbone, output, storage)


def _convert(
    source: str | Path, paths: dict[int, Path], backbone: Backbone, output: Path, storage: Storage
) -> IndexManifest:
    sentences: dict[str, int] = {}
    rows: list[int] = []
    units: list[NDArray[np.float32]] = []
    for number in sorted(paths):
        layer = _read(paths[number], backbone)
        np.save(own_tokens_file(output, number), _table(layer.metadata, sentences, backbone, paths[number]))
        states = torch.nn.functional.normalize(layer.states.float(), dim=-1)
        units.append((states.abs().amax(dim=0) / 127).clamp(min=1e-8).numpy())
        np.save(layer_file(output, number), quantize(states, units[-1] if storage == "int8" else None))
        rows.append(len(states))
    if storage == "int8":
        np.save(output / "scale.npy", np.stack(units))
    np.save(output / "backbone.npy", backbone.sample().numpy())
    write_sentences(output, list(sentences))
    manifest = IndexManifest(
        backbone=backbone.name,
        revision=backbone.revision,
        hidden=backbone.hidden_size,
        layers=sorted(paths),
        storage=storage,
        rows=rows,
        sentences=len(sentences),
        source={"converted from": str(source)},
        done=len(sentences),
    )
    begun(output, manifest)  # last: a folder with a manifest has the other files
    return manifest


def _folder(source: str | Path) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=[f"layer_*/{_FILE}"]))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"there is no latentlens index {str(source)!r}: {reason} (expected a folder or hub id)"
        ) from None


def _read(path: Path, backbone: Backbone) -> _Layer:
    """One layer, checked."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} holds more than tensors and plain values, and could run code when opened; it is not read"
        ) from error
    except (OSError, RuntimeError, EOFError) as error:
        raise DataError(f"{path} is missing or damaged ({error})") from error
    states, metadata = (found.get(name) if isinstance(found, dict) else None for name in ("embeddings", "metadata"))
    if not isinstance(states, Tensor) or states.ndim != 2 or not isinstance(metadata, list):
        raise DataError(f"{path} is no latentlens cache; expected embeddings (states, hidden) and a list of metadata")
    if len(states) != len(metadata):
        raise DataError(f"{path} has {len(states)} states and {len(metadata)} entries of metadata; expected as many")
    if states.shape[1] != backbone.hidden_size:
        raise InputError(
            f"{path} holds states of width {states.shape[1]}, {backbone.name} has {backbone.hidden_size}; "
            "name the language model that the index is of with -m"
        )
    if not states.float().isfinite().all():
        raise DataError(f"{path} holds states that are not finite")
    return _Layer(states, metadata)


def _table(
    metadata: Sequence[dict[str, Any]], sentences: dict[str, int], backbone: Backbone, path: Path
) -> NDArray[np.int32]:
    """Token id, sentence, first and last character of each state; new sentences are added to those there are."""
    spans: dict[str, list[tuple[int, int, int]]] = {}
    table = np.empty((len(metadata), 4), np.int32)
    strangers = 0
    for row, entry in enumerate(metadata):
        try:
            token, word, caption = int(entry["token_id"]), str(entry["token_str"]), str(entry["caption"])
            position = int(entry["position"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: metadata {row} lacks {error}; expected token_id, token_str, caption") from error
        if caption not in spans:
            spans[caption] = _spans(caption, backbone)
        known = spans[caption][position] if position < len(spans[caption]) else (-1, 0, 0)
        strangers += known[0] != token
        start, end = known[1:] if known[0] == token else _find(caption, word)
        table[row] = (token, sentences.setdefault(caption, len(sentences)), start, end)
    if strangers > len(metadata) // 2:
        raise InputError(
            f"{strangers} of {len(metadata)} tokens of {path} are others where {backbone.name} reads the same "
            "sentences; name the language model that the index is of with -m"
        )
    return table


def _spans(text: str, backbone: Backbone) -> list[tuple[int, int, int]]:
    """Id and characters of each token, as the format's own tokenizer call counts them: leading tokens included."""
    found = backbone.tokenizer(text, return_offsets_mapping=True)
    return [(i, start, end) for i, (start, end) in zip(found["input_ids"], found["offset_mapping"], strict=True)]


def _find(text: str, word: str) -> tuple[int, int]:
    """Where a word first occurs in a text; nowhere is (0, 0)."""
    start = text.find(word.strip())
    return (start, start + len(word.strip())) if start >= 0 and word.strip() else (0, 0)
