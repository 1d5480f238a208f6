"""The whole method in one command, offline: what `make quickstart` runs.

In: the name of a backbone: `smollm2`, a real model of 135 M parameters with its packaged answers, or `nano`, a tiny
one with which every step runs live. Out: a folder, a table, a plot, and what to type next.
"""

import logging
from pathlib import Path

from ..errors import BackboneError
from .show import Bars

logger = logging.getLogger(__name__)


def quickstart(output: Path, device: str, bars: Bars, backbone: str = "smollm2") -> None:
    """Runs the quickstart on a backbone.

    Args:
        output: folder for everything that is made.
        device: where to run.
        bars: shows progress.
        backbone: `smollm2`, or `nano`, which also stands in where the wheel of SmolLM2 is not installed.
    """
    if backbone == "smollm2":
        from ..backbone_sources import locate

        try:
            locate("smollm2")
        except BackboneError as error:
            logger.warning("%s; showing the small packaged model instead", error)
            backbone = "nano"
    if backbone == "nano":
        from .nano import quickstart_nano

        quickstart_nano(output, device, bars)
    else:
        from .smollm2 import quickstart_smollm2

        quickstart_smollm2(output, device, bars)
