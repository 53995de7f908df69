"""Methods on heterogeneous quadratics, where every claim about a limit is a linear system."""

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch

from demask.errors import TrainingError
from demask.registry import build
from demask.training.federated import (
    DPSGD,
    SGD,
    Adam,
    DFedADMM,
    DFedAvg,
    Peer,
    apart,
    dfedadmm_sam,
    dfedavgm,
    dfedsam,
    full,
    gossip,
    ring,
)
from tests.training.federated.quadratics import M, fixed, optimum, peers, points

EYE = torch.eye(M, dtype=torch.float64)


def run(method, topology, rounds, **options):
    group = peers()
    gossip(group, topology, method, rounds=rounds, **options)
    return group


def furthest(found, wanted):
    return float((found - wanted).abs().max())


@pytest.mark.parametrize("reach", [0.3, 1.0])
def test_a_full_topology_reaches_the_global_optimum(reach):
    group = run(DFedADMM(4, reach, SGD(0.2)), full(M), 180)
    assert furthest(points(group), optimum(group)) < 1e-12
    duals = torch.stack([peer.memory["dual"] for peer in group])
    gradients = torch.stack([peer.objective(peer.point, 0, 0)[1] for peer in group])
    assert furthest(duals, gradients) < 1e-11
    assert furthest(duals.sum(0), 0.0) < 1e-11


def test_averaging_stalls_where_admm_does_not():
    group = run(DFedAvg(10, SGD(0.2)), full(M), 60)
    assert 0.01 < furthest(points(group), optimum(group)) < 1
    again = run(DFedAvg(10, SGD(0.2)), full(M), 90)
    assert furthest(points(group), points(again)) < 1e-12  # it has stalled, it is not slow


@dataclass(frozen=True)
class Forgetful:
    """DFedADMM whose message leaves the dual out."""

    inner: DFedADMM
    steps: int = 4

    def propose(self, point, memory, gradient, height):
        message, kept = self.inner.propose(point, memory, gradient, height)
        return message + self.inner.reach * kept["dual"], kept

    def accept(self, mixed, memory):
        return mixed


def test_the_dual_in_the_message_is_essential():
    group = run(Forgetful(DFedADMM(4, 0.3, SGD(0.2))), full(M), 150)
    assert furthest(points(group), optimum(group)) > 0.1


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("rate", [0.3, 0.15])
def test_the_fixed_point_on_a_ring_is_that_of_gossip_gradient_descent(steps, rate):
    """Reached from elsewhere, and left by no round once it is reached."""
    topology, reach = ring(M), 0.5
    weights, group = topology.weights(), peers()
    wanted = fixed(group, weights, weights, reach)
    gossip(group, topology, DFedADMM(steps, reach, SGD(rate)), rounds=60)
    assert furthest(points(group), wanted) < 0.05  # on its way; other places of rest would be further off
    for peer, point in zip(group, wanted, strict=True):
        peer.point, peer.memory = point.clone(), {"dual": peer.objective(point, 0, 0)[1]}
    gossip(group, topology, DFedADMM(steps, reach, SGD(rate)), rounds=20)
    assert furthest(points(group), wanted) < 1e-13


@pytest.mark.parametrize("descent", [SGD(0.3), SGD(0.1, momentum=0.5)])
def test_it_is_reached_to_the_last_digits(descent):
    topology = ring(M)
    group = run(DFedADMM(3, 0.5, descent), topology, 350)
    assert furthest(points(group), fixed(group, topology.weights(), topology.weights(), 0.5)) < 1e-12


def test_the_bias_of_gossip_falls_with_the_reach():
    """Of the linear system whose solution the rounds reach: disagreement is O(reach), and 0 on a full topology."""
    group, weights = peers(), ring(M).weights()
    spread = [apart([*fixed(group, weights, weights, reach)]) for reach in (0.4, 0.2, 0.1, 0.05, 0.025)]
    ratios = [more / less for more, less in pairwise(spread)]
    assert ratios == sorted(ratios)
    assert 1.8 < ratios[-1] < 2
    everyone = full(M).weights()
    assert apart([*fixed(group, everyone, everyone, 0.4)]) < 1e-12


def test_one_local_step_of_averaging_is_gossip_gradient_descent():
    topology = ring(M)
    group = run(DFedAvg(1, SGD(0.5)), topology, 120)
    assert furthest(points(group), fixed(group, topology.weights(), topology.weights(), 0.5)) < 1e-12


def test_dpsgd_subtracts_after_mixing():
    topology = ring(M)
    group = run(DPSGD(SGD(0.4)), topology, 150)
    assert furthest(points(group), fixed(group, topology.weights(), EYE, 0.4)) < 1e-12


@pytest.mark.parametrize("method", [DFedADMM(3, 0.2, SGD(0.1)), DFedAvg(3, SGD(0.1))])
def test_a_radius_of_zero_changes_no_bit(method):
    plain, sharp = run(method, ring(M), 20), run(replace(method, radius=0.0), ring(M), 20)
    assert torch.equal(points(plain), points(sharp))
    moved = run(replace(method, radius=0.1), ring(M), 20)
    assert furthest(points(plain), points(moved)) > 1e-4
    assert moved[0].gradients == 2 * plain[0].gradients


def test_a_first_round_by_hand():
    """K = 1 from 0 with dual 0: x_1 = -eta g, dual = eta g / lambda, z = -2 eta g.

    A heavy ball's second step adds the first.
    """
    group = peers(1)
    g = group[0].objective(group[0].point, 0, 0)[1]
    gossip(group, full(1), DFedADMM(1, 0.5, SGD(0.1)), rounds=1)
    assert torch.allclose(group[0].point, -0.2 * g, atol=1e-15)
    assert torch.allclose(group[0].memory["dual"], 0.2 * g, atol=1e-15)
    slope = torch.tensor([1.0, -2.0])
    peer = Peer(0, lambda point, turn, step: (0.0, slope), torch.zeros(2))
    gossip([peer], full(1), dfedavgm(3, 1.0, 0.5), rounds=2)
    assert torch.equal(peer.point, -2 * (1 + 1.5 + 1.75) * slope)  # the ball rests when a round begins


def test_sharpness_looks_uphill():
    seen = []

    def objective(point, turn, step):
        seen.append(point.clone())
        return 0.0, torch.tensor([3.0, 4.0])

    gossip([Peer(0, objective, torch.zeros(2))], full(1), dfedsam(1, 0.1, 0.5), rounds=1)
    assert torch.allclose(seen[1], torch.tensor([0.3, 0.4]))
    seen.clear()
    flat = Peer(0, lambda point, turn, step: (0.0, torch.zeros(2)), torch.ones(2))
    gossip([flat], full(1), dfedadmm_sam(2), rounds=1)
    assert torch.equal(flat.point, torch.ones(2))


def test_adam_moves_by_its_rate_and_is_remembered():
    slope = torch.tensor([1.0, -1e-3])
    peer = Peer(0, lambda point, turn, step: (0.0, slope), torch.zeros(2))
    gossip([peer], full(1), DFedAvg(4, Adam(0.1)), rounds=3)
    assert torch.allclose(peer.point, -12 * 0.1 * slope.sign(), atol=1e-4)
    assert float(peer.memory["moves"]) == 12


def test_adam_agrees_with_torch():
    (peer,) = peers(1)
    weights = torch.nn.Parameter(peer.point.clone())
    reference = torch.optim.Adam([weights], lr=0.05, betas=(0.9, 0.98))
    for _ in range(12):
        weights.grad = peer.objective(weights.detach(), 0, 0)[1]
        reference.step()
    gossip([peer], full(1), DFedAvg(4, Adam(0.05)), rounds=3)
    assert torch.allclose(peer.point, weights.detach(), atol=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "DFedADMM(steps=5, reach=0.1, descent=SGD(rate=0.1, momentum=0.0), radius=0.0)",
        "DFedAvg(steps=3, descent=Adam(rate=0.001, first=0.9, second=0.98), radius=0.0)",
        "DPSGD(descent=SGD(rate=0.5, momentum=0.9))",
    ],
)
def test_repr_is_the_language(text):
    assert repr(build(text, "method")) == text


def test_names_of_the_field():
    assert build("dfedadmm", "method") == DFedADMM()
    assert build("dfedavgm(rate=0.2)", "method") == DFedAvg(5, SGD(0.2, 0.9))
    assert build("dfedsam", "method").radius == build("dfedadmm-sam".replace("-", "_"), "method").radius == 0.1


@pytest.mark.parametrize(
    "make",
    [
        lambda: DFedADMM(0), lambda: DFedADMM(reach=0.0), lambda: DFedADMM(reach=float("nan")), lambda: DFedAvg(radius=-1),
        lambda: SGD(0), lambda: SGD(momentum=1.0), lambda: Adam(first=-0.1),
        lambda: Adam(float("inf")), lambda: DFedAvg(True),
    ],
)  # fmt: skip
def test_bad_numbers(make):
    with pytest.raises(TrainingError, match="expected"):
        make()
