"""Who imports whom: no cycles, lazy imports counted, and a checkpoint loads without what only others need."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import foresay

ROOT = Path(foresay.__file__).parent


def _module(path: Path) -> str:
    parts = ["foresay", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _graph(files: dict[str, ast.Module], packages: set[str]) -> dict[str, set[str]]:
    """The modules that each one imports, anywhere in it but for its types alone."""
    graph: dict[str, set[str]] = {}
    for name, tree in files.items():
        wanted: set[str] = set()
        package = name if name in packages else name.rpartition(".")[0]
        for node in _walk(tree):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    wanted.add(inner if inner in files else base)
        graph[name] = (wanted & set(files)) - {name}
    return graph


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Every node, but for what is inside `if TYPE_CHECKING`."""
    for inner in ast.iter_child_nodes(node):
        if not (isinstance(inner, ast.If) and ast.unparse(inner.test) == "TYPE_CHECKING"):
            yield inner
            yield from _walk(inner)


def _cycle(graph: dict[str, set[str]]) -> list[str]:
    """One cycle, in order; empty if there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for wanted in sorted(graph[name]):
            if found := walk(wanted, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def test_no_cycles() -> None:
    """The package's own `__init__`, which names everything, is not part of the graph."""
    paths = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
    files = {_module(path): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    graph = _graph(files, {_module(path) for path in paths if path.name == "__init__.py"})
    assert len(graph) > 60 and "foresay.encoder" in graph["foresay.checkpoints.save"]
    assert _cycle(graph) == []


def test_a_lazy_cycle_is_found() -> None:
    """One import at the top, one inside a function, one relative; those for types alone do not count."""
    files = {
        "foresay.a": ast.parse("from . import b"),
        "foresay.b": ast.parse("def f():\n    import foresay.c.d"),
        "foresay.c": ast.parse(""),
        "foresay.c.d": ast.parse("from ..a import X"),
    }
    assert _cycle(_graph(files, {"foresay.c"})) == ["foresay.a", "foresay.b", "foresay.c.d", "foresay.a"]
    files["foresay.c.d"] = ast.parse("if TYPE_CHECKING:\n    from ..a import X")
    assert _cycle(_graph(files, {"foresay.c"})) == []


def test_a_checkpoint_loads_without_what_others_need() -> None:
    """No exporter, no PEFT, no sentence-transformers."""
    script = (
        "import sys, foresay.encoder, foresay.checkpoints.load, foresay.checkpoints.save\n"
        "print([n for n in sys.modules if n.startswith(('peft', 'sentence_transformers', 'foresay.checkpoints.export', "
        "'foresay.teachers'))])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def _imports_tests(source: str) -> list[str]:
    """The test modules that a source imports, also in a script inside one of its texts."""
    return re.findall(
        r"^\s*(?:from|import)\s+(?:\.|tests\.)(test_\w+)|^\s*from (?:\.|tests) import (test_\w+)", source, re.M
    )


def test_no_test_module_imports_another() -> None:
    """What several need is in `conftest.py` or in a module whose name says what it makes."""
    assert _imports_tests("from .test_a import run\n") and _imports_tests('S = """\nfrom tests.test_a import b\n"""')
    found = {path.name: _imports_tests(path.read_text("utf-8")) for path in Path(__file__).parent.glob("*.py")}
    assert len(found) > 60 and not {name: names for name, names in found.items() if names}
