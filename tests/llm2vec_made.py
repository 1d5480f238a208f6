"""Small LLM2Vec teachers for tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foresay.backbone import Backbone
from foresay.config import TeacherConfig
from foresay.teachers.bidirectional import Bidirectional
from foresay.teachers.llm2vec import LLM2VecTeacher
from foresay.teachers.make import make_teacher

from .conftest import SENTENCES

Get = Callable[[str], Backbone]
TEXTS = [f"{sentence} ({i})" for i in range(4) for sentence in SENTENCES]
SMALL: dict[str, Any] = {
    "mntp_batch_size": 4,
    "mntp_learning_rate": 1e-2,
    "simcse_batch_size": 4,
    "simcse_learning_rate": 1e-2,
    "save_every": 2,
}


def made(backbone: Backbone, output: Path, mntp: int = 2, simcse: int = 2) -> LLM2VecTeacher:
    """A teacher of a few steps."""
    return make_teacher(TEXTS, backbone, output, TeacherConfig(mntp_steps=mntp, simcse_steps=simcse, **SMALL))


def randomise(reader: Bidirectional) -> list[Tensor]:
    """Makes the last adapter one that changes something; its weights."""
    torch.manual_seed(0)
    for weight in reader.trained().values():
        weight.data.normal_(0, 0.1)
    return list(reader.trained().values())


@torch.no_grad()
def full_attention(model: torch.nn.Module, ids: list[int]) -> Tensor:
    """States of a text, computed by the causal model itself under a mask of four dimensions that hides nothing."""
    mask = torch.zeros(1, 1, len(ids), len(ids))
    states: Tensor = model(input_ids=torch.tensor([ids]), attention_mask=mask, use_cache=False).last_hidden_state[0]
    return states
