"""Options of reading: how soft prompts are decoded, what a lens shows, and what a report holds.

In: nothing. Out: `DecodeConfig`, `LensConfig`, `LatentIndexConfig` and `ReportConfig`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from .options import Options, require, settled

Storage = Literal["float16", "int8"]


@dataclass(frozen=True)
class DecodeConfig(Options):
    """How a soft prompt is written out."""

    max_new_tokens: Annotated[int, "Longest text, in tokens."] = 256
    temperature: Annotated[float, "Sampling temperature; 0 takes the most likely token each time."] = 0.0
    top_p: Annotated[float, "Sample from the smallest set of tokens with this much probability."] = 1.0
    seed: Annotated[int, "Seed of the sampling; it gives the same texts however they are batched."] = 0
    stop: Annotated[tuple[str, ...], "Stop before this text; repeatable."] = ()
    ask: Annotated[str, "Ask this of the soft prompt, such as 'What is this about?', and write the answer."] = ""
    batch_size: Annotated[int, "Soft prompts decoded together."] = 64

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        self.at_least(1, "max_new_tokens")
        self.at_least(0, "temperature")
        object.__setattr__(self, "temperature", settled(self.temperature))
        require(0 < self.top_p <= 1, f"top_p is {self.top_p}; expected a number above 0 and at most 1")
        self.at_least(1, "batch_size")
        require("" not in self.stop, "stop holds an empty text, which would stop at once; leave it out")


@dataclass(frozen=True)
class LensConfig(Options):
    """How the special tokens are read."""

    lens: Annotated[str, "logit: the likeliest next tokens; latent: the nearest words of a corpus."] = "logit"
    layers: Annotated[str, "last, all, or numbers such as 0,8,-1 (0 is the input, negative ones count back)."] = "last"
    top: Annotated[int, "Hits a token."] = 5
    latent_index: Annotated[str, "Folder that foresay latent-index made, for the latent lens."] = ""
    same_layer: Annotated[
        bool,
        "Latent lens: search the token's own layer of the index alone, not all of them as published.",
    ] = False

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        self.at_least(1, "top")
        for name in ("latent_index", "same_layer"):
            value = getattr(self, name)
            require(
                not value or self.lens != "logit",
                f"{name} is {value} and lens is logit, which reads no index; add --lens latent, or leave it out",
            )


@dataclass(frozen=True)
class ReportConfig(Options):
    """What a report shows."""

    title: Annotated[str, "Title of the page."] = "What these embeddings say"
    neighbours: Annotated[int, "Passages shown for each query."] = 5
    max_new_tokens: Annotated[int, "Longest decoded text, in tokens."] = 96

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        self.at_least(1, "neighbours", "max_new_tokens")


@dataclass(frozen=True)
class LatentIndexConfig(Options):
    """What a latent lens's index keeps of a corpus."""

    layers: Annotated[str, "all, or numbers such as 8,16,-2; auto: 1, 2, 4, 8, 16, 24 and the last three."] = "auto"
    contexts: Annotated[int, "Most sentences in which a token is kept."] = 20
    storage: Annotated[Storage, "Numbers of the stored states; int8 is half as large."] = "float16"
    max_tokens: Annotated[int, "Longer lines are cut to this many tokens."] = 128
    batch_tokens: Annotated[int, "Most padded tokens in one forward pass."] = 8192

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        self.at_least(1, "contexts", "max_tokens", "batch_tokens")
