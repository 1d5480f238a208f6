"""A LoRA adapter that reads texts together with the special tokens: the paper's ablation, not its method.

In: a backbone. Out: a decoder that reads through the adapter, and the adapter's weights.
The decoder is a twin, the same classes over the *same tensors*, so the backbone stays as it is: what reads a soft
prompt and writes the response is the frozen model without the adapter, as in the reference.
Be careful: with an adapter the states of a text depend on what is trained, so the text needs a gradient too.
`Model.hidden_split` then is `Model.hidden`, at about three times the cost.
"""

import copy
from typing import Any

import torch
from peft import LoraConfig, LoraModel
from torch import nn

from .backbone import Backbone
from .devices import QUANTIZED
from .errors import BackboneError


class Adapter(nn.Module):
    """The trained weights of a LoRA adapter on every linear layer of the decoder; it starts as no change at all.

    Attributes:
        rank: of the adapter.
        decoder: reads through it; not a submodule, so that only the adapter's own weights are trained and saved.
        weights: float32, by the name of their layer with slashes for dots.
    """

    def __init__(self, backbone: Backbone, rank: int, seed: int) -> None:
        """Draws the weights from `seed`, whatever the state of the global generator.

        Raises:
            BackboneError: if the backbone is spread over devices, or in few bits.
        """
        super().__init__()
        if backbone.spread or backbone.dtype_name in QUANTIZED:
            raise BackboneError(
                f"an adapter needs {backbone.name} on one device and in whole numbers of bits; "
                "leave out --lora-rank, or --device spread and --dtype 8bit or 4bit"
            )
        self.rank = rank
        inner = backbone.decoder
        shared = {id(tensor): tensor for tensor in (*inner.parameters(), *inner.buffers())}
        decoder: Any = copy.deepcopy(inner, shared)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", bias="none")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not those of GPUs, which nothing here draws from
            LoraModel(decoder, {"default": config}, "default")
        own = [(name, weight) for name, weight in decoder.named_parameters() if "lora_" in name]
        for _, weight in own:
            weight.data = weight.data.float()
            weight.requires_grad_(True)
        object.__setattr__(self, "decoder", decoder.eval())
        self.decoder: nn.Module
        self.weights = nn.ParameterDict({name.replace(".default.", ".").replace(".", "/"): w for name, w in own})
