"""Recipes by name: what they set, what they leave, and that options which are given stand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from foresay.cli.main import main
from foresay.config import RECIPES, TrainConfig, recipe
from foresay.data import pairs as pairs_module
from foresay.errors import InputError
from foresay.training import train as train_module
from foresay.training.train import schedule

from .making import pairs


def test_the_published_ones() -> None:
    """Tokens, rate by family, and the schedule that is cut off at three quarters."""
    two, one = (TrainConfig(**recipe(name, "qwen3")) for name in ("paper-v2", "paper-v1"))
    assert (two.thought, two.compression, two.learning_rate, two.start) == (0, 10, 3e-4, "random")
    assert (one.thought, one.compression) == (10, 10)
    assert TrainConfig(**recipe("paper-v2", "llama")).learning_rate == 5e-4
    assert schedule(two).share(two.steps - 1) == pytest.approx(0.754, abs=1e-3)
    assert TrainConfig(**recipe("default", "qwen3")) == TrainConfig()
    with pytest.raises(InputError, match="no recipe 'paper-v3'"):
        recipe("paper-v3", "qwen3")


@pytest.mark.parametrize("name", list(RECIPES))
def test_options_that_are_given_stand(
    name: str, folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one that says what the plain default says."""
    seen: list[TrainConfig] = []

    def note(*arguments: object, overwrite: bool = False) -> None:
        seen.extend(argument for argument in arguments if isinstance(argument, TrainConfig))

    monkeypatch.setattr(train_module, "train", note)
    monkeypatch.setattr(pairs_module.Pairs, "load", lambda *_: pairs())
    command: list[Any] = ["train", "r", "t", "-m", folder("llama"), "-o", tmp_path / "c", "--device", "cpu"]
    command += ["--recipe", name, "--start", "closed-form", "--steps", "200", "--dims", "2,4"]
    result = CliRunner().invoke(main, [str(word) for word in command])
    assert result.exit_code == 0, result.output
    chosen = {"start": "closed-form", "steps": 200, "dims": (2, 4)}
    assert seen == [TrainConfig(**{**recipe(name, "llama"), **chosen})]
    json.dumps(vars(seen[0]))
