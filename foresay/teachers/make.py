"""Texts to a teacher: makes an unsupervised LLM2Vec embedder of any causal language model (arXiv 2404.05961).

In: unlabelled texts and a backbone. Out: a folder that `teach -t` and plain sentence-transformers open; under its
`training/` the metrics of each step (`metrics.jsonl`) and what a killed run resumes from.

    stage 1   masked next-token prediction       both in objectives.py
    stage 2   unsupervised SimCSE

Careful: one LoRA adapter goes through both stages, where the authors merge the first and train a second. And nothing is
random but by seed and step: order, blanks and dropout do not depend on how often a run was killed, or on what else
drew random numbers.
"""

import hashlib
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from ..backbone import Backbone, check_texts
from ..checkpoints.folder import appear, new_draft
from ..config import TeacherConfig
from ..errors import BackboneError, InputError
from ..files import write_json
from ..outputs import holding
from ..training.distributed import Processes
from ..training.loop import RunInFolder, row_order, run_steps
from ..training.metrics import Report, Step
from ..training.optimizer import Optimizer, Schedule
from ..training.run_folder import STATE, RunFolder
from .bidirectional import ADAPTER_WEIGHTS, Bidirectional
from .folder import check_trained
from .llm2vec import LLM2VecTeacher
from .llm2vec_folder import save
from .objectives import DROPOUT, blank, mntp_gradient, simcse_gradient

logger = logging.getLogger(__name__)

RANK = 16
"""Of the adapter, on every linear layer of the decoder, as in the published models."""
CLIP_NORM = 1.0
"""Largest gradient norm."""


def make_teacher(
    texts: Sequence[str],
    backbone: Backbone,
    output: Path,
    config: TeacherConfig | None = None,
    report: Report | None = None,
) -> LLM2VecTeacher:
    """Trains, or resumes a run that was killed, and writes the teacher to `output`.

    Args:
        texts: unlabelled, of the kind that the teacher is to embed.
        backbone: the frozen language model; it stays causal and bit-identical.
        output: folder to make.
        config: options; those of a run that is resumed must be the same.
        report: told of each step.

    Returns:
        the teacher, over the backbone's own weights.

    Raises:
        InputError: if there are too few texts, or `output` holds a run with other options or texts.
        DataError: if another process trains in `output`, or nothing can be written there.
        BackboneError: if the model cannot read in both directions, or has no attention dropout.
        Stopped: on Ctrl-C or SIGTERM, when the state has been saved.
    """
    output = Path(output)
    check_trained(output)
    with holding(output), RunFolder(output / "training") as files:
        run = _Teaching(check_texts(texts), backbone, files, config or TeacherConfig())
        run.start()
        run_steps(run, report)
        return run.finish(output)


def schedule(steps: int) -> Schedule:
    """The learning rate's in a stage: a rise over its first tenth, then a straight line to zero."""
    return Schedule(max(1, steps // 10), steps)


# -- the run ---------------------------------------------------------------------------------------------


class _Teaching(RunInFolder):
    """One run: the adapter, the optimiser, where it is, and its files."""

    config: TeacherConfig

    def __init__(self, texts: list[str], backbone: Backbone, files: RunFolder, config: TeacherConfig) -> None:
        if len(texts) < 2:
            raise InputError(f"{len(texts)} texts; a teacher needs at least 2 to train on")
        if config.simcse_steps and len(texts) < config.simcse_batch_size:
            raise InputError(
                f"{len(texts)} texts do not fill a batch of {config.simcse_batch_size} in stage 2, where a text would "
                "then be its own negative; give more texts, or lower --simcse-batch-size"
            )
        self.texts, self.backbone, self.files, self.config = texts, backbone, files, config
        self.processes = Processes()
        self.total, self.step = config.mntp_steps + config.simcse_steps, 0
        self.reader = Bidirectional(backbone)
        self.reader.new_adapter(RANK, config.seed)
        self.weights = self.reader.trained()
        self._start_stage()

    def stage(self, step: int) -> str:
        """The stage that a step, counted from 0, belongs to."""
        return "mntp" if step < self.config.mntp_steps else "simcse"

    def _option(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.config, f"{self.stage(self.step)}_{name}")

    def _start_stage(self) -> None:
        """A fresh optimiser and order of the texts; dropout in stage 2 only."""
        self.optimizer = Optimizer(self.weights, dict.fromkeys(self.weights, self._option("learning_rate")))
        second = self.stage(self.step) == "simcse"
        self.order: Iterator[int] = row_order(self.config.seed + second, len(self.texts))
        if second:
            self.reader.set_attention_dropout(DROPOUT)
            self.reader.model.train()
            self._check_dropout()

    def _within(self) -> int:
        """Steps of the present stage that are done."""
        return self.step - (0 if self.stage(self.step) == "mntp" else self.config.mntp_steps)

    @torch.no_grad()
    def _check_dropout(self) -> None:
        """Two passes of one text have to differ: without that there is nothing to learn from."""
        rows = [(self.backbone.tokenize(self.texts[:1])[0] * 16)[:16]]
        with self._own_random():
            same = torch.equal(self.reader.mean(rows), self.reader.mean(rows))
        if same:
            raise BackboneError(
                f"{self.backbone.name} ({type(self.reader.model).__name__}) has no attention dropout, which stage 2 "
                "needs; leave it out with --simcse-steps 0"
            )

    # -- what the loop asks for --------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether both stages are done."""
        return self.step >= self.total

    def next_step(self) -> Step:
        """One optimiser step on the next batch of the stage."""
        started = time.perf_counter()
        if self.step == self.config.mntp_steps:
            self._start_stage()
        stage = self.stage(self.step)
        batch = [self.texts[i] for i in itertools.islice(self.order, self._option("batch_size"))]
        rows = [row[: self._option("max_tokens")] for row in self.backbone.tokenize(batch)]
        loss = self._mntp(rows) if stage == "mntp" else self._simcse(rows)
        share = schedule(self._option("steps")).share(self._within())
        rate = share * self._option("learning_rate")
        norm = self.optimizer.step(share, CLIP_NORM)
        self.step += 1
        metrics = {"loss": loss, "gradient_norm": norm, "learning_rate": rate, "tokens": float(sum(map(len, rows)))}
        return Step(self.step, self.total, metrics | {"seconds": time.perf_counter() - started}, stage)

    def record(self, step: Step, *, stop: bool) -> Step:
        """Writes down the step, and where it is time or the run is to stop, its state; the end of stage 1 stays."""
        self.files.log(step.step, {"stage": step.stage, **step.metrics})
        ends = (self.total, self.config.mntp_steps)
        if stop or step.step in ends or step.step % self.config.save_every == 0:
            self.files.save(step.step, [self.config.mntp_steps], self._save)
        return step

    def _mntp(self, rows: list[list[int]]) -> float:
        random = np.random.default_rng([self.config.seed, self.step])
        lead = self.backbone.leading_ids
        blanked, places = blank([[*lead, *row] for row in rows], self._blank_id(), random)
        if not places:
            raise InputError("the texts of a whole batch are one token long; stage 1 needs longer ones")
        return mntp_gradient(self.reader, blanked, places, self.config.micro_batch_tokens)

    def _simcse(self, rows: list[list[int]]) -> float:
        seed = int(np.random.default_rng([self.config.seed, self.step]).integers(1 << 62))
        with self._own_random():
            return simcse_gradient(self.reader, rows, seed, self.config.micro_batch_tokens)

    def _own_random(self) -> AbstractContextManager[None]:
        """Whatever is drawn or seeded inside leaves the caller's generators as they were."""
        device = self.backbone.device
        inside: AbstractContextManager[None] = torch.random.fork_rng([device] if device.type == "cuda" else [])
        return inside

    def _blank_id(self) -> int:
        """The tokenizer's mask token; else the underscore, as in the published models."""
        tokenizer = self.backbone.tokenizer
        if tokenizer.mask_token_id is not None:
            return int(tokenizer.mask_token_id)
        vocab = tokenizer.get_vocab()
        return int(vocab["_"] if "_" in vocab else self.backbone.tokenize(["_"])[0][-1])

    # -- files -------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        digest = hashlib.sha256("\0".join(self.texts).encode()).hexdigest()
        options = asdict(self.config)
        del options["tracker"]  # the teacher does not depend on who watched
        return {
            "backbone": self.backbone.name,
            "revision": self.backbone.revision,
            "texts": len(self.texts),
            "texts_sha256": digest,
            "config": options,
        }

    def start(self) -> None:
        """Goes back to the last state on disk, if there is one of this very run."""
        state = self.files.open(self._identity())
        if state is None:
            return
        self.step = int(state["step"])
        folder = self.files.path(self.step)
        tensors = load_file(folder / ADAPTER_WEIGHTS, device=str(self.backbone.device))
        for name, weight in self.weights.items():
            weight.data.copy_(tensors[name])
        if self.step in (self.config.mntp_steps, self.total):
            return  # the next step, if any, starts a stage
        self._start_stage()
        for _ in range(self._within() * self._option("batch_size")):
            next(self.order)
        self.optimizer.load(folder, self._within())

    def _save(self, folder: Path) -> None:
        draft = new_draft(folder)
        self.reader.save_adapter(draft, self.backbone.name, self.backbone.revision)
        self.optimizer.save(draft)
        write_json(draft / STATE, {"step": self.step})
        appear(draft, folder)

    def finish(self, output: Path) -> LLM2VecTeacher:
        """Writes the teacher into the output folder itself."""
        self.reader.model.eval()
        with self.files.writing():
            save(output, self.reader, self._identity())
        return LLM2VecTeacher(self.reader, str(output), adapters=[output / "adapter"])
