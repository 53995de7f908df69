"""What only a real process shows."""

import os
import subprocess
import sys

import pytest

LIGHT = """
import sys
sys.argv = ["demask", *{args}]
from demask.cli import main
try:
    main()
except SystemExit as end:
    heavy = sorted({{"torch", "numpy", "scipy", "matplotlib"}} & set(sys.modules))
    sys.exit(f"loaded: {{heavy}}" if heavy or end.code else 0)
"""


def spent():
    """CPU seconds of the processes that have ended; what a clock shows depends on who else is busy."""
    times = os.times()
    return times.children_user + times.children_system


@pytest.mark.parametrize(
    "args", [[], ["--help"], ["sample", "--help"], ["schedule", "-h"], ["compare", "--help"], ["--version"]]
)
def test_help_loads_nothing_heavy(args):
    began = spent()
    result = subprocess.run([sys.executable, "-c", LIGHT.format(args=args)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout
    assert result.stderr == ""
    assert spent() - began < 5


def test_a_pipe_that_nobody_reads_is_quiet(english):
    command = [sys.executable, "-m", "demask.cli", "sample", "--text", str(english), "--length", "64", "--steps", "2"]
    with subprocess.Popen(
        [*command, "--rows", "1500"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "--- 1 of 1500\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        process.wait(60)


def test_errors_and_json_of_a_process(english):
    base = [sys.executable, "-m", "demask.cli"]
    bad = subprocess.run([*base, "schedule", "--length", "0"], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "demask: --length 0: expected 1 or more\n"
