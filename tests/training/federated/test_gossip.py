import pytest
import torch

from demask.errors import TrainingError
from demask.training.federated import SGD, DFedADMM, DFedAvg, Peer, apart, full, gossip, mean, mixed, ring
from tests.training.federated.quadratics import D, M, fixed, optimum, peers, points

METHOD = DFedADMM(3, 0.7, SGD(0.3))


def test_mixing_keeps_the_mean():
    messages = {i: torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(M)}
    weights = ring(M).weights()
    heard = [mixed(i, weights, {j: messages[j] for j in ((i - 1) % M, i, (i + 1) % M)}) for i in range(M)]
    assert torch.allclose(mean(heard), mean([*messages.values()]), atol=1e-14)
    assert apart(heard) < apart([*messages.values()]) * (1 - ring(M).gap) + 1e-12


def test_who_is_not_heard_leaves_its_weight():
    weights, messages = full(3).weights(), {0: torch.tensor([3.0]), 1: torch.tensor([9.0])}
    assert float(mixed(0, weights, messages)) == pytest.approx(3 * 2 / 3 + 9 / 3)


def test_bytes_are_counted():
    turns = gossip(peers(), ring(M), METHOD, rounds=2)
    assert [turn.sent for turn in turns] == [2 * M * D * 8] * 2
    alone = gossip(peers(), ring(M), METHOD, rounds=1, away=lambda turn: {0, 2})
    assert (alone[0].sent, alone[0].parts) == (2 * 4 * D * 8, 2)


@pytest.mark.parametrize("gone", [range(10, 30), range(50)])
def test_a_peer_that_is_away_for_a_while_changes_no_limit(gone):
    """Whoever returns with an old point and an old dual ends where the others do."""
    group = peers()
    turns = gossip(group, full(M), METHOD, rounds=200, away=lambda turn: {3, 5} if turn in gone else ())
    assert float((points(group) - optimum(group)).abs().max()) < 1e-12
    assert [len(turn.present) for turn in turns].count(M - 2) == len(gone)
    group, topology = peers(), ring(M)
    gossip(group, topology, METHOD, rounds=200, away=lambda turn: {0} if turn in gone else ())
    wanted = fixed(group, topology.weights(), topology.weights(), 0.7)
    assert float((points(group) - wanted).abs().max()) < 1e-12


def test_those_who_stay_reach_their_own_optimum():
    group = peers()
    gossip(group, full(M), METHOD, rounds=150, away=lambda turn: {7})
    assert torch.equal(group[7].point, torch.zeros(D, dtype=torch.float64))
    assert float((points(group[:7]) - optimum(group[:7])).abs().max()) < 1e-12


def test_going_on_is_the_same():
    whole, cut = peers(), peers()
    gossip(whole, ring(M), METHOD, rounds=9)
    gossip(cut, ring(M), METHOD, rounds=4)
    gossip(cut, ring(M), METHOD, rounds=9, first=4)
    assert torch.equal(points(whole), points(cut))


def test_watching_ends_it():
    assert len(gossip(peers(), ring(M), METHOD, rounds=9, watch=lambda turn: turn.turn == 3)) == 3


def test_losses_that_are_not_finite():
    group = peers()
    before = points(group)
    group[2].objective = lambda point, turn, step: (float("nan") if step else 1.0, torch.zeros(D, dtype=torch.float64))
    with pytest.raises(TrainingError, match=r"the loss of peer 2 is nan in round 0, local step 1; lower the rate"):
        gossip(group, ring(M), METHOD, rounds=3)
    assert torch.equal(points(group), before)
    with pytest.raises(TrainingError, match=r"loss of peer \d is (inf|nan)|not finite"):
        gossip(peers(), ring(M), DFedAvg(5, SGD(1e3)), rounds=1000)
    endless = Peer(0, lambda point, turn, step: (0.0, torch.full((1,), torch.inf)), torch.zeros(1))
    with pytest.raises(TrainingError, match="peer 0 would send numbers that are not finite"):
        gossip([endless], full(1), METHOD, rounds=1)


def test_bad_groups():
    with pytest.raises(TrainingError, match="7 peers for a topology of 8"):
        gossip(peers(7), ring(8), METHOD, rounds=1)
    with pytest.raises(TrainingError, match="no peer is there in round 0"):
        gossip(peers(2), ring(2), METHOD, rounds=1, away=lambda turn: {0, 1})
