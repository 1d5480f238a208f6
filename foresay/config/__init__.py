"""The options of each step: one frozen dataclass a step, the help text beside each field.

    respond.py    queries to responses
    teach.py      making teachers; responses to targets
    train.py      targets to a checkpoint; the published options are in recipes.py
    read.py       decoding, lenses, reports
    encode.py     embedding many texts
    cluster.py    any of these on a cluster
    evaluate.py, search.py

The command line is made from these classes (`cli.options`), a checkpoint stores them as JSON, and the library functions
take them as they are, so an option has one name, one default and one help text.
Careful: nothing here may import torch, because `foresay --help` reads it.
"""

from .cluster import ClusterConfig
from .encode import Precision, Shards, ShardsConfig
from .evaluate import EvaluateConfig
from .options import DTYPES, DType, Options, Tracker
from .read import DecodeConfig, LatentIndexConfig, LensConfig, ReportConfig, Storage
from .recipes import RECIPES, recipe
from .respond import EndpointConfig, RespondConfig, VLLMConfig
from .search import AdoptConfig, IndexConfig
from .teach import Of, TeachConfig, TeacherConfig, WhitenConfig
from .train import (
    Alignment,
    Documents,
    FitConfig,
    Reconstruct,
    Select,
    ShapeConfig,
    Start,
    Template,
    TrainConfig,
)

__all__ = [
    "DTYPES", "RECIPES", "AdoptConfig", "Alignment", "ClusterConfig", "DType", "DecodeConfig", "Documents",
    "EndpointConfig", "EvaluateConfig", "FitConfig", "IndexConfig", "LatentIndexConfig", "LensConfig",
    "Of", "Options", "Precision", "Reconstruct", "ReportConfig", "RespondConfig", "Select", "ShapeConfig", "Shards",
    "ShardsConfig", "Start", "Storage", "TeachConfig", "TeacherConfig", "Template", "Tracker", "TrainConfig",
    "VLLMConfig", "WhitenConfig", "recipe",
]  # fmt: skip
