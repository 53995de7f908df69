"""Peers as processes: the folder of the simulation bit for bit, a SIGKILL in the middle, Ctrl-C, and what cannot work."""

import os
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch

from demask.denoisers import folder
from demask.denoisers.transformer import Network
from demask.errors import TrainingError
from demask.training import Status
from demask.training.federated import DFedAvg, Federation, ring
from demask.training.federated.descent import SGD
from demask.training.federated.processes import Processes, _Launch, federate_processes
from tests.training.federated.test_federate import ORACLE, RECIPE, SHAPE, equal, run, weights
from tests.training.language import Drawn, held, skewed, tokenizer

LONG = replace(RECIPE, rounds=100_000, save_every=5)


def federation(out, recipe=RECIPE, topology=None):
    return Federation(Network(SHAPE, key=0), held(ORACLE), tokenizer(3), out, recipe, topology or ring(3))


def data(peers=3):
    return {number: Drawn(skewed(4, 3, key=number)) for number in range(peers)}


@pytest.mark.slow
def test_processes_write_what_the_simulation_writes(tmp_path):
    trained = federate_processes(federation(tmp_path / "there"), data(), way=Processes())
    here = run(tmp_path / "here")
    assert (trained.status, trained.gradients, trained.sent) == (Status.FINISHED, here.gradients, here.sent)
    assert equal(weights(trained), weights(here))
    assert equal(folder.read(tmp_path / "there").denoiser.network.state_dict(), weights(here))


@pytest.mark.slow
def test_a_killed_peer_returns_while_the_others_go_on(tmp_path):
    """SIGKILL for peer 1; the rounds of the others do not stop, and it comes back from its last state."""
    made = federation(tmp_path / "model", LONG)
    made.open(resume=False)
    launch = _Launch(made, data(), Processes(), lambda moment: None)
    ended = []
    thread = threading.Thread(target=lambda: ended.append(launch.run(resume=False)), daemon=True)
    thread.start()
    turns = made.states.turns
    until(lambda: turns(1) and turns(1)[-1] >= 10)
    first = launch.children[1]
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: launch.children[1] is not first)
    killed = turns(1)[-1]
    until(lambda: turns(0)[-1] > killed + 10)
    until(lambda: turns(1)[-1] > turns(0)[0] > killed)
    launch.roll.stop()
    thread.join(600)
    (trained,) = ended
    assert trained.status is Status.INTERRUPTED
    last = {number: turns(number)[-1] for number in range(3)}
    assert set(last.values()) == {trained.turns}
    assert launch.restarted == {0: 0, 1: 1, 2: 0}
    point = [made.states.load(number, trained.turns, None) for number in range(3)]
    assert point[1].gradients < point[0].gradients == 2 * trained.turns
    goes_on = federation(tmp_path / "model", LONG)
    again = _Launch(goes_on, data(), Processes(), lambda moment: again.roll.stop())
    assert again.run(resume=True).turns > trained.turns


@pytest.mark.slow
def test_ctrl_c_while_the_peers_are_starting(tmp_path, capfd):
    """A terminal interrupts them too, before they can ignore it; resumed, the run is as if nothing had been."""
    made = federation(tmp_path / "there")
    made.open(resume=False)
    launch = _Launch(made, data(), Processes(), lambda moment: None)

    def interrupt():
        until(lambda: len(launch.children) == 3 and launch.children[2].pid)
        for process in (*(child.pid for child in launch.children.values()), os.getpid()):
            os.kill(process, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    trained = launch.run(resume=False)
    thread.join()
    assert trained.status is Status.INTERRUPTED
    assert [child.exitcode for child in launch.children.values()] == [0, 0, 0]
    assert [made.states.turns(number)[-1] for number in range(3)] == [trained.turns] * 3
    assert "Traceback" not in capfd.readouterr().err
    rest = federate_processes(federation(tmp_path / "there"), data(), way=Processes(), resume=True)
    assert rest.status is Status.FINISHED
    assert equal(weights(rest), weights(run(tmp_path / "here")))


def until(true, seconds=600):  # a busy machine is no fault
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_at_one_peer(tmp_path):
    recipe = replace(RECIPE, rounds=1000, method=DFedAvg(2, SGD(1e30)), clip=1e30)
    with pytest.raises(TrainingError, match=r"peer \d .*lower the rate"):
        federate_processes(federation(tmp_path / "model", recipe), data(), way=Processes())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"meet": "here"}, "expected HOST:PORT"),
        ({"here": (1, 1), "meet": "a:1"}, "different peers"),
        ({"here": (1, 2)}, "need a place to meet"),
        ({"patience": 0.0}, "patience 0"),
        ({"restarts": -1}, "restarts -1"),
    ],
)
def test_bad_ways(change, words):
    with pytest.raises(TrainingError, match=words):
        Processes(**change)


def test_bad_seats(tmp_path):
    with pytest.raises(TrainingError, match=r"data of peer 7 for a topology of 3"):
        federate_processes(federation(tmp_path / "m"), {7: Drawn(ORACLE)}, way=Processes())
    with pytest.raises(TrainingError, match=r"peer 1 has rows of 5"):
        federate_processes(federation(tmp_path / "m"), {1: Drawn(skewed(5, 3))}, way=Processes())
    assert not (tmp_path / "m").exists()
    assert torch.distributed.is_available()
