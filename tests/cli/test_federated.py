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

# States are saved every 20 rounds: after the first of them there are ten rounds in which to stop.
SAVED, ROUNDS, PEERS, STEPS = 20, 30, 3, 2
SHARED = (
    "--context", 8, "--rounds", ROUNDS, "--batch", 1, "--vocabulary", 260, "--peers", PEERS, "--method",
    f"dfedadmm({STEPS})",
)  # fmt: skip
PATIENCE = 600  # seconds; a busy machine is no fault


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts")
    for i in range(12):
        (path / f"{i}.txt").write_text(f"the {i} cats sat on the mat, and {i + 1} dogs looked on.\n" * 2)
    return path


@pytest.fixture(scope="module")
def whole(texts, tmp_path_factory):
    """The weights that all rounds give, in one process and without a stop."""
    out = tmp_path_factory.mktemp("whole") / "model"
    with started(texts, out, "here") as running:
        _, stderr = running.communicate(timeout=PATIENCE)
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


def interrupted(running, when):
    """What it says after a terminal's Ctrl-C, which reaches the whole group, children included."""
    end = time.monotonic() + PATIENCE
    while not when():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)
    os.killpg(running.pid, signal.SIGINT)
    stdout, stderr = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130, stderr
    assert "Traceback" not in stderr
    return stdout, stderr


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["here", "processes", "ray"])
def test_ctrl_c_then_resume_is_as_if_nothing_had_been(texts, whole, tmp_path, transport):
    if transport == "ray":
        pytest.importorskip("ray")
    out = tmp_path / "model"
    with started(texts, out, transport) as running:
        stdout, _ = interrupted(running, lambda: len(list(out.glob(f"peers/*-{SAVED}.safetensors"))) == PEERS)
    told = json.loads(stdout)
    assert told["status"] == "interrupted"
    assert SAVED <= told["rounds"] < ROUNDS
    assert folder.read(out).about["rounds"] == told["rounds"]
    with started(texts, out, transport, "--resume") as running:
        stdout, stderr = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, stderr
    told = json.loads(stdout)
    assert (told["status"], told["rounds"], told["gradients"]) == ("finished", ROUNDS, ROUNDS * STEPS * PEERS)
    assert equal(folder.read(out).denoiser.network.state_dict(), whole)
