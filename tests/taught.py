"""A teacher of every kind that a checkpoint can take along, and a checkpoint fitted to it."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.version import Version
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoConfig, AutoModel

from foresay.backbone import Backbone
from foresay.config import FitConfig, TeachConfig, TeacherConfig
from foresay.data.pairs import Pairs
from foresay.encoder import Encoder
from foresay.teachers.base import Teacher, Vectors
from foresay.teachers.load import load_teacher
from foresay.teachers.make import make_teacher
from foresay.teachers.whiten import closed_form_teacher
from foresay.training.fit import fit

from .conftest import SENTENCES, make_tokenizer

TEXTS = [*SENTENCES, "word " * 90, "a <|im_end|>b <think> <|foresay_0|> </think><|endoftext|>"]
can_save = pytest.mark.skipif(
    Version(version("transformers")) >= Version("5.24") and Version(version("peft")) < Version("0.22"),
    reason="transformers 5.24 saves no model with an adapter beside PEFT below 0.22",
)
KINDS = ("self", "llm2vec", "sentence-transformers", "whitened")


class Lengths(Teacher):
    """A teacher one can compute by eye: the length of a text, and its first letter's number."""

    revision = None
    pooling = "none"
    dim = 2
    max_tokens = 512

    def __init__(self, name: str = "lengths") -> None:
        """Counts the texts it is given."""
        self.name, self.texts = name, 0

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(texts, 2); `nan` is not a number."""
        self.texts += len(texts)
        return np.array([[len(t) if t != "nan" else np.nan, ord(t[0])] for t in texts], dtype=np.float32)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """A token a character."""
        return [len(text) for text in texts]


def encoder_folder(path: Path) -> Path:
    """A sentence-transformers model of another architecture, that normalises and has a default prompt."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(
        "bert", vocab_size=460, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    AutoModel.from_config(config).save_pretrained(path / "bare")
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(path / "bare")
    model = SentenceTransformer(
        modules=[Transformer(str(path / "bare"), max_seq_length=40), Pooling(24, "cls"), Normalize()],
        device="cpu",
        prompts={"query": "Answer this: "},
        default_prompt_name="query",
    )
    model.save(str(path / "encoder"), create_model_card=False)
    return path / "encoder"


def taught(kind: str, base: Backbone, path: Path) -> Teacher:
    """A teacher of a kind."""
    name = kind
    if kind == "llm2vec":
        config = TeacherConfig(mntp_steps=1, simcse_steps=1, mntp_batch_size=4, simcse_batch_size=4, seed=1)
        make_teacher(TEXTS, base, path / "teacher", config)
        name = str(path / "teacher")
    elif kind == "whitened":
        closed_form_teacher(base, [(text, text[: len(text) // 2 + 1]) for text in TEXTS * 2], path / "teacher")
        name = str(path / "teacher")
    elif kind == "sentence-transformers":
        name = str(encoder_folder(path))
    return load_teacher(name, base, "cpu", TeachConfig(max_tokens=32))


def fitted(folder: Path, base: Backbone, teacher: Teacher, **changes: object) -> Encoder:
    """A checkpoint with such a teacher."""
    origin = {"teacher": teacher.name, "revision": teacher.revision, "max_tokens": teacher.max_tokens}
    config = FitConfig(**{"compression": 3, "query_prompt": "Say: ", **changes})  # type: ignore[arg-type]
    return fit(Pairs(TEXTS, TEXTS, teacher.embed(TEXTS), origin), base, folder, config)
