"""Peers in threads, each with its own client of one store and real gloo edges between them."""

import threading
import time
from datetime import timedelta

import pytest
import torch

from demask.errors import TrainingError
from demask.training.federated import SGD, DFedADMM, Peer, full, gossip, grid, ring
from demask.training.federated.links import Edges, take_part
from demask.training.federated.roll import Roll, place
from tests.training.federated.quadratics import M, optimum, peers, points

METHOD = DFedADMM(2, 0.7, SGD(0.3))
PATIENCE = 120.0


@pytest.fixture
def server():
    from torch.distributed import TCPStore

    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=PATIENCE))


@pytest.fixture
def memory():
    """A store without sockets, for many edges: a TCPStore asks for the name of each caller, a name server may be slow."""
    from torch.distributed import HashStore

    store = HashStore()
    store.set_timeout(timedelta(seconds=PATIENCE))
    return store


def client(server):
    from torch.distributed import HashStore, TCPStore

    if isinstance(server, HashStore):
        return server
    return TCPStore("127.0.0.1", server.port, is_master=False, timeout=timedelta(seconds=PATIENCE))


class DeathError(Exception):
    pass


class Seat(threading.Thread):
    """A peer in a thread."""

    def __init__(self, server, peer, topology, **options):
        super().__init__(daemon=True)
        store = client(server)
        self.peer, self.topology, self.options = peer, topology, options
        self.roll = Roll(store, peer.number, topology.peers, patience=PATIENCE)
        self.edges = Edges(store, peer.number, patience=PATIENCE, host="127.0.0.1")
        self.present, self.error = {}, None
        self.dies = None

    def run(self):
        def watch(turn, present):
            self.present[turn] = present
            if turn == self.dies:
                raise DeathError

        try:
            self.done = take_part(
                self.peer, self.topology, METHOD, roll=self.roll, edges=self.edges, watch=watch, **self.options
            )
        except DeathError:
            self.edges.drop()
        except TrainingError as error:
            self.error = error
            self.roll.fail(str(error))
            self.edges.drop()


def seated(server, group, topology, **options):
    return [Seat(server, peer, topology, **options) for peer in group]


def through(seats):
    for seat in seats:
        seat.start()
    for seat in seats:
        seat.join(PATIENCE)
        assert not seat.is_alive()


@pytest.mark.parametrize(("topology", "store"), [(ring(M), "server"), (grid(M), "memory"), (full(M), "memory")])
def test_edges_do_what_the_simulation_does(topology, store, request):
    there, here = peers(), peers()
    through(seated(request.getfixturevalue(store), there, topology, rounds=12))
    turns = gossip(here, topology, METHOD, rounds=12)
    assert torch.equal(points(there), points(here))
    assert [peer.sent for peer in there] == [peer.sent for peer in here]
    assert sum(peer.sent for peer in here) == 12 * turns[0].sent


def test_a_peer_dies_and_returns_while_the_others_go_on(server):
    """Peer 3 is lost after round 10, returns with an old point, and all reach the optimum of all."""
    group = peers(4)
    seats = seated(server, group, full(4), rounds=2000)
    seats[3].dies = 10
    for seat in seats:
        seat.start()
    seats[3].join(PATIENCE)
    old = group[3].point.clone()
    while len(seats[0].present) < 40:
        time.sleep(0.005)
    assert 3 not in seats[0].present[max(seats[0].present)]
    back = Seat(server, Peer(3, group[3].objective, old, group[3].memory), full(4), rounds=2000)
    back.start()
    while not back.present:
        time.sleep(0.005)
    until = min(back.present) + 250
    while max(seats[0].present) < until:
        time.sleep(0.005)
    seats[0].roll.stop()
    for seat in [*seats[:3], back]:
        seat.join(PATIENCE)
        assert not seat.is_alive()
    assert {seat.done for seat in [*seats[:3], back]} == {back.done}  # all stop before the same round
    everyone = [seat.peer for seat in [*seats[:3], back]]
    assert float((points(everyone) - optimum(everyone)).abs().max()) < 1e-12
    counts = [len(seats[0].present[turn]) for turn in sorted(seats[0].present)]
    assert counts[:10] == [4] * 10
    assert counts[-1] == 4
    assert counts.count(3) >= 29
    assert all(seats[0].present[turn] == back.present[turn] for turn in back.present)


def test_all_can_die_and_return(server):
    group = peers(2)
    seats = seated(server, group, ring(2), rounds=30)
    seats[0].dies = seats[1].dies = 5
    through(seats)
    for seat in seats:
        seat.roll.lose(seat.peer.number, seat.roll.life)  # as the launcher does that sees it dead
    again = seated(server, group, ring(2), rounds=30)
    through(again)
    assert [seat.done for seat in again] == [30, 30]


def test_a_peer_that_was_taken_for_lost_comes_back(server):
    group = peers(3)
    seats = seated(server, group, ring(3), rounds=60)
    for seat in seats:
        seat.start()
    while len(seats[0].present) < 5:
        time.sleep(0.002)
    Roll(client(server), 0, 3).lose(1, 1)
    for seat in seats:
        seat.join(PATIENCE)
        assert not seat.is_alive()
    assert seats[1].roll.life == 2
    assert [seat.done for seat in seats] == [60, 60, 60]


def test_who_comes_too_late_finds_it_over(server):
    group = peers(2)
    through(seated(server, group, ring(2), rounds=3))
    late = Seat(server, Peer(1, group[1].objective, group[1].point), ring(2), rounds=3)
    before = group[1].point.clone()
    through([late])
    assert late.done == 0
    assert torch.equal(late.peer.point, before)


def test_a_loss_that_is_not_finite_stops_all_and_says_why(server):
    group = peers(3)
    group[1].objective = lambda point, turn, step: (float("nan") if turn == 4 else 1.0, torch.zeros_like(point))
    seats = seated(server, group, ring(3), rounds=10_000)
    through(seats)
    assert "the loss of peer 1 is nan in round 4" in str(seats[1].error)
    assert seats[0].roll.failed() == str(seats[1].error)
    assert seats[0].done == seats[2].done < 10_000


@pytest.mark.parametrize("text", ["here", "here:", ":29500", "here:port", "here:70000"])
def test_bad_places(text):
    with pytest.raises(TrainingError, match="expected HOST:PORT"):
        place(text)
