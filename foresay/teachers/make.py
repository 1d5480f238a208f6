"""Texts to a teacher: makes an unsupervised LLM2Vec embedder of any causal language model (arXiv 2404.05961).

In: unlabelled texts and a backbone. Out: a folder that `teach -t` and plain sentence-transformers open; under its
`training/` the figures of each step (`metrics.jsonl`) and what a killed run resumes from.

    stage 1   masked next-token prediction       both in stages.py
    stage 2   unsupervised SimCSE

What a reader would get wrong: one LoRA adapter goes through both stages, where the authors merge the first and train
a second. And nothing is random but by seed and step: order, blanks and dropout do not depend on how often a run was
killed, or on what else drew random numbers.
"""

import hashlib
import itertools
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..backbone import Backbone, check_texts
from ..checkpoints.folder import appear
from ..config import TeacherConfig
from ..data.queries import Progress
from ..errors import BackboneError, InputError
from ..files import differences, load_object, read_json, write_json
from ..training.signals import Stopped, stop_signals
from ..training.step import Figures
from ..training.tracking import tracking
from ..training.train import row_order
from .bidirectional import ADAPTER_WEIGHTS, Bidirectional
from .llm2vec import LLM2VecTeacher, save
from .objectives import DROPOUT, blank, mntp_gradient, simcse_gradient

logger = logging.getLogger(__name__)

RANK = 16
"""Of the adapter, on every linear layer of the decoder, as in the published models."""


def make_teacher(
    texts: Sequence[str],
    backbone: Backbone,
    output: Path,
    config: TeacherConfig | None = None,
    progress: Progress | None = None,
) -> LLM2VecTeacher:
    """Trains, or goes on where a killed run stopped, and writes the teacher to `output`.

    Args:
        texts: unlabelled, of the kind that the teacher is to embed.
        backbone: the frozen language model; it stays causal and bit-identical.
        output: folder to make.
        config: options; those of a run that is resumed must be the same.
        progress: told after each step.

    Returns:
        the teacher, over the backbone's own weights.

    Raises:
        InputError: if there are too few texts, or `output` holds a run with other options or texts.
        BackboneError: if the model cannot read in both directions, or has no attention dropout.
        Stopped: on Ctrl-C or SIGTERM, when the state has been saved.
    """
    run = _Run(check_texts(texts), backbone, Path(output), config or TeacherConfig())
    run.resume()
    with tracking(run.config.tracker, run.folder, asdict(run.config)) as track, stop_signals() as stopped:
        while run.step < run.total:
            figures = run.one_step()
            last, stop = run.step == run.total, stopped()
            run.log(figures)
            track(run.step, figures)
            if last or stop or run.step == run.config.mntp_steps or run.step % run.config.save_every == 0:
                run.save()
            if progress:
                progress(run.step, run.total, f"{run.stage(run.step - 1)} loss {figures['loss']:.3f}")
            if stop and not last:
                raise Stopped(f"stopped and saved at step {run.step}; the same command goes on from there")
    return run.finish()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """The rate of a stage's step (counted from 0): a rise over its first tenth, then a straight line to zero."""
    warmup = max(1, steps // 10)
    return peak * min((step + 1) / warmup, (steps - step) / max(1, steps - warmup), 1.0)


# -- the run ---------------------------------------------------------------------------------------------


class _Run:
    """One training run: the adapter, the optimiser, where it is, and its files."""

    def __init__(self, texts: list[str], backbone: Backbone, output: Path, config: TeacherConfig) -> None:
        if len(texts) < 2:
            raise InputError(f"{len(texts)} texts; a teacher needs at least 2 to train on")
        if config.simcse_steps and len(texts) < config.simcse_batch_size:
            raise InputError(
                f"{len(texts)} texts do not fill a batch of {config.simcse_batch_size} in stage 2, where a text would "
                "then be its own negative; give more texts, or lower --simcse-batch-size"
            )
        self.texts, self.backbone, self.output, self.config = texts, backbone, output, config
        self.folder = output / "training"
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
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=0.0, weight_decay=0.0)
        second = self.stage(self.step) == "simcse"
        self.order: Iterator[int] = row_order(self.config.seed + second, len(self.texts))
        if second:
            self.reader.set_attention_dropout(DROPOUT)
            self.reader.model.train()
            self._check_dropout()

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

    # -- one step ----------------------------------------------------------------------------------------

    def one_step(self) -> Figures:
        """One optimiser step on the next batch of the stage."""
        started, config = time.perf_counter(), self.config
        if self.step == config.mntp_steps:
            self._start_stage()
        batch = [self.texts[i] for i in itertools.islice(self.order, self._option("batch_size"))]
        rows = [row[: self._option("max_tokens")] for row in self.backbone.tokenize(batch)]
        compute = self._mntp if self.stage(self.step) == "mntp" else self._simcse
        loss = compute(rows)
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        within = self.step - (0 if self.stage(self.step) == "mntp" else config.mntp_steps)
        rate = learning_rate(within, self._option("steps"), self._option("learning_rate"))
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        seconds, tokens = time.perf_counter() - started, sum(map(len, rows))
        return {
            "loss": loss,
            "gradient_norm": float(norm),
            "learning_rate": rate,
            "tokens": tokens,
            "seconds": seconds,
        }

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

    def resume(self) -> None:
        """Goes back to the last state on disk, if there is one of this very run."""
        states = sorted(self.folder.glob("step-*/state.json"))
        if not states:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)  # of a run killed before its first save
            write_json(self.folder / "run.json", self._identity())
            return
        changed = differences(read_json(self.folder / "run.json"), self._identity())
        if changed:
            raise InputError(
                f"{self.output} holds another run: {changed}; give the same options to go on with it, or another -o"
            )
        self.step = int(read_json(states[-1])["step"])
        self._load(states[-1].parent)
        metrics = self.folder / "metrics.jsonl"
        rows = [(line, load_object(line)) for line in metrics.read_text().splitlines(True)]  # a kill may tear the last
        metrics.write_text("".join(line for line, row in rows if row is not None and row["step"] <= self.step))
        logger.info("resuming %s at step %d", self.output, self.step)

    def _load(self, folder: Path) -> None:
        tensors = load_file(folder / ADAPTER_WEIGHTS, device=str(self.backbone.device))
        for name, weight in self.weights.items():
            weight.data.copy_(tensors[name])
        if self.step in (self.config.mntp_steps, self.total):
            return  # the next step, if any, starts a stage
        self._start_stage()
        within = self.step - (0 if self.stage(self.step) == "mntp" else self.config.mntp_steps)
        for _ in range(within * self._option("batch_size")):
            next(self.order)
        moments = load_file(folder / "optimizer.safetensors", device=str(self.backbone.device))
        for name, weight in self.weights.items():
            state = {moment: moments[f"{name}.{moment}"] for moment in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[weight] = {"step": torch.tensor(float(within)), **state}

    def log(self, figures: Figures) -> None:
        """Appends one line of figures."""
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, "stage": self.stage(self.step - 1), **figures}) + "\n")

    def save(self) -> None:
        """Writes the state as a folder that is there whole or not at all; keeps the last, and the end of stage 1."""
        current = self.folder / f"step-{self.step:06d}"
        draft = self.folder / f".{current.name}.saving"
        shutil.rmtree(draft, ignore_errors=True)
        self.reader.save_adapter(draft, self.backbone.name, self.backbone.revision)
        moments = {
            f"{name}.{moment}": self.optimizer.state[weight][moment].contiguous()
            for name, weight in self.weights.items()
            for moment in ("exp_avg", "exp_avg_sq")
        }
        save_file(moments, draft / "optimizer.safetensors")
        write_json(draft / "state.json", {"step": self.step})
        appear(draft, current)
        for old in self.folder.glob("step-*"):
            if old.name not in (current.name, f"step-{self.config.mntp_steps:06d}"):
                shutil.rmtree(old)

    def finish(self) -> LLM2VecTeacher:
        """Writes the teacher into the output folder itself."""
        self.reader.model.eval()
        save(self.output, self.reader, self._identity())
        return LLM2VecTeacher(self.reader, str(self.output), adapters=[self.output / "adapter"])
