"""The package itself: its public names are complete, and importing it is light."""

import ast
import subprocess
import sys
from pathlib import Path

import foresay
from foresay.cli.main import main

PACKAGE = Path(foresay.__file__).parent
NOT_VERBS = {"whiten-index", "decode", "encode", "lens", "quickstart", "teacher", "index", "search"}
"""Commands whose Python side is a method of `Encoder` or `Index`, or has another name."""


def test_every_public_name_loads_and_is_declared() -> None:
    """`__all__`, what loads lazily, and what type checkers see are the same names."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    declared = {name.asname for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert declared | {"__version__"} == set(foresay.__all__)
    for name in foresay.__all__:
        assert getattr(foresay, name) is not None
    assert set(foresay.__all__) <= set(dir(foresay))


def test_every_command_is_a_function_of_the_same_name() -> None:
    """A verb is a command and a function at the top of the package."""
    verbs = {name.replace("-", "_") for name in main.commands if name not in NOT_VERBS}
    assert verbs <= set(foresay.__all__)
    for verb in verbs:
        assert callable(getattr(foresay, verb)), verb


def test_import_is_light() -> None:
    """`import foresay` brings in nothing but the standard library."""
    code = (
        "import sys; before = set(sys.modules); import foresay; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["foresay"]
