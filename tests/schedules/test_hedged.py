"""The hedge: between its two parts at every boundary, hence for every curve and against every distribution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demask.curve import Curve
from demask.errors import CurveError, PlanError
from demask.oracles import reed_solomon
from demask.registry import KINDS, build
from demask.schedules import Plan, minimax, optimal
from demask.schedules.hedged import hedged
from demask.testing import check_schedule

falling = st.lists(st.floats(0, 2), min_size=2, max_size=24).map(lambda z: Curve(sorted(z, reverse=True)))
TARGETS = st.sampled_from(["tc", "dtc", "both", "complexity"])


@settings(max_examples=150, deadline=None)
@given(falling, falling, st.integers(1, 24), st.floats(0, 1), TARGETS)
def test_the_inequality(curve, truth, steps, share, target):
    n = len(curve)
    sizes, best = hedged(curve, steps, share=share, target=target), optimal(curve, steps)
    safe = minimax(n, steps, target=target)
    assert np.all(sizes.residual() <= (1 - share) * best.residual() + share * safe.residual() + 1e-9)
    assert sizes.steps == min(steps, n)
    if len(truth) == n:  # a curve that is not the one planned on
        assert sizes.cost(truth) <= (1 - share) * best.cost(truth) + share * safe.cost(truth) + 1e-9
        if target == "both":
            worst = share * safe.constant("both") * min(truth.tc, truth.dtc)
            assert sizes.cost(truth) <= (1 - share) * best.cost(truth) + worst + 1e-9


def test_worst_case_on_codes():
    """A code that changes all at once where the curve was flat: the plan pays in full, the hedge part of it."""
    planned_on = np.exp(-np.arange(12.0))
    sizes, best, safe = hedged(planned_on, 4, share=0.3), optimal(planned_on, 4), minimax(12, 4)
    for k in range(1, 12):
        curve = reed_solomon(12, k).curve()
        bound = 0.7 * best.cost(curve) + 0.3 * safe.constant("both") * min(curve.tc, curve.dtc)
        assert sizes.cost(curve) <= bound + 1e-9
    assert sizes.constant("both") < 0.9 * best.constant("both")


def test_ends():
    z = np.exp(-np.arange(10) / 4)
    assert hedged(z, 4, share=0).residual() == pytest.approx(optimal(z, 4).residual(), abs=1e-12)
    assert hedged(z, 4, share=1).residual() == pytest.approx(minimax(10, 4).residual(), abs=1e-9)
    assert hedged(z, 1).mixture() == [(1.0, Plan((10,)))]
    assert hedged(z, 99).mixture() == [(1.0, Plan([1] * 10))]
    assert hedged([1.0], 3).mixture() == [(1.0, Plan((1,)))]


def test_every_draw_has_exactly_as_many_steps():
    sizes = hedged(np.exp(-np.arange(100) / 30), 9, share=0.25)
    assert {plan.steps for _, plan in sizes.mixture()} == {9}
    assert {plan.steps for plan in sizes.draw(200, key=3)} == {9}
    check_schedule(sizes, length=100)


@pytest.mark.parametrize("target", ["both", "tc", (1.0, 2.0, 3.0, 2.0, 1.0)])
def test_the_specification_builds_it_again(monkeypatch, target):
    sizes = hedged([1.0, 0.7, 0.3, 0.2, 0.1, 0.0], 3, share=0.125, target=target)
    monkeypatch.setitem(KINDS["schedule"], "hedged", hedged)
    again = build(repr(sizes), "schedule")
    assert np.array_equal(again.inclusion, sizes.inclusion)
    assert repr(again) == repr(sizes)


def test_bad_input():
    z = [1.0, 0.5, 0.2, 0.1]
    for share in (-0.1, 1.5, np.nan):
        with pytest.raises(PlanError, match=r"share = .*expected a number from 0"):
            hedged(z, 2, share=share)
    with pytest.raises(PlanError, match=r"a plan of 2 steps to be hedged at 3; write hedged\(plan, 2\)"):
        hedged(Plan((2, 2)), 3)
    with pytest.raises(CurveError, match=r"plan on curve.projected\(\)"):
        hedged([1.0, 0.5, 0.8, 0.1], 2)
    with pytest.raises(PlanError, match="steps = 0"):
        hedged(z, 0)
    with pytest.raises(PlanError, match="target 'nothing'"):
        hedged(z, 2, target="nothing")
