"""Foresay: embeddings of what a language model would answer (LLM2Vec-Gen, arXiv 2603.10913).

    query ──respond──▶ response ──teach──▶ target ──fit, train──▶ checkpoint ──▶ Encoder ──▶ evaluate, decode, …

Nouns are folders, verbs are functions: each step is a command, a function of the same name here, and a file in the
folder of what it makes.

    data/          queries, responses, targets, pairs
    engines/       who answers queries: respond
    teachers/      who sets targets: make_teacher, teach
    training/      pairs to a checkpoint: fit, train
    checkpoints/   on disk: verify, bundle, reweight, convert
    evaluation/    does it find the answer: evaluate
    reading/       what an embedding holds, in words
    serving/       over HTTP: serve
    retrieval/     an index that knows its model: Index, adopt, migrate, rehead
    cluster/       a step's work, by several workers
    integrations/  inside other libraries

    backbone.py    the frozen language model and its tokenizer
    model.py       the method; its linear maps are in maps.py
    encoder.py     what one uses: texts to embeddings to text

Names load on first use, so `import foresay` and the command line's help do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "AdoptConfig": "config",
    "Backbone": "backbone",
    "Encoder": "encoder",
    "EvaluateConfig": "config",
    "DecodeConfig": "config",
    "FitConfig": "config",
    "Index": "retrieval.index",
    "IndexConfig": "config",
    "LatentIndexConfig": "config",
    "LensConfig": "config",
    "ForesayError": "errors",
    "Model": "model",
    "Pairs": "data.pairs",
    "ReportConfig": "config",
    "RespondConfig": "config",
    "ServeConfig": "serving.config",
    "Targets": "data.targets",
    "TeachConfig": "config",
    "Teacher": "teachers.base",
    "TeacherConfig": "config",
    "TrainConfig": "config",
    "WhitenConfig": "config",
    "adopt": "retrieval.adopt",
    "as_sentence_transformer": "integrations.sentence_transformers",
    "bundle": "checkpoints.bundle",
    "encode_shards": "bulk_encoding",
    "ShardsConfig": "config",
    "closed_form_teacher": "teachers.whiten",
    "convert": "checkpoints.convert",
    "evaluate": "evaluation.evaluate",
    "explain": "reading.explain",
    "faithfulness": "reading.faithfulness",
    "fit": "training.fit",
    "lens": "reading.lens",
    "latent_index": "reading.latent_build",
    "load_teacher": "teachers.load",
    "look": "data.look",
    "make_teacher": "teachers.make",
    "merge": "data.merge",
    "migrate": "retrieval.migrate",
    "rehead": "retrieval.rehead",
    "open_index": "retrieval.opening",
    "whiten_index": "teachers.whiten",
    "read_queries": "data.queries",
    "read_responses": "data.responses",
    "report": "reading.report",
    "reweight": "checkpoints.reweight",
    "respond": "engines.respond",
    "serve": "serving.serve",
    "teach": "teachers.teach",
    "train": "training.train",
    "verify": "checkpoints.verify",
    "verify_teacher": "teachers.whiten",
    "whiten": "teachers.whiten",
}

if TYPE_CHECKING:
    from .backbone import Backbone as Backbone
    from .bulk_encoding import encode_shards as encode_shards
    from .checkpoints.bundle import bundle as bundle
    from .checkpoints.convert import convert as convert
    from .checkpoints.reweight import reweight as reweight
    from .checkpoints.verify import verify as verify
    from .config import AdoptConfig as AdoptConfig
    from .config import DecodeConfig as DecodeConfig
    from .config import EvaluateConfig as EvaluateConfig
    from .config import FitConfig as FitConfig
    from .config import IndexConfig as IndexConfig
    from .config import LatentIndexConfig as LatentIndexConfig
    from .config import LensConfig as LensConfig
    from .config import ReportConfig as ReportConfig
    from .config import RespondConfig as RespondConfig
    from .config import ShardsConfig as ShardsConfig
    from .config import TeachConfig as TeachConfig
    from .config import TeacherConfig as TeacherConfig
    from .config import TrainConfig as TrainConfig
    from .config import WhitenConfig as WhitenConfig
    from .data.look import look as look
    from .data.merge import merge as merge
    from .data.pairs import Pairs as Pairs
    from .data.queries import read_queries as read_queries
    from .data.responses import read_responses as read_responses
    from .data.targets import Targets as Targets
    from .encoder import Encoder as Encoder
    from .engines.respond import respond as respond
    from .errors import ForesayError as ForesayError
    from .evaluation.evaluate import evaluate as evaluate
    from .integrations.sentence_transformers import as_sentence_transformer as as_sentence_transformer
    from .model import Model as Model
    from .reading.explain import explain as explain
    from .reading.faithfulness import faithfulness as faithfulness
    from .reading.latent_build import latent_index as latent_index
    from .reading.lens import lens as lens
    from .reading.report import report as report
    from .retrieval.adopt import adopt as adopt
    from .retrieval.index import Index as Index
    from .retrieval.migrate import migrate as migrate
    from .retrieval.opening import open_index as open_index
    from .retrieval.rehead import rehead as rehead
    from .serving.config import ServeConfig as ServeConfig
    from .serving.serve import serve as serve
    from .teachers.base import Teacher as Teacher
    from .teachers.load import load_teacher as load_teacher
    from .teachers.make import make_teacher as make_teacher
    from .teachers.teach import teach as teach
    from .teachers.whiten import closed_form_teacher as closed_form_teacher
    from .teachers.whiten import verify_teacher as verify_teacher
    from .teachers.whiten import whiten as whiten
    from .teachers.whiten import whiten_index as whiten_index
    from .training.fit import fit as fit
    from .training.train import train as train

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> object:
    """Loads a public name from its file, once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, so that completion finds those that are not loaded yet."""
    return sorted({*globals(), *__all__})
