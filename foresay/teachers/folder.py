"""The folder of a teacher: who may write it, and how a finished one appears in it.

In: a folder, a draft. Out: the folder, whole.
Be careful: a teacher may have taken hours of training, so whitening replaces a whitened one only; anything else of
these names is refused before any work.
"""

import os
from pathlib import Path

from ..checkpoints.folder import remove, settle
from ..files import load_object
from ..outputs import check_folder, sync, writing

CONFIG = "teacher.json"
_NAMES = (
    *("README.md", CONFIG, "adapter", "golden.safetensors", "whitening.safetensors", "backbone_config.json"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("tokenizer.json", "tokenizer_config.json", "1_Pooling", "1_WordWeights", "1_Dense", "2_Pooling", "2_WordWeights"),
    *("1_MultiVectorMask", "2_MultiVectorMask"),
    *("2_Dense", "3_Pooling"),
)
"""All that a teacher's folder may hold, but for `training`."""


def check_trained(folder: Path) -> None:
    """Fails if something that no training of a teacher began is in the way of a trained one; InputError, DataError."""
    begun = (folder / "training" / "run.json").is_file()
    check_folder(folder, _NAMES, mine=begun, command="foresay teacher")


def check_whitened(folder: Path) -> None:
    """Fails if something that is no whitened teacher is in the way of one; InputError, DataError."""
    about = load_object((folder / CONFIG).read_bytes()) if (folder / CONFIG).is_file() else None
    mine = about is not None and about.get("format") == "foresay-teacher" and "whitening" in about
    check_folder(folder, _NAMES, mine=mine, command="foresay whiten")


def appear(draft: Path, folder: Path) -> None:
    """Moves a finished draft into the folder; `teacher.json` goes first and comes back last."""
    settle(draft)
    with writing(folder):
        remove(folder / CONFIG)
        for path in sorted(draft.iterdir(), key=lambda path: path.name == CONFIG):
            remove(folder / path.name)
            os.replace(path, folder / path.name)
        sync(folder)
    draft.rmdir()
