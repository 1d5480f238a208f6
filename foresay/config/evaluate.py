"""Options of measuring.

In: nothing. Out: `EvaluateConfig`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from .options import DType, Options, require


@dataclass(frozen=True)
class EvaluateConfig(Options):
    """What is measured, and where."""

    documents: Annotated[
        Literal["own", "checkpoint", "teacher"],
        "Who embeds documents: who does in the checkpoint's own use, or always the checkpoint, or its teacher.",
    ] = "own"
    prompts: Annotated[
        Literal["task", "checkpoint"],
        "What goes before a text: the checkpoint's own prompts, as encode_query and encode_document have them; or "
        "what its task asks for, as published.",
    ] = "checkpoint"
    teacher: Annotated[str, "Where the teacher is, if it is not where the checkpoint says."] = ""
    backbone: Annotated[str, "Where the language model is, if it is not where the checkpoint says."] = ""
    responses: Annotated[str, "File of responses, for --against response."] = ""
    index: Annotated[
        str, "An index of the suite's documents: measured too, as foresay search searches it, in each of its modes."
    ] = ""
    max_new_tokens: Annotated[
        int, "Longest response that --against hyde writes, in tokens: as long as those of the training."
    ] = 500
    limit: Annotated[int, "Measure on so many queries of each task, for a first look; 0 for all."] = 0
    seed: Annotated[int, "Seed of the bootstrap behind the intervals."] = 0
    device: Annotated[str, "cpu, cuda, cuda:1, mps, auto, or spread."] = "auto"
    dtype: Annotated[DType, "Dtype of the backbone; 8bit and 4bit need bitsandbytes."] = "auto"

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        self.at_least(1, "max_new_tokens")
        self.at_least(0, "seed")
        require(self.limit == 0 or self.limit > 1, f"limit is {self.limit}; expected 2 or more, or 0 for all")
