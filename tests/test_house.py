import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for folder in ("nuwaxl", "tests", "examples", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if "art" not in path.parts
)
HEAVY = ("torch", "numpy", "diffusers", "transformers", "PIL", "av")
LIGHT = (
    "nuwaxl",
    "nuwaxl.tree.timeline",
    "nuwaxl.tree.storyline",
    "nuwaxl.tree.jobs",
    "nuwaxl.denoising.sampling",
    "nuwaxl.parts.sizes",
    "nuwaxl.projects.project",
    "nuwaxl.config",
    "nuwaxl.cli",
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of work: the signature and the docstring are read apart from it."""
    first, last = function.body[0], function.body[-1]
    assert first.end_lineno is not None
    assert last.end_lineno is not None
    has_docstring = ast.get_docstring(function) is not None
    return last.end_lineno - (first.end_lineno if has_docstring else first.lineno - 1)


def imported_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", LIGHT)
def test_import_is_light(module: str) -> None:
    assert not imported_by(module) & set(HEAVY)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_file_fits_in_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_functions_fit_in_60_lines(path: Path) -> None:
    tree = ast.parse(path.read_text())
    too_long = [f.name for f in functions(tree) if body_lines(f) > 60]
    assert not too_long


def test_only_config_reads_yaml() -> None:
    readers = set()
    for path in (ROOT / "nuwaxl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {name.partition(".")[0] for name in names} & {"omegaconf", "yaml"}:
                readers.add(name_of(path))
    assert readers == {"nuwaxl/config.py"}


def test_public_calls_swallow_no_unknown_arguments() -> None:
    """Except where a base class of diffusers or torch hands arguments on."""
    handed_on = {"from_pretrained", "save_pretrained", "to", "_lora_state_dict"}
    swallowing = [
        f"{name_of(path)}:{function.name}"
        for path in (ROOT / "nuwaxl").rglob("*.py")
        for function in functions(ast.parse(path.read_text()))
        if function.args.kwarg
        and not function.name.startswith("_")
        and function.name not in handed_on
    ]
    assert not swallowing


def test_every_public_name_has_a_home() -> None:
    import nuwaxl

    assert set(nuwaxl.__all__) == {*nuwaxl._HOMES, "__version__"}
    for name in nuwaxl.__all__:
        assert getattr(nuwaxl, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Pipeline'"):
        nuwaxl.Pipeline  # noqa: B018
