"""Responses and targets to a checkpoint: trains the special tokens and the two maps, nothing else.

In: pairs of query and response with the teacher's vector of each response. Out: a checkpoint folder; under its
`training/` the metrics of each step (`metrics.jsonl`), their curves, and what a killed run resumes from.
Careful: nothing here is random after the start. The order of the rows is a function of the seed and the step, and the
frozen backbone has no dropout, so a resumed run is the run that was not killed.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backbone import Backbone
from ..checkpoints.export.sentence_transformers import export
from ..checkpoints.folder import claimed
from ..checkpoints.load import load_weights
from ..checkpoints.record import Training
from ..checkpoints.save import save
from ..config import TrainConfig
from ..data.pairs import Pairs, warn_of_pairs
from ..encoder import Encoder
from ..errors import InputError
from ..files import write_json
from ..teachers.base import digest
from .closed_form import closed_form, standardise, start_from
from .distributed import Processes, is_first
from .held_out import target_metrics, warn_of_nothing_learnt
from .loop import RunInFolder, row_order, run_steps
from .losses import in_shares, variance_of, weighted
from .metrics import Metrics, Report, Step, held_out
from .micro_batch import MicroBatch
from .new_encoder import new_encoder
from .optimizer import Optimizer, Schedule
from .run_folder import STATE, RunFolder
from .step import gradient, losses_of

logger = logging.getLogger(__name__)

FREE = ("config.inference_query_weight", "config.keep", "config.micro_batch_tokens", "config.tracker")
"""Options that a resumed run may change, since no metric depends on them."""


def train(
    pairs: Pairs,
    backbone: Backbone,
    output: Path,
    config: TrainConfig | None = None,
    report: Report | None = None,
    *,
    overwrite: bool = False,
) -> Encoder:
    """Trains, or resumes a run that was killed, and writes the best checkpoint to `output`.

    Launched as several processes (`accelerate launch`, `torchrun`), they train as one: the same rows a step, the same
    result. The first of them writes and reports.

    Args:
        pairs: queries, responses, targets.
        backbone: the frozen language model.
        output: checkpoint folder to make.
        config: options; those of a run that is resumed must be the same.
        report: told of each step, and of the rows read while the start is fitted.
        overwrite: replace a checkpoint of another kind that is in `output`, such as a fitted one.

    Returns:
        the encoder of the step that `select` chooses by the held-out rows, or of the last where none were held out.

    Raises:
        InputError: if `output` holds a run with other options or data.
        CheckpointError: if `output` holds another checkpoint, or files that are not a checkpoint's.
        DataError: if another process trains in `output`, or nothing can be written there.
        Stopped: on Ctrl-C or SIGTERM, when the state has been saved.
    """
    config, output = config or TrainConfig(), Path(output)
    resumes = (output / "training" / "run.json").is_file()  # another run is refused when its folder is opened
    writes = claimed(output, "foresay train", overwrite=overwrite, mine=lambda _: resumes)
    with writes if is_first() else nullcontext(), RunFolder(output / "training", config.keep) as files:
        run = _Training(pairs, backbone, files, config)
        run.start(report if run.processes.first else None)
        run_steps(run, report)
        return run.finish(output)


def schedule(config: TrainConfig) -> Schedule:
    """The learning rate's: published runs stop after 5,000 of the 20,000 steps that lead to zero."""
    return Schedule(config.warmup, config.decay_steps or config.steps)


class _Training(RunInFolder):
    """One run: the model, the optimiser, where it is, and its files."""

    config: TrainConfig

    def __init__(self, pairs: Pairs, backbone: Backbone, files: RunFolder, config: TrainConfig) -> None:
        self.pairs, self.config, self.files = pairs, config, files
        self.processes = Processes(backbone.device)
        _check_processes(config, backbone, self.processes.count)
        self.encoder = new_encoder(pairs, backbone, config, config.lora_rank)
        self.encoder.decodes = config.reconstruction_weight > 0
        self.model = self.encoder.model
        self.rows, self.held = pairs.split(config)
        if config.batch_size > len(self.rows):
            logger.warning(
                "a batch of %d rows repeats some of the %d rows to learn from; a smaller --batch-size trains faster",
                config.batch_size,
                len(self.rows),
            )
        self.variance = variance_of(pairs.targets, self.rows) if config.alignment != "mse" else 1.0
        self.optimizer = Optimizer(dict(self.model.named_parameters()), self._peaks(), config.weight_decay)
        self.schedule = schedule(config)
        self.objective = in_shares(config, self.variance)
        self.order = row_order(config.seed, len(self.rows))
        self.limit = MicroBatch(config.micro_batch_tokens, self.processes)
        self.step = 0
        self.best: dict[str, Any] = {}

    def _peaks(self) -> dict[str, float]:
        """Peak learning rates by weight.

        Adam moves every weight by as much, so an alignment map that reads ten times the numbers would move its sum
        ten times as far: its rate is divided by the parts that it reads. And a teacher of unit length has entries of
        some hundredths, which such steps would throw off: the map's rate goes with the size of the targets.
        """
        config, size = self.config, self.variance**0.5
        peaks = dict.fromkeys((name for name, _ in self.model.named_parameters()), config.learning_rate)
        peaks["special_tokens"] = config.token_learning_rate or config.learning_rate
        peaks["align.weight"] = size * config.learning_rate / self.model.parts
        peaks["align.bias"] = size * config.learning_rate
        return peaks

    # -- what the loop asks for --------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether the last step is done, or no step has been better for too long."""
        waited = self.step - self.best.get("step", self.step)
        patience = self.config.patience * self.config.evaluate_every
        return self.step >= self.config.steps or (patience > 0 and waited >= patience)

    def next_step(self) -> Step:
        """One optimiser step on the next batch."""
        started, config = time.perf_counter(), self.config
        batch = [int(self.rows[next(self.order)]) for _ in range(config.batch_size)]
        queries, responses = self._token_ids(batch)
        losses = gradient(self.model, queries, responses, self._targets(batch), self.objective, self.limit)
        losses["alignment"] /= self._unit()
        share = self.schedule.share(self.step)
        norm = self.optimizer.step(share, config.clip_norm)
        self.step += 1
        costs = {
            "gradient_norm": norm,
            "learning_rate": share * config.learning_rate,
            "tokens": sum(map(len, queries)) + sum(map(len, responses)),
            "seconds": time.perf_counter() - started,
        }
        return Step(self.step, config.steps, {**losses, **costs})

    def record(self, step: Step, *, stop: bool) -> Step:
        """Writes down the step: its metrics, and where it is time or the run is to stop, its state.

        A run that is stopped does not look at the held-out rows out of turn: it would not be the run that resumes.
        """
        due = self.step == self.config.steps or self.step % self.config.evaluate_every == 0
        held = self.evaluate() if due else {}
        step = replace(step, metrics={**step.metrics, **held})
        loss = self._badness(held) if held else -float(self.step)  # nothing held out: the last saved step is the best
        comparable = due if len(self.held) else due or stop
        if comparable and (not self.best or loss <= self.best["loss"]):
            self.best = {"step": self.step, "loss": loss, "metrics": dict(step.metrics)}

        def write() -> None:
            self.files.log(self.step, step.metrics)
            if due or stop:
                self.files.save(self.step, [self.best.get("step")], lambda folder: self._save(folder, step.metrics))

        self.processes.from_first(write)
        return step

    def _unit(self) -> float:
        """What a squared error is a share of; 1 where it is not counted so."""
        return self.variance if self.config.alignment == "relative" else 1.0

    def _badness(self, held: Metrics) -> float:
        """What the best step has the least of: what the embedding misses, or the whole loss."""
        if self.config.select == "loss":
            return held[held_out("loss")]
        losses = {name: held[held_out(name)] for name in ("alignment", "contrast") if held_out(name) in held}
        return weighted(losses, self.config)

    def evaluate(self) -> Metrics:
        """The rows kept out of training: their losses, and how near they come to their targets.

        Nothing where no rows were kept out.
        """
        if not len(self.held):
            return {}
        rows = self.held.tolist()
        losses = losses_of(self.model, *self._token_ids(rows), self._targets(rows), self.objective, self.limit)
        losses["alignment"] /= self._unit()
        near = self.processes.from_first(lambda: target_metrics(self.encoder, self.pairs, self.held))
        return {**{held_out(name): value for name, value in losses.items()}, **near}

    def _token_ids(self, rows: Sequence[int]) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of queries and of responses, these with the end token, which only one that was not cut has."""
        queries, _ = self.model.rows([self.pairs.queries[i] for i in rows], self.config.max_query_tokens)
        most, end = self.config.max_response_tokens, self.model.backbone.end_id
        responses = self.model.backbone.tokenize([self.pairs.responses[i] for i in rows])
        return queries, [[*row, end][:most] for row in responses]

    def _targets(self, rows: Sequence[int]) -> Tensor:
        """Targets of some rows, in the model's axes."""
        vectors = torch.from_numpy(np.array(self.pairs.targets[rows], np.float32))
        return self.model.to_own_axes(vectors.to(self.model.backbone.device))

    # -- files -------------------------------------------------------------------------------------------

    def start(self, report: Report | None) -> None:
        """Goes back to the last state on disk, if there is one of this very run; else starts."""
        identity = {
            "backbone": self.model.backbone.name,
            "backbone_dtype": self.model.backbone.dtype_name,
            "backbone_weights": digest(self.model.backbone.sample().numpy().tobytes().hex()),
            "config": asdict(self.config),
            "pairs": self.pairs.origin,
            "pairs_content": self.pairs.digest(),
            "rows": len(self.pairs.queries),
        }
        state = self.processes.from_first(lambda: self.files.open(identity, FREE))
        if state is None:
            if self.processes.first:
                warn_of_pairs(self.pairs)
            if self.config.start == "closed-form" or self.model.every_layer:
                self._fit(report)
        else:
            self.step, self.best = state["step"], state["best"]
            state_folder = self.files.path(self.step) if self.processes.first else None
            self.processes.copy_first(self.optimizer.load(state_folder, self.step))
            self._load_weights(self.step)
            for _ in range(self.step * self.config.batch_size):
                next(self.order)
        self.processes.copy_first(self.model.state_dict().values())

    def _fit(self, report: Report | None) -> None:
        """The start of the maps; every process finds it, since a long wait for the first would end the others."""
        found = closed_form(self.encoder, self.pairs, self.rows, self.held, report)
        if self.config.start == "closed-form":
            start_from(self.model, found)
        else:
            standardise(self.model, found.alignment)  # a random map of every layer needs the scale of the states
        alignment, prompts = found.alignment, found.soft_prompt
        logger.info("closed form: penalty %.3g, held-out cosine %.3f", alignment.penalty, alignment.cosine)
        if prompts:
            words = "%.2f nats a token (%.2f with the soft prompts of other rows), imitating the %s, scaled by %g"
            logger.info("closed form: " + words, prompts.loss, prompts.swapped, prompts.layout.source, prompts.scale)

    def _save(self, folder: Path, metrics: Mapping[str, float]) -> None:
        def extra(draft: Path) -> None:
            self.optimizer.save(draft)
            write_json(draft / STATE, {"step": self.step, "best": self.best})

        save(folder, self.encoder, self._how(self.step, metrics), documents=False, extra=extra)

    def finish(self, output: Path) -> Encoder:
        """Puts the best step into the output folder, with the curves."""
        from .curves import draw_curves  # matplotlib is slow to import

        def write() -> None:
            with self.files.writing():
                draw_curves(self.files.metrics, self.folder / "curves.png", self.config.alignment)
                save(output, self.encoder, self._how(self.best["step"], self.best["metrics"]))
                export(output, self.encoder)

        if self.processes.first:
            warn_of_nothing_learnt(self.best["metrics"], self.pairs, self.rows, self.held, self.config.learning_rate)
        self._load_weights(self.best["step"])
        self.encoder = self.encoder.with_query_weight(self.config.inference_query_weight)
        self.processes.copy_first(self.model.state_dict().values())
        self.processes.from_first(write)
        return self.encoder

    def _how(self, step: int, metrics: Mapping[str, float]) -> Training:
        held = {"held_out_rows": len(self.held), **metrics}
        return Training("training", asdict(self.config), self.pairs.origin, step, held)

    def _load_weights(self, step: int) -> None:
        """Weights of a saved step, in the first process: the others may be on another machine."""
        if self.processes.first:
            load_weights(self.model, self.files.path(step))


def _check_processes(config: TrainConfig, backbone: Backbone, count: int) -> None:
    if config.batch_size < count:
        raise InputError(f"batch_size is {config.batch_size} for {count} processes; each needs a row or more")
    if backbone.spread and count > 1:
        raise InputError(
            f"the backbone is spread over the GPUs, and {count} processes would each do so; "
            "start one process, or leave out --device spread"
        )
