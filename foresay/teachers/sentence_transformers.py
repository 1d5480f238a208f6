"""Any sentence-transformers model as a teacher: a folder, or a hub id.

In: its name. Out: its vectors of bare texts.
Careful: a model's default prompt is kept away, since a target is the vector of the response alone.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import load_file_path
from tokenizers import Tokenizer
from torch import Tensor

from ..config import TeachConfig
from ..devices import pick_device
from ..errors import InputError
from ..files import read_json, write_json
from .base import LinearMap, Teacher, Vectors, Wanted, digest, kind, sample


class SentenceTransformerTeacher(Teacher):
    """Any sentence-transformers model, without its prompts."""

    def __init__(self, name: str, device: str = "auto", config: TeachConfig | None = None) -> None:
        """Loads the model.

        Args:
            name: folder or hub id.
            device: as for `Backbone.load`.
            config: lengths and batch size.

        Raises:
            InputError: if there is no such model.
            DeviceError: if the device does not exist here.
        """
        config = config or TeachConfig()
        target = str(pick_device(device))
        try:
            self.model = SentenceTransformer(name, device=target)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"cannot load the teacher {name!r}: {reason} (expected a folder or hub id of a sentence-transformers "
                "or LLM2Vec model, or the word self or nano-teacher)"
            ) from error
        if isinstance(self.model[0], Router) and self.model[0].default_route is None:
            raise InputError(
                f"{name} embeds queries and documents by two models, and a teacher embeds all texts by one; of a "
                "checkpoint, name the teacher that it was made with"
            )
        self.name = name
        self.commit: str | None = getattr(getattr(self.model[0], "config", None), "_commit_hash", None)
        self.revision: str | None = self.commit or digest(sample(self.weights()))  # a folder may hold another model
        pooling = [module.pooling_mode for module in self.model if isinstance(module, Pooling)]
        self.pooling = str(pooling[0]) if pooling else "its own"
        self.dim = int(self.model.get_embedding_dimension())
        self.dtype = next((str(weight.dtype).removeprefix("torch.") for weight in self.weights()), "")
        self.max_tokens = min(self.model.max_seq_length or config.max_tokens, config.max_tokens)
        self.model.max_seq_length = self.max_tokens
        self._batch_size = config.batch_size

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (texts, dim), float32. The empty prompt keeps a model's default prompt away."""
        vectors = self.model.encode(list(texts), prompt="", batch_size=self._batch_size, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, those that the tokenizer adds included, since `max_tokens` counts them."""
        whole = self._whole
        if whole is None:
            return [len(ids) for ids in self.model.tokenizer(list(texts), truncation=False)["input_ids"]]
        return [len(found.ids) for found in whole.encode_batch(list(texts))]

    @cached_property
    def _whole(self) -> Tokenizer | None:
        """A copy of a fast tokenizer that cuts nothing: one object cannot cut for `embed` and count at a time."""
        theirs = getattr(self.model.tokenizer, "backend_tokenizer", None)
        if theirs is None:
            return None
        copy = Tokenizer.from_str(theirs.to_str())
        copy.no_truncation()
        copy.no_padding()
        return copy

    def weights(self) -> Iterable[Tensor]:
        """The model's."""
        parameters: Iterable[Tensor] = self.model.parameters()
        return parameters

    def export(self, folder: Path, after: LinearMap | None, *, whole: bool) -> bool:
        """The model by name, or whole; not one that is an adapter, nor, by name, one that lies deeper in a repository.

        An adapter names its base model, which would stay behind; and no adapter names an adapter.
        """
        from .layout import linear, write_library_config, write_modules, write_reference

        first, *others = self.model
        if hasattr(first, "model") and getattr(first.model, "_hf_peft_config_loaded", False):
            return False
        others += linear(after, "sentence_embedding")
        if whole:
            model = SentenceTransformer(modules=[first, *others], device=str(self.model.device))
            model.save(str(folder), create_model_card=False)
            return True
        base = weights_of(self.name) if type(first) is Transformer else None
        if base is None:
            return False
        write_reference(folder, first.model, base, self.commit)
        first.processor.save_pretrained(folder)
        first.save_config(str(folder))
        path = folder / "sentence_bert_config.json"
        write_json(path, {**read_json(path), "model_kwargs": {"dtype": str(first.model.dtype).removeprefix("torch.")}})
        write_modules(folder, "", others)
        write_library_config(folder, {})
        return True


def weights_of(name: str) -> str | None:
    """Where the Transformer of a sentence-transformers model lies: a folder or hub id; None for a folder on the hub."""
    listing = load_file_path(name, "modules.json", local_files_only=True)
    inside = json.loads(Path(listing).read_text(encoding="utf-8"))[0]["path"] if listing else ""
    if Path(name).is_dir():
        return str((Path(name) / inside).resolve())
    return None if inside else name


@kind(order=100)
def open_sentence_transformer(wanted: Wanted) -> Teacher:
    """Whatever nobody else knows; InputError if this library does not either."""
    return SentenceTransformerTeacher(wanted.name, wanted.device, wanted.config)
