"""Where the rules of `weight_rules.py` are tried: what SmolLM2 and nano say of texts, and of their own responses.

In: the cache that `smollm2.py` fills, queries and responses. Out: a `Source`; what was read once is kept.
Be careful: with `smollm2`, the special tokens and the teacher are the packaged checkpoint's; with `nano`, the tokens
are random and the teacher is the packaged one, whitened on the responses.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from foresay.backbone import Backbone
from foresay.engines.prompts import Prompter
from foresay.teachers.whitening import choose_whitening
from kept import Kept
from smollm2_reading import LONGEST, Reader
from smollm2_sets import Array
from smollm2_targets import Trained

Embed = Callable[[list[str]], Array]


@dataclass(frozen=True)
class Source:
    """What is read of texts: states, and the teacher's vectors at their own lengths; and the training rows."""

    states: Embed
    teacher: Embed
    queries: list[str]
    answers: list[str]
    likelihood: Array | None = None
    """Mean log-probability of a response's tokens; None where it was not computed."""


def of_smollm2(cache: Path, queries: list[str], answers: list[str]) -> Source:
    """Tokens and teacher of the packaged checkpoint."""
    trained = Trained(cache)

    def teacher(texts: list[str]) -> Array:
        return trained.whitening(trained.reader.vectors(texts))

    return Source(lambda texts: trained.states(texts, "states"), teacher, queries, answers)


def of_nano(cache: Path, queries: list[str], answers: list[str]) -> Source:
    """Random tokens, a map for each, and the packaged teacher, whitened on these rows."""
    reader = Reader(Backbone.load("nano", device="cpu", dtype="float32"), cache, "nano", teacher="nano-teacher")
    whitening, choice = choose_whitening(reader.vectors(queries), reader.vectors(answers))
    sys.stderr.write(f"{choice}\n")
    known = Kept(cache, "nano-likelihood")
    texts = [f"{query}\0{answer}" for query, answer in zip(queries, answers, strict=True)]
    known.fill(texts, lambda block: likelihood(reader.backbone, block), "likelihood")
    return Source(
        reader.every_state, lambda texts: whitening(reader.vectors(texts)), queries, answers, known.read(texts)[:, 0]
    )


@torch.no_grad()
def likelihood(backbone: Backbone, texts: Sequence[str]) -> Array:
    """Mean log-probability of each response's tokens after its query, in the chat template: (texts, 1)."""
    queries, answers = zip(*(text.split("\0") for text in texts), strict=True)
    prompts = Prompter(backbone, "", 256, LONGEST).prompts(queries)
    means = []
    for prompt, answer in zip(prompts, backbone.tokenize(answers), strict=True):
        ids = torch.tensor([[*prompt, *answer]])
        states = backbone.decoder(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 : -1]
        said = backbone.logits(states).float().log_softmax(-1).gather(1, ids[0, len(prompt) :, None])
        means.append(float(said.mean()) if len(answer) else 0.0)
    return np.array(means, np.float32)[:, None]


SOURCES: dict[str, Callable[[Path, list[str], list[str]], Source]] = {"smollm2": of_smollm2, "nano": of_nano}
