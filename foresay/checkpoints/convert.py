"""The published LLM2Vec-Gen format to a Foresay checkpoint; only this file knows that format.

    run_config.yml               name of the backbone, special tokens, how many of them are read
    encoder/adapter_*            PEFT TrainableTokens adapter: the special tokens
    reconstruction_mlp, alignment_mlp   pickles, each a state_dict and a config

Careful: the heads are pickles, and a pickle can run code. They are read with
`weights_only`, which loads tensors and plain containers and refuses everything else.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from ..backbone import Backbone
from ..encoder import Encoder
from ..errors import CheckpointError
from ..model import Model
from ..prompts import EVALUATION
from .export.sentence_transformers import export
from .folder import claimed, find
from .record import Training
from .save import save

PROMPTS = {
    **EVALUATION,
    "query": "Generate a passage that best answers this question: ",
    "document": "Summarize the following passage: ",
}
"""The two last are those of the paper's retrieval evaluation; the format itself stores none."""


def convert(
    path: str | Path,
    output: Path,
    *,
    backbone: str | Backbone | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Encoder:
    """Reads a published checkpoint and writes it as one of ours.

    Args:
        path: folder or hub id of the published checkpoint.
        output: folder to make.
        backbone: instead of the one that run_config.yml names, which may be a path on somebody's machine.
        device: to load the backbone on.
        overwrite: replace a checkpoint that is in `output`; one converted from the same place is replaced anyway.

    Raises:
        CheckpointError: if a file is missing, a head holds anything but tensors, or shapes do not fit.
        BackboneError: if the backbone cannot be loaded.
    """
    folder = find(path)
    made = Training("conversion", pairs={"converted from": str(path)})
    mine = claimed(output, "foresay convert", overwrite=overwrite, mine=lambda found: found.training == made)
    with mine as output:
        encoder = _read(folder, backbone, device)
        save(output, encoder, made)
        export(output, encoder)
    return encoder


def _read(folder: Path, backbone: str | Backbone | None, device: str) -> Encoder:
    """The encoder that a published folder holds."""
    config = _run_config(folder)
    tokens = _special_tokens(folder)
    align, reconstruct = _head(folder / "alignment_mlp"), _head(folder / "reconstruction_mlp")
    compression = _compression(folder, config, len(tokens))
    if not isinstance(backbone, Backbone):
        name = backbone or _beside(folder, str(config["model_name_or_path"]))
        dtype = str(config.get("torch_dtype") or "auto").removeprefix("torch.")
        backbone = Backbone.load(name, device=device, dtype=dtype)
    if backbone.hidden_size != tokens.shape[1]:
        raise CheckpointError(
            f"{folder} was made for a backbone of width {tokens.shape[1]}, {backbone.name} has "
            f"{backbone.hidden_size}; pass the right one with --backbone"
        )
    dim = align["weight"].shape[0]
    model = Model(backbone, thought=len(tokens) - compression, compression=compression, dim=dim)
    model.load_state_dict(
        {
            "special_tokens": tokens,
            **{f"reconstruct.{name}": tensor for name, tensor in reconstruct.items()},
            **{f"align.{name}": tensor for name, tensor in align.items()},
        }
    )
    return Encoder(model, prompts=PROMPTS, max_tokens=int(config.get("max_input_length", 512)))


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML; the tags by which the reference writes Python objects, such as a dtype, become plain values."""


def _python_object(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:  # noqa: ANN401 - any YAML value
    if isinstance(node, yaml.SequenceNode):
        values = loader.construct_sequence(node)
        return values[0] if values else None
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _python_object)


def _run_config(folder: Path) -> dict[str, Any]:
    path = folder / "run_config.yml"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no run_config.yml, so it is not in the published LLM2Vec-Gen format")
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except yaml.YAMLError as error:
        raise CheckpointError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict) or "model_name_or_path" not in config:
        raise CheckpointError(f"{path} does not name its backbone (model_name_or_path)")
    return config


def _special_tokens(folder: Path) -> Tensor:
    """The rows of the adapter, thought tokens first, in the order of the input."""
    path = folder / "encoder" / "adapter_model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the published checkpoint is incomplete")
    deltas = {name: tensor for name, tensor in load_file(path).items() if name.endswith("trainable_tokens_delta")}
    if len(deltas) != 1:
        raise CheckpointError(f"{path} holds {len(deltas)} sets of trained tokens; expected 1")
    return next(iter(deltas.values())).float()


def _head(path: Path) -> dict[str, Tensor]:
    """Weight and bias of one of the two linear maps."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the published checkpoint is incomplete")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{path} is damaged, or a pickle with more than tensors in it; refused: {reason}"
        ) from None
    state = saved.get("state_dict", {}) if isinstance(saved, dict) else {}
    if set(state) != {"projection.weight", "projection.bias"}:
        raise CheckpointError(f"{path} holds {sorted(state) or 'no state_dict'}; expected one linear projection")
    return {name.removeprefix("projection."): tensor.float() for name, tensor in state.items()}


def _compression(folder: Path, config: dict[str, Any], tokens: int) -> int:
    """How many of the last tokens are read: `last_10_tokens` says 10."""
    path = folder / "encoder_decoder_config.json"
    saved = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    mode = str(saved.get("encoding_mode") or config.get("encoding_mode") or "last_10_tokens")
    match = re.fullmatch(r"last_(\d+)_tokens", mode)
    if match is None or not 0 < int(match[1]) <= tokens:
        raise CheckpointError(f"{folder} reads {mode!r} of {tokens} special tokens; expected last_N_tokens")
    return int(match[1])


def _beside(folder: Path, name: str) -> str:
    """A relative backbone path counts from the checkpoint or from the folder it lies in."""
    for start in (folder, folder.parent):
        if (start / name / "config.json").is_file():
            return str(start / name)
    return name
