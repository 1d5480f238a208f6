"""The model itself as modules of plain sentence-transformers: no remote code, and no package of ours.

In: a model, its prompts, its longest input. Out: the files of

    Transformer  the backbone by name, and an adapter with the special tokens as rows of its embedding matrix
    1_CNN        each compression token's map, as one convolution whose window spans them
    2_Router     a mask: the token in the middle of that window counts, and no other
    3_Pooling    the mean, of that one place

For the published readout, the mean, `1_Dense` replaces `1_CNN`, and every compression token counts.

Careful: the adapter lies in the folder itself, and no `config.json` may be there. The library passes a module's folder
on as a folder of the backbone too, and takes a `config.json` beside an adapter for the backbone's own; either way it
then finds no weights.
"""

import copy
import logging
from pathlib import Path

import torch
from peft import TrainableTokensConfig
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Router
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import CNN, BoW, Pooling
from torch import Tensor, nn

from ...backbone import OWN_TOKENIZER, Backbone
from ...files import write_json
from ...model import Model
from ..load import COPY
from .layout import name_of, transformer_config, write_library_config, write_modules, write_tokenizer
from .special_rows import special_ids

logger = logging.getLogger(__name__)


def write_queries(
    folder: Path, model: Model, *, prompts: dict[str, str], max_tokens: int, with_backbone: bool = False
) -> bool:
    """Writes into a checkpoint what plain sentence-transformers needs to give the same embeddings.

    The special tokens move into rows of the embedding matrix that no text can reach. Should the backbone have too
    few of them, as a Llama 2 has for more than 13 tokens, a copy with a larger matrix is written unasked.
    Without a copy, the library loads a backbone of the hub at its newest revision: it has no way to pin one.

    Args:
        folder: a folder that exists; a call overwrites what an earlier one of its kind, with copy or without, wrote.
        model: the model as trained. Its backbone is only read.
        prompts: what goes before a text, by name; `query` and `document` serve `encode_query`, `encode_document`.
        max_tokens: longest input, template and special tokens included.
        with_backbone: write a copy of the backbone, so that the folder can be moved to another machine.

    Returns:
        whether the folder holds a copy of the backbone.

    Raises:
        InputError: if the template and the special tokens alone exceed max_tokens.
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
    else:
        _write_adapter(home, model, ids)
    write_tokenizer(home, model, ids, max_tokens)
    write_json(home / "sentence_bert_config.json", transformer_config(model.backbone, max_tokens))
    mapped, counted = _map(model, ids)
    write_modules(folder, COPY if with_backbone else "", [mapped, _mask(counted), Pooling(model.dim, "mean")])
    write_library_config(folder, prompts)
    return with_backbone


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


def _map(model: Model, ids: list[int]) -> tuple[nn.Module, list[int]]:
    """From states to the embedding, and at which tokens it is; the library casts it to the backbone's dtype."""
    counted = ids[model.thought :]
    kernel = _kernel(model)
    if bool((kernel == kernel[0]).all()):
        return _dense(model, kernel).to(model.backbone.dtype), counted
    return _convolution(model, kernel).to(model.backbone.dtype), [counted[model.compression // 2]]


def _mask(counted: list[int]) -> Router:
    """Only these tokens count.

    The mask would ignore its list if it heard that a text is a query. So it is in a model of its own, which a router
    runs for every task and tells of none. The words in front of it are there because a model needs a tokenizer.
    """
    alone = SentenceTransformer(modules=[BoW(["-"]), MultiVectorMask(keep_only_token_ids=counted)], device="cpu")
    return Router({"mask": [alone]}, route_mappings={(None, None): "mask"})


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
