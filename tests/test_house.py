"""The rules of the house: who may import whom, how long a file may be, what `import demask` costs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "demask"
# Each may import only those above it.
LAYERS = [
    "errors", "files", "once", "few", "masks", "inverse", "reductions", "tokenizer", "canvas", "curve",
    "contracts", "chance", "rows", "schedules", "orders", "verifiers", "loop", "collect", "samplers", "oracles",
    "denoisers", "policies", "information", "training", "recommend", "registry", "generate", "batch", "testing",
    "plots", "panels", "report", "interop", "serve", "cli",
]  # fmt: skip
FILES = sorted(SOURCE.rglob("*.py"))


def layer(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_downwards(path):
    mine = layer(path)
    if mine in ("__init__", "__main__"):
        return
    assert mine in LAYERS, f"{mine} has no place in the house"
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("demask"):
            modules = [node.module]
            if node.module == "demask":
                modules = [f"demask.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names if alias.name.startswith("demask.")]
        for module in modules:
            theirs = module.split(".")[1] if "." in module else None
            if theirs in LAYERS and theirs != mine:
                assert LAYERS.index(theirs) < LAYERS.index(mine), f"{path.name} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_file_above_500_lines(path):
    assert len(path.read_text().splitlines()) <= 500


def modules_after(statement):
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_is_light():
    """`import demask` loads nothing heavy; using it loads torch, but no extra and no plotting."""
    heavy = {"torch", "numpy", "scipy", "matplotlib", "typer", "rich", "transformers"}
    assert not modules_after("import demask") & heavy
    used = modules_after("import demask; demask.minimax; demask.Parallel; demask.sample; demask.Random")
    assert "torch" in used
    assert not used & {"matplotlib", "typer", "rich", "transformers", "fastapi", "ray"}
    assert "scipy.optimize" not in used


def test_import_time():
    """Importing everything the README uses adds under 0.2 s to importing torch: CPU seconds, the least of five.

    With bytecode, which every installation keeps; where the surroundings forbid to write it, each run would compile it anew.
    """
    code = (
        "import torch, time, numpy; begin = time.process_time()\n"
        "from demask import Canvas, Parallel, Random, minimax, sample\nprint(time.process_time() - begin)"
    )
    seconds, surroundings = [], {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    while not seconds or (min(seconds) >= 0.2 and len(seconds) < 5):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=surroundings
        )
        seconds.append(float(done.stdout))
    assert min(seconds) < 0.2


def test_public_names_exist():
    import demask

    for name in demask.__all__:
        assert getattr(demask, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        demask.nothing  # noqa: B018
    assert callable(demask.sample)
