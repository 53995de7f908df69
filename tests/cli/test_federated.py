"""`demask train --peers` as a user has it: Ctrl-C from a terminal, and going on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from demask.denoisers import folder
from tests.training.federated.test_federate import equal

SHARED = ("--context", 16, "--rounds", 45, "--batch", 2, "--vocabulary", 280, "--peers", 3, "--method", "dfedadmm(2)")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts")
    for i in range(12):
        (path / f"{i}.txt").write_text(f"the {i} cats sat on the mat, and {i + 1} dogs looked on.\n" * 8)
    return path


@pytest.fixture(scope="module")
def whole(texts, tmp_path_factory):
    """The weights that all 45 rounds give, in one process and without a stop."""
    out = tmp_path_factory.mktemp("whole") / "model"
    with started(texts, out, "here") as running:
        _, stderr = running.communicate(timeout=300)
    assert running.returncode == 0, stderr
    return folder.read(out).denoiser.network.state_dict()


def started(texts, out, transport, *more):
    args = map(str, (texts, "--out", out, *SHARED, "--transport", transport, "--json", *more))
    return subprocess.Popen(
        [sys.executable, "-m", "demask.cli", "train", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["here", "processes", "ray"])
def test_ctrl_c_then_resume_is_as_if_nothing_had_been(texts, whole, tmp_path, transport):
    """A terminal interrupts the whole group, children included."""
    if transport == "ray":
        pytest.importorskip("ray")
    out = tmp_path / "model"
    with started(texts, out, transport) as running:
        while len(list(out.glob("peers/*-20.safetensors"))) < 3:
            assert running.poll() is None, running.communicate()
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGINT)
        stdout, stderr = running.communicate(timeout=240)
    assert running.returncode == 130, stderr
    assert "Traceback" not in stderr
    told = json.loads(stdout)
    assert told["status"] == "interrupted"
    assert 20 <= told["rounds"] < 45
    assert folder.read(out).about["rounds"] == told["rounds"]
    with started(texts, out, transport, "--resume") as running:
        stdout, stderr = running.communicate(timeout=240)
    assert running.returncode == 0, stderr
    told = json.loads(stdout)
    assert (told["status"], told["rounds"], told["gradients"]) == ("finished", 45, 45 * 2 * 3)
    assert equal(folder.read(out).denoiser.network.state_dict(), whole)
