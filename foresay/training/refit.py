"""A checkpoint, but for its alignment map: what `fit` starts from when it finds only that map anew.

In: a checkpoint, pairs. Out: an `Encoder` with the checkpoint's special tokens, template, adapter and reconstruction
map, in the space of the pairs' targets: another teacher, another width, more rows, longer responses.
Careful: what it decodes to is what the checkpoint decodes to. Options of the shape that would need other special tokens
or another reconstruction map are refused by name.
"""

from pathlib import Path
from typing import Any

from ..backbone import Backbone
from ..checkpoints.folder import find
from ..checkpoints.load import load
from ..checkpoints.record import Record, Training
from ..config import FitConfig
from ..data.pairs import Pairs
from ..encoder import Encoder
from ..errors import InputError
from .new_encoder import new_encoder

_FIXED = ("thought", "compression", "template", "reconstruct")
"""Options that special tokens and reconstruction map were made for."""
_OWN = ("align.", "center", "spread", "rotation")
"""Weights of the alignment map, by the beginning of their names."""


def shape_of(checkpoint: str | Path) -> FitConfig:
    """The options under which `fit` changes nothing of a checkpoint but its alignment map.

    `dataclasses.replace` changes those that may differ: the readout, `dims`, who embeds documents, the prompts, the
    longest input, and the rows that are held out, which by default are those that the checkpoint kept out.

    Args:
        checkpoint: folder or hub id.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    return _shape(Record.load(find(checkpoint)))


def _shape(record: Record) -> FitConfig:
    rows: dict[str, Any] = {
        name: value
        for name in ("seed", "held_out")
        if type(value := (record.training.before or record.training).config.get(name)) is int
    }
    return FitConfig(
        thought=record.thought,
        compression=record.compression,
        template=record.template,
        readout=record.readout,
        reconstruct=record.reconstruct,
        dims=record.dims,
        documents="teacher" if record.documents else "checkpoint",
        inference_query_weight=record.query_weight,
        query_prompt=record.prompts["query"],
        document_prompt=record.prompts["document"],
        max_query_tokens=record.max_tokens,
        **rows,
    )


def refitting(
    folder: Path, backbone: Backbone | None, pairs: Pairs, config: FitConfig | None, device: str = "auto"
) -> tuple[Encoder, FitConfig, Training]:
    """A checkpoint without its alignment map, which is drawn anew for the width of the targets.

    Args:
        folder: of the checkpoint.
        backbone: the checkpoint's, if it is loaded already; else it is found where the checkpoint says.
        pairs: whose targets the embeddings are to reach.
        config: the shape; None for the checkpoint's own.
        device: to load the backbone on.

    Returns:
        the encoder, its shape, and how the checkpoint's other weights were made.

    Raises:
        InputError: if the config needs other special tokens or another reconstruction map, or does not fit the pairs.
        CheckpointError: if the checkpoint is missing or damaged.
        BackboneError: if its backbone is gone or is another model.
    """
    record = Record.load(folder)
    own = _shape(record)
    config = config or own
    other = [name for name in _FIXED if getattr(config, name) != getattr(own, name)]
    if other:
        said = " and ".join(f"{name} is {getattr(config, name)}, there it is {getattr(own, name)}" for name in other)
        raise InputError(
            f"{said}: the special tokens of {folder} are made for that, and only its alignment map is found anew; "
            f"leave out {', '.join(other)}, or make a new checkpoint without --checkpoint"
        )
    loaded = load(folder, backbone=backbone, device=device, dtype=config.dtype)
    encoder = new_encoder(pairs, loaded.model.backbone, config, record.lora_rank)
    model = encoder.model
    kept = {name: tensor for name, tensor in loaded.model.state_dict().items() if not name.startswith(_OWN)}
    model.load_state_dict({**model.state_dict(), **kept})
    model.prefix_ids, model.suffix_ids = loaded.model.prefix_ids, loaded.model.suffix_ids
    encoder.prompts = {**record.prompts, "query": config.query_prompt, "document": config.document_prompt}
    encoder.decodes = record.decodes
    return encoder, config, record.training.before or record.training
