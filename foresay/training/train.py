"""Responses and targets to a checkpoint: trains the special tokens and the two maps, nothing else.

In: pairs of query and response with the teacher's vector of each response. Out: a checkpoint folder; under its
`training/` the figures of each step (`metrics.jsonl`), their curves, and what a killed run resumes from.
What a reader would get wrong: nothing here is random after the start. The order of the rows is a function of
the seed and the step, and the frozen backbone has no dropout, so a resumed run is the run that was not killed.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..backbone import Backbone
from ..checkpoints.export.sentence_transformers import export
from ..checkpoints.load import load_weights
from ..checkpoints.record import Training
from ..checkpoints.save import save
from ..config import TrainConfig
from ..data.pairs import Pairs, nearness, untrained
from ..encoder import Encoder
from ..errors import InputError
from ..files import as_json, write_json
from .closed_form import ridge, standardise, start_from
from .distributed import Processes
from .micro_batch import MicroBatch
from .run_folder import STATE, States
from .signals import Stopped, stop_signals
from .step import Figures, gradient, losses_of
from .tracking import tracking

logger = logging.getLogger(__name__)

Report = Callable[[int, Figures], None]


def train(
    pairs: Pairs, backbone: Backbone, output: Path, config: TrainConfig | None = None, report: Report | None = None
) -> Encoder:
    """Trains, or goes on where a killed run stopped, and writes the best checkpoint to `output`.

    Launched as several processes (`accelerate launch`, `torchrun`), they train as one: the same rows a step, the same
    result. The first of them writes and reports.

    Args:
        pairs: queries, responses, targets.
        backbone: the frozen language model.
        output: checkpoint folder to make.
        config: options; those of a run that is resumed must be the same.
        report: called after each step with the step and its figures; with step 0 while the start is fitted.

    Returns:
        the encoder of the step with the lowest held-out loss, or of the last where nothing was held out.

    Raises:
        InputError: if `output` holds a run with other options or data.
        Stopped: on Ctrl-C or SIGTERM, when the state has been saved.
    """
    run = _Run(pairs, backbone, output, config or TrainConfig())
    report = report if run.processes.first else None
    run.resume(report)
    tracker = run.config.tracker if run.processes.first else "none"
    with tracking(tracker, run.states.folder, asdict(run.config)) as track, stop_signals() as stopped:
        while not run.done():
            figures = run.one_step()
            stop = run.processes.any(stopped())
            figures |= run.record(figures, stop)
            track(run.step, figures)
            if report:
                report(run.step, figures)
            if stop and not run.done():
                raise Stopped(f"stopped and saved at step {run.step}; the same command goes on from there")
    return run.finish()


def schedule(step: int, config: TrainConfig) -> float:
    """The share of its peak that the learning rate has in a step (counted from 0): a linear rise, a line to zero."""
    end = config.decay_steps or config.steps
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    fall = max(0.0, (end - step) / max(1, end - config.warmup_steps))
    return min(rise, fall)


def row_order(seed: int, rows: int) -> Iterator[int]:
    """Endless row numbers: each pass over the data is a new shuffle, which depends on nothing but the seed."""
    for epoch in range(1 << 62):
        yield from np.random.default_rng([seed, epoch]).permutation(rows).tolist()


class _Run:
    """One training run: the model, the optimiser, where it is, and its files."""

    def __init__(self, pairs: Pairs, backbone: Backbone, output: Path, config: TrainConfig) -> None:
        self.pairs, self.config, self.output = pairs, config, output
        self.processes = Processes(backbone.device)
        if config.batch_size < self.processes.count:
            raise InputError(
                f"batch_size is {config.batch_size} for {self.processes.count} processes; each needs a row or more"
            )
        if backbone.spread and self.processes.count > 1:
            raise InputError(
                f"the backbone is spread over the GPUs, and {self.processes.count} processes would each do so; "
                "start one process, or leave out --device spread"
            )
        self.states = States(output / "training", config.keep)
        self.encoder = untrained(pairs, backbone, config)
        self.encoder.decodes = config.reconstruction_weight > 0
        self.model = self.encoder.model
        tokens, wide = self.model.special_tokens, self.model.align.weight
        others = [weight for weight in self.model.parameters() if weight is not tokens and weight is not wide]
        groups = [
            {"params": [tokens], "peak": config.token_learning_rate or config.learning_rate},
            {"params": others, "peak": config.learning_rate},
            # Adam moves every weight by as much: a map that reads ten times the numbers would move ten times as far
            {"params": [wide], "peak": config.learning_rate / self.model.parts},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay)
        self.rows, self.held = pairs.split(config)
        self.order = row_order(config.seed, len(self.rows))
        self.limit = MicroBatch(config.micro_batch_tokens, self.processes)
        self.step = 0
        self.best: dict[str, Any] = {}

    def done(self) -> bool:
        """Whether the last step is done, or the held-out loss has not fallen for too long."""
        waited = self.step - self.best.get("step", self.step)
        patience = self.config.patience * self.config.evaluate_every
        return self.step >= self.config.steps or (patience > 0 and waited >= patience)

    # -- one step ----------------------------------------------------------------------------------------

    def one_step(self) -> Figures:
        """One optimiser step on the next batch."""
        started, config = time.perf_counter(), self.config
        batch = [int(self.rows[next(self.order)]) for _ in range(config.batch_size)]
        queries, responses = self._token_ids(batch)
        figures = gradient(self.model, queries, responses, self._targets(batch), config, self.limit)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm or float("inf"))
        share = schedule(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["peak"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return {
            **figures,
            "gradient_norm": float(norm),
            "learning_rate": share * config.learning_rate,
            "tokens": sum(map(len, queries)) + sum(map(len, responses)),
            "seconds": time.perf_counter() - started,
        }

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

    def evaluate(self) -> Figures:
        """The rows kept out of training: their loss, the cosine to the own target, and how often it is the nearest.

        Nothing where no rows were kept out.
        """
        if not len(self.held):
            return {}
        rows = self.held.tolist()
        losses = losses_of(self.model, *self._token_ids(rows), self._targets(rows), self.config, self.limit)
        near = self.processes.from_first(lambda: nearness(self.encoder, self.pairs, self.held))
        return {**{f"held_out_{name}": value for name, value in losses.items()}, **near}

    # -- files -------------------------------------------------------------------------------------------

    def resume(self, report: Report | None = None) -> None:
        """Goes back to the last state on disk, if there is one of this very run; else starts."""
        identity = {
            "backbone": self.model.backbone.name,
            "config": asdict(self.config),
            "pairs": self.pairs.origin,
            "rows": len(self.pairs.queries),
        }
        state = self.processes.from_first(lambda: self.states.open(as_json(identity)))
        if state is None:
            if self.config.start == "closed-form" or self.model.every_layer:
                self._fit(report)
        else:
            self.step, self.best = state["step"], state["best"]
            self._load_optimizer()
            self._load_weights(self.step)
            for _ in range(self.step * self.config.batch_size):
                next(self.order)
        self.processes.copy_first(self.model.state_dict().values())

    def _fit(self, report: Report | None) -> None:
        """The start of the maps; every process finds it, since a long wait for the first would end the others."""

        def told(rows: int) -> None:
            if report:
                report(0, {"fitted rows": rows})

        found = ridge(self.encoder, self.pairs.queries, self.pairs.targets, self.rows, self.held, told)
        if self.config.start == "closed-form":
            start_from(self.model, found)
        else:
            standardise(self.model, found)  # a random start of every layer's map needs the scale of the states
        logger.info("closed form: penalty %.3g, held-out cosine %.3f", found.penalty, found.cosine)

    def record(self, figures: Figures, stop: bool) -> Figures:
        """Writes down the step: its figures, and where it is time or the run is to stop, its state.

        A run that is stopped does not look at the held-out rows out of turn: it would not be the run that goes on.

        Returns:
            the figures of the held-out rows, where it looked at them.
        """
        due = self.step == self.config.steps or self.step % self.config.evaluate_every == 0
        held = self.evaluate() if due else {}
        figures = {**figures, **held}
        loss = held.get("held_out_loss", -float(self.step))  # nothing held out: the last saved step is the best
        comparable = due if len(self.held) else due or stop
        if comparable and (not self.best or loss <= self.best["loss"]):
            self.best = {"step": self.step, "loss": loss, "figures": figures}
        if self.processes.first:
            self.states.log(self.step, figures)
            if due or stop:
                self.states.save(self.step, self.best.get("step"), lambda folder: self._save(folder, figures))
        return held

    def _save(self, folder: Path, figures: Figures) -> None:
        def extra(draft: Path) -> None:
            save_file(self._optimizer_tensors(), draft / "optimizer.safetensors")
            write_json(draft / STATE, {"step": self.step, "best": self.best})

        save(folder, self.encoder, self._record(self.step, figures), documents=False, extra=extra)

    def finish(self) -> Encoder:
        """Puts the best step into the output folder itself, with the curves."""
        from .curves import draw_curves  # matplotlib is slow to import

        def write() -> None:
            draw_curves(self.states.metrics, self.states.folder / "curves.png", self.config.alignment)
            save(self.output, self.encoder, self._record(self.best["step"], self.best["figures"]))
            export(self.output, self.encoder)

        self._load_weights(self.best["step"])
        self.processes.copy_first(self.model.state_dict().values())
        self.processes.from_first(write)
        return self.encoder

    def _record(self, step: int, figures: Figures) -> Training:
        held = {"held_out_rows": len(self.held), **figures}
        return Training("training", asdict(self.config), self.pairs.origin, step, held)

    def _load_weights(self, step: int) -> None:
        """Weights of a saved step, in the first process: the others may stand on another machine."""
        if self.processes.first:
            load_weights(self.model, self.states.path(step))

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}.{moment}": self.optimizer.state[weight][moment].contiguous()
            for name, weight in self.model.named_parameters()
            for moment in ("exp_avg", "exp_avg_sq")
        }

    def _load_optimizer(self) -> None:
        path = self.states.path(self.step) / "optimizer.safetensors"
        found = load_file(path, device=str(self.model.backbone.device)) if self.processes.first else {}
        for name, weight in self.model.named_parameters():
            moments = {
                moment: found.get(f"{name}.{moment}", torch.zeros_like(weight)) for moment in ("exp_avg", "exp_avg_sq")
            }
            self.processes.copy_first(moments.values())
            self.optimizer.state[weight] = {"step": torch.tensor(float(self.step)), **moments}
