"""AdamW for a few named weights: its learning rates step by step, and its state as tensors on disk.

In: weights by name. Out: an optimiser that `save` and `load` carry over a kill bit for bit, and the schedule.
Careful: `load` needs the same names. The step count is not stored: every weight has done as many steps as the run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import InputError

FILE = "optimizer.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Schedule:
    """A linear rise and a straight line to zero.

    Attributes:
        warmup: steps of the rise.
        end: step at which the line reaches zero.
    """

    warmup: int
    end: int

    def share(self, step: int) -> float:
        """The share of its peak that the learning rate has in a step, counted from 0."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = max(0.0, (self.end - step) / max(1, self.end - self.warmup))
        return min(rise, fall)


class Optimizer:
    """AdamW over groups of named weights, each group with a peak learning rate of its own."""

    def __init__(
        self, weights: Mapping[str, nn.Parameter], peaks: Mapping[str, float], weight_decay: float = 0.0
    ) -> None:
        """Starts with empty moments.

        Args:
            weights: by name.
            peaks: the peak learning rate of each weight, by the same names.
            weight_decay: of AdamW.
        """
        self.weights, self.peaks = dict(weights), dict(peaks)
        groups = [
            {"params": [w for name, w in self.weights.items() if self.peaks[name] == peak], "peak": peak}
            for peak in dict.fromkeys(self.peaks.values())
        ]
        self.adam = torch.optim.AdamW(groups, lr=0.0, weight_decay=weight_decay)

    def step(self, share: float, clip_norm: float) -> float:
        """One step at a share of the peak rates; empties the gradients.

        Returns:
            the gradient norm before it was clipped; a `clip_norm` of 0 does not clip.

        Raises:
            InputError: if the gradient is not finite; the weights are as they were.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), clip_norm or float("inf"))
        if not torch.isfinite(norm):
            raise InputError(
                f"the gradient norm is {float(norm)}, which would spoil every weight; the states saved so far are "
                "whole. Train in another -o with --dtype bfloat16 or float32 (float16 overflows first) or a lower rate"
            )
        for group in self.adam.param_groups:
            group["lr"] = share * group["peak"]
        self.adam.step()
        self.adam.zero_grad()
        return float(norm)

    def save(self, folder: Path) -> None:
        """Writes the moments; a weight that no loss reads, such as an unused map, has none."""
        moments = {
            f"{name}.{moment}": self.adam.state[weight][moment].contiguous()
            for name, weight in self.weights.items()
            for moment in _MOMENTS
            if moment in self.adam.state[weight]
        }
        save_file(moments, folder / FILE)

    def load(self, folder: Path | None, steps: int) -> list[Tensor]:
        """Takes the moments of a folder, and the number of steps that led to them.

        Args:
            folder: what `save` wrote into; None for zeros, which another process then overwrites.
            steps: that this optimiser had done.

        Returns:
            the moments, in the order of the weights.
        """
        found = load_file(folder / FILE) if folder else {}
        taken: list[Tensor] = []
        for name, weight in self.weights.items():
            moments = {}
            for moment in _MOMENTS:
                stored = found.get(f"{name}.{moment}")
                moments[moment] = torch.zeros_like(weight) if stored is None else stored.to(weight)
            self.adam.state[weight] = {"step": torch.tensor(float(steps)), **moments}
            taken += moments.values()
        return taken
