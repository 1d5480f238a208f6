"""A checkpoint with backbone and teacher inside: a folder to move, or to serve elsewhere.

In: a checkpoint. Out: another one that needs nothing outside its folder, and opens in plain sentence-transformers too.
"""

from pathlib import Path

from ..encoder import Encoder
from .export.sentence_transformers import export
from .folder import find
from .record import Record
from .save import save


def bundle(path: str | Path, output: Path, *, device: str = "auto") -> bool:
    """Copies a checkpoint with backbone and teacher inside.

    Returns:
        whether it needs nothing outside; a teacher that cannot go along (`export.documents.write_teacher`) is found by
        its name.

    Raises:
        CheckpointError: if the checkpoint cannot be read, or its teacher is gone.
        BackboneError: if its backbone is gone or is another model.
    """
    folder = find(path)
    encoder = Encoder.from_pretrained(folder, device=device)
    save(output, encoder, Record.load(folder).training)
    record = export(output, encoder, whole=True)
    return record.documents is None or record.documents.bundled
