"""Golden values, an independent linear program, closed forms, bounds and edge cases of the minimax schedule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, linprog
from scipy.special import digamma

from demask.errors import PlanError
from demask.schedules import Plan, Systematic, fixed, minimax, sequential, weights

GOLDEN = """
16 2 0.69863442 1.91013751 1.91013751 2.37949657 0.698634 0.93333 3.00000 3.00000
16 4 0.31225950 0.39237309 0.60286484 0.78862836 0.380199 0.53333 1.00000 1.00000
16 8 0.09482068 0.09542778 0.17726863 0.24244506 0.134601 0.25000 0.25000 0.50000
16 12 0.03333333 0.03333333 0.06250000 0.09411765 0.043256 0.11111 0.11111 0.20000
256 4 0.55463374 1.44292864 1.44292864 1.68882744 0.619269 0.83333 3.00000 3.00000
256 8 0.28846100 0.41055038 0.62347858 0.72478445 0.390723 0.50196 1.00000 1.00000
256 16 0.13022692 0.14870342 0.26907569 0.31913355 0.207233 0.26415 0.33333 0.55556
256 32 0.05305102 0.05547908 0.10685894 0.13105686 0.093044 0.12000 0.13068 0.25000
256 64 0.01925666 0.01947295 0.03842857 0.04926309 0.035030 0.04762 0.04918 0.09756
256 128 0.00554870 0.00555037 0.01104849 0.01508558 0.009693 0.01667 0.01667 0.03333
1024 8 0.35465754 0.59148945 0.78579628 0.88068906 0.461522 0.61905 1.28571 1.28571
1024 16 0.17475572 0.21534050 0.37186383 0.42168608 0.269224 0.33333 0.48921 0.75000
1024 32 0.07889045 0.08584006 0.16197842 0.18722979 0.136417 0.16667 0.19310 0.34286
1024 64 0.03351072 0.03460689 0.06761996 0.08013278 0.061643 0.07463 0.07883 0.15126
1024 128 0.01334475 0.01349195 0.02673988 0.03277194 0.025164 0.03125 0.03205 0.06286
1024 256 0.00480655 0.00481982 0.00960784 0.01231608 0.009031 0.01220 0.01233 0.02439
"""
ROWS = [tuple(map(float, line.split())) for line in GOLDEN.split("\n") if line]
TARGETS = ("tc", "dtc", "both", "complexity")
SMALL = {
    "tc": (1, 0.64651424, 0.38767343, 0.24305894, 0.15827338, 0.10485934, 0.06870229, 0.04444444, 0.02222222, 0),
    "dtc": (9, 1.31724138, 0.49900067, 0.26527678, 0.1616, 0.10132159, 0.06849315, 0.04444444, 0.02222222, 0),
    "both": (9, 1.31724138, 0.71395881, 0.43550107, 0.28400955, 0.18721461, 0.12328767, 0.08, 0.04, 0),
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]:.0f}-{row[1]:.0f}")
def test_golden_constants(row):
    n, k, *golden = row
    n, k = int(n), int(k)
    for target, value in zip(TARGETS, golden[:4], strict=True):
        assert minimax(n, k, target=target).constant(target) == pytest.approx(value, abs=6e-9)
    assert sequential(n, k).constant("tc") == pytest.approx(golden[4], abs=6e-7)
    for target, value in zip(TARGETS[:3], golden[5:], strict=True):
        assert fixed(n, k, target=target).constant(target) == pytest.approx(value, abs=6e-6)


@pytest.mark.parametrize("target", SMALL)
def test_golden_constants_of_ten(target):
    found = [minimax(10, k, target=target).constant(target) for k in range(1, 11)]
    assert found == pytest.approx(SMALL[target], abs=6e-9)


def test_golden_inclusion_and_mixture():
    tc = minimax(10, 4, target="tc")
    expected = [0.1566, 0.1892, 0.1905, 0.2375, 0.2523, 0.3246, 0.3785, 0.5139, 0.7569]
    assert tc.inclusion.tolist() == pytest.approx(expected, abs=6e-5)
    shares = {plan.sizes: share for share, plan in tc.mixture()}
    assert len(shares) == 9
    for sizes, share in (
        ((5, 3, 1, 1), 0.2263),
        ((4, 3, 2, 1), 0.1929),
        ((3, 4, 2, 1), 0.1856),
        ((1, 5, 2, 2), 0.1305),
    ):
        assert shares[sizes] == pytest.approx(share, abs=6e-5)
    dtc = {plan.sizes: share for share, plan in minimax(10, 4, target="dtc").mixture()}
    for sizes, share in (((2, 2, 3, 3), 0.2653), ((1, 2, 3, 4), 0.3163), ((1, 1, 3, 5), 0.2118)):
        assert dtc[sizes] == pytest.approx(share, abs=6e-5)


def flow_program(w, k):
    """The least a by a linear program over flows through layers: u is a mixture of plans, R its mean residual."""
    n = len(w) + 1
    arcs = [
        (layer, s, t)
        for layer in range(k)
        for s in range(n)
        for t in range(s + 1, n + 1)
        if (layer == 0) == (s == 0) and (layer == k - 1) == (t == n)
    ]
    index = {arc: column for column, arc in enumerate(arcs)}
    columns = len(arcs) + 1
    equalities, right = [], []
    row = np.zeros(columns)
    for layer, s, t in arcs:
        if layer == 0:
            row[index[layer, s, t]] = 1
    equalities.append(row)
    right.append(1.0)
    for layer in range(1, k):
        for s in range(1, n):
            row = np.zeros(columns)
            for a in arcs:
                if a[0] == layer - 1 and a[2] == s:
                    row[index[a]] += 1
                if a[0] == layer and a[1] == s:
                    row[index[a]] -= 1
            if row.any():
                equalities.append(row)
                right.append(0.0)
    limits = np.zeros((n - 1, columns))
    for a in arcs:
        for i in range(a[1] + 1, a[2]):
            limits[i - 1, index[a]] += a[2] - i
    limits[:, -1] = -np.asarray(w)
    cost = np.zeros(columns)
    cost[-1] = 1
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    answer = linprog(
        cost, A_ub=limits, b_ub=np.zeros(n - 1), A_eq=np.array(equalities), b_eq=right, method="highs", options=options
    )
    assert answer.status == 0
    return answer.fun


@pytest.mark.parametrize(("n", "k"), [(5, 3), (8, 3), (12, 5), (12, 10), (24, 6)])
def test_equals_flow_program(n, k):
    skewed = np.random.default_rng(n * k).gamma(0.7, size=n - 1) + 0.05
    for target in (*TARGETS, tuple(skewed.tolist())):
        expected = flow_program(weights(n, target), k)
        assert minimax(n, k, target=target).constant(target) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 9), st.data())
def test_equals_flow_program_for_any_weights(n, data):
    k = data.draw(st.integers(2, n - 1))
    w = data.draw(st.lists(st.floats(0.05, 20), min_size=n - 1, max_size=n - 1))
    assert minimax(n, k, target=w).constant(w) == pytest.approx(flow_program(w, k), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("n", [3, 7, 50, 333])
def test_two_steps_in_closed_form(n):
    harmonic = np.concatenate(([0.0], np.cumsum(1 / np.arange(1, n))))
    assert minimax(n, 2, target="tc").constant("tc") == pytest.approx(1 - 1 / harmonic[-1], abs=1e-12)
    m = np.arange(1, n)
    h = harmonic[n - 1] - harmonic[n - m]
    bottom = m - (n - m) * h
    ok = bottom > 1e-12
    # m = n gives h_n = H_(n-1) - H_0 and (n - m) = 0
    assert minimax(n, 2, target="dtc").constant("dtc") == pytest.approx(max((n - m[ok]) * h[ok] / bottom[ok]), abs=1e-9)


@pytest.mark.parametrize("n", [8, 40, 200])
def test_near_full_length_in_closed_form(n):
    for k in range(n - n // 8, n):
        expected = 2 * (n - k) / (n * (n - 1))
        if expected * (2 * n - 3) <= 1:
            assert minimax(n, k, target="tc").constant("tc") == pytest.approx(expected, abs=1e-10)
            assert minimax(n, k, target="dtc").constant("dtc") == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("n", "k"), [(64, 8), (256, 16), (256, 64), (1024, 64), (1000, 7)])
def test_bounds(n, k):
    """Section 3.3: lower and upper bounds of the TC and DTC constants."""
    a = minimax(n, k, target="tc").constant("tc")
    b = minimax(n, k, target="dtc").constant("dtc")
    for s in (0.0, 0.5, 1 / (2 * a), 2 / a):
        hs = digamma(n + s + 1) - digamma(s + 1)
        if s:
            assert a >= (hs - k * (1 - (s / (n + s)) ** (1 / k))) / (hs - 1 + s / (n + s)) - 1e-12
            for m in (n, n // 2, max(2, n // 8)):
                g = lambda x, s=s: digamma(x + s) - digamma(s)  # noqa: E731
                bound = (k * (((m + s) / s) ** (1 / k) - 1) - g(m)) / (g(m - 1) - 1 + s / (m - 1 + s))
                assert b >= bound - 1e-12
        else:
            assert a >= (hs - k + (k - 1) * n ** (-1 / (k - 1))) / (hs - 1) - 1e-12
    rho, c0 = (n - 1) / (k - 1), 0.5772156649015329 - 0.5
    assert a <= (np.log(1 + rho * (2 * np.log(1 + rho) + c0)) + c0) / (2 * (k - 1))
    assert a <= np.sum(1 / np.arange(1, n)) / (2 * (k - 1))

    def u_sum(a):
        x = a * np.arange(1, n)
        f = np.floor(2 * x) + 1
        return np.sum(2 * (f - x) / (f * (f + 1)))

    u_bound = brentq(lambda a: u_sum(a) - (k - 1), 1e-9, 1e3)
    assert a <= u_bound + 1e-12
    if 16 <= k <= n / 4:
        assert u_bound <= 1.123 * a
    b_bound = lambda x: np.expm1(x) / x - 1  # noqa: E731
    root = brentq(lambda x: x * (k - 1) - np.log1p((n - 1) / (1 + 1 / (4 * b_bound(x)))), 1e-9, 60)
    assert b <= b_bound(root) + 1e-12
    for target in TARGETS:
        w = weights(n, target)
        best = minimax(n, k, target=target).constant(target)
        assert best >= (n - k) / w.sum() - 1e-12
        assert best <= fixed(n, k, target=target).constant(target) + 1e-12
    assert a <= sequential(n, k).constant("tc") + 1e-12


def test_constant_is_convex_and_falls_in_steps():
    for target in TARGETS:
        values = np.array([minimax(40, k, target=target).constant(target) for k in range(1, 41)])
        assert np.all(np.diff(values) <= 1e-12)
        assert np.all(np.diff(values, 2) >= -1e-9)


def test_equaliser():
    """Where u_i > 0 the constraint is tight: TC, MIN and UGC are equalised everywhere at these sizes."""
    for target in ("tc", "both", "complexity"):
        schedule = minimax(300, 24, target=target)
        ratio = schedule.residual() / weights(300, target)
        assert np.ptp(ratio) < 1e-9
    dtc = minimax(300, 24, target="dtc")
    b = dtc.constant("dtc")
    i = np.arange(1, 300)
    assert dtc.residual() == pytest.approx(np.minimum(b * i, 300 - i), abs=1e-9)


@pytest.mark.parametrize("target", TARGETS)
def test_steps_for_inverts(target):
    for n, k in ((2, 1), (2, 2), (10, 1), (10, 4), (10, 9), (256, 16), (1000, 333)):
        constant = minimax(n, k, target=target).constant(target)
        if k < n:
            assert minimax.steps_for(n, constant, target=target) == k
            if k > 1:
                assert minimax.steps_for(n, constant * (1 - 1e-4), target=target) == k + 1
    assert minimax.steps_for(10, 0.0, target=target) == 10
    assert minimax.steps_for(10, 100.0, target=target) == 1
    assert minimax.steps_for(1, 0.5, target=target) == 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 5), (2, 1), (2, 2), (7, 1), (7, 7), (7, 50)])
def test_edges(n, k, target):
    schedule = minimax(n, k, target=target)
    (share, plan), *rest = schedule.mixture()
    assert (share, rest) == (pytest.approx(1), [])
    assert plan == Plan([n] if k == 1 else [1] * n)
    expected = 0.0 if k >= n else np.max((n - np.arange(1, n)) / weights(n, target))
    assert schedule.constant(target) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 4), {}, "length = 0"),
        ((8, 0), {}, "steps = 0"),
        ((8, 2.5), {}, "steps = 2.5"),
        ((8, True), {}, "steps = True"),
        ((8, 4), {"target": "kl"}, "expected one of tc, dtc, both, complexity"),
        ((4, 2), {"target": (1.0, 2.0)}, "2 weights for length 4"),
        ((4, 2), {"target": 3}, "1 weights for length 4"),
        ((4, 2), {"target": (1.0, "a", 2.0)}, "expected one of tc"),
        ((4, 2), {"target": None}, "weights for length 4"),
        ((4, 2), {"target": (1.0, float("nan"), 1.0)}, "weight 2 is nan"),
        ((4, 2), {"target": (1.0, 2.0, 0.0)}, "weight 3 is 0.0"),
        ((4, 2), {"target": (1.0, -2.0, 1.0)}, "weight 2 is -2.0"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(PlanError, match=message):
        minimax(*arguments, **options)


def test_steps_for_bad_input():
    with pytest.raises(PlanError, match="constant = -1"):
        minimax.steps_for(8, -1)
    with pytest.raises(PlanError, match="constant = nan"):
        minimax.steps_for(8, float("nan"))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(1, 6), st.randoms(use_true_random=False))
def test_systematic_beats_every_mixture(n, plans, random):
    """Theorem 1: no law with the same inclusion probabilities has a smaller R(i) anywhere."""
    shares = np.array([random.random() + 0.01 for _ in range(plans)])
    shares /= shares.sum()
    inclusion, mean = np.zeros(n - 1), np.zeros(n - 1)
    for share in shares:
        ends = sorted(random.sample(range(1, n), random.randint(0, n - 1)))
        plan = Plan(np.diff([0, *ends, n]).tolist())
        inclusion[[e - 1 for e in ends]] += share
        mean += share * plan.residual()
    assert np.all(Systematic(np.minimum(inclusion, 1)).residual() <= mean + 1e-9)


def test_average_of_schedules_is_no_worse_than_their_mixture():
    for share in (0.1, 0.5):
        one, two = (
            minimax(60, 7, target="tc"),
            Systematic(np.isin(np.arange(1, 60), np.cumsum([3, 5, 8, 9, 10, 12])) * 1.0),
        )
        averaged = Systematic(share * one.inclusion + (1 - share) * two.inclusion)
        assert averaged.steps == 7
        assert np.all(averaged.residual() <= share * one.residual() + (1 - share) * two.residual() + 1e-9)


@pytest.mark.parametrize(
    ("n", "k", "target"), [(10, 4, "tc"), (64, 9, "dtc"), (33, 20, "both"), (2, 2, "tc"), (200, 7, "tc")]
)
def test_draws(n, k, target):
    """Exactly K steps at every draw; boundary frequencies of 2^11 stratified rows within 2^-10 of u."""
    schedule = minimax(n, k, target=target)
    plans = schedule.draw(2048, key=5)
    assert {plan.steps for plan in plans} == {k}
    assert {plan.length for plan in plans} == {n}
    frequency = np.zeros(n + 1)
    for plan in plans:
        frequency[list(plan.boundaries)] += 1
    # A boundary at i is an interval (or two) of levels; with one level in each of 2048 strata the count errs by <= 2.
    assert np.max(np.abs(frequency[1:n] / 2048 - schedule.inclusion)) <= 2 / 2048 + 1e-12


def test_mixture_is_the_law():
    for target in TARGETS:
        schedule = minimax(48, 11, target=target)
        plans = schedule.mixture()
        assert len(plans) <= 48
        assert sum(share for share, _ in plans) == pytest.approx(1, abs=1e-12)
        mean = sum(share * plan.residual() for share, plan in plans)
        assert mean == pytest.approx(schedule.residual(), abs=1e-9)
        assert {plan.steps for _, plan in plans} == {11}
        assert max(max(plan.sizes) for _, plan in plans) <= schedule.largest


def test_fractional_budget():
    schedule = Systematic(np.full(9, 0.25))
    assert schedule.steps == pytest.approx(3.25)
    assert {plan.steps for plan in schedule.draw(256, key=1)} == {3, 4}


def test_systematic_bad_input():
    with pytest.raises(PlanError, match=r"u_2 = 1\.5"):
        Systematic(np.array([0.5, 1.5]))
    with pytest.raises(PlanError, match="u_1 = nan"):
        Systematic(np.array([np.nan]))
    with pytest.raises(PlanError, match="shape"):
        Systematic(np.zeros((2, 2)))


def test_long_schedule_keeps_its_constant():
    """n = 20000: certified constant equals the solved one, the draw has exactly K steps."""
    schedule = minimax(20000, 300, target="both")
    ratio = schedule.residual() / weights(20000, "both")
    assert np.ptp(ratio) / ratio.max() < 1e-7
    assert {plan.steps for plan in schedule.draw(32, key=0)} == {300}
