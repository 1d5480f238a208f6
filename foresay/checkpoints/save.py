"""An encoder to a checkpoint's folder: the record, the weights, the golden vectors and the card.

    foresay.json           what it is (record.py)
    foresay.safetensors    special_tokens, reconstruct, align: float32
    golden.safetensors     embeddings and soft prompts of a few texts, and a sample of the backbone's weights
    README.md              the model card

Careful: neither backbone nor teacher is in it; `bundle` puts them inside. What is in it is a sample of the backbone's
numbers, so that another model under the same name is refused instead of giving other vectors. What other libraries
open is written afterwards, by `export`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import cast

from safetensors.torch import save_file

from ..backbone_sources import NANO, SMOLLM2
from ..config import Template
from ..encoder import Encoder
from .card import write_card
from .environment import environment
from .folder import appear, drafting
from .golden import golden_vectors
from .record import GOLDEN, RECORD, WEIGHTS, BackboneRecord, DocumentsRecord, Exported, Record, Training


def save(
    folder: Path,
    encoder: Encoder,
    training: Training | None = None,
    *,
    documents: bool = True,
    extra: Callable[[Path], None] | None = None,
) -> Record:
    """Writes a checkpoint, whole or not at all.

    Args:
        folder: to write.
        encoder: what to save.
        training: how it was made.
        documents: also store golden vectors of documents, where a teacher embeds them, which loads it.
        extra: writes further files into the folder before it appears.

    Returns:
        what was recorded.
    """
    folder, model = Path(folder).resolve(), encoder.model
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    golden = golden_vectors(encoder, documents=documents) | {"backbone_sample": model.backbone.sample()}
    with drafting(folder) as draft:
        save_file(weights, draft / WEIGHTS)
        save_file(golden, draft / GOLDEN)
        if extra:
            extra(draft)
        names = {RECORD, "README.md", *(path.name for path in draft.iterdir())}
        record = describe(encoder, training or Training(), tuple(sorted(names)))
        write_card(draft, record)
        record.save(draft)
        appear(draft, folder)
    return record


def describe(encoder: Encoder, training: Training, files: tuple[str, ...]) -> Record:
    """The record of an encoder; nothing is exported or bundled yet."""
    model, backbone = encoder.model, encoder.model.backbone
    name = backbone.name
    if name not in (NANO, SMOLLM2) and Path(name).is_dir():  # a folder of that name does not hide the packaged one
        name = str(Path(name).resolve())
    teacher = encoder.document_teacher
    return Record(
        backbone=BackboneRecord(name, backbone.revision, backbone.dtype_name),
        thought=model.thought,
        compression=model.compression,
        hidden=backbone.hidden_size,
        dim=model.dim,
        template=cast(Template, model.template),
        prefix_ids=tuple(model.prefix_ids),
        suffix_ids=tuple(model.suffix_ids),
        readout=model.readout,
        reconstruct="tokens" if model.by_token else "one",
        lora_rank=model.adapter.rank if model.adapter else 0,
        dims=encoder.dims,
        decodes=encoder.decodes,
        max_tokens=encoder.max_tokens,
        prompts=encoder.prompts,
        documents=None
        if teacher is None
        else DocumentsRecord(teacher.name, teacher.revision, teacher.max_tokens, teacher.turned),
        query_weight=encoder.query_weight,
        sentence_transformers=Exported(),
        training=training,
        environment=environment(backbone.device),
        files=files,
    )
