"""A checkpoint with backbone and teacher inside: a folder to move, or to serve elsewhere.

In: a checkpoint. Out: another one that needs nothing outside its folder, and opens in plain sentence-transformers too.
Careful: it appears when it has been verified, from a folder that is neither the old one nor the new one.
"""

import gc
from pathlib import Path

from ..backbone import Backbone
from ..encoder import Encoder
from ..errors import CheckpointError
from .export.sentence_transformers import export
from .folder import appear, claimed, drafting, find
from .record import Record
from .save import save
from .verify import verify


def bundle(
    path: str | Path,
    output: Path,
    *,
    backbone: Backbone | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> bool:
    """Copies a checkpoint with backbone and teacher inside, and verifies the copy.

    Args:
        path: folder or hub id of the checkpoint.
        output: folder to make.
        backbone: an already loaded one, where it is not where the checkpoint says.
        device: where to load and verify.
        overwrite: replace a checkpoint that is in `output`.

    Returns:
        whether it needs nothing outside; a teacher that cannot go along (`Teacher.export`) is found by
        its name.

    Raises:
        CheckpointError: if the checkpoint cannot be read, its teacher is gone, or `output` holds anything else.
        BackboneError: if its backbone is gone or is another model.
        VerifyError: if the copy does not give the golden vectors.
    """
    folder = find(path)
    with claimed(output, "foresay bundle", overwrite=overwrite) as output, drafting(output) as draft:
        if folder.resolve() == output:
            raise CheckpointError(f"{output} is the checkpoint itself; use another -o")
        training = Record.load(folder).training
        encoder = Encoder.from_pretrained(folder, backbone=backbone, device=device)
        save(draft, encoder, training)
        record = export(draft, encoder, whole=True)
        del encoder
        gc.collect()  # the copy is loaded beside nothing
        verify(draft, device=device)
        appear(draft, output)
    return record.documents is None or record.documents.bundled
