"""The backbone itself as a teacher: the word `self`.

In: a backbone that is loaded already. Out: the mean of a text's last-layer states, after the final norm.
Careful: attention is causal here, so the first tokens know little of the text; `llm2vec.py` reads in both directions.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..backbone import Backbone
from ..batching import Budget, Row, pad, run_by_length
from ..config import TeachConfig
from ..errors import InputError
from .base import LinearMap, Teacher, Vectors, Wanted, kind

SELF = "self"


class SelfTeacher(Teacher):
    """The mean of a text's last-layer states, after the final norm."""

    pooling = "mean"

    def __init__(self, backbone: Backbone, config: TeachConfig | None = None) -> None:
        """Uses a backbone that is loaded already."""
        config = config or TeachConfig()
        self.backbone = backbone
        self.name, self.revision = f"{SELF}:{backbone.name}", backbone.revision
        self.dim, self.dtype = backbone.hidden_size, backbone.dtype_name
        self.max_tokens = min(config.max_tokens, backbone.max_positions - len(backbone.leading_ids))
        self._budget = Budget(config.batch_size * config.max_tokens, backbone.least_tokens, config.batch_size)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors (texts, dim), float32, the longest texts computed first."""
        rows = [row[: self.max_tokens] for row in self.backbone.tokenize(texts)]
        vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        run_by_length(rows, self._mean, [torch.from_numpy(vectors)], self._budget)
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return [len(row) for row in self.backbone.tokenize(texts)]

    @torch.no_grad()
    def _mean(self, rows: Sequence[Row]) -> Tensor:
        """Mean state of each row, (rows, hidden) float32.

        The leading token is left out: it carries nothing of the text, and its state is far larger than the others.
        Padding is on the right, where no real token sees it.
        """
        lead = self.backbone.leading_ids
        ids, lengths = pad(rows, self.backbone.pad_id, left=False, device=self.backbone.device, least=1)
        ids = torch.cat([ids.new_tensor(lead).expand(len(rows), -1), ids], dim=1)
        states = self.backbone.decoder(input_ids=ids, use_cache=False).last_hidden_state[:, len(lead) :].float()
        real = torch.arange(states.shape[1], device=states.device)[None] < lengths[:, None]
        mean: Tensor = (states * real[..., None]).sum(dim=1) / lengths[:, None].clamp(min=1)  # nothing: 0
        return mean

    def weights(self) -> Iterable[Tensor]:
        """The backbone's."""
        parameters: Iterable[Tensor] = self.backbone.model.parameters()
        return parameters

    def export(self, folder: Path, after: LinearMap | None, *, whole: bool) -> bool:
        """The backbone by name, or whole, and the mean."""
        from .layout import linear, transformer_config, write_mean, write_reference  # the exporter's libraries

        backbone = self.backbone
        folder.mkdir(parents=True, exist_ok=True)
        if whole:
            backbone.model.base_model.save_pretrained(folder)
        else:
            write_reference(folder, backbone.model.base_model, backbone.address, backbone.revision)
        transformer = transformer_config(backbone, self.max_tokens + len(backbone.leading_ids))
        write_mean(folder, backbone, transformer, linear(after, "token_embeddings"))
        return True


@kind(order=10)
def open_self(wanted: Wanted) -> Teacher | None:
    """The backbone that is given, under the word `self`; a manifest records `self:` and its name."""
    if wanted.name.partition(":")[0] != SELF:
        return None
    backbone = wanted.backbone
    if backbone is None:
        raise InputError(f"the teacher {SELF!r} is the backbone itself and none was given; add -m BACKBONE")
    if wanted.name not in (SELF, f"{SELF}:{backbone.name}"):
        raise InputError(f"the teacher {wanted.name!r} is another backbone than the one given, {backbone.name}")
    return SelfTeacher(backbone, wanted.config)
