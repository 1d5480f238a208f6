"""Recipes by name: what they set, what they leave, and that options which are given stand."""

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from foresay.backbone import Backbone
from foresay.cli.main import main
from foresay.config import RECIPES, TrainConfig, recipe
from foresay.data import pairs as pairs_module
from foresay.encoder import Encoder
from foresay.errors import InputError
from foresay.model import Model
from foresay.training import train as train_module
from foresay.training.train import schedule

from .conftest import SENTENCES
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

    def note(
        pairs: object, backbone: Backbone, output: Path, config: TrainConfig, report: object, *, overwrite: bool
    ) -> None:
        seen.append(config)

    monkeypatch.setattr(train_module, "train", note)
    monkeypatch.setattr(pairs_module.Pairs, "load", lambda *_: pairs())
    command: list[Any] = ["train", "r", "t", "-m", folder("llama"), "-o", tmp_path / "c", "--device", "cpu"]
    command += ["--recipe", name, "--start", "closed-form", "--steps", "200", "--dims", "2,4"]
    result = CliRunner().invoke(main, [str(word) for word in command])
    assert result.exit_code == 0, result.output
    chosen = {"start": "closed-form", "steps": 200, "dims": (2, 4)}
    assert seen == [TrainConfig(**{**recipe(name, "llama"), **chosen})]
    json.dumps(vars(seen[0]))


def test_a_backbone_of_ones_own_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe in small: the loss falls, a killed run ends in the same weights, and the folder is a backbone."""
    path = Path(__file__).parents[1] / "recipes" / "nano_backbone.py"
    spec = importlib.util.spec_from_file_location("nano_backbone", path)
    assert spec is not None and spec.loader is not None
    recipe_module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "nano_backbone", recipe_module)
    spec.loader.exec_module(recipe_module)
    texts = [f"{sentence} And again: {sentence}" for sentence in SENTENCES]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts * 4), encoding="utf-8")
    rows = [{"id": str(i), "query": text, "response": text[::-1]} for i, text in enumerate(texts)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = (tmp_path / "texts.jsonl", tmp_path / "pairs.jsonl")
    shape = recipe_module.Shape(
        vocabulary=400, width=64, layers=2, length=24, batch_size=4, steps=24, warmup=4, save_every=8
    )
    first = recipe_module.make(*given, tmp_path / "one", replace(shape, steps=2))
    assert recipe_module.make(*given, tmp_path / "whole", shape) < first - 0.5
    step = recipe_module.Run.next_step

    def killed(self: Any) -> float:  # noqa: ANN401
        if self.step == 13:
            raise KeyboardInterrupt
        return float(step(self))

    with monkeypatch.context() as patch:
        patch.setattr(recipe_module.Run, "next_step", killed)
        with pytest.raises(KeyboardInterrupt):
            recipe_module.make(*given, tmp_path / "resumed", shape)
    assert (tmp_path / "resumed" / "state.safetensors").is_file()
    recipe_module.make(*given, tmp_path / "resumed", shape)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    base = Backbone.load(str(tmp_path / "whole"), device="cpu")
    assert {weight.dtype for weight in whole.values()} == {torch.bfloat16}
    assert base.templates and base.tokenize(["<|im_end|>"])[0] != [base.end_id]
    assert base.embedding.num_embeddings - len(base.tokenizer) == recipe_module.SPARE
    assert Encoder(Model(base, thought=0, compression=2, dim=8)).encode(SENTENCES).shape == (6, 8)
