"""A checkpoint with another query weight: how much of the teacher's own vector of the bare query is in an embedding.

In: a checkpoint. Out: another one, whose other weights are bit for bit the same, with golden vectors of its own.
Careful: nothing is learned here; the weight is a choice. Documents are embedded as before, so an index stays as it is.
"""

from pathlib import Path

from ..backbone import Backbone
from ..encoder import Encoder
from ..errors import CheckpointError
from .export.sentence_transformers import export
from .folder import appear, claimed, drafting, find
from .record import Record
from .save import save


def reweight(
    path: str | Path,
    output: Path,
    query_weight: float,
    *,
    backbone: Backbone | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Encoder:
    """Copies a checkpoint and sets its query weight; see `Encoder.with_query_weight`.

    Args:
        path: folder or hub id of the checkpoint.
        output: folder to make.
        query_weight: from 0, the checkpoint alone, to 1, its teacher.
        backbone: an already loaded one, where it is not where the checkpoint says.
        device: where to load it.
        overwrite: replace a checkpoint that is in `output`.

    Returns:
        the encoder of the new checkpoint.

    Raises:
        InputError: for another weight, or if the checkpoint has no teacher that embeds its documents.
        CheckpointError: if the checkpoint cannot be read, its teacher is gone, or `output` holds anything else.
        BackboneError: if its backbone is gone or is another model.
    """
    folder = find(path)
    with claimed(output, "foresay reweight", overwrite=overwrite) as output, drafting(output) as draft:
        if folder.resolve() == output:
            raise CheckpointError(f"{output} is the checkpoint itself; use another -o")
        record = Record.load(folder)
        encoder = Encoder.from_pretrained(folder, backbone=backbone, device=device).with_query_weight(query_weight)
        save(draft, encoder, record.training)
        export(draft, encoder, whole=record.backbone.bundled)
        appear(draft, output)
    return encoder
