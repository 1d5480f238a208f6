"""Where a backbone's weights go, and in how many bits: one device, all of them, 8 or 4 bits a weight.

In: names, as the command line takes them, and loaded models. Out: what the library loads a model with, and a model that
behaves like one on a single device in whole numbers.
Frozen weights need no gradient, but it has to pass through them to the special tokens. Some ways to hold weights stop
it, silently.
"""

import os
from importlib.util import find_spec
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from transformers import PreTrainedModel

from .errors import BackboneError, DeviceError

QUANTIZED = ("8bit", "4bit")


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` takes CUDA, then MPS, then the CPU.

    Where several processes were launched on a machine, `auto` and `cuda` are the GPU of this one's number.

    Raises:
        DeviceError: if the device does not exist here.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or not present.get(device.type, False):
        found = ", ".join(kind for kind, there in present.items() if there)
        raise DeviceError(f"device {name!r} is not available; this machine has {found}: pass one of them, or auto")
    return device


def is_slow(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this CPU has no arithmetic for a dtype of 16 bits, so that float32 is faster.

    On an AVX2 machine a product of matrices takes 5.7 times as long in bfloat16 as in float32, and 4.6 times in
    float16. On AVX-512, torch has other kernels for bfloat16 where the CPU lacks its instructions.
    """
    kind = {torch.bfloat16: ("bf16", "avx512_bw"), torch.float16: ("fp16",)}.get(dtype)
    if kind is None or device.type != "cpu":
        return False
    has: dict[str, object] = dict(getattr(torch.cpu, "get_capabilities", dict)())  # older versions of torch lack it
    return bool(has) and not any(value is True and any(part in name for part in kind) for name, value in has.items())


def usable(dtype: str, device: str) -> str:
    """The dtype that a record names, or float32 where this CPU has no arithmetic for it (`is_slow`).

    Raises:
        DeviceError: if the device does not exist here.
    """
    slow = dtype not in QUANTIZED and device != "spread" and is_slow(getattr(torch, dtype), pick_device(device))
    return "float32" if slow else dtype


def quantization(dtype: str) -> Any:  # noqa: ANN401 - transformers' own type
    """How the library is to load weights in few bits.

    Raises:
        BackboneError: if bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise BackboneError(f"--dtype {dtype} needs bitsandbytes, which is not installed: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    if dtype == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def devices(model: PreTrainedModel) -> set[str]:
    """The devices that a model's layers are on; one of no name, if the library was not told where to put them."""
    return {str(place) for place in (getattr(model, "hf_device_map", None) or {"": ""}).values()}


def keep_together(model: PreTrainedModel, name: str) -> None:
    """Makes a model on several devices look like one on its first: states and logits come back to it.

    Raises:
        BackboneError: if a part of it has no place on a GPU. It would be fetched anew for every pass, each step.
    """
    places = devices(model)
    if len(places) < 2:
        return
    if places & {"cpu", "disk"}:
        elsewhere = " and ".join(sorted(places & {"cpu", "disk"}))
        raise BackboneError(
            f"{name} does not fit the GPUs: parts of it would be on the {elsewhere}; "
            "take more GPUs, or weights of fewer bits: --dtype 8bit, --dtype 4bit"
        )
    for module in (model.get_decoder(), model.get_output_embeddings()):
        hook = getattr(module, "_hf_hook", None)
        if isinstance(hook, AlignDevicesHook):  # a second one would see what this one has moved already
            hook.io_same_device = True
        else:
            add_hook_to_module(module, AlignDevicesHook(io_same_device=True, skip_keys=["past_key_values", "cache"]))


def keep_differentiable(model: PreTrainedModel) -> None:
    """Keeps 4-bit layers on the CPU from a form for inference alone.

    bitsandbytes (0.50.2) packs the weights anew in the first pass without gradient, and its product with packed
    weights lets no gradient through: that of the special tokens pointed anywhere (cosine 0.01 to the true one).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
