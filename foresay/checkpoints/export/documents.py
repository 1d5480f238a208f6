"""The teacher that embeds a checkpoint's documents as a folder of plain sentence-transformers.

In: a teacher. Out: a folder with its weights by name, or whole in a bundle.
Careful: how weights go by name. The library follows an adapter to its base model, and nothing else to anything; so for
a teacher that is no adapter one is written, which adds 0 to the input embedding.
"""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.util import load_file_path
from torch import Tensor, nn

from ...config import TeachConfig
from ...files import read_json, write_json
from ...teachers.bidirectional import ADAPTER_WEIGHTS
from ...teachers.llm2vec import LLM2VecTeacher, load, write_layout, write_mean
from ...teachers.teach import SelfTeacher, SentenceTransformerTeacher, Teacher
from .layout import name_of, transformer_config, write_library_config, write_modules


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
