"""Both sides of a checkpoint whose documents a teacher embeds, as one model of plain sentence-transformers.

In: an encoder. Out: a folder for each side, which the library opens by itself too, and what makes one of them:

    modules.json, router_config.json    a Router: encode_document goes to document/, all else to query/
    query/                              what plain.py writes
    document/                           the teacher, its weights by name, or whole in a bundle

What a reader would get wrong: how weights go by name. The library follows an adapter to its base model, and nothing
else to anything; so for a teacher that is no adapter one is written, which adds 0 to the input embedding.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Router, Transformer
from sentence_transformers.util import load_file_path
from torch import Tensor, nn

from ..config import TeachConfig
from ..encoder import Encoder
from ..files import read_json, write_json
from ..teachers.bidirectional import ADAPTER_WEIGHTS
from ..teachers.llm2vec import LLM2VecTeacher, load, write_layout, write_mean
from ..teachers.teach import SelfTeacher, SentenceTransformerTeacher, Teacher
from .sentence_transformers import (
    COPY,
    name_of,
    transformer_config,
    write_backbone,
    write_library_config,
    write_modules,
    write_plain,
)

logger = logging.getLogger(__name__)

QUERY, DOCUMENT = "query", "document"


@dataclass(frozen=True)
class Parts:
    """What a checkpoint's folder holds besides its own weights.

    Attributes:
        plain: whether plain sentence-transformers opens it,
        documents: and embeds documents as it should.
        backbone, teacher: whether they are in it.
    """

    plain: bool = False
    documents: bool = False
    backbone: bool = False
    teacher: bool = False


def write_models(folder: Path, encoder: Encoder, *, with_backbone: bool) -> Parts:
    """Writes what plain sentence-transformers opens, as far as its modules can express the model, and copies if asked.

    A checkpoint that embeds its documents itself is one model, in the folder itself.
    """
    if encoder.document_teacher is None:
        plain, copied = _write_queries(folder, encoder, encoder.prompts, with_backbone)
        return Parts(plain, documents=plain, backbone=copied)
    prompts = {name: text for name, text in encoder.prompts.items() if not name.endswith("document")}
    (folder / QUERY).mkdir()
    plain, copied = _write_queries(folder / QUERY, encoder, prompts, with_backbone)
    written = False
    if plain or with_backbone:
        rotation = None if encoder.document_teacher.turned else encoder.model.rotation
        written = write_teacher(folder / DOCUMENT, encoder.load_document_teacher(), rotation, whole=with_backbone)
        if not written:
            name = encoder.document_teacher.name
            logger.warning("%s does not go into the folder; plain sentence-transformers embeds queries alone", name)
    if plain:
        write_router(folder, [QUERY, DOCUMENT] if written else [QUERY], prompts)
    return Parts(plain, plain and written, copied, written and with_backbone)


def _write_queries(folder: Path, encoder: Encoder, prompts: dict[str, str], with_backbone: bool) -> tuple[bool, bool]:
    """Whether the folder opens in the plain library, and whether it holds a copy of the backbone."""
    model = encoder.model
    if not model.every_layer and not model.adapter:
        longest = encoder.max_tokens
        return True, write_plain(folder, model, prompts=prompts, max_tokens=longest, with_backbone=with_backbone)
    if with_backbone:
        write_backbone(folder / COPY, model.backbone)
    return False, with_backbone


def write_router(folder: Path, routes: list[str], prompts: dict[str, str]) -> None:
    """Writes what makes one model of the folders `routes`; a text that is neither query nor document takes the first.

    Each is a SentenceTransformer of its own: only as such has a module with an adapter a folder that is the root.
    """
    router = {
        "types": dict.fromkeys(routes, "sentence_transformers.SentenceTransformer"),
        "structure": {route: [route] for route in routes},
        "parameters": {"default_route": routes[0], "allow_empty_key": False},
    }
    write_json(folder / Router.config_file_name, router)
    entry = {"idx": 0, "name": "0", "path": "", "type": f"{Router.__module__}.{Router.__name__}"}
    write_json(folder / "modules.json", [entry])
    write_library_config(folder, prompts)


def write_teacher(folder: Path, teacher: Teacher, rotation: Tensor | None, *, whole: bool) -> bool:
    """Writes a folder that the plain library opens as the teacher.

    Args:
        folder: to make.
        teacher: whose vectors of bare texts the folder gives.
        rotation: (dim, dim) that turns them into the embedding's axes, if it has axes of its own.
        whole: with its weights; else these go by name.

    Returns:
        whether there is one. None is of a teacher that puts tokens around a text, as three published LLM2Vec models do,
        nor of an adapter that is not LLM2Vec's; by name, none of two adapters on each other.
    """
    if isinstance(teacher, SelfTeacher):
        return _write_self(folder, teacher, rotation, whole)
    if isinstance(teacher, LLM2VecTeacher):
        return _write_llm2vec(folder, teacher, rotation, whole)
    return isinstance(teacher, SentenceTransformerTeacher) and _write_any(folder, teacher, rotation, whole)


def _write_self(folder: Path, teacher: SelfTeacher, rotation: Tensor | None, whole: bool) -> bool:
    backbone = teacher.backbone
    if whole:
        backbone.model.base_model.save_pretrained(folder)
    else:
        _write_reference(folder, backbone.model.base_model, backbone.address, backbone.revision)
    transformer = transformer_config(backbone, teacher.max_tokens + len(backbone.leading_ids))
    write_mean(folder, backbone, transformer, _turn(rotation, "token_embeddings"))
    return True


def _write_llm2vec(folder: Path, teacher: LLM2VecTeacher, rotation: Tensor | None, whole: bool) -> bool:
    reader, backbone = teacher.reader, teacher.reader.backbone
    if reader.before != backbone.leading_ids or reader.behind or len(teacher.adapters) != 1 and not whole:
        return False
    longest, turn = teacher.max_tokens + len(backbone.leading_ids), _turn(rotation, "token_embeddings")
    if whole:
        apart = load(teacher.name, None, str(backbone.device), TeachConfig(max_tokens=teacher.max_tokens))
        if apart is None:
            return False
        apart.reader.bare().save_pretrained(folder)
        write_mean(folder, backbone, transformer_config(backbone, longest), turn)
        return True
    reader.save_adapter(folder / "adapter", backbone.address, backbone.revision)
    # those in memory are in the backbone's number type
    shutil.copyfile(teacher.adapters[0] / ADAPTER_WEIGHTS, folder / "adapter" / ADAPTER_WEIGHTS)
    write_layout(folder, backbone, longest, turn)
    return True


def _write_any(folder: Path, teacher: SentenceTransformerTeacher, rotation: Tensor | None, whole: bool) -> bool:
    first, *others = teacher.model
    if hasattr(first, "model") and getattr(first.model, "_hf_peft_config_loaded", False):
        return False  # saved, it names its base model, which would stay behind; and no adapter names an adapter
    others += _turn(rotation, "sentence_embedding")
    if whole:
        SentenceTransformer(modules=[first, *others], device=str(teacher.model.device)).save(
            str(folder), create_model_card=False
        )
        return True
    base = _weights_of(teacher.name) if type(first) is Transformer else None
    if base is None:
        return False
    _write_reference(folder, first.model, base, teacher.revision)
    first.processor.save_pretrained(folder)
    first.save_config(str(folder))
    path = folder / "sentence_bert_config.json"
    write_json(path, {**read_json(path), "model_kwargs": {"dtype": str(first.model.dtype).removeprefix("torch.")}})
    write_modules(folder, "", others)
    write_library_config(folder, {})
    return True


def _write_reference(folder: Path, model: nn.Module, base: str, revision: str | None) -> None:
    """An adapter that changes nothing: `base`, by name."""
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    name = name_of(embedding, model)
    config = LoraConfig(r=1, target_modules=[name], base_model_name_or_path=base, revision=revision)
    config.inference_mode = True
    config.save_pretrained(str(folder))
    rows, width = embedding.weight.shape
    zeros = {"lora_embedding_A": torch.zeros(1, rows), "lora_embedding_B": torch.zeros(width, 1)}
    save_file({f"base_model.model.{name}.{part}": zero for part, zero in zeros.items()}, folder / ADAPTER_WEIGHTS)


def _weights_of(name: str) -> str | None:
    """Where the Transformer of a sentence-transformers model lies: a folder or hub id; None for a folder on the hub."""
    listing = load_file_path(name, "modules.json", local_files_only=True)
    inside = json.loads(Path(listing).read_text())[0]["path"] if listing else ""
    if Path(name).is_dir():
        return str((Path(name) / inside).resolve())
    return None if inside else name


def _turn(rotation: Tensor | None, what: str) -> list[nn.Module]:
    """The module that turns vectors into the embedding's axes."""
    if rotation is None:
        return []
    weight = rotation.detach().cpu().T.contiguous()
    width = len(weight)
    return [Dense(width, width, bias=False, activation_function=None, init_weight=weight, module_input_name=what)]
