"""Builds an index of contextual token states from any texts, for any backbone.

In: a backbone and texts. Out: a folder that `LatentIndex` opens. `plan_index` reads token ids alone and knows the size;
`build_index` runs the backbone, and goes on at the last finished block after a kill.
Be careful with equal beginnings: a causal state depends only on what comes before it, so a token whose whole
beginning occurred already is left out. The very first position is left out too: its state is an outlier
(Sun et al. 2024, "Massive activations").
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from ..backbone import Backbone, check_texts
from ..batching import length_batches, pad
from ..config import LatentIndexConfig
from ..errors import BackboneError, DataError, InputError
from ..files import as_json, differences
from ..outputs import holding
from ..shown import size
from .latent_index import IndexManifest, begin, begun, check_index_folder, layer_file
from .layers import chosen_layers

logger = logging.getLogger(__name__)

_BLOCK = 1024
"""Sentences between two marks of progress on the disk."""
_CALIBRATION = 512
"""Sentences that decide about the units of int8."""
_AUTO_LAYERS = (1, 2, 4, 8, 16, 24)

Told = Callable[[int, int | None, str], None]


@dataclass(frozen=True, eq=False)
class IndexPlan:
    """What an index will hold, known before the backbone runs.

    Attributes:
        texts: its sentences.
        rows: token ids of each, as the backbone reads them.
        tokens: (states, 4) int32: token id, sentence, first and last character.
        positions: (states,) where each token is in its row.
        layers: which layers are stored.
        bytes: what the folder will take.
    """

    texts: list[str]
    rows: list[list[int]]
    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    layers: list[int]
    bytes: int

    def __str__(self) -> str:
        """The size in words."""
        layers = ", ".join(map(str, self.layers))
        return f"{len(self.tokens)} tokens of {len(self.texts)} texts at the layers {layers}: {size(self.bytes)}"


def latent_index(
    texts: Sequence[str],
    backbone: Backbone,
    output: Path,
    config: LatentIndexConfig | None = None,
    progress: Told | None = None,
) -> IndexManifest:
    """Chooses the tokens of some texts, says how large the index will be, and builds it.

    Args:
        texts: the corpus, a sentence or a paragraph each.
        backbone: whose states to store.
        output: folder to make; after a kill, a second call goes on where the first stopped.
        config: layers, how many sentences a token, storage.
        progress: told sentences done, of how many.

    Raises:
        DataError, InputError: as `plan_index` and `build_index` do.
    """
    plan = plan_index(backbone, texts, config)
    logger.info("%s: %s", output, plan)
    return build_index(backbone, plan, output, config, progress)


def plan_index(backbone: Backbone, texts: Sequence[str], config: LatentIndexConfig | None = None) -> IndexPlan:
    """Chooses the tokens: each in at most `contexts` sentences, spread evenly over the texts.

    Raises:
        InputError: if no token is left, or for layers that are not there.
    """
    config = config or LatentIndexConfig()
    checked = check_texts(texts)
    rows, spans = _tokenize(backbone, checked, config.max_tokens)
    places = _fresh_places(rows, len(backbone.leading_ids))
    if not len(places):
        raise InputError(f"the {len(checked)} texts hold no token to keep; each needs at least two tokens")
    kept = _spread([rows[sentence][at] for sentence, at in places], config.contexts)
    chosen = [places[i] for i in kept]
    table = [(rows[s][at], s, *spans[s][at]) for s, at in chosen]
    layers = _layers(config.layers, int(backbone.text_config.num_hidden_layers))
    width = {"float16": 2, "int8": 1}[config.storage]
    size = len(chosen) * (len(layers) * backbone.hidden_size * width + 16) + sum(len(t.encode()) + 8 for t in checked)
    positions = np.array([at for _, at in chosen], np.int32)
    return IndexPlan(checked, rows, np.array(table, np.int32).reshape(-1, 4), positions, layers, size)


def build_index(
    backbone: Backbone,
    plan: IndexPlan,
    output: Path,
    config: LatentIndexConfig | None = None,
    progress: Told | None = None,
) -> IndexManifest:
    """Fills the folder; run again after a kill, it goes on at the last finished block.

    Args:
        backbone: whose states.
        plan: what `plan_index` chose with the same options.
        output: folder of the index.
        config: options.
        progress: told sentences done, of how many.

    Raises:
        DataError: if the folder holds another index, or another process is writing it.
        InputError: if the disk has no room for it, or the folder holds files that are no index's.
    """
    with holding(Path(output)):
        return _build(backbone, plan, Path(output), config or LatentIndexConfig(), progress)


def _build(
    backbone: Backbone, plan: IndexPlan, output: Path, config: LatentIndexConfig, progress: Told | None
) -> IndexManifest:
    manifest = _claim(backbone, plan, output, config)
    files = {layer: open_memmap(layer_file(output, layer), mode="r+") for layer in plan.layers}
    scales = np.load(output / "scale.npy") if config.storage == "int8" else None
    firsts = np.searchsorted(plan.tokens[:, 1], np.arange(len(plan.texts) + 1))
    for start in range(manifest.done, len(plan.texts), _BLOCK):
        end = min(start + _BLOCK, len(plan.texts))
        part = slice(int(firsts[start]), int(firsts[end]))
        for at, states in enumerate(_states(backbone, plan, np.arange(part.start, part.stop), config.batch_tokens)):
            unit = None if scales is None else scales[at]
            files[plan.layers[at]][part] = quantize(states, unit)
        for file in files.values():
            file.flush()  # on the disk before the manifest says so
        manifest = replace(manifest, done=end)
        manifest.write(output)
        if progress:
            progress(end, len(plan.texts), "")
    return manifest


def write_sentences(folder: Path, texts: Sequence[str]) -> None:
    """Stores sentences so that one can be read without the others."""
    encoded = [text.encode() for text in texts]
    np.save(folder / "sentences.npy", np.cumsum([0, *map(len, encoded)], dtype=np.int64))
    (folder / "sentences.bin").write_bytes(b"".join(encoded))


def _tokenize(
    backbone: Backbone, texts: Sequence[str], max_tokens: int
) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Ids and character spans of each text, the tokenizer's own leading tokens before it."""
    lead = backbone.leading_ids
    encodings = backbone.text_tokenizer.encode_batch(list(texts), add_special_tokens=False)
    rows = [[*lead, *one.ids[:max_tokens]] for one in encodings]
    return rows, [[*((0, 0) for _ in lead), *one.offsets[:max_tokens]] for one in encodings]


def _fresh_places(rows: Sequence[Sequence[int]], lead: int) -> list[tuple[int, int]]:
    """Sentence and position of every token whose beginning is new, without the first position of all."""
    seen: set[int] = set()
    places = []
    for sentence, row in enumerate(rows):
        beginning = 0
        for at, token in enumerate(row):
            beginning = hash((beginning, token))
            if at >= max(lead, 1) and beginning not in seen:
                seen.add(beginning)
                places.append((sentence, at))
    return places


def _spread(tokens: Sequence[int], most: int) -> NDArray[np.int64]:
    """Which occurrences to keep: all of a rare token, `most` evenly spaced ones of a frequent one, in order."""
    ids = np.array(tokens)
    order = np.argsort(ids, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(ids[order])) + 1)
    kept = [g if len(g) <= most else g[np.linspace(0, len(g) - 1, most).round().astype(int)] for g in groups]
    return np.sort(np.concatenate(kept))


def _layers(wanted: str, last: int) -> list[int]:
    if wanted == "auto":
        return sorted({layer for layer in (*_AUTO_LAYERS, last - 2, last - 1, last) if 0 < layer <= last})
    return sorted(set(chosen_layers(wanted, last)))


def _claim(backbone: Backbone, plan: IndexPlan, output: Path, config: LatentIndexConfig) -> IndexManifest:
    """The manifest to go on from: a new folder's, or an old one's if it was made from the same things."""
    corpus = hashlib.sha256(json.dumps(plan.texts).encode()).hexdigest()
    options = {name: value for name, value in asdict(config).items() if name != "batch_tokens"}
    fresh = IndexManifest(
        backbone=backbone.name,
        revision=backbone.revision,
        hidden=backbone.hidden_size,
        layers=plan.layers,
        storage=config.storage,
        rows=[len(plan.tokens)] * len(plan.layers),
        sentences=len(plan.texts),
        source=as_json({"corpus_sha256": corpus, "dtype": backbone.dtype_name, **options}),
    )
    if (output / "manifest.json").exists():
        check_index_folder(output)
        found = IndexManifest.read(output)
        changed = differences(asdict(replace(found, done=0)), asdict(fresh))
        if changed:
            raise DataError(f"{output} holds another latent index: {changed}; delete it, or use another -o")
        return found
    free = shutil.disk_usage(next(p for p in (output.absolute(), *output.absolute().parents) if p.exists())).free
    if plan.bytes > free:
        raise InputError(
            f"the index takes {size(plan.bytes)} and {output} has room for {size(free)}; "
            "store fewer --layers or --contexts, or --storage int8"
        )
    begin(output)
    dtype: Any = {"float16": np.float16, "int8": np.int8}[config.storage]
    for layer, rows in zip(fresh.layers, fresh.rows, strict=True):
        open_memmap(layer_file(output, layer), mode="w+", dtype=dtype, shape=(rows, fresh.hidden)).flush()
    np.save(output / "tokens.npy", plan.tokens)
    np.save(output / "backbone.npy", backbone.sample().numpy())
    write_sentences(output, plan.texts)
    if config.storage == "int8":
        np.save(output / "scale.npy", _units(backbone, plan, config.batch_tokens))
    begun(output, fresh)  # last: a folder with a manifest has the other files
    return fresh


def _units(backbone: Backbone, plan: IndexPlan, batch_tokens: int) -> NDArray[np.float32]:
    """What one step of int8 is worth, for each number of each layer: (layers, hidden).

    A unit for each number, since a few numbers of a state are a hundred times as large as the others and would
    leave them no steps. Taken from a sample; what lies beyond one and a half times its range is cut.
    """
    sentences = np.unique(plan.tokens[:, 1])
    sample = sentences[np.linspace(0, len(sentences) - 1, min(len(sentences), _CALIBRATION)).round().astype(int)]
    states = np.flatnonzero(np.isin(plan.tokens[:, 1], sample))
    largest = [s.abs().amax(dim=0) for s in _states(backbone, plan, states, batch_tokens)]
    units: NDArray[np.float32] = (torch.stack(largest) * 1.5 / 127).clamp(min=1e-8).numpy()
    return units


@torch.no_grad()
def _states(backbone: Backbone, plan: IndexPlan, chosen: NDArray[np.int64], batch_tokens: int) -> list[Tensor]:
    """States of some of the plan's tokens, scaled to length 1: (tokens, hidden) float32 for each layer."""
    out = [torch.empty(len(chosen), backbone.hidden_size) for _ in plan.layers]
    sentences = plan.tokens[chosen, 1]
    needed = np.unique(sentences).tolist()
    for batch in length_batches([len(plan.rows[s]) for s in needed], batch_tokens, backbone.least_tokens):
        numbers = [needed[i] for i in batch]
        ids, _ = pad([plan.rows[s] for s in numbers], backbone.pad_id, left=False, device=backbone.device)
        hidden = backbone.decoder(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        mine = np.flatnonzero(np.isin(sentences, numbers))
        row_of = {s: row for row, s in enumerate(numbers)}
        rows = torch.tensor([row_of[s] for s in sentences[mine].tolist()], device=ids.device)
        at = torch.from_numpy(plan.positions[chosen[mine]].astype(np.int64)).to(ids.device)
        for layer, whole in zip(plan.layers, out, strict=True):
            whole[mine] = torch.nn.functional.normalize(hidden[layer][rows, at].float(), dim=-1).cpu()
    if any(not whole.isfinite().all() for whole in out):
        raise BackboneError(f"{backbone.name} gives states that are not finite; load it with --dtype float32")
    return out


def quantize(states: Tensor, unit: NDArray[np.float32] | None) -> NDArray[Any]:
    """States as the file holds them."""
    if unit is None:
        half: NDArray[np.float16] = states.to(torch.float16).numpy()
        return half
    steps: NDArray[np.int8] = (states / torch.from_numpy(unit)).round().clamp(-127, 127).to(torch.int8).numpy()
    return steps
