"""The files with which plain `sentence_transformers.SentenceTransformer(path)` opens a checkpoint.

In: a model, its prompts, its longest input. Out: built-in modules only, so no remote code and no package of ours:

    Transformer    the backbone by name, and an adapter with the special tokens as rows of its embedding matrix
    1_CNN          each compression token's map, as one convolution whose window spans them
    2_WordWeights  1 on the token in the middle of that window, 0 elsewhere
    3_Pooling      the mean, of that one place

Where every token has the same share, as in the mean, `1_Dense` does for `1_CNN`, and the weights are 1 on every one.

What a reader would get wrong: the adapter lies in the checkpoint's own folder, and no `config.json` may stand there.
The library passes a module's folder on as a folder of the backbone too, and takes a `config.json` beside an
adapter for the backbone's own; either way it then finds no weights.
"""

import copy
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
import transformers
from peft import TrainableTokensConfig
from safetensors.torch import save_file
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import CNN, Pooling, WordWeights
from torch import Tensor, nn

from ..backbone import OWN_TOKENIZER, RESERVED, Backbone
from ..errors import BackboneError, CheckpointError
from ..files import write_json
from ..model import Model

logger = logging.getLogger(__name__)

COPY = "0_Transformer"
"""Folder of the backbone's copy, for `Backbone.load` and `AutoModelForCausalLM.from_pretrained` too."""
_NEVER_IN_UTF8 = (0xC0, 0xC1, *range(0xF5, 0x100))


def write_plain(
    folder: Path, model: Model, *, prompts: dict[str, str], max_tokens: int, with_backbone: bool = False
) -> bool:
    """Writes into a checkpoint what plain sentence-transformers needs to give the same embeddings.

    The special tokens move into rows of the embedding matrix that no text can reach. Should the backbone have too
    few of them, as a Llama 2 has for more than 13 tokens, a copy with a larger matrix is written unasked.
    Without a copy, the library loads a backbone of the hub at its newest revision: it has no way to pin one.

    Args:
        folder: a folder that exists; a call overwrites what an earlier one of its kind, with copy or without, wrote.
        model: the model as trained. Its backbone is only read.
        prompts: what stands before a text, by name; `query` and `document` serve `encode_query`, `encode_document`.
        max_tokens: longest input, template and special tokens included.
        with_backbone: write a copy of the backbone, so that the folder can be moved to another machine.

    Returns:
        whether the folder holds a copy of the backbone.

    Raises:
        InputError: if the template and the special tokens alone exceed max_tokens.
        CheckpointError: if the folder holds a `config.json`, and the backbone is not copied.
    """
    model.rows([""], max_tokens)
    ids = special_ids(model)
    there = model.backbone.embedding.num_embeddings
    rows = max(there, *(token + 1 for token in ids))
    if rows > there and not with_backbone:
        logger.warning("%s has too few unused tokens: the checkpoint gets a copy of it", model.backbone.name)
        with_backbone = True
    home = folder / COPY if with_backbone else folder
    home.mkdir(exist_ok=True)
    if with_backbone:
        _write_copy(home, model, ids, rows)
    elif (home / "config.json").exists():
        raise CheckpointError(f"{home} holds a config.json, which the library would take for the backbone's: rename it")
    else:
        _write_adapter(home, model, ids)
    write_tokenizer(home, model, ids, max_tokens)
    write_json(home / "sentence_bert_config.json", transformer_config(model.backbone, max_tokens))
    write_modules(folder, COPY if with_backbone else "", _pooling_modules(model, ids, rows))
    write_library_config(folder, prompts)
    return with_backbone


# -- rows that no text can reach -------------------------------------------------------------------------


def special_ids(model: Model) -> list[int]:
    """An id for each special token: rows no text can reach, and rows to be added where these are too few.

    In turn: rows beyond the tokenizer's ids (Qwen3 has 267), then added tokens nobody uses (Llama 3 and Gemma
    reserve some), then the tokens of bytes that UTF-8 never holds (13 in every vocabulary of bytes).
    """
    backbone = model.backbone
    rows = backbone.embedding.num_embeddings
    beyond = max(backbone.tokenizer.get_vocab().values()) + 1
    free = [*range(beyond, rows), *_unreachable(model, rows)]
    return [*free, *range(max(beyond, rows), max(beyond, rows) + model.tokens)][: model.tokens]


def _unreachable(model: Model, rows: int) -> list[int]:
    """Ids of tokens in the vocabulary that no text becomes and nothing else uses."""
    backbone = model.backbone
    vocab = backbone.tokenizer.get_vocab()
    spec = json.loads(backbone.text_tokenizer.to_str())
    names = [name for name in dict.fromkeys([*_unused(spec, backbone), *_impossible_bytes(spec)]) if name in vocab]
    used = {*model.prefix_ids, *model.suffix_ids, *backbone.stop_ids, backbone.pad_id}
    spelled = zip(names, backbone.tokenize(names), strict=True)  # merges may still spell a name out
    return [vocab[name] for name, ids in spelled if vocab[name] < rows and vocab[name] not in {*used, *ids}]


def _unused(spec: dict[str, Any], backbone: Backbone) -> list[str]:
    """Added tokens that text does not become and neither model nor template names, the reserved ones first."""
    named = set(map(str, backbone.tokenizer.special_tokens_map.values()))
    template = str(backbone.tokenizer.chat_template or "")
    names = [token["content"] for token in spec["added_tokens"] if token["special"]]
    unused = [name for name in names if name not in named and name not in template]
    return sorted(unused, key=lambda name: not RESERVED.match(name))


def _impossible_bytes(spec: dict[str, Any]) -> list[str]:
    """Names of the tokens that stand for bytes outside UTF-8."""
    byte_level = '"ByteLevel"' in json.dumps(spec["pre_tokenizer"])  # GPT-2 writes such a byte as the character itself
    return [chr(byte) if byte_level else f"<0x{byte:02X}>" for byte in _NEVER_IN_UTF8]


# -- the backbone, by name or as a copy ------------------------------------------------------------------


def _write_adapter(home: Path, model: Model, ids: list[int]) -> None:
    """The special tokens as a PEFT adapter; the library loads the backbone without its head, and names start there."""
    backbone = model.backbone
    name = name_of(backbone.embedding, backbone.model.base_model)
    TrainableTokensConfig(
        base_model_name_or_path=backbone.address,
        revision=backbone.revision,
        target_modules=[name],
        token_indices=ids,
        inference_mode=True,
    ).save_pretrained(str(home))
    weights = {f"base_model.model.{name}.trainable_tokens_delta": model.special_tokens.detach().cpu()}
    save_file(weights, home / "adapter_model.safetensors")


def _write_copy(home: Path, model: Model, ids: list[int], rows: int) -> None:
    """The whole backbone with the special tokens in its input embedding.

    The head keeps its weights, as an own matrix even where the two were one: else the special tokens would
    become words that the model can say, and its logits would no longer be the backbone's.
    """
    backbone, inner = model.backbone, model.backbone.model
    head = inner.get_output_embeddings()
    state = inner.state_dict()
    for key, value in head.state_dict().items():
        state[f"{name_of(head, inner)}.{key}"] = _grown(value, rows)
    table = _grown(backbone.embedding.weight, rows).clone()
    table[ids] = model.special_tokens.detach().to(table)
    state[f"{name_of(backbone.embedding, inner)}.weight"] = table
    inner.save_pretrained(home, state_dict=state)
    config = copy.deepcopy(inner.config)
    for part in (config, config.get_text_config()):
        part.tie_word_embeddings = False
    config.get_text_config().vocab_size = rows
    config.save_pretrained(home)
    backbone.tokenizer.save_pretrained(home / OWN_TOKENIZER)


def write_backbone(home: Path, backbone: Backbone) -> None:
    """The backbone as it is, where the library's layout has no use for a copy."""
    backbone.model.save_pretrained(home)
    backbone.tokenizer.save_pretrained(home)


def _grown(weight: Tensor, rows: int) -> Tensor:
    """A matrix with rows added: their mean, so that a head never prefers a new one."""
    weight, added = weight.detach(), rows - len(weight)
    if not added:
        return weight
    mean = weight.mean(0, keepdim=True, dtype=torch.float32).to(weight.dtype)
    return torch.cat([weight, mean.expand(added, *weight.shape[1:])])


def name_of(wanted: nn.Module, root: nn.Module) -> str:
    """Name of a module inside another one."""
    names: list[str] = [name for name, module in root.named_modules() if module is wanted]
    if not names:
        raise BackboneError(
            f"{type(root).__name__} keeps its {type(wanted).__name__} elsewhere; please report this model"
        )
    return names[0]


# -- the tokenizer ---------------------------------------------------------------------------------------


def write_tokenizer(home: Path, model: Model, ids: list[int], max_tokens: int) -> None:
    """The tokenizer of `Backbone.tokenize`, which puts the template around a text and the special tokens behind it.

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


# -- the library's own files -----------------------------------------------------------------------------


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


def _pooling_modules(model: Model, ids: list[int], rows: int) -> list[nn.Module]:
    """From states to the embedding.

    The map comes first: the library casts it to the backbone's number type, and what leaves WordWeights is float32.
    It is stored in that type, in half the bytes.
    """
    vocab = [""] * rows
    names = {token: f"compression_{i}" for i, token in enumerate(ids[model.thought :])}
    for token, name in names.items():
        vocab[token] = name
    counted = list(names.values())
    kernel = _kernel(model)
    alike = bool((kernel == kernel[0]).all())
    if not alike:
        counted = [counted[model.compression // 2]]
    mapped = _dense(model, kernel) if alike else _convolution(model, kernel)
    return [
        mapped.to(model.backbone.dtype),
        WordWeights(vocab, dict.fromkeys(counted, 1.0), 0.0),
        Pooling(model.dim, "mean"),
    ]


def _kernel(model: Model) -> Tensor:
    """What each compression token's state is multiplied by: (compression, dim, hidden); the sum is the embedding."""
    weight = model.fused_map()[0].detach().cpu()
    by_part = weight.view(model.dim, model.parts, -1)
    return torch.einsum("pt,dph->tdh", by_part.new_tensor(model.mixing), by_part)


def _dense(model: Model, kernel: Tensor) -> Dense:
    """One map for every token, of whose outputs the library takes the mean."""
    weight, bias = kernel[0] * model.compression, model.fused_map()[1].detach().cpu()
    return Dense(
        weight.shape[1],
        model.dim,
        activation_function=None,
        init_weight=weight,
        init_bias=bias,
        module_input_name="token_embeddings",
    )


def _convolution(model: Model, kernel: Tensor) -> CNN:
    """A map for each compression token: around the middle one, the window holds each at its own place.

    The library pads for odd windows only. Behind an even number of tokens the window holds one place more, whose
    map is 0: padding, or nothing.
    """
    window = model.compression + 1 - model.compression % 2
    cnn = CNN(model.backbone.hidden_size, model.dim, [window])
    (conv,) = cnn.convs
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :, : model.compression] = kernel.permute(1, 2, 0)
        conv.bias.copy_(model.fused_map()[1])
    return cnn


def write_modules(folder: Path, home: str, modules: Iterable[nn.Module]) -> None:
    """Writes `modules.json`: the Transformer in the folder `home`, and each further module in one of its own."""
    listed = [(home, Transformer)]
    for number, module in enumerate(modules, start=1):
        path = f"{number}_{type(module).__name__}"
        (folder / path).mkdir(exist_ok=True)
        module.save(str(folder / path))  # type: ignore[operator]
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
