import json
import signal
import subprocess
import sys

import pytest

from demask.canvas import Canvas
from demask.loop import sample
from demask.oracles import parity
from demask.policies import read
from demask.registry import build

QUICK = ("--iterations", 2, "--prompts", 2, "--rollouts", 2)


def test_a_policy_is_trained_and_used(demask, as_json, tmp_path):
    out = tmp_path / "policy"
    result = demask("train-policy", "parity(4)", "--out", out, *QUICK)
    assert "2 iterations: " in result.stdout
    assert f"wrote {out}; sample by Learned(" in result.stdout.replace("\n", "")
    assert "iteration 1, worth" in result.stderr
    run = sample(parity(4), build(f"Learned({str(out)!r})", "sampler"), Canvas.blank(2, 4), key=0)
    assert run.status.name == "FINISHED"
    found = as_json("train-policy", "parity(4)", "--out", out, *QUICK, "--resume")
    assert (found["status"], found["iterations"], len(found["rounds"])) == ("finished", 2, 2)
    assert 0 <= found["right"] <= 1 <= found["steps"] <= 4


def test_an_expert_and_the_other_law(demask, tmp_path):
    out = tmp_path / "policy"
    demask(
        "train-policy", "shuffle(3)", "--out", out, *QUICK, "--law", "plackett_luce", "--block", 2,
        "--expert", "threshold(confidence, 0.9)", "--shown", 1, "--temperature", 0.5,
    )  # fmt: skip
    policy = read(out)
    assert policy.law == "plackett_luce"
    assert policy.about["expert"] == "threshold(confidence, 0.9)"
    assert (policy.about["recipe"]["experts"], policy.about["recipe"]["clip"]) == (1, 0.2)


def test_failures_are_one_line(refused, demask, tmp_path):
    out = tmp_path / "policy"
    assert "no oracle is called 'nothing'" in refused("train-policy", "nothing", "--out", out)
    assert "give exactly one" in refused("train-policy", "parity(4)", "--out", out, "--seconds", 3, "--iterations", 2)
    assert "a policy of law 'dice'" in refused("train-policy", "parity(4)", "--out", out, "--law", "dice")
    assert "there is no folder" in refused("train-policy", "parity(4)", "--out", tmp_path / "a" / "b")
    assert not out.exists()
    demask("train-policy", "parity(4)", "--out", out, *QUICK)
    assert "begin with it by --resume" in refused("train-policy", "parity(4)", "--out", out, *QUICK)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"mask": "0 where masked"}))
    assert "another mask convention" in refused("train-policy", "parity(4)", "--out", out, *QUICK, "--resume")


@pytest.mark.slow
def test_ctrl_c_is_a_clean_stop(tmp_path):
    out = tmp_path / "policy"
    command = [sys.executable, "-m", "demask.cli", "train-policy", "parity(4)", "--out", str(out), "--seconds", "300"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert "iteration 1," in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "wrote " in stdout
    assert "Traceback" not in stderr
    assert read(out).about["iterations"] >= 1
