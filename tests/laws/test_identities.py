"""The theory, exact to 1e-9: path KL, totals, the law really sampled, attained constants, and the documented trap."""

import numpy as np
import pytest
import torch

from demask.information import law
from demask.oracles import Chain, Table, reed_solomon
from demask.orders import Confidence, Entropy, LeftToRight, Margin, Noisy, Random
from demask.samplers import Parallel
from demask.schedules import PerRow, Plan, Systematic, Unlimited, binomial, minimax, sequential, uniform

from .enumerate import kl, path_laws

ORACLES = {
    "skewed": Table.random(4, 2, key=1, concentration=0.4),
    "ternary": Table.random(3, 3, key=2, concentration=0.5),
    "parity": Table.uniform(torch.tensor([[a, b, c, a ^ b ^ c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]), 2),
    "lopsided": Table.dense(np.array([[[0.5, 0.02], [0.0, 0.1]], [[0.03, 0.2], [0.15, 0.0]]])),
}
SCHEDULES = {
    "minimax tc": lambda n: minimax(n, 2, target="tc"),
    "minimax both": lambda n: minimax(n, 3, target="both"),
    "uniform": lambda n: uniform(n, 2),
    "one step": lambda n: uniform(n, 1),
    "systematic": lambda n: Systematic(np.linspace(0.2, 0.9, n - 1)),
}


def array(oracle):
    out = np.zeros((oracle.vocabulary,) * oracle.length)
    out[tuple(oracle.sequences.T.numpy())] = oracle.logp.exp().numpy()
    return out


@pytest.mark.parametrize("oracle", ORACLES.values(), ids=ORACLES)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_path_kl_and_output_law(oracle, schedule):
    """E KL = sum delta R by all orders and sizes; the mean of the path laws is what sampling gives, and costs less."""
    sizes, joint = schedule(oracle.length), array(oracle)
    paths = list(path_laws(joint, sizes.mixture()))
    expected = sum(share * kl(joint, q) for share, q in paths)
    assert sizes.cost(oracle.curve()) == pytest.approx(expected, abs=1e-9)
    mean = sum(share * q for share, q in paths)
    output = law(oracle, Parallel(sizes, Random()))
    assert array_like(output, joint) == pytest.approx(mean, abs=1e-12)
    assert oracle.kl(output) <= expected + 1e-12
    assert oracle.kl(output) == pytest.approx(kl(joint, mean), abs=1e-10)


def array_like(table, joint):
    out = np.zeros_like(joint)
    out[tuple(table.sequences.T.numpy())] = table.logp.exp().numpy()
    return out


@pytest.mark.parametrize("oracle", ORACLES.values(), ids=ORACLES)
def test_totals(oracle):
    curve, n, joint = oracle.curve(), oracle.length, array(oracle)
    marginals = np.ones_like(joint)
    for i in range(n):
        marginals = marginals * joint.sum(axis=tuple(j for j in range(n) if j != i), keepdims=True)
    tc = kl(joint, marginals)
    i = np.arange(1, n)
    assert curve.tc == pytest.approx(tc, abs=1e-9)
    assert float(curve.increments @ (n - i)) == pytest.approx(tc, abs=1e-9)
    assert float(curve.increments @ i) == pytest.approx(oracle.dtc(), abs=1e-9)
    assert curve.tc + curve.dtc == pytest.approx(n * (curve.values[0] - curve.values[-1]), abs=1e-9)


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_minimax_tc_is_an_identity_and_both_a_bound(steps):
    laws = [Table.random(6, 2, key=key, concentration=0.3) for key in range(8)]
    laws += [reed_solomon(6, k) for k in range(1, 6)]
    laws += [Chain.random(6, 5, key=key, concentration=0.2) for key in range(4)]
    tc, both, dtc = (minimax(6, steps, target=target) for target in ("tc", "both", "dtc"))
    markov = sequential(6, steps)
    for oracle in laws:
        curve = oracle.curve()
        assert tc.cost(curve) == pytest.approx(tc.constant("tc") * curve.tc, abs=1e-9)
        assert markov.cost(curve) == pytest.approx(markov.constant("tc") * curve.tc, abs=1e-9)
        assert both.cost(curve) <= both.constant("both") * min(curve.tc, curve.dtc) + 1e-9
        assert dtc.cost(curve) <= dtc.constant("dtc") * curve.dtc + 1e-9
        for sizes in (tc, both, dtc, uniform(6, steps)):
            assert sizes.cost(curve) <= sizes.guarantee(tc=curve.tc, dtc=curve.dtc) + 1e-9


def test_codes_attain_every_constant():
    """An MDS code of dimension k is a curve with one step, at k: E KL = log q R(k)."""
    n = 7
    for target in ("tc", "dtc", "both", "complexity"):
        sizes = minimax(n, 3, target=target)
        w = {
            "tc": lambda k: n - k,
            "dtc": lambda k: k,
            "both": lambda k: min(k, n - k),
            "complexity": lambda k: k * (n - k) / n,
        }
        ratios = []
        for k in range(1, n):
            code = reed_solomon(n, k)
            assert code.curve().increments == pytest.approx(np.log(code.vocabulary) * (np.arange(1, n) == k), abs=1e-9)
            ratios.append(sizes.cost(code.curve()) / (np.log(code.vocabulary) * w[target](k)))
        assert max(ratios) == pytest.approx(sizes.constant(target), abs=1e-9)


def test_inconsistent_denoiser_keeps_the_equaliser():
    """E path NLL of minimax(tc) = (1 - a) NELBO + a n L_0 for any loss curve, even one that rises."""
    losses = np.array([1.0, 1.3, 0.4, 0.7, 0.2])
    sizes = minimax(5, 3, target="tc")
    a, n = sizes.constant("tc"), 5
    nll = sum(
        share * sum(size * losses[end - size] for size, end in zip(plan.sizes, plan.boundaries, strict=True))
        for share, plan in sizes.mixture()
    )
    assert nll == pytest.approx((1 - a) * losses.sum() + a * n * losses[0], abs=1e-9)


HONEST = {
    "random": Random(),
    "left to right": LeftToRight(),
    "confidence": Confidence(),
    "margin": Margin(),
    "entropy": Entropy(),
    "noisy": Noisy(Confidence(), 0.5),
}


@pytest.mark.parametrize("oracle", ORACLES.values(), ids=ORACLES)
@pytest.mark.parametrize("order", HONEST.values(), ids=HONEST)
def test_honest_orders_are_exact_one_by_one(oracle, order):
    sampler = Parallel(Plan([1] * oracle.length), order)
    assert abs(oracle.kl(law(oracle, sampler))) < 1e-9


def test_ranking_by_the_draft_is_wrong_even_one_by_one():
    """The documented trap: mean KL 0.91 nats over 20 random 4-token binary Markov chains, rows from Dirichlet(1/2)."""
    kls = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        start, steps = rng.dirichlet([0.5, 0.5]), rng.dirichlet([0.5, 0.5], size=2)
        chain = Table.dense(np.einsum("a,ab,bc,cd->abcd", start, steps, steps, steps))
        ones = Plan([1] * 4)
        kls.append(chain.kl(law(chain, Parallel(ones, Confidence("draft")))))
        assert abs(chain.kl(law(chain, Parallel(ones, Confidence())))) < 1e-9
    assert min(kls) > 0.01
    assert (np.mean(kls), min(kls), max(kls)) == pytest.approx((0.9141, 0.1453, 1.5519), abs=5e-4)


def test_all_at_once_is_the_product_of_marginals():
    oracle = ORACLES["skewed"]
    assert oracle.kl(law(oracle, Parallel(Unlimited(), Random()))) == pytest.approx(oracle.tc(), abs=1e-9)


@pytest.mark.parametrize(
    "family", [lambda n: binomial(n, 3), lambda n: binomial(n, 2, clock="log-linear"), lambda n: sequential(n, 2)]
)
def test_laws_without_a_short_mixture(family):
    """Random numbers of steps: the replayed law costs at most the path KL, and more than nothing."""
    oracle = ORACLES["ternary"]
    sizes = family(3)
    output = oracle.kl(law(oracle, Parallel(sizes, Random())))
    assert 1e-6 < output <= sizes.cost(oracle.curve()) + 1e-12


def test_per_row_draws_the_same_law():
    oracle = ORACLES["skewed"]
    per_row, fixed = (
        Parallel(s, Random()) for s in (PerRow(minimax, steps=2, target="tc"), minimax(4, 2, target="tc"))
    )
    assert law(oracle, per_row).tv(law(oracle, fixed)) < 1e-12
