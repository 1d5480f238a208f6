"""Responses and targets to a checkpoint: trains the special tokens and the two maps, nothing else.

In: pairs of query and response with the teacher's vector of each response. Out: a checkpoint folder; under its
`training/` the figures of each step (`metrics.jsonl`), their curves, and what a killed run resumes from.
What a reader would get wrong: nothing here is random after the start. The order of the rows is a function of
the seed and the step, and the frozen backbone has no dropout, so a resumed run is the run that was not killed.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import checkpoint
from .backbone import Backbone
from .config import TrainConfig
from .encoder import Encoder
from .errors import InputError
from .journal import write_json
from .pairs import Pairs, nearness, untrained
from .ridge import ridge, standardise, start_from
from .step import Figures, gradient, loss_of
from .stop import Stopped, stop_signals

logger = logging.getLogger(__name__)

Report = Callable[[int, Figures], None]


def train(
    pairs: Pairs, backbone: Backbone, output: Path, config: TrainConfig | None = None, report: Report | None = None
) -> Encoder:
    """Trains, or goes on where a killed run stopped, and writes the best checkpoint to `output`.

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
    run.resume(report)
    with stop_signals() as stopped:
        while run.step < run.config.steps:
            figures = run.one_step()
            last, stop = run.step == run.config.steps, stopped()
            if last or stop or run.step % run.config.evaluate_every == 0:
                figures |= run.evaluate()
                run.log(figures)
                run.save(figures)
            else:
                run.log(figures)
            if report:
                report(run.step, figures)
            if stop and not last:
                raise Stopped(f"stopped and saved at step {run.step}; the same command goes on from there")
    return run.finish()


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of a step (counted from 0): a linear rise, then a straight line to zero."""
    end = config.decay_steps or config.steps
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    fall = max(0.0, (end - step) / max(1, end - config.warmup_steps))
    return config.learning_rate * min(rise, fall)


def row_order(seed: int, rows: int) -> Iterator[int]:
    """Endless row numbers: each pass over the data is a new shuffle, which depends on nothing but the seed."""
    for epoch in range(1 << 62):
        yield from np.random.default_rng([seed, epoch]).permutation(rows).tolist()


class _Run:
    """One training run: the model, the optimiser, where it is, and its files."""

    def __init__(self, pairs: Pairs, backbone: Backbone, output: Path, config: TrainConfig) -> None:
        self.pairs, self.config, self.output = pairs, config, output
        self.folder = output / "training"
        self.encoder = untrained(pairs, backbone, config)
        self.encoder.decodes = config.reconstruction_weight > 0
        self.model = self.encoder.model
        parameters = [weight for weight in self.model.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=config.weight_decay)
        self.rows, self.held = pairs.split(config)
        self.order = row_order(config.seed, len(self.rows))
        self.step = 0
        self.best: dict[str, Any] = {}

    # -- one step ----------------------------------------------------------------------------------------

    def one_step(self) -> Figures:
        """One optimiser step on the next batch."""
        started, config = time.perf_counter(), self.config
        batch = [int(self.rows[next(self.order)]) for _ in range(config.batch_size)]
        queries, _ = self.model.rows([self.pairs.queries[i] for i in batch], config.max_query_tokens)
        responses = self._responses([self.pairs.responses[i] for i in batch])
        targets = self._targets(batch)
        figures = gradient(self.model, queries, responses, targets, config)
        limit = config.clip_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        rate = learning_rate(self.step, config)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        tokens = sum(map(len, queries)) + sum(map(len, responses))
        seconds = time.perf_counter() - started
        return {**figures, "gradient_norm": float(norm), "learning_rate": rate, "tokens": tokens, "seconds": seconds}

    def _targets(self, rows: Sequence[int]) -> Tensor:
        """Targets of some rows, in the model's axes."""
        vectors = torch.from_numpy(np.array(self.pairs.targets[rows], np.float32))
        return self.model.to_own_axes(vectors.to(self.model.backbone.device))

    def _responses(self, texts: list[str]) -> list[list[int]]:
        """Token ids with the end token, which only a response that was not cut has."""
        most, end = self.config.max_response_tokens, self.model.backbone.end_id
        return [[*row, end][:most] for row in self.model.backbone.tokenize(texts)]

    def evaluate(self) -> Figures:
        """The rows kept out of training: their loss, the cosine to the own target, and how often it is the nearest.

        Nothing where no rows were kept out.
        """
        if not len(self.held):
            return {}
        queries, _ = self.model.rows([self.pairs.queries[i] for i in self.held], self.config.max_query_tokens)
        responses = self._responses([self.pairs.responses[i] for i in self.held])
        loss = loss_of(self.model, queries, responses, self._targets(self.held.tolist()), self.config)
        return {"held_out_loss": loss, **nearness(self.encoder, self.pairs, self.held)}

    # -- files -------------------------------------------------------------------------------------------

    def resume(self, report: Report | None = None) -> None:
        """Goes back to the last state on disk, if there is one of this very run; else starts."""
        states = sorted(self.folder.glob("step-*/state.json"))
        identity = {
            "backbone": self.model.backbone.name,
            "config": json.loads(json.dumps(asdict(self.config))),  # as it reads when it comes back
            "pairs": self.pairs.origin,
            "rows": len(self.pairs.queries),
        }
        if not states:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "run.json", identity)
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            if self.config.start == "closed-form" or self.model.readout == "all":
                self._fit(report)
            return
        before = json.loads((self.folder / "run.json").read_text())
        changed = sorted(key for key in _flat(identity) if _flat(identity)[key] != _flat(before).get(key))
        if changed:
            raise InputError(
                f"{self.output} holds a run with another {', '.join(changed)}; "
                "give the same options to go on with it, or another -o for a new one"
            )
        state = json.loads(states[-1].read_text())
        checkpoint.load_weights(self.model, states[-1].parent)
        self._load_optimizer(states[-1].parent / "optimizer.safetensors", state["step"])
        self.step, self.best = state["step"], state["best"]
        for _ in range(self.step * self.config.batch_size):
            next(self.order)
        metrics = self.folder / "metrics.jsonl"
        kept = [line for line in metrics.read_text().splitlines(True) if json.loads(line)["step"] <= self.step]
        metrics.write_text("".join(kept))
        logger.info("resuming %s at step %d", self.output, self.step)

    def _fit(self, report: Report | None) -> None:
        def told(rows: int) -> None:
            if report:
                report(0, {"fitted rows": rows})

        found = ridge(self.encoder, self.pairs.queries, self.pairs.targets, self.rows, self.held, told)
        if self.config.start == "closed-form":
            start_from(self.model, found)
        else:
            standardise(self.model, found)  # a random start of every layer's map needs the scale of the states
        logger.info("closed form: penalty %.3g, held-out cosine %.3f", found.penalty, found.cosine)

    def log(self, figures: Figures) -> None:
        """Appends one line of figures."""
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, **figures}) + "\n")

    def save(self, figures: Figures) -> None:
        """Writes the state as a folder that is there whole or not at all; keeps the last and the best."""
        loss = figures.get("held_out_loss", -float(self.step))  # nothing held out: the last step is the best
        if not self.best or loss <= self.best["loss"]:
            self.best = {"step": self.step, "loss": loss, "figures": figures}
        name = f"step-{self.step:06d}"

        def extra(folder: Path) -> None:
            save_file(self._optimizer_tensors(), folder / "optimizer.safetensors")
            write_json(folder / "state.json", {"step": self.step, "best": self.best})

        checkpoint.save(self.folder / name, self.encoder, self._record(self.step, figures), plain=False, extra=extra)
        for old in self.folder.glob("step-*"):
            if old.name not in (name, f"step-{self.best['step']:06d}"):
                shutil.rmtree(old)

    def finish(self) -> Encoder:
        """Puts the best step into the output folder itself, with the curves."""
        from .curves import draw_curves  # matplotlib is slow to import

        best = self.folder / f"step-{self.best['step']:06d}"
        checkpoint.load_weights(self.model, best)
        draw_curves(self.folder / "metrics.jsonl", self.folder / "curves.png")
        checkpoint.save(self.output, self.encoder, self._record(self.best["step"], self.best["figures"]))
        return self.encoder

    def _record(self, step: int, figures: Figures) -> dict[str, Any]:
        held = {"held_out_rows": len(self.held), **figures}
        return {"config": asdict(self.config), "pairs": self.pairs.origin, "step": step, "figures": held}

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        state = self.optimizer.state
        named = self.model.named_parameters()
        return {
            f"{name}.{moment}": state[weight][moment].contiguous()
            for name, weight in named
            for moment in ("exp_avg", "exp_avg_sq")
        }

    def _load_optimizer(self, path: Path, step: int) -> None:
        tensors = load_file(path, device=str(self.model.backbone.device))
        for name, weight in self.model.named_parameters():
            moments = {moment: tensors[f"{name}.{moment}"] for moment in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[weight] = {"step": torch.tensor(float(step)), **moments}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options under their own last names, for telling what changed."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
