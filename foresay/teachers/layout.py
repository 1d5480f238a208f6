"""A teacher as a folder of plain sentence-transformers: the parts that the kinds share.

In: a backbone, where its weights are, a linear map. Out: files of that library's own modules.
Careful: how weights go by name. The library follows an adapter to its base model, and nothing else to anything; so for
a teacher that is no adapter one is written, which adds 0 to the input embedding. And beside an adapter it takes the
config from the backbone, whose attention is causal; so it is pointed at a `backbone_config.json` of ours.
"""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from sentence_transformers.base.modules import Dense
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from ..backbone import Backbone
from ..checkpoints.export.layout import (
    name_of,
    transformer_config,
    write_library_config,
    write_modules,
    write_tokenizer,
)
from ..files import write_json
from ..model import Model
from .base import LinearMap
from .bidirectional import ADAPTER_WEIGHTS

__all__ = [
    "linear",
    "transformer_config",
    "write_both_directions",
    "write_library_config",
    "write_mean",
    "write_modules",
    "write_reference",
]


def linear(after: LinearMap | None, what: str) -> list[nn.Module]:
    """A linear map as a module; `what` it reads is `token_embeddings` before the mean, else `sentence_embedding`.

    Before a mean it gives the same as after it, and is then of the dtype of what it reads.
    """
    if after is None:
        return []
    weight, bias = torch.from_numpy(after.weight), torch.from_numpy(after.bias)
    has_bias = bool(after.bias.any())
    return [
        Dense(
            weight.shape[1],
            weight.shape[0],
            bias=has_bias,
            activation_function=None,
            init_weight=weight,
            init_bias=bias if has_bias else None,
            module_input_name=what,
        )
    ]


def write_reference(folder: Path, model: nn.Module, base: str, revision: str | None) -> None:
    """An adapter that changes nothing: `base`, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    name = name_of(embedding, model)
    config = LoraConfig(r=1, target_modules=[name], base_model_name_or_path=base, revision=revision)
    config.inference_mode = True
    config.save_pretrained(str(folder))
    rows, width = embedding.weight.shape
    zeros = {"lora_embedding_A": torch.zeros(1, rows), "lora_embedding_B": torch.zeros(width, 1)}
    save_file({f"base_model.model.{name}.{part}": zero for part, zero in zeros.items()}, folder / ADAPTER_WEIGHTS)


def write_both_directions(
    folder: Path, backbone: Backbone, max_tokens: int, after: Iterable[torch.nn.Module] = ()
) -> None:
    """Writes what reads in both directions, but for the adapter, which belongs into the folder `adapter/`.

    Args:
        folder: to write into.
        backbone: the language model, which the adapter names.
        max_tokens: longest text, a leading token included.
        after: modules between states and mean.
    """
    config = copy.deepcopy(backbone.model.config)
    for part in (config, config.get_text_config()):
        part.is_causal = False
    config.to_json_file(folder / "backbone_config.json")
    transformer = transformer_config(backbone, max_tokens)
    transformer["config_kwargs"] = {"_configuration_file": "backbone_config.json"}
    transformer["model_kwargs"]["adapter_kwargs"] = {"subfolder": "adapter"}
    write_mean(folder, backbone, transformer, after)


def write_mean(
    folder: Path, backbone: Backbone, transformer: dict[str, Any], after: Iterable[torch.nn.Module] = ()
) -> None:
    """Writes the files of the mean state of a text's tokens; `transformer` says how the library loads the backbone."""
    write_json(folder / "sentence_bert_config.json", transformer)
    write_tokenizer(folder, Model(backbone, thought=0, compression=0, dim=1), [], transformer["max_seq_length"])
    modules = list(after)
    widths = [backbone.hidden_size, *(module.out_features for module in modules if isinstance(module, Dense))]
    write_modules(folder, "", [*modules, *_pooling(backbone, widths[-1])])
    write_library_config(folder, {})


def _pooling(backbone: Backbone, width: int) -> list[torch.nn.Module]:
    """The mean over the text's own tokens: a leading token before them does not count."""
    mean = Pooling(width, "mean")
    if not backbone.leading_ids:
        return [mean]
    leading = backbone.tokenizer.convert_ids_to_tokens(backbone.leading_ids)
    return [MultiVectorMask(skiplist_words=leading, skiplist_tasks=["query", "document"]), mean]
