"""A checkpoint's folder to a model, whole and checked.

In: a folder or hub id. Out: a `Loaded`: the record, the model, and who embeds documents.
Careful: nothing here imports an exporter, PEFT, or sentence-transformers; loading costs what the backbone costs.
"""

from dataclasses import dataclass
from pathlib import Path

from ..backbone import Backbone, same_backbone
from ..devices import usable
from ..errors import BackboneError, CheckpointError
from ..files import read_json
from ..model import Model
from .folder import find, read_tensors
from .record import GOLDEN, WEIGHTS, BackboneRecord, DocumentsRecord, Record

QUERY, DOCUMENT = "query", "document"
"""Folders of the two sides, where a teacher embeds the documents."""
COPY = "0_Transformer"
"""Folder of the backbone's copy, for `Backbone.load` and `AutoModelForCausalLM.from_pretrained` too."""


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory.

    Attributes:
        folder: where it is.
        record: what it is.
        model: with its weights.
        documents: who embeds documents, where the checkpoint does not; its name is where it is now.
    """

    folder: Path
    record: Record
    model: Model
    documents: DocumentsRecord | None


def load(
    path: str | Path,
    *,
    backbone: Backbone | None = None,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
) -> Loaded:
    """Reads a checkpoint; see `Encoder.from_pretrained`, which calls this."""
    folder = find(path, revision)
    record = Record.load(folder)
    if backbone is None:
        backbone = _load_backbone(folder, record.backbone, device, dtype)
    same_backbone(backbone, record.backbone.name, read_tensors(folder / GOLDEN)["backbone_sample"])
    model = Model(
        backbone,
        thought=record.thought,
        compression=record.compression,
        dim=record.dim,
        template=record.template,
        readout=record.readout,
        reconstruct=record.reconstruct,
        rotated=bool(record.dims),
        lora_rank=record.lora_rank,
    )
    model.prefix_ids, model.suffix_ids = list(record.prefix_ids), list(record.suffix_ids)
    load_weights(model, folder)
    return Loaded(folder, record, model, _documents(folder, record.documents))


def load_weights(model: Model, folder: Path) -> None:
    """Reads the trained weights of a checkpoint into a model of the same shape.

    Raises:
        CheckpointError: if a tensor is missing, unknown or of another shape.
    """
    tensors = read_tensors(folder / WEIGHTS)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))
        raise CheckpointError(f"{folder / WEIGHTS} does not fit its foresay.json: {wrong[0]}; get the checkpoint again")
    model.load_state_dict(tensors)


def _documents(folder: Path, recorded: DocumentsRecord | None) -> DocumentsRecord | None:
    """Who embeds documents: of a bundle, the copy inside, whose vectors are in the embedding's own axes."""
    if recorded is None or not recorded.bundled:
        return recorded
    # the copy's own limit counts a leading token, which the teacher's did not
    own = folder / DOCUMENT / "sentence_bert_config.json"
    longest = read_json(own).get("max_seq_length") if own.is_file() else None
    return DocumentsRecord(str(folder / DOCUMENT), None, longest or recorded.max_tokens, turned=True, bundled=True)


def moved_backbone(
    path: str | Path, name: str, *, revision: str | None = None, device: str = "auto", dtype: str = "auto"
) -> Backbone:
    """A checkpoint's language model from another place than it records; `auto` as in `Encoder.from_pretrained`."""
    recorded = Record.load(find(path)).backbone
    return Backbone.load(name, revision=revision, device=device, dtype=_dtype(recorded, device, dtype))


def _dtype(recorded: BackboneRecord, device: str, dtype: str) -> str:
    return usable(recorded.dtype, device) if dtype == "auto" else dtype


def _load_backbone(folder: Path, recorded: BackboneRecord, device: str, dtype: str) -> Backbone:
    dtype = _dtype(recorded, device, dtype)
    if recorded.bundled:
        copies = [home for home in (folder / QUERY / COPY, folder / COPY) if home.is_dir()]
        return Backbone.load(str(copies[0] if copies else folder / COPY), device=device, dtype=dtype)
    name = recorded.name
    if Path(name).is_absolute() and not Path(name).exists():
        raise BackboneError(
            f"the checkpoint {folder} needs its backbone at {name}, which is gone; put it back, or pass the new "
            "place as backbone=Backbone.load(...) (command line: --backbone)"
        )
    return Backbone.load(name, revision=recorded.revision, device=device, dtype=dtype)
