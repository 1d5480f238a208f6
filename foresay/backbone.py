"""The frozen language model and its tokenizer: loading, freezing, checking.

In: a name that `sources.canonical` takes, or a model that is already loaded. Out: a `Backbone`, which also turns text
into token ids (tokenizing.py).
Be careful: loading a model ends in three short passes that check what the method relies on (backbone_checks.py).
"""

import inspect
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from .backbone_checks import check
from .backbone_loading import OWN_TOKENIZER, check_vocabulary, load_model, load_tokenizer
from .backbone_sources import NANO, NANO_FOLDER, SMOLLM2, canonical, locate
from .devices import (
    QUANTIZED,
    devices,
    is_slow,
    keep_differentiable,
    keep_together,
    pick_device,
    quantization,
)
from .errors import BackboneError
from .tokenizing import RESERVED, Tokenizing, check_texts

__all__ = [
    "NANO", "NANO_FOLDER", "OWN_TOKENIZER", "RESERVED", "SMOLLM2",
    "Backbone", "canonical", "check_texts", "locate", "same_backbone",
]  # fmt: skip


@dataclass(eq=False)
class Backbone(Tokenizing):
    """A frozen causal language model with its tokenizer. One copy serves encoding, training and decoding.

    Attributes:
        model: any model `AutoModelForCausalLM` loads; its weights are frozen and it is in eval mode.
        tokenizer: its fast tokenizer.
        name: hub id, full path, `nano` or `smollm2`; what a checkpoint records to find it again.
        revision: commit, branch or tag on the hub.
        splits: whether texts may run first and special tokens on their key/value cache. Where layers keep a recurrent
            state, as in Mamba and hybrids, both run in one pass.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str | None = None
    splits: bool = field(init=False)

    def __post_init__(self) -> None:
        """Freezes the model, and checks what the method relies on."""
        self.model.requires_grad_(False).eval()
        if not self.tokenizer.is_fast:
            raise BackboneError(f"{self.name} has a slow tokenizer; Foresay needs one of the tokenizers library")
        for config in (self.model.config, self.text_config):
            config.return_dict = True  # a config.json may ask for tuples, which have no names
        if getattr(self.text_config, "rescale_every", 0):
            self.text_config.rescale_every = 0  # RWKV would halve its own weights in place, at the first pass
        head = self.model.get_output_embeddings()
        if head is None:
            raise BackboneError(f"{self.name} ({type(self.model).__name__}) has no head to write with")
        head.register_forward_pre_hook(_contiguous)
        check_vocabulary(self.model, self.tokenizer, self.name)
        self.splits = check(self)

    @classmethod
    def load(
        cls,
        name: str,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        device_map: dict[str, str | int] | None = None,
    ) -> "Backbone":
        """Loads a model by name.

        Args:
            name: hub id; folder; GGUF file, a folder that holds one, or `hub-id:file.gguf`; `nano`, the small one
                inside this package; `smollm2`, a real one in a package of its own.
            revision: commit, branch or tag, for hub ids.
            device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`; `spread` puts the layers on all GPUs, one part behind
                another, for a model that is too large for one.
            dtype: `auto` keeps the type the weights are stored in, but on a CPU without arithmetic for it takes
                float32, which is several times as fast there; `8bit` and `4bit` are made by bitsandbytes.
            device_map: which module goes where, as `spread` does by itself; see accelerate's documentation.

        Raises:
            BackboneError: if there is no such model, or it cannot be used.
            DeviceError: if the device does not exist here.
        """
        options: dict[str, Any] = {"dtype": dtype}
        if dtype in QUANTIZED:
            options = {"dtype": "auto", "quantization_config": quantization(dtype)}
        if device_map is None:
            device_map = "auto" if device == "spread" else {"": pick_device(device)}  # type: ignore[assignment, dict-item]
        name = canonical(name)
        source = locate(name, revision)
        tokenizer = load_tokenizer(source, name, revision)
        model = load_model(source, name, revision, device_map=device_map, **options)
        keep_together(model, name)
        if dtype == "auto" and is_slow(model.dtype, model.device):
            model.float()
            model.config.dtype = model.dtype  # a saved copy says so
        keep_differentiable(model)
        return cls(model, tokenizer, name, revision)

    # -- what the method needs to know about the model ---------------------------------------------------

    @property
    def address(self) -> str:
        """What another library finds it by, from any folder: its full path, or its hub id."""
        place = Path(locate(self.name, self.revision))
        return str(place.resolve()) if place.is_dir() else self.name

    @property
    def device(self) -> torch.device:
        """Where the embedding matrix, and so the input, lives."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the embedding matrix; `dtype_name` also tells weights in few bits, and is what records hold."""
        return self.embedding.weight.dtype

    @property
    def dtype_name(self) -> str:
        """What `load` would have to be told as `dtype`: also `8bit` and `4bit`, in which only the layers are."""
        found = getattr(self.model.config, "quantization_config", None)
        if getattr(self.model, "is_quantized", False) and found is not None:
            return "4bit" if getattr(found, "load_in_4bit", False) else "8bit"
        return str(self.dtype).removeprefix("torch.")

    @property
    def spread(self) -> bool:
        """Whether the layers are on several devices."""
        return len(devices(self.model)) > 1

    @property
    def least_tokens(self) -> int:
        """Padded tokens in a forward pass that keep the device busy; cutting rows finer than this gains nothing."""
        return 512 if self.device.type == "cpu" else 8192

    @property
    def decoder(self) -> nn.Module:
        """The transformer without its language-model head; its last state is after the final norm."""
        decoder: nn.Module = self.model.get_decoder()
        return decoder

    @property
    def embedding(self) -> nn.Embedding:
        """The input embedding."""
        embedding: nn.Embedding = self.model.get_input_embeddings()
        return embedding

    @property
    def embed_scale(self) -> float:
        """What the model multiplies its input embeddings by (Gemma: the square root of the width)."""
        return float(getattr(self.embedding, "embed_scale", 1.0))

    @cached_property
    def text_config(self) -> Any:  # noqa: ANN401 - transformers' configs are untyped
        """The configuration of the text part."""
        return self.model.config.get_text_config()

    @property
    def hidden_size(self) -> int:
        """Width of a state."""
        return int(self.text_config.hidden_size)

    @property
    def max_positions(self) -> int:
        """Longest sequence the model was made for."""
        return int(getattr(self.text_config, "max_position_embeddings", 0) or 1 << 20)

    @cached_property
    def cache_keyword(self) -> str:
        """What the decoder calls the key/value cache: transformers renamed it in 5.24, and warns of the older name."""
        takes = inspect.signature(self.decoder.forward).parameters
        return "cache" if "cache" in takes else "past_key_values"

    def cached(self, cache: Cache | None) -> dict[str, Any]:
        """The arguments by which a pass of the decoder reads a key/value cache and adds to it; None for no cache."""
        return {"use_cache": False} if cache is None else {self.cache_keyword: cache, "use_cache": True}

    def logits(self, hidden: Tensor) -> Tensor:
        """The head on states after the final norm: (…, hidden) to (…, vocabulary).

        Three families change their logits after the head; backbone_checks.py fails at load for a fourth.
        """
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        config = self.text_config
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        if scale != 1.0:  # logits are the largest tensor of a training step: not even a product with 1 is free
            logits = logits * scale
        cap = getattr(config, "final_logit_softcapping", None)
        return cap * torch.tanh(logits / cap) if cap else logits

    # -- telling two models apart ------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self) -> Tensor:
        """A few numbers of every inner weight, float32: enough to tell another model, revision or fine-tune.

        The embedding matrix is left out, since a checkpoint may write special tokens into its spare rows. Of weights
        in 8 or 4 bits the numbers are not to be had: NaN, which fits any.
        """
        outer = {id(self.embedding.weight), id(self.model.get_output_embeddings().weight)}
        inner = [w for _, w in sorted(self.model.named_parameters()) if id(w) not in outer]
        return torch.cat([_three_of(w) for w in inner])


def _three_of(weight: Tensor) -> Tensor:
    if not weight.is_floating_point():
        return torch.full((3,), float("nan"))
    return weight.flatten()[[0, weight.numel() // 2, weight.numel() - 1]].float().cpu()


def _contiguous(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Lets `generate` hand the head its last places in one piece.

    It hands over a slice, for which torch 2.13 on the CPU copies the head's matrix once a row (measured: 6 of
    the 7 seconds that the first token of 200 answers took).
    """
    return (inputs[0].contiguous(), *inputs[1:])


def same_backbone(backbone: Backbone, name: str, expected: Tensor) -> None:
    """Refuses a backbone whose sample of weights is not the expected one; `name` is the one that was recorded."""
    found = backbone.sample()
    known = ~(found.isnan() | expected.isnan()) if found.shape == expected.shape else None
    if known is None or not torch.allclose(found[known], expected[known], rtol=1e-2, atol=1e-3):
        raise BackboneError(
            f"{backbone.name} is not the model this checkpoint was trained on ({name}): its weights differ; "
            "pass the right one, or the right revision"
        )
