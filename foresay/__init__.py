"""Foresay: embeddings of what a language model would answer (LLM2Vec-Gen, arXiv 2603.10913).

    query ──respond──▶ response ──teach──▶ target
      │                    │                  │
      └─▶ model: LLM + special tokens ─▶ soft_prompt ─▶ embedding
                          reconstruction ┘    alignment ┘         train

The files in the order of the data: config, errors · data, journal · placing, backbone · respond · teacher (stages,
bidirectional, llm2vec) · teach · model (adapter) · encoder · pairs (matryoshka) · ridge, fit · losses, step (memory,
processes), states, train (stop, live, tracking, curves) · checkpoint (plain, card), convert · library · lens ·
evaluate · quickstart · cli.

Names load on first use, so that `import foresay` and the command line's help do not wait for torch. The steps are
functions in files of their own name (`from foresay.train import train`), so they are not repeated here.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "Backbone": "backbone",
    "Encoder": "encoder",
    "FitConfig": "config",
    "ForesayError": "errors",
    "Model": "model",
    "Pairs": "data.pairs",
    "RespondConfig": "config",
    "Targets": "teachers.teach",
    "TrainConfig": "config",
    "TeachConfig": "config",
    "as_sentence_transformer": "integrations.sentence_transformers",
    "load_teacher": "teachers.teach",
    "read_queries": "data.queries",
    "read_responses": "data.queries",
    "verify": "checkpoints.checkpoint",
}

if TYPE_CHECKING:
    from .backbone import Backbone as Backbone
    from .checkpoints.checkpoint import verify as verify
    from .config import FitConfig as FitConfig
    from .config import RespondConfig as RespondConfig
    from .config import TeachConfig as TeachConfig
    from .config import TrainConfig as TrainConfig
    from .data.pairs import Pairs as Pairs
    from .data.queries import read_queries as read_queries
    from .data.queries import read_responses as read_responses
    from .encoder import Encoder as Encoder
    from .errors import ForesayError as ForesayError
    from .integrations.sentence_transformers import as_sentence_transformer as as_sentence_transformer
    from .model import Model as Model
    from .teachers.teach import Targets as Targets
    from .teachers.teach import load_teacher as load_teacher

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> object:
    """Loads a public name from its file, once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
