"""The benchmark's own side runs, and its arithmetic is right; the reference itself is not needed here."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    """A script of the benchmarks as a module."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


driver, ours = load("against_reference"), load("foresay_side")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest size, prepared."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "spec.json").write_text(json.dumps(driver.SIZES["tiny"].spec()))
    ours.prepare(folder)
    return folder


@pytest.mark.parametrize("task", ["train", "encode", "decode"])
def test_our_side_runs(folder: Path, task: str) -> None:
    """Each task gives seconds and a peak."""
    result = ours.run(task, folder, texts=2, tokens=5)
    assert result["seconds"] > 0 and result["wall_seconds"] > 0 and result["peak_bytes"] > 1 << 20
    assert result["count"] == (2 if task == "decode" else 1)


def test_our_side_can_be_compared(folder: Path) -> None:
    """The figures of the comparison are finite, repeatable, and agree with themselves only."""
    first, second = ours.run("check", folder), ours.run("check", folder)
    assert all(math.isfinite(value) for value in (first["reconstruction"], *first["gradient"], *first["embeddings"]))
    assert max(driver.check_agreement(first, second).values()) <= driver.AGREEMENT
    with pytest.raises(click.ClickException, match="differ in reconstruction by"):
        driver.check_agreement(first, {**second, "reconstruction": second["reconstruction"] * 1.001})
    with pytest.raises(click.ClickException, match="differ in decoded by inf"):
        driver.check_agreement(first, {**second, "decoded": second["decoded"][:-1]})


def test_rows_keep_their_bounds() -> None:
    """Lengths stay inside the bounds and reach the upper one; responses end with the end token."""
    size = driver.SIZES["cpu"]
    spec = size.spec()
    for name, (low, high) in (("queries", size.query_tokens), ("responses", size.response_tokens)):
        lengths = [len(row) for row in spec[name]]
        assert min(lengths) >= low and max(lengths) == high
    assert all(row[-1] == spec["end_id"] and spec["end_id"] not in row[:-1] for row in spec["responses"])
    assert size.spec() == spec


def result(seconds: float, peak: float, count: int = 1) -> dict[str, Any]:
    """One side's result."""
    return {"seconds": seconds, "wall_seconds": 2 * seconds, "peak_bytes": peak, "count": count, "threads": 1}


def summary(*rounds: tuple[dict[str, Any], dict[str, Any]]) -> Any:  # noqa: ANN401
    """The summary of some rounds."""
    return driver.summarise(driver.Measure("name", "Title", (), (), len(rounds)), list(rounds))


def test_ratios_are_of_pairs() -> None:
    """The median of the rounds' ratios, not the ratio of medians; seconds are those of one text."""
    row = summary(
        (result(10, 8), result(4, 2, count=4)), (result(30, 8), result(6, 4, count=4)), (result(12, 8), result(8, 4, 4))
    )
    assert row["ratio"] == {"seconds": 10, "wall_seconds": 10, "peak_bytes": 2}
    assert row["ratio_range"]["seconds"] == [6, 20]
    assert (row["reference"]["seconds"], row["foresay"]["seconds"]) == (12, 1.5)
    assert row["foresay"]["seconds_range"] == [1, 2]


def test_a_claim_takes_what_is_best_for_the_reference() -> None:
    """Time is judged by its faster variant, memory by its smaller one."""
    rows = {"fast": summary((result(4, 90), result(1, 10))), "small": summary((result(6, 15), result(1, 10)))}
    time = driver.judge(driver.Claim("", "seconds", ("fast", "small"), 3, 5), rows)
    memory = driver.judge(driver.Claim("", "peak_bytes", ("fast", "small"), 2, 2), rows)
    assert (time["ratio"], time["met"]) == (4, True)
    assert (memory["ratio"], memory["met"]) == (1.5, False)


def test_table_and_plot(tmp_path: Path) -> None:
    """The table names every claim and measure, and the plot is drawn."""
    size = driver.SIZES["tiny"]
    rows = {measure.name: summary((result(4, 9e9), result(1, 1e9))) for measure in driver.measures(size)}
    whole = {
        "hardware": "a processor",
        "versions": {"reference": {"torch": "1"}, "foresay": {"torch": "2"}},
        "size": driver.asdict(size),
        "parameters": driver.parameters(size.spec()["model"]),
        "tokens": {"queries": 1, "responses": 2, "texts": 3},
        "agreement": {"gradient": 1e-7},
        "measures": rows,
        "claims": [driver.judge(claim, rows) for claim in driver.CLAIMS],
    }
    table = driver.markdown(whole)
    assert all(claim.title in table for claim in driver.CLAIMS)
    assert table.count("| Title |") == len(rows)
    assert "**4.0** (4.0–4.0) | ≥ 3: met | ≥ 5 |" in table and "≥ 10: **missed**" in table
    driver.draw(whole, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
