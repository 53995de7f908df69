"""Peers as Ray actors: the simulation bit for bit, an actor killed in the middle, and what cannot work."""

from dataclasses import replace

import pytest

from demask.errors import TrainingError
from demask.training import Status
from demask.training.federated import SGD, DFedAvg
from demask.training.federated.actors import Actors, _Driver, federate_actors
from tests.training.federated.test_federate import RECIPE, equal, run, weights
from tests.training.federated.test_processes import data, federation

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    from demask.batch.cluster import joined

    with joined("local") as module:
        yield module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of ray's own
def test_actors_write_what_the_simulation_writes(tmp_path, cluster):
    seen = []
    trained = federate_actors(federation(tmp_path / "there"), data(), way=Actors(), watch=seen.append)
    here = run(tmp_path / "here")
    assert (trained.status, trained.gradients, trained.sent) == (Status.FINISHED, here.gradients, here.sent)
    assert equal(weights(trained), weights(here))
    assert [moment.turn.sent for moment in seen] == [here.sent // 6] * 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_actor_that_is_killed_returns(tmp_path, cluster):
    present = []

    def watch(moment):
        present.append(moment.turn.present)
        if moment.turn.turn == 3:
            cluster.kill(driver.actors[1])

    made = federation(tmp_path / "model", replace(RECIPE, rounds=9))
    made.open(resume=False)
    driver = _Driver(cluster, made, data(), Actors(), watch)
    trained = driver.run(resume=False)
    assert present == [(0, 1, 2)] * 3 + [(0, 2)] + [(0, 1, 2)] * 5
    assert trained.status is Status.FINISHED
    kept = [made.states.load(number, 9, None) for number in range(3)]
    assert [peer.gradients for peer in kept] == [18, 14, 18]  # it went on from the state after round 2
    resumed = federate_actors(
        federation(tmp_path / "model", replace(RECIPE, rounds=9)), data(), way=Actors(), resume=True
    )
    assert resumed.turns == 9


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_work(tmp_path, cluster):
    with pytest.raises(TrainingError, match="data of 2 peers for a topology of 3"):
        federate_actors(federation(tmp_path / "m"), data(2), way=Actors())
    recipe = replace(RECIPE, method=DFedAvg(2, SGD(1e30)), clip=1e30, rounds=20)
    with pytest.raises(TrainingError, match=r"peer \d .*lower the rate"):
        federate_actors(federation(tmp_path / "m", recipe), data(), way=Actors())


def test_bad_numbers():
    with pytest.raises(TrainingError, match="restarts -1"):
        Actors(restarts=-1)
