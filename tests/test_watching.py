"""What one sees of a run: the tracker, the table in the terminal, the curves."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState
from accelerate import tracking as library
from accelerate.logging import get_logger
from rich.console import Console

from foresay.backbone import Backbone
from foresay.config import TeacherConfig
from foresay.errors import InputError
from foresay.teachers.make import make_teacher
from foresay.training.curves import draw_curves
from foresay.training.live import LiveTable
from foresay.training.metrics import COSTS, HELD_OUT, LOSSES, Read, Step, held_out
from foresay.training.tracking import tracking
from foresay.training.train import train

from .conftest import SENTENCES
from .making import pairs, small

STEPS = [
    {"loss": 3.0, "alignment": 1.0, "reconstruction": 2.0, "tokens": 100.0, "seconds": 0.5},
    {"loss": 2.0, "alignment": 0.5, "reconstruction": 1.5, "tokens": 100.0, "seconds": 0.5}
    | {"held_out_loss": 2.5, "held_out_alignment": 0.7, "held_out_reconstruction": 1.8, "cosine": 0.4},
    {"loss": 2.0, "alignment": 0.5, "reconstruction": 1.5, "tokens": 100.0, "seconds": 0.5}
    | {"held_out_loss": 2.75, "held_out_alignment": 0.9, "held_out_reconstruction": 1.85, "cosine": 0.3},
]


class Double(library.GeneralTracker):  # type: ignore[misc]
    """A tracker that remembers."""

    name = "tensorboard"
    requires_logging_directory = True
    made: list["Double"] = []

    def __init__(self, run_name: str, logging_dir: Path) -> None:
        """Notes where it is."""
        super().__init__()
        self.place = (run_name, logging_dir)
        self.options: dict[str, Any] = {}
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.finished = False
        Double.made.append(self)

    def start(self) -> None:
        """Nothing to open."""

    @property
    def tracker(self) -> None:
        """There is none behind it."""

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Notes the options."""
        self.options = values

    def log(self, values: dict[str, float], step: int | None = None, **options: object) -> None:
        """Notes a step, through accelerate's own logging as its trackers do (Trackio failed there)."""
        get_logger(__name__).debug("a step")
        assert step is not None
        self.steps.append((step, values))

    def finish(self) -> None:
        """Notes that it was closed."""
        self.finished = True


def test_a_tracker_gets_each_step(
    backbone: Callable[[str], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of training and of making a teacher: the metrics of metrics.jsonl, and options in types that trackers take."""
    monkeypatch.setitem(library.LOGGER_TYPE_TO_CLASS, "tensorboard", Double)
    monkeypatch.setattr(Double, "made", [])
    PartialState._reset_state()  # whatever ran before in this process
    config = small(steps=3, held_out=2, dims=(4,), tracker="tensorboard")
    train(pairs(), backbone("qwen3"), tmp_path / "run", config)
    teacher = TeacherConfig(mntp_steps=2, simcse_steps=0, mntp_batch_size=2, mntp_max_tokens=8, tracker="tensorboard")
    make_teacher(SENTENCES, backbone("qwen3"), tmp_path / "teacher", teacher)
    for run, tracker in zip(("run", "teacher"), Double.made, strict=True):
        lines = (tmp_path / run / "training" / "metrics.jsonl").read_text().splitlines()
        rows = [{k: v for k, v in json.loads(line).items() if k != "stage"} for line in lines]
        assert [{"step": step, **metrics} for step, metrics in tracker.steps] == rows
        assert tracker.place == ("foresay", tmp_path / run / "training")
        assert tracker.finished
        assert all(isinstance(value, bool | int | float | str) for value in tracker.options.values())
    make_teacher(
        SENTENCES, backbone("qwen3"), tmp_path / "teacher", TeacherConfig(**{**vars(teacher), "tracker": "none"})
    )


def test_a_tracker_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, with the command."""

    def absent(self: Double) -> None:
        raise ModuleNotFoundError("No module named 'tensorboard'")

    monkeypatch.setitem(library.LOGGER_TYPE_TO_CLASS, "tensorboard", Double)
    monkeypatch.setattr(Double, "start", absent)
    with pytest.raises(InputError, match="pip install tensorboard"), tracking("tensorboard", tmp_path, {}):
        pass


def test_the_table_in_a_terminal() -> None:
    """Running means, held-out metrics, the best of them, speed; losses that are off have no row."""
    console = Console(force_terminal=True, width=100, file=io.StringIO())
    with LiveTable(3, console) as table:
        table(Read(12, 20))
        for step, metrics in enumerate(STEPS, 1):
            table(Step(step, 3, metrics))
    plain = Console(width=100, file=io.StringIO(), record=True)
    plain.print(table.drawing())
    rows = {words[0]: words[1:] for words in map(str.split, plain.export_text().splitlines()) if words}
    assert rows["alignment"] == ["0.9050", "0.9000", "0.7000"]
    assert rows["cosine"] == ["0.3000", "0.4000"]
    assert "contrast" not in rows
    text = " ".join(rows["training"])
    assert "3/3" in text
    assert "200 tok/s" in text


def test_nothing_is_cut_at_80_columns() -> None:
    """Four-digit steps, five-digit speeds, small losses: the last column is there, and .0009 does not become .00."""
    console = Console(width=80, file=io.StringIO(), record=True)
    table = LiveTable(5000, Console(file=io.StringIO(), width=80))
    metrics = {"loss": 2.7, "alignment": 0.00093, "reconstruction": 2.7, "tokens": 12345.0, "seconds": 1.0}
    held = {f"held_out_{name}": metrics[name] for name in ("loss", "alignment", "reconstruction")}
    table(Step(5000, 5000, metrics | held | {"cosine": 0.98765, "retrieval@1": 0.5}))
    console.print(table.drawing())
    shown = console.export_text()
    assert "…" not in shown
    assert "12,345 tok/s" in shown
    assert shown.count("0.00093") == 3
    assert "best, step 5000" in shown


def test_lines_where_there_is_no_terminal() -> None:
    """One at the first step and one a look at the held-out rows, no control characters."""
    out = io.StringIO()
    with LiveTable(3, Console(file=out, width=80)) as table:
        for step, metrics in enumerate(STEPS, 1):
            table(Step(step, 3, metrics))
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/3", "step 2/3", "step 3/3"]
    assert "held-out loss 2.75" in lines[2]
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("losses", [("alignment",), ("alignment", "reconstruction", "contrast")])
@pytest.mark.parametrize("held", [False, True])
def test_curves_of_the_losses_that_are_on(
    tmp_path: Path, losses: tuple[str, ...], held: bool, figures: list[Any]
) -> None:
    """A panel each, and one for the held-out rows if there are any."""
    rows: list[dict[str, float]] = []
    for step in range(1, 9):
        row = {"step": float(step), **{name: 100.0 / step**3 for name in losses}}
        rows.append(row | ({f"held_out_{losses[0]}": 2.0, "cosine": -0.1, "retrieval@1": 0.5} if held else {}))
    metrics, picture = tmp_path / "metrics.jsonl", tmp_path / "curves.png"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_curves(metrics, picture)
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    assert (width, height) == (480 * (len(losses) + held), 432)
    panels = figures[0].axes
    for panel, name in zip(panels, losses, strict=False):
        assert panel.get_title().startswith(name) and panel.get_yscale() == "log"
        assert list(panel.lines[0].get_ydata()) == [row[name] for row in rows]
    if held:
        assert [set(line.get_ydata()) for line in panels[-1].lines] == [{-0.1}, {0.5}]
        assert panels[-1].get_ylim() == (-0.1, 1) and set(panels[0].lines[-1].get_ydata()) == {2.0}


def test_every_number_of_a_run_has_its_unit(backbone: Callable[[str], Backbone], tmp_path: Path) -> None:
    """`metrics.jsonl` holds what `training.metrics` describes, all of it and nothing else."""
    train(pairs(), backbone("qwen3"), tmp_path / "run", small(steps=2, evaluate_every=1, contrast_weight=0.5))
    lines = (tmp_path / "run" / "training" / "metrics.jsonl").read_text().splitlines()
    losses = {metric.name for metric in LOSSES}
    others = {metric.name for metric in (*HELD_OUT, *COSTS)}
    found = set().union(*map(json.loads, lines)) - {"step"}
    assert found == losses | {held_out(name) for name in losses} | others
