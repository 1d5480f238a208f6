"""What the benchmarks share: random models of a shape, rows of a length, a training step, and a place for results.

In: a `Shape`. Out: a `Backbone` or `Model` of random weights whose texts are words `w12 w17 …`, one token each.
Most rows are token ids already, because tokenizers are not what is measured.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from foresay import __version__
from foresay.backbone import Backbone
from foresay.config import TrainConfig
from foresay.encoder import Array, Encoder
from foresay.model import Model
from foresay.training.step import gradient
from timing import Result

RESULTS = Path(__file__).parent / "results"
PAD, END, MASK = "<pad>", "<end>", "<mask>"
FIRST = 3
"""The first token that is a word."""
SPECIAL_TOKENS = 10


@dataclass(frozen=True)
class Shape:
    """The shape of a Qwen3 model."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = True

    @property
    def layer_weights(self) -> int:
        """Entries of the matrices of one layer, which are all it multiplies by."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return self.hidden * (2 * queries + 2 * keys + 3 * self.mlp)

    @property
    def parameters(self) -> int:
        """All weights, norms included."""
        norms = self.layers * (2 * self.hidden + 2 * self.head_dim) + self.hidden
        outer = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * self.layer_weights + outer + norms

    def backbone(self, device: str = "cpu", dtype: torch.dtype = torch.bfloat16, attention: str = "sdpa") -> Backbone:
        """A model of this shape with random weights, made where it shall run."""
        config = AutoConfig.for_model(
            "qwen3",
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=1024,
            tie_word_embeddings=self.tied,
            eos_token_id=1,
            pad_token_id=0,
        )
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
        return Backbone(model, _tokenizer(self.vocabulary), f"random Qwen3, {self.parameters / 1e6:.0f} M parameters")

    def model(self, backbone: Backbone | None = None) -> Model:
        """A Foresay model on such a backbone, of the default shape."""
        return Model(
            backbone or self.backbone(), thought=0, compression=SPECIAL_TOKENS, dim=self.hidden, readout="tokens"
        )


SMALL = Shape(512, 1536, 14, 8, 4, 64, 32768)
"""60.8 M parameters, shaped as Qwen3."""
TINY = Shape(64, 192, 2, 4, 2, 16, 1024)


NAMES = ("cat", "dog", "sun", "moon", "red")
"""The first words have names of a language: `Bidirectional.check` reads them."""


def word(token: int) -> str:
    """What the tokenizer turns into this token."""
    at = token - FIRST
    return NAMES[at] if at < len(NAMES) else f"w{token}"


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    words = {PAD: 0, END: 1, MASK: 2, **{word(token): token for token in range(FIRST, vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, mask_token=MASK)


# -- rows --------------------------------------------------------------------------------------------------


def lengths(count: int, bounds: tuple[int, int], seed: int = 0) -> list[int]:
    """Log-uniform lengths, so that short ones are common, as in instruction data; one is the longest."""
    draw, (low, high) = random.Random(seed), bounds
    drawn = [round(low * (high / low) ** draw.random()) for _ in range(count)]
    return [high, *drawn[1:]]


def rows(of_lengths: Sequence[int], vocabulary: int, seed: int = 0) -> list[list[int]]:
    """Random token ids of these lengths; no control tokens."""
    draw = random.Random(seed)
    return [draw.choices(range(FIRST, vocabulary), k=length) for length in of_lengths]


def texts(of_rows: Sequence[Sequence[int]]) -> list[str]:
    """The texts that the tokenizer turns into these rows."""
    return [" ".join(map(word, row)) for row in of_rows]


def encoding(model: Model, rows: list[list[int]]) -> Callable[[], Array]:
    """A function that encodes rows of token ids, none of them cut: tokenizers are not what is measured."""
    encoder = Encoder(model, max_tokens=1 << 20)
    return lambda: encoder.embed_ids(rows).vectors


def training(
    model: Model, queries: list[list[int]], responses: list[list[int]], config: TrainConfig
) -> Callable[[], None]:
    """A function that does one training step of AdamW on these rows: both losses, gradient, update."""
    targets = torch.randn(len(queries), model.dim, generator=torch.Generator().manual_seed(0))
    targets = targets.to(model.backbone.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        gradient(model, queries, responses, targets, config)
        optimizer.step()
        optimizer.zero_grad()

    return step


# -- results -----------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Of the packages that decide about speed."""
    return {"foresay": __version__, **{name: version(name) for name in ("torch", "transformers", "peft")}}


@dataclass(frozen=True)
class Line:
    """A straight line through points, by least squares.

    Attributes:
        slope: rise for each unit.
        start: height at zero.
        r2: share of the points' variance that the line explains.
    """

    slope: float
    start: float
    r2: float

    @classmethod
    def through(cls, x: Sequence[float], y: Sequence[float]) -> "Line":
        """The line through at least two points."""
        slope, start = (float(value) for value in np.polyfit(x, y, 1))
        heights: NDArray[np.float64] = np.asarray(y, np.float64)
        missed = heights - slope * np.asarray(x, np.float64) - start
        spread = heights - heights.mean()
        total = float(spread @ spread)
        return cls(slope, start, 1 - float(missed @ missed) / total if total else 1.0)


def write(name: str, result: Result, table: str, folder: Path = RESULTS) -> None:
    """Writes a benchmark's figures and table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / f"{name}.md").write_text(table)
