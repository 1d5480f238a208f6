"""Options of a checkpoint: its shape, and how its weights are found, in closed form or by gradient.

In: nothing. Out: `FitConfig` and `TrainConfig`, which both begin with `ShapeConfig`.
Careful: a checkpoint stores these fields. A new one needs a default that means what checkpoints without it did.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from .. import readouts
from .options import DType, Options, Tracker, require

Template = Literal["none", "chat"]
Start = Literal["closed-form", "random"]
Documents = Literal["checkpoint", "teacher"]
Alignment = Literal["cosine", "relative", "mse"]
Select = Literal["embedding", "loss"]
Reconstruct = Literal["tokens", "one"]


@dataclass(frozen=True)
class ShapeConfig(Options):
    """What a checkpoint is, whichever way its weights are found: `FitConfig` and `TrainConfig` begin with it."""

    SECTIONS = {"thought": "The checkpoint", "max_query_tokens": "The data"}

    thought: Annotated[int, "Special tokens whose outputs are ignored."] = 0
    compression: Annotated[int, "Special tokens whose outputs become the embedding."] = 10
    template: Annotated[Template, "What goes around the query: the chat template, or nothing, as published."] = "chat"
    readout: Annotated[str, f"What the embedding reads. {readouts.summaries()}."] = "tokens"
    reconstruct: Annotated[
        Reconstruct,
        "Maps from states to the soft prompt: one for each token, which decodes better, or one, as published.",
    ] = "tokens"
    dims: Annotated[
        tuple[int, ...], "Shorter embeddings that shall be usable too, such as 64,128: the first numbers tell most."
    ] = ()
    documents: Annotated[
        Documents,
        "Who embeds documents: the teacher, whose existing index then serves on, or the checkpoint, as published.",
    ] = "teacher"
    inference_query_weight: Annotated[
        float,
        "Share of the teacher's own vector of the bare query in a query's embedding, which takes a second pass: 0 as "
        "published, 1 is the teacher.",
    ] = 0.0
    query_prompt: Annotated[str, "Stored in the checkpoint: what encode_query puts before a text."] = ""
    document_prompt: Annotated[
        str, "Stored in the checkpoint: what encode_document puts before a text that the teacher does not embed."
    ] = "Summarize the following passage: "
    max_query_tokens: Annotated[int, "Longest input, special tokens included; longer queries are cut."] = 512
    held_out: Annotated[int, "Rows kept out of training for the held-out metrics (a tenth at most)."] = 256
    dtype: Annotated[
        DType, "Dtype of the frozen backbone (8bit, 4bit: bitsandbytes); trained weights are always float32."
    ] = "auto"
    seed: Annotated[int, "Seed of the initial weights and of the order of the rows."] = 0

    @classmethod
    def choices(cls) -> dict[str, tuple[str, ...]]:
        """Of the readouts, all that are registered by now."""
        return super().choices() | {"readout": readouts.names()}

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        self.at_least(1, "compression")
        self.at_least(0, "thought", "held_out", "seed")
        weight = self.inference_query_weight
        require(0 <= weight <= 1, f"inference_query_weight is {weight}; expected a number from 0 to 1")
        require(
            not weight or self.documents == "teacher",
            f"inference_query_weight is {weight} and documents is {self.documents}; the teacher of the documents gives "
            "the query's own part: set documents to teacher, or the weight to 0",
        )
        require(
            isinstance(self.dims, tuple | list), f"dims is {self.dims!r}; expected several numbers, such as (64, 128)"
        )
        object.__setattr__(self, "dims", tuple(self.dims))
        ordered = tuple(sorted({dim for dim in self.dims if dim > 0}))
        require(self.dims == ordered, f"dims are {self.dims}; expected numbers above 0, each larger than the last")
        tokens = self.thought + self.compression
        require(
            self.max_query_tokens > tokens,
            f"max_query_tokens is {self.max_query_tokens}; the {tokens} special tokens alone leave no room for a query",
        )


@dataclass(frozen=True)
class FitConfig(ShapeConfig):
    """How a checkpoint is made in closed form: its shape is all there is to choose."""


@dataclass(frozen=True)
class TrainConfig(ShapeConfig):
    """How the special tokens and the two maps are trained (paper, section 3 and appendix)."""

    SECTIONS = ShapeConfig.SECTIONS | {
        "start": "Optimisation",
        "alignment_weight": "Losses",
        "max_response_tokens": "The run",
    }

    start: Annotated[
        Start, "Where the maps start: ridge regression from the untrained tokens' states to the targets, or random."
    ] = "closed-form"
    steps: Annotated[int, "Optimiser steps."] = 5000
    batch_size: Annotated[int, "Queries a step."] = 32
    learning_rate: Annotated[float, "Peak learning rate of AdamW."] = 3e-4
    lora_rank: Annotated[
        int, "Rank of a LoRA adapter that reads the texts too, the paper's ablation: slower, larger. 0: none."
    ] = 0
    token_learning_rate: Annotated[float, "Peak learning rate of the special tokens; 0 means that of the maps."] = 0.0
    warmup_steps: Annotated[
        int, "Steps over which the learning rate rises from zero; -1 is a tenth of the run, at most 100."
    ] = -1
    decay_steps: Annotated[
        int, "Step at which the linear schedule reaches zero; 0 means at the last one (published: 20000 with 5000 run)."
    ] = 0
    weight_decay: Annotated[float, "Weight decay of AdamW."] = 0.0
    clip_norm: Annotated[float, "Largest gradient norm; 0 does not clip."] = 1.0
    alignment_weight: Annotated[float, "Weight of the alignment loss."] = 1.0
    reconstruction_weight: Annotated[
        float, "Weight of the reconstruction loss; 0 leaves its pass out: faster, and nothing decodes."
    ] = 1.0
    contrast_weight: Annotated[
        float, "Weight of the contrast: among the targets of the batch, the own one is the nearest; 0 leaves it out."
    ] = 0.0
    alignment: Annotated[
        Alignment,
        "Distance to the target: one minus the cosine; the share of the targets' variance that is missed, which no "
        "teacher's scale changes either; or the mean squared error, as published.",
    ] = "cosine"
    contrast_temperature: Annotated[float, "Cosines are divided by this in the contrast."] = 0.05
    max_response_tokens: Annotated[int, "Longest response that is reconstructed; longer ones are cut."] = 512
    micro_batch_tokens: Annotated[
        int, "Most padded tokens in one forward pass, whose gradients add up to the batch's; halved if memory runs out."
    ] = 8192
    evaluate_every: Annotated[int, "Steps between two looks at the held-out rows; also when progress is saved."] = 100
    select: Annotated[
        Select,
        "Which saved step becomes the checkpoint: the one whose held-out embeddings are nearest to their targets, or "
        "the one with the lowest weighted loss, decoding included.",
    ] = "embedding"
    patience: Annotated[int, "Looks at the held-out rows without a better step that end the run; 0 never."] = 0
    keep: Annotated[int, "Last saved states kept, beside the best one."] = 2
    tracker: Annotated[Tracker, "Where the metrics go too, besides training/metrics.jsonl."] = "none"

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        self.at_least(1, "batch_size", "steps", "evaluate_every", "micro_batch_tokens", "keep", "max_response_tokens")
        self.above_zero("learning_rate")
        self.at_least(0, "decay_steps", "patience", "token_learning_rate", "contrast_weight", "lora_rank")
        self.at_least(0, "weight_decay", "clip_norm")
        require(
            -1 <= self.warmup_steps <= self.steps,
            f"warmup_steps is {self.warmup_steps} and steps is {self.steps}, so the learning rate would never reach "
            f"its peak; expected at most {self.steps}, or -1 for a tenth of the run",
        )
        require(
            self.decay_steps == 0 or self.decay_steps >= self.steps,
            f"decay_steps is {self.decay_steps} and steps is {self.steps}, so the last steps would change nothing; "
            "expected at least as many as steps, or 0",
        )
        require(
            self.contrast_temperature > 0,
            f"contrast_temperature is {self.contrast_temperature}; expected a number above 0",
        )
        require(
            self.alignment_weight > 0 and self.reconstruction_weight >= 0,
            "alignment_weight must be above 0 and reconstruction_weight 0 or more",
        )
        require(
            not self.patience or self.held_out > 0,
            "patience looks at the held-out rows, and held_out is 0; keep some out, or set patience to 0",
        )

    @property
    def warmup(self) -> int:
        """Steps of the rise: those asked for, or a tenth of the run and at most 100."""
        return min(100, self.steps // 10) if self.warmup_steps < 0 else self.warmup_steps
