"""Every benchmark runs at a tiny size, and its arithmetic is right; the reference itself is not needed here."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import against_reference as driver
import fit_cost
import foresay_side as ours
import gpu
import scaling
import teacher_speed
import timing
import workbench
from reference_report import draw, markdown

# -- against the reference -----------------------------------------------------------------------------------


def stand_in(_: str, __: str, folder: Path, arguments: tuple[str, ...]) -> dict[str, Any]:
    """Our own side, in this process, in the place of both."""
    task, *options = (part for part in arguments if part not in ("--teacher", "--checkpointing"))
    return ours.run([task, str(folder), *options])


def test_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: list[Any]) -> None:
    """Both sides are checked, each task runs once a round, and the table and the picture have every claim."""
    calls = []

    def run_side(*side: Any) -> dict[str, Any]:  # noqa: ANN401
        calls.append(side[1:2] + side[3:])
        return stand_in(*side)

    monkeypatch.setattr(driver, "run_side", run_side)
    said: list[str] = []
    results: list[dict[str, Any]] = []
    driver.measure_all(driver.SIZES["tiny"], "python", tmp_path, said.append, results.append)
    assert len(calls) == len(set(calls)) == 3 + 5 + 4
    (result,) = results
    assert max(result["agreement"].values()) <= driver.AGREEMENT
    for measure in result["measures"].values():
        for side in ("reference", "foresay"):
            assert measure[side]["seconds"] > 0 and measure[side]["peak_bytes"] > 1 << 20
    table = markdown(result)
    assert all(f"| {claim.title} |" in table for claim in driver.CLAIMS)
    assert all(measure.title in table for measure in driver.measures(driver.SIZES["tiny"]))
    draw(result, tmp_path / "plot.png")
    (axes,) = figures[0].axes
    assert [bar.get_width() for bar in axes.patches] == [claim["ratio"] for claim in result["claims"][::-1]]
    assert [label.get_text() for label in axes.get_yticklabels()] == [claim.title for claim in driver.CLAIMS[::-1]]


def test_other_work_is_refused() -> None:
    """Sides that differ by more than rounding are not compared."""
    first = {"alignment": 1.0, "reconstruction": 5.0, "gradient": [1.0, -2.0], "embeddings": [3.0], "decoded": [4, 5]}
    assert max(driver.check_agreement(first, dict(first)).values()) == 0
    with pytest.raises(click.ClickException, match="differ in reconstruction by"):
        driver.check_agreement(first, {**first, "reconstruction": 5.005})
    with pytest.raises(click.ClickException, match="differ in decoded by inf"):
        driver.check_agreement(first, {**first, "decoded": [4]})


def test_rows_keep_their_bounds() -> None:
    """Lengths stay inside the bounds and reach the upper one; responses end with the end token."""
    size = driver.SIZES["cpu"]
    spec = size.spec()
    for name, (low, high) in (("queries", size.query_tokens), ("responses", size.response_tokens)):
        lengths = [len(row) for row in spec[name]]
        assert min(lengths) >= low and max(lengths) == high
    assert all(row[-1] == spec["end_id"] and spec["end_id"] not in row[:-1] for row in spec["responses"])
    assert size.spec() == spec


def measured(seconds: float, peak: float) -> dict[str, float]:
    """One side's result."""
    return {"seconds": seconds, "wall_seconds": 2 * seconds, "peak_bytes": peak}


def test_ratios_are_of_rounds() -> None:
    """The median of the rounds' ratios, not the ratio of medians; a claim is judged by it."""
    pairs = [(measured(10, 8), measured(1, 2)), (measured(30, 8), measured(1.5, 4)), (measured(12, 8), measured(2, 4))]
    row = driver.summarise(driver.Measure("name", "Title", (), (), len(pairs)), pairs)
    assert row["ratio"] == {"seconds": 10, "wall_seconds": 10, "peak_bytes": 2}
    assert row["ratio_range"]["seconds"] == [6, 20]
    assert (row["reference"]["seconds"], row["foresay"]["seconds"]) == (12, 1.5)
    assert row["foresay"]["seconds_range"] == [1, 2]
    assert driver.judge(driver.Claim("", "seconds", "name", 10), {"name": row})["met"]
    assert not driver.judge(driver.Claim("", "peak_bytes", "name", 2.1), {"name": row})["met"]


# -- what they share -----------------------------------------------------------------------------------------


def test_the_peak_is_of_the_own_process() -> None:
    """A small process that a large one starts has a small peak; and one that grew has a larger one."""
    script = "import sys, types; sys.modules['torch'] = types.ModuleType('torch')\n"  # its import is slow and large
    script += f"sys.path.insert(0, {str(Path(timing.__file__).parent)!r}); import timing\n"
    script += "print(timing.peak_bytes()); held = b'1' * 100_000_000; print(timing.peak_bytes())"
    ballast = b"1" * 300_000_000
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, behind = map(int, done.stdout.split())
    assert before < 100_000_000 and behind >= before + 90_000_000
    assert timing.peak_bytes() > len(ballast)


def test_a_line_through_points() -> None:
    """Slope, start and the share it explains."""
    line = workbench.Line.through([1, 2, 3], [5, 7, 9])
    assert (line.slope, line.start, line.r2) == pytest.approx((2, 3, 1))
    assert workbench.Line.through([1, 2, 3], [1, 0, 1]).r2 == pytest.approx(0)


def run(command: click.Command, *arguments: str) -> str:
    """What a script prints."""
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


# -- the other scripts ---------------------------------------------------------------------------------------


def test_gpu_arithmetic(tmp_path: Path) -> None:
    """PyTorch counts what the formulas say, and the table has every shape."""
    run(gpu.main, "--dry", "-o", str(tmp_path))
    table = (tmp_path / "gpu_dry.md").read_text()
    assert all(f"| {name} |" in table for name in gpu.SHAPES)
    assert "training step 1.000, encoding 1.000" in table


def test_gpu_measures(tmp_path: Path) -> None:
    """The whole script, on a tiny model and the CPU."""
    printed = run(gpu.main, "--tiny", "--rounds", "1", "-o", str(tmp_path))
    result = json.loads((tmp_path / "gpu.json").read_text())
    rows = result["measured"]["tiny"]
    assert len(rows) == 4 and all(row["utilisation"] > 0 for row in rows)  # of a CPU's slow bfloat16 it may be above 1
    assert printed.strip() == (tmp_path / "gpu.md").read_text().strip()


def test_scaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: list[Any]) -> None:
    """Every curve has its points and a line, and is drawn. Processes of their own would take most of the time."""

    def here(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, stdout=run(scaling.main, *command[2:]))

    monkeypatch.setattr(subprocess, "run", here)
    run(scaling.main, "--size", "tiny", "--shape", "tiny", "-o", str(tmp_path))
    result = json.loads((tmp_path / "scaling.json").read_text())
    for curve in result["curves"]:
        assert len(curve["at"]) == len(curve["values"]) > 1 and min(curve["values"]) > 0
        assert math.isfinite(curve["line"]["slope"])
    table = (tmp_path / "scaling.md").read_text()
    assert all(curve.title in table for curve in scaling.SIZES["tiny"].curves())
    for axes, curve in zip(figures[0].axes, result["curves"], strict=True):
        assert axes.get_title(loc="left") == curve["title"]
        assert {(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axes.lines} >= {
            (tuple(curve["at"]), tuple(curve["values"]))
        }


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT 0.21 asks for it
def test_teacher_speed(tmp_path: Path) -> None:
    """Both sides do the same work, so their losses agree."""
    run(teacher_speed.main, "--size", "tiny", "-o", str(tmp_path))
    result = json.loads((tmp_path / "teacher_speed.json").read_text())
    assert [row["stage"] for row in result["training"]] == ["stage 1"] * 2 + ["stage 2"] * 2
    for row in result["training"]:
        assert row["losses"][0] > 0.01
        assert row["losses"][0] == pytest.approx(row["losses"][1], rel=0.01) and row["throughput"] > 0
    assert all(row["seconds_ratio"] > 0 for row in result["encoding"])
    table = (tmp_path / "teacher_speed.md").read_text()
    assert "| stage 1 |" in table and "| stage 2 |" in table and "| adapter merged |" in table


# -- fit beside the published steps --------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [300, 5000])
def test_steps_that_did_not_run_are_computed(steps: int) -> None:
    """Five thousand steps at the price of the median one; in a row of their own only where fewer ran."""
    clock = fit_cost.Clock()
    clock.seconds = [0.1, 0.5, 9.0]
    rows = [{"step": steps, "cosine": 0.5, "retrieval@1": 0.25}]
    text = fit_cost.costs(25.0, {"cosine": 0.6, "retrieval@1": 0.5}, clock, rows)
    assert f"| published recipe, {steps:,} steps | {steps * 0.5:.0f} | 0.500 | 0.250 |" in text
    assert ("5,000 steps, computed | 2500 |" in text) is (steps < 5000)
    assert "5,000 cost 100 times as much as `fit`" in text
