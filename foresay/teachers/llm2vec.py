"""An LLM2Vec teacher in use: a backbone, adapters that make it read in both directions, a mean.

In: the folder that `foresay teacher` made (llm2vec_folder.py), a published LLM2Vec model (hub id or folder), or the
word `nano-teacher` or `both-directions`. Out: an `LLM2VecTeacher`.
Be careful: a published model may be two adapters on each other, of which only the upper one is named.
"""

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from torch import Tensor

from ..backbone import Backbone, same_backbone
from ..batching import Budget, run_by_length
from ..config import TeachConfig
from ..devices import usable
from ..errors import InputError
from ..files import read_json
from .base import LinearMap, Teacher, Vectors, Wanted, kind
from .bidirectional import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Bidirectional
from .folder import CONFIG
from .llm2vec_folder import GOLDEN, backbone_record, read_about
from .packaged import FOLDERS

BOTH = "both-directions"
"""The word for a backbone that nothing trained to read in both directions."""
_PUBLISHED_STAGES = ("-unsup-simcse", "-supervised")
"""Ends of published names whose adapter goes on top of another one: `X-mntp-unsup-simcse` on `X-mntp`."""
_INST = ("[INST]", "[/INST]")  # the spaces inside are their tokenizers' own
_FRAMES = {
    "Meta-Llama-3-8B-Instruct": ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
    "Mistral-7B-Instruct-v0.2": _INST,
    "Llama-2-7b-chat-hf": _INST,
}
"""What the authors' encoder puts before and after each text for these three backbones (llm2vec.py,
`prepare_for_tokenization`); for all others nothing."""


class LLM2VecTeacher(Teacher):
    """The mean state of a text's tokens, read in both directions."""

    pooling = "mean"

    def __init__(
        self, reader: Bidirectional, name: str, config: TeachConfig | None = None, adapters: Sequence[Path] = ()
    ) -> None:
        """Uses a model that is loaded already.

        Args:
            reader: backbone and adapters.
            name: what the teacher is called in a folder of targets.
            config: lengths and batch size.
            adapters: folders that the reader's adapters are from; a hash of their weights is the teacher's revision.
        """
        config = config or TeachConfig()
        self.reader, self.name, self.adapters = reader, name, tuple(adapters)
        self.revision = fingerprint(adapters) if adapters else None
        self.dim, self.dtype = reader.backbone.hidden_size, reader.backbone.dtype_name
        room = reader.backbone.max_positions - len(reader.before) - len(reader.behind)
        self.max_tokens = min(config.max_tokens, room)
        tokens = config.batch_size * self.max_tokens
        self._budget = Budget(tokens, reader.backbone.least_tokens, config.batch_size)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (texts, dim), float32, not normalised; the longest texts computed first."""
        rows = [row[: self.max_tokens] for row in self.reader.backbone.tokenize(texts)]
        vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        run_by_length(rows, self.reader.mean, [torch.from_numpy(vectors)], self._budget)
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return [len(row) for row in self.reader.backbone.tokenize(texts)]

    def weights(self) -> Iterable[Tensor]:
        """The backbone's; the revision stands for the adapters."""
        parameters: Iterable[Tensor] = self.reader.backbone.model.parameters()
        return parameters

    def source(self) -> dict[str, Any]:
        """Backbone and adapter, which a folder that builds on it holds too; by name where it cannot."""
        reader = self.reader
        backbone = reader.backbone
        if reader.before != backbone.leading_ids or reader.behind or len(self.adapters) > 1:
            return super().source()
        return {"backbone": backbone_record(backbone), "adapter": bool(self.adapters)}

    def golden(self) -> dict[str, Tensor]:
        """A sample of the backbone's weights."""
        return {"backbone_sample": self.reader.sample()}

    def export(self, folder: Path, after: LinearMap | None, *, whole: bool) -> bool:
        """The backbone and one adapter by name, or both merged.

        Not of a teacher that puts tokens around a text, as three published LLM2Vec models do; by name, none of two
        adapters on each other.
        """
        from .layout import linear, transformer_config, write_both_directions, write_mean, write_reference

        reader, backbone = self.reader, self.reader.backbone
        if reader.before != backbone.leading_ids or reader.behind or len(self.adapters) > 1 and not whole:
            return False
        longest, modules = self.max_tokens + len(backbone.leading_ids), linear(after, "token_embeddings")
        if whole:
            apart = _apart(self)
            if apart is None:
                return False
            apart.bare().save_pretrained(folder)
            write_mean(folder, backbone, transformer_config(backbone, longest), modules)
            return True
        if self.adapters:
            reader.save_adapter(folder / "adapter", backbone.address, backbone.revision)
            # those in memory are in the backbone's dtype
            shutil.copyfile(self.adapters[0] / ADAPTER_WEIGHTS, folder / "adapter" / ADAPTER_WEIGHTS)
        else:
            write_reference(folder / "adapter", backbone.model.base_model, backbone.address, backbone.revision)
        write_both_directions(folder, backbone, longest, modules)
        return True


# -- loading ---------------------------------------------------------------------------------------------


@kind(order=20)
def open_llm2vec(wanted: Wanted) -> LLM2VecTeacher | None:
    """A folder that `foresay teacher` made, `nano-teacher`, a published model, or `both-directions` with a backbone.

    Of the backbone that is given it shares the weights. Without one, or where it is another one, the teacher loads its
    own, and adds its adapters into the weights, which makes it as fast as the causal model.

    Raises:
        InputError: if a part is missing, or of another model.
        BackboneError: if the backbone cannot be loaded, is another one, or stays causal.
    """
    if wanted.name.partition(":")[0] == BOTH:
        return _untrained(wanted)
    folder = FOLDERS.get(wanted.name) or _folder(wanted.name)
    if folder is None:
        return None
    if (folder / CONFIG).is_file():
        return _load_own(folder, wanted)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "modules.json").is_file():
        return _load_published(folder, wanted)
    return None


def _untrained(wanted: Wanted) -> LLM2VecTeacher:
    name = wanted.name.partition(":")[2]
    if wanted.backbone is None and not name:
        raise InputError(f"the teacher {BOTH!r} is the backbone itself and none was given; add -m BACKBONE")
    backbone, _ = _model(name or str(wanted.backbone and wanted.backbone.name), None, "auto", wanted)
    return LLM2VecTeacher(Bidirectional(backbone), f"{BOTH}:{backbone.name}", wanted.config)


def _load_own(folder: Path, wanted: Wanted) -> LLM2VecTeacher | None:
    about = read_about(folder)
    if "teacher" in about:
        return None  # whitening over another teacher
    base, chain = about["backbone"], [folder / "adapter"] if about.get("adapter", True) else []
    model, is_shared = _model(base["name"], base["revision"], usable(base["dtype"], wanted.device), wanted)
    same_backbone(model, base["name"], load_file(folder / GOLDEN)["backbone_sample"])
    reader = _with_adapters(Bidirectional(model), chain, merge=not is_shared)
    return LLM2VecTeacher(reader, wanted.name, wanted.config, chain)


def _load_published(folder: Path, wanted: Wanted) -> LLM2VecTeacher:
    chain, base = _chain(wanted.name, folder)
    model, is_shared = _model(base, None, "auto", wanted)
    reader = _with_adapters(Bidirectional(model, *_frame(model)), chain, merge=not is_shared)
    return LLM2VecTeacher(reader, wanted.name, wanted.config, chain)


def _model(name: str, revision: str | None, dtype: str, wanted: Wanted) -> tuple[Backbone, bool]:
    """The backbone called `name`, and whether it is the one that is given."""
    if wanted.backbone is not None and wanted.backbone.name == name:
        return wanted.backbone, True
    return Backbone.load(name, revision=revision, device=wanted.device, dtype=dtype), False


def _apart(teacher: LLM2VecTeacher) -> Bidirectional | None:
    """The same reader over weights of its own, with its adapters in them."""
    backbone = teacher.reader.backbone
    wanted = Wanted(teacher.name, None, str(backbone.device), TeachConfig(max_tokens=teacher.max_tokens))
    if not teacher.adapters:
        return teacher.reader  # nothing to merge
    found = open_llm2vec(wanted)
    return None if found is None else found.reader


def _frame(backbone: Backbone) -> tuple[list[int], list[int]]:
    """Token ids before and after a text of a published model of this backbone."""
    before, behind = _FRAMES.get(Path(backbone.name).name, ("", ""))
    return [*backbone.leading_ids, *backbone.control_ids(before)], backbone.control_ids(behind)


def _with_adapters(reader: Bidirectional, chain: list[Path], *, merge: bool) -> Bidirectional:
    for adapter in chain:
        reader.load_adapter(adapter)
    if merge:
        reader.merge()
    else:
        reader.narrow()
    reader.model.eval()
    return reader


def _chain(name: str, folder: Path) -> tuple[list[Path], str]:
    """The adapters of a published model, the lowest first, and the backbone below them.

    An adapter names what it was trained on: the backbone, or another adapter. SimCSE adapters were trained on merged
    weights and name the backbone all the same; their own names say which adapter comes first.
    """
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base:
        raise InputError(f"{folder / ADAPTER_CONFIG} names no base_model_name_or_path; write the backbone's name there")
    stage = next((stage for stage in _PUBLISHED_STAGES if name.rstrip("/").endswith(stage)), None)
    below = name.rstrip("/").removesuffix(stage) if stage else str(base)
    found = _folder(below)
    if found is not None and (found / ADAPTER_CONFIG).is_file():
        chain, base = _chain(below, found)
        return [*chain, folder], base
    if stage:
        raise InputError(f"{name} builds on the adapter {below}, which is not there; get it too, beside this one")
    return [folder], str(base)


def _folder(name: str) -> Path | None:
    """A folder of that name, or the small files of a repository on the hub."""
    if Path(name).is_dir():
        return Path(name)
    if Path(name).is_absolute() or name.count("/") != 1:
        return None
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", f"*{ADAPTER_WEIGHTS}", GOLDEN]))
    except (OSError, ValueError):
        return None


def fingerprint(chain: Sequence[Path]) -> str:
    """16 hex digits that stand for the weights of adapters."""
    digest = hashlib.sha256()
    for adapter in chain:
        digest.update((adapter / ADAPTER_WEIGHTS).read_bytes())
    return digest.hexdigest()[:16]
