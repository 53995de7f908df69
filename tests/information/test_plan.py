"""Plans and certificates: identities by enumeration, brackets by linear programming, intervals that hold."""

import json
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import chdtri

from demask.curve import Curve
from demask.errors import CurveError, PlanError
from demask.information.certificate import Certificate, certify, cost_interval, extent
from demask.information.plan import best_of, path_nll, plan
from demask.oracles import Chain
from demask.schedules import Plan, Systematic, minimax, optimal, sequential, uniform
from demask.schedules.hedged import hedged

from .grids import on_grid

nats = st.integers(0, 2000).map(lambda z: z / 1000)
falling = st.lists(nats, min_size=2, max_size=20).map(lambda z: sorted(z, reverse=True))


def inconsistent(n, vocabulary, seed):
    """A data law, and answers q(x_i | visible) that are conditionals of no law at all."""
    rng = np.random.default_rng(seed)
    law = rng.dirichlet(np.full(vocabulary**n, 0.4)).reshape((vocabulary,) * n)
    answers = {}

    def loss(x, seen, i):
        context = (tuple((j, x[j]) for j in sorted(seen)), i)
        if context not in answers:
            answers[context] = rng.dirichlet(np.full(vocabulary, 0.5)) * 0.99 + 0.01 / vocabulary
        return -np.log(answers[context][x[i]])

    return law, loss


def enumerated_curve(law, loss):
    n, total, count = law.ndim, np.zeros(law.ndim), np.zeros(law.ndim)
    for order in permutations(range(n)):
        for j in range(n):
            total[j] += sum(law[x] * loss(x, order[:j], order[j]) for x in product(*map(range, law.shape)))
            count[j] += 1
    return total / count


@pytest.mark.parametrize(("n", "vocabulary"), [(3, 3), (4, 2)])
@pytest.mark.parametrize("seed", [0, 1])
def test_path_nll_by_enumeration(n, vocabulary, seed):
    """E path NLL = sum_k s_k L(t_{k-1}) over all sequences and orders, for a denoiser that contradicts itself."""
    law, loss = inconsistent(n, vocabulary, seed)
    curve = enumerated_curve(law, loss)
    assert np.any(np.diff(curve) > 0) or seed  # seed 0 gives a curve that rises somewhere

    def enumerated(sizes):
        total, orders = 0.0, list(permutations(range(n)))
        for order in orders:
            done = 0
            for size in sizes:
                for x in product(*map(range, law.shape)):
                    total += law[x] * sum(loss(x, order[:done], i) for i in order[done : done + size])
                done += size
        return total / len(orders)

    for sizes in [Plan([1] * n), Plan([n]), Plan([1, n - 1]), Plan([n - 1, 1])]:
        assert path_nll(curve, sizes) == pytest.approx(enumerated(sizes.sizes), abs=1e-12)
    for sizes in (minimax(n, 2), minimax(n, 2, target="tc"), Systematic(np.linspace(0.2, 0.7, n - 1))):
        expected = sum(share * enumerated(each.sizes) for share, each in sizes.mixture())
        assert path_nll(curve, sizes) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.floats(0, 3), min_size=2, max_size=30), st.integers(1, 30))
def test_equaliser_identity_for_any_curve(losses, steps):
    """E NLL of minimax(tc) = (1 - a) NELBO + a n L_0, also where the curve rises."""
    n = len(losses)
    sizes = minimax(n, steps, target="tc")
    a = sizes.constant("tc")
    assert path_nll(losses, sizes) == pytest.approx((1 - a) * sum(losses) + a * n * losses[0], abs=1e-6)


def test_errors_of_path_nll():
    values, errors = [1.0, 0.6, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4]
    assert path_nll(Curve(values, errors), Plan((3, 1))).error == pytest.approx(np.hypot(0.3, 0.4))
    forced = Systematic(np.array([0.0, 0.0, 1.0]))
    assert path_nll(Curve(values, errors), forced) == pytest.approx(path_nll(values, Plan((3, 1))))
    assert path_nll(Curve(values, errors), forced).error == pytest.approx(np.hypot(0.3, 0.4))


@settings(deadline=None)
@given(falling, st.floats(1e-3, 10), st.sampled_from(["nats", "bits/token"]))
def test_fewest_steps_is_the_linear_scan(values, excess, unit):
    curve = Curve(values)
    most = excess if unit == "nats" else excess * len(curve) * np.log(2)
    scan = next(k for k in range(1, len(curve) + 1) if optimal(curve, k).cost(curve) <= most)
    planned = plan(curve, excess=excess, unit=unit)
    assert planned.schedule == optimal(curve, scan)
    assert planned.certificate.cost <= most
    assert planned.certificate.wanted == pytest.approx(most)


@settings(deadline=None, max_examples=50)
@given(falling, st.floats(1e-3, 5), st.floats(0.01, 1))
def test_fewest_hedged_steps_is_the_linear_scan(values, excess, share):
    curve = Curve(values)
    scan = next(k for k in range(1, len(curve) + 1) if hedged(curve, k, share=share).cost(curve) <= excess)
    assert plan(curve, excess=excess, hedge=share).schedule.steps == scan


@given(falling)
def test_cost_is_convex_in_the_steps(values):
    costs = np.array([optimal(values, k).cost(values) for k in range(1, len(values) + 1)])
    assert np.all(np.diff(costs) <= 1e-9)
    assert np.all(np.diff(costs, 2) >= -1e-9)
    assert costs[-1] == 0


@st.composite
def seen(draw):
    """A falling curve, some counts at which it is seen, and random inclusion probabilities."""
    n = draw(st.integers(2, 14))
    truth = np.array(sorted(draw(st.lists(nats, min_size=n, max_size=n)), reverse=True))
    grid = np.array(sorted({0, n - 1} | draw(st.sets(st.integers(0, n - 1)))))
    u = np.array(draw(st.lists(st.floats(0, 1), min_size=n - 1, max_size=n - 1)))
    return truth, grid, Systematic(u)


@settings(max_examples=60, deadline=None)
@given(seen())
def test_extent_is_the_linear_program(problem):
    """A sum over cells against a generic solver: over all falling curves between the two ends of the bracket."""
    from scipy.optimize import linprog

    truth, grid, sizes = problem
    n, residual = len(truth), sizes.residual()
    slopes = np.diff(residual, prepend=0.0, append=0.0)
    rises = np.eye(n)[1:] - np.eye(n)[:-1]
    least, largest = extent(residual, grid, truth[grid], np.zeros(len(grid)))
    bounds = list(zip(*(np.asarray(end) for end in on_grid(Curve(truth), grid).bracket()), strict=True))
    for sign, found in ((1, least), (-1, largest)):
        solved = linprog(sign * slopes, A_ub=rises, b_ub=np.zeros(n - 1), bounds=bounds)
        assert found == pytest.approx(sign * solved.fun, abs=1e-6)
    assert least - 1e-9 <= Curve(truth).cost(residual) <= largest + 1e-9


@settings(deadline=None)
@given(st.lists(nats, min_size=6, max_size=16), st.data())
def test_a_true_curve_in_the_bracket_is_never_excluded(values, data):
    """Seen at a few counts: whatever falls between them costs within the certificate, for planned and hedged sizes."""
    truth = Curve(sorted(values, reverse=True))
    n = len(truth)
    inner = data.draw(st.sets(st.integers(1, n - 2)))
    steps, error = data.draw(st.integers(1, n)), data.draw(st.floats(0, 0.2))
    one = on_grid(truth, sorted({0, n - 1} | inner), error)
    for hedge in (0.0, 0.2):
        planned = plan(one, steps=steps, hedge=hedge)
        low, high = planned.certificate.interval
        assert low - 1e-9 <= planned.schedule.cost(truth) <= high + 1e-9
        assert low <= planned.certificate.cost <= high


@settings(deadline=None)
@given(seen(), st.data(), st.integers(1, 14), st.sampled_from([0.0, 0.3]))
def test_a_noisy_curve_never_excludes_a_truth_within_its_errors(problem, data, steps, hedge):
    """Noise anywhere in the ellipsoid of 95 %, a plan made from it, and the true cost is still inside: not by chance."""
    truth, grid, _ = problem
    error = data.draw(st.floats(0.01, 0.3))
    direction = np.array(data.draw(st.lists(st.integers(-9, 9), min_size=len(grid), max_size=len(grid))), dtype=float)
    assume(direction.any())
    noise = error * 0.999 * np.sqrt(chdtri(len(grid), 0.05)) * direction / np.linalg.norm(direction)
    planned = plan(on_grid(truth, grid, error, noise), steps=steps, hedge=hedge)
    low, high = planned.certificate.interval
    assert low - 1e-9 <= planned.schedule.cost(truth) <= high + 1e-9


def test_interval_of_an_estimated_curve():
    values, errors = np.array([1.0, 0.6, 0.3, 0.2]), np.array([0.1, 0.2, 0.3, 0.4])
    cost, (low, high) = cost_interval(Curve(values, errors), Plan((2, 2)))
    half = np.sqrt(9.487729) * np.linalg.norm(np.array([1, -1, 1, -1]) * errors)  # chi^2, four degrees of freedom
    assert cost == pytest.approx(0.5)
    assert high == pytest.approx(0.5 + half, rel=1e-6)
    assert low == 0.0  # no falling curve costs less
    assert cost_interval(Curve(values), Plan((2, 2))) == (cost, (cost, cost))
    assert cost_interval(Curve(values, errors), Plan((2, 2)), coverage=0.5)[1][1] < high


@pytest.mark.parametrize("whole", [False, True])
def test_intervals_cover_at_their_rate(whole):
    """300 noisy curves, each planned on and certified by itself; 1.96 plain standard errors cover few whole ones.

    At a true coverage of 0.95 fewer than 270 of 300 happen with probability 2e-4; the key is fixed.
    """
    truth = Chain.random(64, 6, key=3, concentration=0.2).curve()
    grid = [0, 1, 2, 3, 5, 8, 13, 22, 36, 50, 58, 61, 63]
    rng, covered, plain = np.random.default_rng(5), 0, 0
    for _ in range(300):
        if whole:
            noisy = np.maximum(np.asarray(truth) + rng.normal(0, 0.01, 64), 0)
            source = Curve(noisy, np.full(64, 0.01)).projected()
        else:
            source = on_grid(truth, grid, 0.03, rng.normal(0, 0.03, len(grid)))
        planned = plan(source, steps=8)
        low, high = planned.certificate.interval
        cost = planned.schedule.cost(truth)
        covered += low <= cost <= high
        sway = np.linalg.norm(np.diff(planned.schedule.residual(), prepend=0, append=0))
        plain += abs(planned.certificate.cost - cost) <= 1.96 * 0.01 * sway
    assert covered >= 270
    if whole:
        assert plain <= 30


def test_certificate():
    truth = Chain.random(24, 5, key=1, concentration=0.2).curve()
    one = on_grid(truth, [0, 2, 6, 15, 23], 0.01)
    for certificate in (
        plan(one, steps=5).certificate,
        plan(one, excess=0.05, unit="bits/token", hedge=0.2).certificate,
        plan(truth, steps=24).certificate,
        certify(truth, sequential(24, 6)),
    ):
        text = certificate.text()
        assert max(map(len, text.splitlines())) <= 100
        assert "Not promised" in text
        assert "NELBO" in text
        back = Certificate.from_json(json.loads(json.dumps(certificate.to_json(), allow_nan=False)))
        assert back == certificate
        assert back.tc.error == certificate.tc.error
    first = plan(one, steps=5).certificate
    assert (first.data, first.fingerprint, first.key) == ("a known curve", "0123456789abcdef", 7)
    assert not first.exact
    assert first.coverage == 0.95
    assert first.bits[1] == pytest.approx(first.interval[1] / 24 / np.log(2))
    assert sum(first.sizes) == 24
    one_by_one = plan(truth, steps=24).certificate
    assert one_by_one.exact
    assert one_by_one.interval == (0.0, 0.0)
    assert one_by_one.against_both == one_by_one.worst == 0
    assert certify(truth, uniform(24, 4)).worst == pytest.approx(uniform(24, 4).guarantee(tc=truth.tc, dtc=truth.dtc))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "demask.certificate/2"}, "expected 'demask.certificate/1'"),
        ({"cost": float("nan")}, "cost is nan: expected a finite number"),
        ({"length": 0}, "length is 0: expected an integer >= 1"),
        ({"sizes": [1, 2]}, "sizes sum to 3, its length is 4"),
        ({"sizes": [True, 3]}, "sizes is"),
        ({"interval": [2, 1]}, "ends before it begins"),
        ({"interval": [1]}, "interval is"),
        ({"tc": 1.0}, "tc is 1.0"),
        ({"key": "seven"}, "key is 'seven': expected an integer"),
    ],
)
def test_foreign_certificates_are_refused(change, message):
    content = plan([1.0, 0.5, 0.25, 0.0], steps=2).certificate.to_json()
    with pytest.raises(PlanError, match=message):
        Certificate.from_json(content | change)
    del content["worst"]
    with pytest.raises(PlanError, match="has no worst"):
        Certificate.from_json(content)
    with pytest.raises(PlanError, match="schema 'list'"):
        Certificate.from_json([])


def test_best_of():
    curve = Chain.random(48, 6, key=4, concentration=0.2).curve()
    rows = {row.name: row for row in best_of(curve, 8)}
    assert list(rows) == [
        "uniform", "cosine", "fixed", "geometric", "sequential", "minimax", "two_number", "hedged", "optimal",
    ]  # fmt: skip
    assert min(rows.values(), key=lambda row: row.cost).name == "optimal"
    assert min(rows.values(), key=lambda row: row.constant).name == "minimax"
    for row in rows.values():
        assert row.cost == pytest.approx(path_nll(curve, row.schedule) - curve.entropy, abs=1e-9)
        assert row.bits == pytest.approx(row.cost / 48 / np.log(2))
    assert all(row.cost == 0 for row in best_of([1.0], 1))
    assert all(row.cost == 0 for row in best_of([1.0, 1.0, 1.0], 2))


def test_bad_input():
    z = [1.0, 0.5, 0.2, 0.1]
    with pytest.raises(PlanError, match="neither given"):
        plan(z)
    with pytest.raises(PlanError, match=r"both steps=2 and excess=0\.1"):
        plan(z, steps=2, excess=0.1)
    for excess in (0, -1.0, np.nan, np.inf):
        with pytest.raises(PlanError, match=r"expected a finite number > 0 nats.*plan\(curve, steps=4\)"):
            plan(z, excess=excess)
    with pytest.raises(PlanError, match="unit 'bits'; expected 'nats'"):
        plan(z, excess=1, unit="bits")
    with pytest.raises(PlanError, match="hedge = 2"):
        plan(z, steps=2, hedge=2)
    with pytest.raises(PlanError, match="coverage of 1"):
        plan(z, steps=2, coverage=1)
    with pytest.raises(CurveError, match="nan"):
        plan([1.0, np.nan], steps=1)
    rising = [0.5, 0.6, 0.2]
    for call in (lambda: plan(rising, steps=2), lambda: plan(rising, excess=1), lambda: certify(rising, Plan((1, 2)))):
        with pytest.raises(CurveError, match=r"curve\.projected\(\)"):
            call()
    with pytest.raises(PlanError, match="sizes for 3 positions on a curve of length 4"):
        certify(z, Plan((1, 2)))
    with pytest.raises(CurveError, match="a curve of length 4 for sizes of 3 positions"):
        path_nll(z, Plan((1, 2)))


@given(falling, st.integers(1, 20))
def test_exact_curves_have_points(values, steps):
    assume(len(values) > 2)
    certificate = plan(values, steps=steps).certificate
    assert certificate.exact
    assert certificate.coverage == 1.0
    assert certificate.cost == pytest.approx(optimal(values, steps).cost(values))
