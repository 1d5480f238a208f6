"""What ran: versions of the libraries that change numbers, and the hardware.

In: the device of a backbone. Out: a flat record, kept in checkpoints and beside scores, so that a figure which does not
come out again can be held against what made it.
Careful: nothing here names a machine, a user or a path; records are published.
"""

import os
import platform
from importlib.metadata import version

import torch

from .. import __version__

_LIBRARIES = ("torch", "transformers", "sentence-transformers", "tokenizers", "peft", "numpy")


def environment(device: torch.device) -> dict[str, str]:
    """Versions and hardware, by name."""
    versions = {name: version(name) for name in _LIBRARIES}
    return {"foresay": __version__, "python": platform.python_version(), **versions, "hardware": _hardware(device)}


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores"
