"""Sizes of the fixed families, the ancestral clock, the sequential equaliser and the fitted schedules."""

from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demask.curve import Curve
from demask.errors import CurveError, PlanError
from demask.schedules import (
    PerRow,
    Plan,
    binomial,
    cosine,
    fixed,
    geometric,
    minimax,
    optimal,
    sequential,
    two_number,
    uniform,
    weights,
)

FIXED = {
    "uniform": uniform,
    "cosine": cosine,
    "geometric": geometric,
    "increasing": lambda n, k: geometric(n, k, direction="increasing"),
    "fixed": fixed,
}


@pytest.mark.parametrize("name", FIXED)
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 320))
def test_every_family_fills_the_length(name, n, k):
    plan = FIXED[name](n, k)
    assert plan.length == n
    assert plan.steps <= min(n, k)
    if name in ("uniform", "cosine"):
        assert plan.steps == min(n, k)
    if k >= n:
        assert plan.sizes == (1,) * n
    if k == 1:
        assert plan.sizes == (n,)


@given(st.integers(1, 300), st.integers(1, 320))
def test_uniform_is_even(n, k):
    sizes = uniform(n, k).sizes
    assert max(sizes) - min(sizes) <= 1
    assert list(sizes) == sorted(sizes, reverse=True)


def test_cosine_grows():
    sizes = cosine(1024, 32).sizes
    assert all(later >= earlier - 1 for earlier, later in pairwise(sizes))
    assert sizes[0] < sizes[-1] / 10


def test_heuristics_against_the_worst_case():
    """Theory 3.2: n = 1024, K = 64."""
    assert uniform(1024, 64).constant("tc") == 1
    assert uniform(1024, 64).constant("dtc") == 15
    assert cosine(1024, 64).constant("tc") == 1


def test_geometric_follows_its_recursion_and_guarantee():
    """N_i = ceil(N_(i-1) + (n - N_(i-1)) / zeta) keeps E KL <= TC / (zeta - 1)."""
    for zeta in (2, 3, 8):
        n, ends = 256, [0]
        while ends[-1] < n:
            ends.append(int(np.ceil(ends[-1] + (n - ends[-1]) / zeta)))
        plan = Plan(np.diff(ends).tolist())
        assert plan.constant("tc") <= 1 / (zeta - 1) + 1e-12
        assert geometric(n, plan.steps).constant("tc") <= 1 / (zeta - 1) + 1e-12
        mirrored = geometric(n, plan.steps, direction="increasing")
        assert mirrored.sizes == geometric(n, plan.steps).sizes[::-1]
        assert mirrored.constant("dtc") <= 1 / (zeta - 1) + 1e-12


@pytest.mark.parametrize("target", ["tc", "dtc", "both", "complexity"])
def test_fixed_is_the_best_fixed_plan(target):
    for n, k in ((7, 3), (8, 4), (9, 2)):
        plans = (Plan(np.diff([0, *ends, n]).tolist()) for ends in combinations(range(1, n), k - 1))
        best = min(plan.constant(target) for plan in plans)
        assert fixed(n, k, target=target).constant(target) == pytest.approx(best, abs=1e-8)


def test_fixed_dtc_in_closed_form():
    """t' = floor((1 + b)(t + 1)), n = 256, b = 1."""
    assert fixed(256, 8, target="dtc").constant("dtc") == pytest.approx(1.0)


def test_binomial_golden():
    """Path KL of the masking sampler with a linear clock on a two-state chain of five (seed F1)."""
    golden = {1: 0.513698, 2: 0.245196, 4: 0.119658, 8: 0.059092, 16: 0.029362, 32: 0.014635, 64: 0.007306}
    start, step = np.array([0.6, 0.4]), np.array([[0.8, 0.2], [0.3, 0.7]])
    joint = np.einsum("a,ab,bc,cd,de->abcde", start, step, step, step, step)
    curve = table_curve(joint)
    for k, value in golden.items():
        assert binomial(5, k).cost(curve) == pytest.approx(value, abs=6e-7)


def table_curve(joint):
    """Z_j from all entropies of subsets of an enumerated joint."""
    n = joint.ndim

    def entropy(keep):
        p = joint.sum(axis=tuple(i for i in range(n) if i not in keep)).ravel()
        return -sum(x * np.log(x) for x in p if x > 0)

    mean = [np.mean([entropy(s) for s in combinations(range(n), j)]) for j in range(n + 1)]
    return Curve(np.diff(mean))


@pytest.mark.parametrize("clock", ["linear", "log-linear"])
def test_binomial_residual_by_enumeration(clock):
    """Labels i.i.d. over steps, all K^n of them."""
    n, k = 4, 3
    law = binomial(n, k, clock=clock)
    p = np.diff(law.shares)
    residual = np.zeros(n - 1)
    for labels in product(range(k), repeat=n):
        ends = np.cumsum(np.bincount(labels, minlength=k))
        for i in range(1, n):
            residual[i - 1] += np.prod(p[list(labels)]) * (min(e for e in ends if e >= i) - i)
    assert law.residual() == pytest.approx(residual, abs=1e-12)


def test_binomial_draws():
    """Mean boundary counts over 4000 rows; five standard errors, a false alarm in 2e6 for each of 3 numbers."""
    law = binomial(20, 5)
    plans = law.draw(4000, key=3)
    assert {plan.length for plan in plans} == {20}
    assert max(plan.steps for plan in plans) == 5
    first = np.array([plan.sizes[0] for plan in plans])
    # the first non-empty size; an empty one has probability 0.8^20 = 0.0115
    expected = 4.0 / (1 - 0.8**20)
    assert abs(first.mean() - expected) < 5 * first.std() / np.sqrt(4000) + 0.05
    distance = np.array([min(b for b in plan.boundaries if b >= 10) - 10 for plan in plans])
    assert abs(distance.mean() - law.residual()[9]) < 5 * distance.std() / np.sqrt(4000)


def test_log_linear_clock_starts_larger():
    assert binomial(64, 8, clock="log-linear").shares[1] > 3 / 8


def sequential_residual(schedule):
    """Exact mean distance to the next boundary by recursion over all sizes."""
    n = schedule.length
    out = np.zeros(n - 1)

    def walk(done, turn, share):
        if done == n:
            return
        law = schedule.first(n - done, schedule.steps - turn)
        for size in range(1, n - done + 1):
            if law[size] > 0:
                for i in range(done + 1, done + size):
                    out[i - 1] += share * law[size] * (done + size - i)
                walk(done + size, turn + 1, share * law[size])

    walk(0, 0, 1.0)
    return out


@pytest.mark.parametrize(("n", "k"), [(5, 3), (9, 4), (10, 2), (10, 9), (12, 7), (4, 1), (4, 4), (1, 1)])
def test_sequential_equalises(n, k):
    schedule = sequential(n, k)
    assert sequential_residual(schedule) == pytest.approx(schedule.residual(), abs=1e-12)
    for plan in schedule.draw(50, key=0):
        assert (plan.length, plan.steps) == (n, k)


def test_sequential_golden():
    golden = [1, 0.64651424, 0.43404451, 0.29664493, 0.20291098, 0.13629826, 0.08740741, 0.05057471, 0.02222222]
    assert [sequential(10, k).constant("tc") for k in range(1, 10)] == pytest.approx(golden, abs=6e-9)
    assert sequential(4096, 256).constant("tc") == pytest.approx(0.016225, abs=6e-7)


def test_sequential_frequencies():
    """First sizes of 3000 rows against their law; five standard errors in each of 7 cells."""
    schedule = sequential(10, 4)
    law = schedule.first(10, 4)
    first = np.bincount([plan.sizes[0] for plan in schedule.draw(3000, key=11)], minlength=11) / 3000
    assert np.all(np.abs(first - law) <= 5 * np.sqrt(law * (1 - law) / 3000) + 1e-12)


@pytest.mark.parametrize(("dtc", "golden"), [(0.1, 0.003225), (1.0, 0.014812), (10.0, 0.031406)])
def test_two_number_golden(dtc, golden):
    assert two_number(1024, 64, tc=1, dtc=dtc).guarantee(tc=1, dtc=dtc) == pytest.approx(golden, abs=6e-7)


def test_two_number_is_best_of_all_randomised():
    """Equal to a linear program over mixtures of all plans and the dual of the worst case, n = 7."""
    from scipy.optimize import linprog

    n, k, tc, dtc = 7, 3, 1.0, 0.7
    plans = [Plan(np.diff([0, *ends, n]).tolist()) for ends in combinations(range(1, n), k - 1)]
    residuals = np.array([plan.residual() for plan in plans]).T
    # variables: shares, alpha, beta; minimise alpha tc + beta dtc with R <= alpha (n - i) + beta i
    limit = np.hstack((residuals, -weights(n, "tc")[:, None], -weights(n, "dtc")[:, None]))
    answer = linprog(
        np.concatenate((np.zeros(len(plans)), [tc, dtc])),
        A_ub=limit,
        b_ub=np.zeros(n - 1),
        A_eq=np.concatenate((np.ones(len(plans)), [0, 0]))[None],
        b_eq=[1.0],
        method="highs",
    )
    assert two_number(n, k, tc=tc, dtc=dtc).guarantee(tc=tc, dtc=dtc) == pytest.approx(answer.fun, abs=1e-7)


def test_two_number_edges():
    assert two_number(1, 3, tc=0.0, dtc=0.0).guarantee(tc=0.0, dtc=0.0) == 0
    assert two_number(8, 8, tc=1, dtc=1).cost([1.0] * 4 + [0.0] * 4) == 0
    for bad in ({"tc": -1.0, "dtc": 1.0}, {"tc": 1.0, "dtc": float("inf")}, {"tc": float("nan"), "dtc": 1.0}):
        with pytest.raises(PlanError, match="expected a finite number >= 0"):
            two_number(8, 4, **bad)


def brute_force(z, k):
    n = len(z)
    plans = (Plan(np.diff([0, *ends, n]).tolist()) for ends in combinations(range(1, n), k - 1))
    return min(plan.cost(z) for plan in plans)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=2, max_size=11), st.data())
def test_optimal_equals_brute_force(steps_down, data):
    """Integer increments make ties, which is where a priced search could miss the exact number of steps."""
    z = np.cumsum(steps_down[::-1])[::-1].astype(float)
    k = data.draw(st.integers(1, len(z)))
    plan = optimal(z, k)
    assert plan.steps == k
    assert plan.cost(z) == pytest.approx(brute_force(z, k), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=10), st.data())
def test_optimal_equals_brute_force_on_real_curves(increments, data):
    z = np.cumsum(increments[::-1])[::-1]
    k = data.draw(st.integers(1, len(z)))
    assert optimal(z, k).cost(z) == pytest.approx(brute_force(z, k), abs=1e-9)


def dynamic_program(z, k):
    """The least cost of 1, ..., k steps."""
    n = len(z)
    prefix = np.concatenate(([0.0], np.cumsum(z)))
    best = np.full(n + 1, np.inf)
    best[0] = 0
    costs = []
    for _ in range(k):
        following = np.full(n + 1, np.inf)
        for e in range(1, n + 1):
            t = np.arange(e)
            following[e] = np.min(best[:e] + (e - t) * z[:e] - (prefix[e] - prefix[:e]))
        best = following
        costs.append(best[n])
    return costs


def test_optimal_on_long_curves():
    rng = np.random.default_rng(4)
    for n in (60, 257):
        for z in (
            np.exp(-np.arange(n) / 9),
            np.sort(rng.gamma(0.3, size=n))[::-1],
            np.repeat([2.0, 0.5], [n // 3, n - n // 3]),
        ):
            costs = dynamic_program(z, n)
            for k in (1, 2, 7, 31, n - 1, n):
                plan = optimal(z, k)
                assert plan.steps == k
                assert plan.cost(z) == pytest.approx(costs[k - 1], rel=1e-9, abs=1e-10)


def test_optimal_is_convex_in_steps_and_below_everything():
    z = np.exp(-np.arange(200) / 20) + 0.2 * (np.arange(200) < 150)
    costs = [optimal(z, k).cost(z) for k in range(1, 60)]
    assert np.all(np.diff(costs, 2) >= -1e-9)
    for k in (4, 16, 40):
        for family in (uniform, cosine, geometric, minimax, sequential, binomial, fixed):
            assert costs[k - 1] <= family(200, k).cost(z) + 1e-12


def test_optimal_follows_the_density_rule():
    """Cost about (int sqrt|Z'|)^2 / 2K - (Z_0 - Z_(n-1)) / 2 on a smooth curve."""
    n, k = 4096, 64
    z = np.exp(-3 * np.arange(n) / n)
    root = np.sum(np.sqrt(-np.diff(z)))
    assert optimal(z, k).cost(z) == pytest.approx(root**2 / (2 * k) - (z[0] - z[-1]) / 2, rel=0.01)


def test_optimal_refuses_a_rising_curve():
    with pytest.raises(CurveError, match=r"rises by 0\.1 nats from Z_1 to Z_2"):
        optimal([1.0, 0.4, 0.5, 0.1], 2)
    assert optimal(Curve([1.0, 0.4, 0.5, 0.1]).projected(), 2).length == 4
    with pytest.raises(PlanError, match="steps = 0"):
        optimal([1.0, 0.5], 0)


def primal(sizes, tc, dtc):
    """The largest sum of delta R with both totals: a linear program over the increments themselves."""
    from scipy.optimize import linprog

    n, i = sizes.length, np.arange(1, sizes.length)
    answer = linprog(-sizes.residual(), A_ub=np.stack(((n - i) / tc, i / dtc)), b_ub=[1, 1], method="highs")
    return -answer.fun


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 40), st.integers(1, 40), st.floats(0.01, 50), st.floats(0.01, 50), st.sampled_from(sorted(FIXED)))
def test_guarantee_is_the_worst_case(n, k, tc, dtc, name):
    for sizes in (FIXED[name](n, k), minimax(n, k, target="dtc")):
        bound = sizes.guarantee(tc=tc, dtc=dtc)
        assert bound == pytest.approx(primal(sizes, tc, dtc), rel=1e-6, abs=1e-12)
        assert bound <= min(sizes.constant("tc") * tc, sizes.constant("dtc") * dtc) * (1 + 1e-12)


def test_guarantee_of_tiny_totals():
    assert 0 < uniform(8, 2).guarantee(tc=1e-310, dtc=1.0) <= 1e-310
    assert uniform(8, 2).guarantee(tc=1.0, dtc=0.0) == 0


def test_guarantee_of_both_is_its_constant():
    both = minimax(40, 6, target="both")
    assert both.guarantee(tc=2.0, dtc=3.0) == pytest.approx(2 * both.constant("both"), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=12), st.integers(2, 6))
def test_guarantee_is_never_below_the_cost(increments, k):
    """Not even by rounding, on the very curve whose totals it is given."""
    curve = Curve(np.cumsum(increments[::-1])[::-1])
    tc, dtc = float(curve.tc), float(curve.dtc)
    if tc > 1e-6 and dtc > 1e-6:
        for sizes in (uniform(len(curve), k), two_number(len(curve), k, tc=tc, dtc=dtc), minimax(len(curve), k)):
            assert sizes.guarantee(tc=tc, dtc=dtc) >= sizes.cost(curve) - 1e-12 * curve.tc


def test_guarantee_bad_input():
    with pytest.raises(PlanError, match="tc = -1"):
        uniform(8, 2).guarantee(tc=-1)
    with pytest.raises(PlanError, match="needs tc, dtc or both"):
        uniform(8, 2).guarantee()


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [((), r"\(\)"), ((3, 0), "3, 0"), ((2, -1), "2, -1"), ((1.5, 2), r"1\.5, 2"), ((True, 2), "True, 2")],
)
def test_plan_refuses(sizes, shown):
    with pytest.raises(PlanError, match=f"sizes .*{shown}"):
        Plan(sizes)


def test_bad_options():
    with pytest.raises(PlanError, match="direction 'up'"):
        geometric(8, 2, direction="up")
    with pytest.raises(PlanError, match="clock 'sine'"):
        binomial(8, 2, clock="sine")
    with pytest.raises(PlanError, match="too many plans"):
        binomial(8, 2).mixture()
    with pytest.raises(PlanError, match="steps = 0"):
        PerRow(uniform, steps=0)


def test_per_row_says_what_it_is():
    assert repr(PerRow(minimax, steps=4, target="tc")) == "minimax(steps=4, target='tc')"
    assert PerRow(minimax, steps=4, target=[1.0, 2.0]) == PerRow(minimax, steps=4, target=(1.0, 2.0))
    assert PerRow(uniform, steps=4).plan(9) is PerRow(uniform, steps=4).plan(9)
