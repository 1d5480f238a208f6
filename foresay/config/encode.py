"""Options of embedding many texts: in which files, and on which devices.

In: nothing. Out: `ShardsConfig`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from .options import Options, require

Shards = Literal["none", "npy", "parquet"]
Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]


@dataclass(frozen=True)
class ShardsConfig(Options):
    """How many embeddings are stored."""

    SECTIONS = {"shards": "Many texts (a folder of shards)"}

    shards: Annotated[Shards, "Make OUTPUT a folder of shards, in this format; run again, it resumes."] = "none"
    shard_rows: Annotated[int, "Texts a shard: what is embedded as one piece, and what a kill costs at most."] = 16384
    precision: Annotated[
        Precision, "Numbers of the stored embeddings, quantised by sentence-transformers; needs --shards."
    ] = "float32"
    devices: Annotated[
        str, "A process for each of these: all (every GPU), cuda:0,cuda:1 or cpu,cpu; needs --shards."
    ] = ""

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        self.at_least(1, "shard_rows")
        for name in ("precision", "devices"):
            given = getattr(self, name) != type(self).__dataclass_fields__[name].default
            require(self.shards != "none" or not given, f"--{name} stores a folder of shards; add --shards npy")
