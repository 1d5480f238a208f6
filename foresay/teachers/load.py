"""A teacher by its name: `load_teacher`.

In: a word, a folder or a hub id. Out: a teacher of the kind that knows it.
Importing a kind's file registers it; a kind of your own is registered by `@kind` in your file, and asked first.
"""

from dataclasses import replace
from pathlib import Path

from ..backbone import Backbone
from ..config import TeachConfig
from ..errors import InputError
from .base import Teacher, Wanted, open_teacher
from .packaged import FOLDERS


def load_teacher(
    name: str, backbone: Backbone | None = None, device: str = "auto", config: TeachConfig | None = None
) -> Teacher:
    """The teacher called `name`.

    Args:
        name: `self`, the backbone as it is; a folder that `foresay teacher` made; `nano-teacher` or
            `smollm2-teacher`; a published LLM2Vec model or any sentence-transformers model, by folder or hub id; or
            what a registered kind knows.
        backbone: the language model, where it is loaded already: a teacher of that very one shares its weights.
        device: as for `Backbone.load`.
        config: lengths and batch size.

    Raises:
        InputError: if it is `self` and there is no backbone, or if there is no such model.
        BackboneError: if a teacher's backbone cannot be loaded, or is another one than it was made of.
    """
    from . import llm2vec, pooled, sentence_transformers, whitened  # noqa: F401 - each registers its kind; they bring in PEFT

    folder = Path(name).expanduser()
    if name not in FOLDERS and folder.is_dir():
        name = str(folder.resolve())  # manifests and checkpoints find it again from anywhere
    wanted = Wanted(name, backbone, device)
    teacher = open_teacher(wanted if config is None else replace(wanted, config=config))
    if teacher is None:
        raise InputError(f"no kind of teacher knows {name!r}; expected a folder, a hub id, or the word self")
    return teacher
