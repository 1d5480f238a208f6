"""The files by which plain sentence-transformers opens a folder: its modules, its configuration, its tokenizer.

In: a backbone, a model, modules. Out: files in a folder, built-in modules only.
Careful: the tokenizer is `Backbone.tokenize` in a file. Its post-processor adds template and special tokens by id, so
no text can spell them, and no family's own tokenizer class may open it: those build parts anew that the file holds.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
import transformers
from sentence_transformers.base.modules import Router, Transformer
from torch import nn

from ...backbone import Backbone
from ...errors import BackboneError
from ...files import write_json
from ...model import Model


def name_of(wanted: nn.Module, root: nn.Module) -> str:
    """Name of a module inside another one."""
    names: list[str] = [name for name, module in root.named_modules() if module is wanted]
    if not names:
        raise BackboneError(
            f"{type(root).__name__} keeps its {type(wanted).__name__} elsewhere; please report this model"
        )
    return names[0]


def write_tokenizer(home: Path, model: Model, ids: list[int], max_tokens: int) -> None:
    """The tokenizer of `Backbone.tokenize`, which puts the template around a text and the special tokens after it.

    The post-processor holds them by id, so no text can spell them, and a long text is cut to leave them room.
    """
    backbone = model.backbone
    names = [f"<|foresay_{i}|>" for i in range(len(ids))]
    before = _control("before", model.prefix_ids, backbone.tokenizer.convert_ids_to_tokens(model.prefix_ids))
    suffix = backbone.tokenizer.convert_ids_to_tokens(model.suffix_ids)
    behind = _control("behind", [*model.suffix_ids, *ids], [*suffix, *names])
    text, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    first, last = ({"SpecialToken": {"id": part["id"], "type_id": 0}} for part in (before, behind))
    spec = json.loads(backbone.text_tokenizer.to_str())
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, text, last],
        "pair": [first, text, second, last],
        "special_tokens": {"before": before, "behind": behind},
    }
    write_json(home / "tokenizer.json", spec)
    write_json(
        home / "tokenizer_config.json",
        {
            # no family's own class: those build parts anew that tokenizer.json holds
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "PreTrainedTokenizerFast",  # nor one that reads images too, as Gemma 3 has
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": max_tokens,
            "pad_token": backbone.tokenizer.convert_ids_to_tokens(backbone.pad_id),
            "padding_side": "right",
            "truncation_side": "right",
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
        },
    )


def _control(name: str, ids: list[int], tokens: list[str]) -> dict[str, Any]:
    return {"id": name, "ids": ids, "tokens": tokens}


def transformer_config(backbone: Backbone, max_tokens: int) -> dict[str, Any]:
    """The library's `sentence_bert_config.json`."""
    return {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings",
        "max_seq_length": max_tokens,
        "do_lower_case": False,
        "unpad_inputs": False,
        "model_kwargs": {"dtype": str(backbone.dtype).removeprefix("torch.")},
    }


def write_modules(folder: Path, home: str, modules: Iterable[nn.Module]) -> None:
    """Writes `modules.json`: the Transformer in the folder `home`, and each further module in one of its own."""
    listed = [(home, Transformer)]
    for number, module in enumerate(modules, start=1):
        path = f"{number}_{type(module).__name__}"
        (folder / path).mkdir(exist_ok=True)
        options = {"create_model_card": False} if isinstance(module, Router) else {}
        module.save(str(folder / path), **options)  # type: ignore[operator]
        listed.append((path, type(module)))
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"{kind.__module__}.{kind.__name__}"}
        for i, (path, kind) in enumerate(listed)
    ]
    write_json(folder / "modules.json", entries)


def write_library_config(folder: Path, prompts: dict[str, str]) -> None:
    """Writes `config_sentence_transformers.json`, where the library and mteb find the prompts."""
    versions = {"sentence_transformers": sentence_transformers, "transformers": transformers, "pytorch": torch}
    config = {
        "model_type": "SentenceTransformer",
        "__version__": {name: str(library.__version__) for name, library in versions.items()},
        "prompts": prompts,
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    write_json(folder / "config_sentence_transformers.json", config)
