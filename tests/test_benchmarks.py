"""The programs that time the published loops run, and at temperature 0 both sides write the same tokens."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.slow


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "each"), [(["peers.py", "--quick"], 1), (["gpu.py", "--tiny", "--device", "cpu"], 2)]
)
def test_side_by_side(arguments, each):
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line.startswith("|")
    ]
    body = rows[2:]
    assert len(body) == 4 * 2 * 2 * each
    assert all(len(row) == len(rows[0]) for row in rows)
    greedy = [row[-1] for row in body if row[2] == "0" and row[-1]]
    assert greedy == ["100.0%"] * 8


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would run")
def test_without_a_device_it_says_so():
    done = run("gpu.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no CUDA device here" in done.stderr
    done = run("gpu.py", "--device", "cpu")
    assert done.returncode == 2
    assert "write --tiny --device cpu" in done.stderr


FULL = """
import sys, torch, gpu
from dataclasses import replace
def full(*_, **__):
    raise torch.OutOfMemoryError("full")
gpu.PAIRS = (replace(gpu.PAIRS[0], loop=full),)
sys.argv = ["gpu.py", "--tiny", "--device", "cpu"]
sys.exit(gpu.main())
"""


def test_a_side_that_needs_more_memory_than_there_is_says_so_and_the_other_goes_on():
    done = run("-c", FULL)
    assert done.returncode == 0, done.stderr
    body = [line.split("|")[5:-1] for line in done.stdout.splitlines() if line.startswith("| LLaDA")]
    assert [(row[0].strip(), row[1].strip() == "out of memory") for row in body] == [
        ("published", True), ("here", False),
    ] * 4  # fmt: skip
