"""Options of targets: how a teacher is made or whitened, and how it embeds the responses.

In: nothing. Out: `TeacherConfig`, `WhitenConfig` and `TeachConfig`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from .options import DType, Options, Tracker, require

Of = Literal["response", "query"]


@dataclass(frozen=True)
class TeacherConfig(Options):
    """How a teacher is made: masked next-token prediction, then unsupervised SimCSE (LLM2Vec, arXiv 2404.05961).

    Numbers are those of the LLM2Vec authors' training configurations for 7 B models; a small model needs a
    higher learning rate.
    """

    SECTIONS = {
        "mntp_steps": "Stage 1, masked next-token prediction",
        "simcse_steps": "Stage 2, SimCSE",
        "micro_batch_tokens": "The run",
    }

    mntp_steps: Annotated[int, "Steps of stage 1, masked next-token prediction; 0 leaves it out."] = 1000
    mntp_batch_size: Annotated[int, "Texts a step of stage 1."] = 32
    mntp_max_tokens: Annotated[int, "Longer texts are cut in stage 1."] = 512
    mntp_learning_rate: Annotated[float, "Peak learning rate of AdamW in stage 1."] = 5e-5
    simcse_steps: Annotated[int, "Steps of stage 2, SimCSE; 0 leaves it out."] = 1000
    simcse_batch_size: Annotated[int, "Texts a step of stage 2: each one's negatives are all the others."] = 128
    simcse_max_tokens: Annotated[int, "Longer texts are cut in stage 2."] = 128
    simcse_learning_rate: Annotated[float, "Peak learning rate of AdamW in stage 2."] = 3e-5
    micro_batch_tokens: Annotated[int, "Most padded tokens in one forward pass: lower it when memory runs out."] = 8192
    save_every: Annotated[int, "Steps between two saves of the state that a killed run resumes from."] = 100
    dtype: Annotated[
        DType, "Dtype of the frozen backbone (8bit, 4bit: bitsandbytes); trained weights are always float32."
    ] = "auto"
    seed: Annotated[int, "Seed of the initial weights, the order of the texts, the blanks and the dropout."] = 0
    tracker: Annotated[Tracker, "Where the metrics go too, besides training/metrics.jsonl."] = "none"

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        self.at_least(1, "mntp_batch_size", "mntp_max_tokens", "simcse_max_tokens", "micro_batch_tokens", "save_every")
        self.at_least(0, "mntp_steps", "simcse_steps", "seed")
        self.above_zero("mntp_learning_rate", "simcse_learning_rate")
        require(self.mntp_steps + self.simcse_steps > 0, "mntp_steps and simcse_steps are both 0; nothing to train")
        require(
            self.simcse_batch_size > 1,
            f"simcse_batch_size is {self.simcse_batch_size}; expected 2 or more: the other texts are the negatives",
        )


@dataclass(frozen=True)
class WhitenConfig(Options):
    """How a teacher is whitened."""

    axes: Annotated[int, "Axes to keep; 0 chooses by what lets held-out texts find their partners."] = 0
    strength: Annotated[
        float, "Power of its standard deviation that each axis is divided by, 0 to 1; -1 chooses likewise."
    ] = -1.0
    max_tokens: Annotated[int, "Longer texts are cut to this many tokens."] = 512
    batch_size: Annotated[int, "Texts embedded together."] = 64
    seed: Annotated[int, "Seed of which pairs are held out for the choice."] = 0

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        require(self.axes >= 0, f"axes is {self.axes}; expected 1 or more, or 0 to choose")
        require(
            self.strength == -1 or 0 <= self.strength <= 1,
            f"strength is {self.strength}; expected a number from 0 to 1, or -1 to choose",
        )
        self.at_least(1, "max_tokens", "batch_size")
        self.at_least(0, "seed")


@dataclass(frozen=True)
class TeachConfig(Options):
    """How the teacher embeds the responses."""

    max_tokens: Annotated[int, "Longer responses are cut to this many tokens."] = 512
    batch_size: Annotated[int, "Responses embedded together."] = 64
    query_weight: Annotated[
        float, "Share of the query's own vector in the target: 0 as published, up to 1 for the query alone."
    ] = 0.0
    of: Annotated[Of, "What to embed: the responses, or the queries alone (a baseline: then nothing is foreseen)."] = (
        "response"
    )
    average: Annotated[bool, "Let all responses to one query share the mean of their vectors."] = False

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        require(0 <= self.query_weight <= 1, f"query_weight is {self.query_weight}; expected a number from 0 to 1")
        require(
            self.of == "response" or not self.query_weight,
            f"of is query, which is all of the target, and query_weight is {self.query_weight}; leave one of them out",
        )
        self.at_least(1, "max_tokens", "batch_size")
