"""The folder of an LLM2Vec teacher, as `foresay teacher` makes it: written here, opened in llm2vec.py.

In: a backbone with its adapter, and how that was made. Out: a folder that plain `SentenceTransformer(path)` opens too:

    teacher.json                 backbone and revision, longest text, what made it
    adapter/                     LoRA adapter in PEFT's format
    golden.safetensors           a sample of the backbone's weights, to refuse another one under the same name
    modules.json, backbone_config.json, tokenizer.json, …    the same teacher for plain sentence-transformers

Be careful with the adapter's place: it has a folder of its own, because beside an adapter the library takes the config
from the backbone, whose attention is causal (`layout.py`).
"""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from .. import __version__
from ..backbone import Backbone
from ..config import TeachConfig
from ..errors import InputError
from ..files import read_json, write_json
from .bidirectional import Bidirectional
from .card import write_card
from .folder import CONFIG

GOLDEN = "golden.safetensors"
FORMAT = 2


def read_about(folder: Path) -> dict[str, Any]:
    """The contents of a folder's teacher.json; InputError if it is of a newer format."""
    about = read_json(folder / CONFIG)
    if about.get("format") != "foresay-teacher" or about["format_version"] > FORMAT:
        raise InputError(
            f"{folder / CONFIG} is of a newer format than foresay {__version__} reads; pip install -U foresay"
        )
    return about


def backbone_record(backbone: Backbone) -> dict[str, Any]:
    """What finds a backbone again; its name has one spelling, and a local folder's is its full path."""
    return {"name": backbone.name, "revision": backbone.revision, "dtype": backbone.dtype_name}


def save(folder: Path, reader: Bidirectional, record: dict[str, Any]) -> None:
    """Writes a teacher of one adapter; `teacher.json` comes last, so that a folder with it has the other files.

    Args:
        folder: to write; what an earlier call wrote is replaced.
        reader: backbone and adapter.
        record: how it was made.
    """
    from .layout import write_both_directions  # the exporter's libraries

    backbone = reader.backbone
    (folder / CONFIG).unlink(missing_ok=True)
    reader.save_adapter(folder / "adapter", backbone.address, backbone.revision)
    save_file({"backbone_sample": backbone.sample()}, folder / GOLDEN)
    longest = min(TeachConfig().max_tokens + len(backbone.leading_ids), backbone.max_positions)
    write_both_directions(folder, backbone, longest)
    about = {
        "format": "foresay-teacher",
        "format_version": FORMAT,
        "foresay_version": __version__,
        "backbone": backbone_record(backbone),
        "training": record,
    }
    write_card(folder, about)
    write_json(folder / CONFIG, about)
