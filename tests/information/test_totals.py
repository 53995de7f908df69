"""Effective total correlation and fixed-cardinality mass: published values, quadrature, and the sandwich."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demask.curve import Curve
from demask.errors import CurveError
from demask.information.measurement import interpolation
from demask.information.totals import effective_tc, effective_weights, fixed_cardinality_mass, weighted
from demask.oracles import Chain, Table
from demask.schedules import minimax

from .grids import on_grid


def test_two_state_chain():
    chain = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=5)
    assert effective_tc(chain.curve()) == pytest.approx(0.201602, abs=1e-6)


@pytest.mark.parametrize(("length", "expected"), [(2, 0.2997), (4, 0.5520), (6, 0.6398), (8, 0.6726), (10, 0.6851)])
def test_repeated_bit(length, expected):
    assert effective_tc([np.log(2)] + [0.0] * (length - 1)) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("length", [2, 3, 17, 256])
def test_weights_by_quadrature(length):
    """omega_i = i E[min(1, -ln p)], p ~ Beta(i + 1, n - i), by adaptive integration over P(-ln p > t)."""
    from scipy.integrate import quad
    from scipy.special import betainc

    omega = effective_weights(length)
    for i in sorted({1, length // 3 or 1, length // 2, length - 1}):
        tail = quad(lambda t, i=i: betainc(i + 1, length - i, np.exp(-t)), 0, 1, epsabs=1e-12, limit=200)[0]
        assert omega[i - 1] == pytest.approx(i * tail, rel=1e-9)


@pytest.mark.parametrize("length", [2, 3, 10, 64, 1000, 4096])
def test_sandwich_of_weights(length):
    i = np.arange(1, length)
    omega = effective_weights(length)
    assert np.all(omega <= np.minimum(i, length - i) * (1 + 1e-12))
    assert np.all(omega >= i * (length - i) / (length + 1) * (1 - 1e-12))
    # With n for n + 1 it fails, always at the last one: omega_(n-1) = (n - 1) / n * (1 - e^-n).
    assert omega[-1] == pytest.approx((length - 1) / length * -np.expm1(-length), rel=1e-12)


@pytest.mark.parametrize("length", [64, 256])
def test_ratios_to_both_ends(length):
    i = np.arange(1, length)
    omega = effective_weights(length)
    assert np.all(omega >= 0.68 * np.minimum(i, length - i))
    assert np.all(omega <= 1.53 * i * (length - i) / length)


@given(st.integers(0, 200))
def test_sandwich_of_totals(key):
    curve = Table.random(4, 2, key=key, concentration=0.3).curve()
    low, middle = fixed_cardinality_mass(curve), effective_tc(curve)
    assert low * 4 / 5 <= middle + 1e-12
    assert middle <= min(curve.tc, curve.dtc) + 1e-12


def test_best_schedule_against_effective_tc():
    """The weights are a target like any other, and an easier one than min(TC, DTC) is no cheaper per nat."""
    target = effective_weights(64)
    sizes, curve = minimax(64, 8, target=target), Chain.random(64, 4, key=1, concentration=0.3).curve()
    assert sizes.cost(curve) <= sizes.constant(target) * effective_tc(curve) + 1e-12
    assert sizes.constant(target) <= minimax(64, 8).constant(target) + 1e-12
    assert sizes.constant(target) >= minimax(64, 8).constant("both") - 1e-12


def test_errors_of_a_curve():
    values, errors = np.array([1.0, 0.6, 0.3, 0.2]), np.array([0.1, 0.2, 0.3, 0.4])
    curve = Curve(values, errors)
    w = np.array([3.0, 4.0, 3.0]) / 4
    slopes = np.array([w[0], w[1] - w[0], w[2] - w[1], -w[2]])
    mass = fixed_cardinality_mass(curve)
    assert mass == pytest.approx(slopes @ values)
    assert mass.error == pytest.approx(np.sqrt(np.sum((slopes * errors) ** 2)))
    assert fixed_cardinality_mass(Curve(values)).exact
    assert weighted(curve, np.array([3.0, 2.0, 1.0])).error == pytest.approx(curve.tc.error)
    assert weighted(curve, np.array([1.0, 2.0, 3.0])).error == pytest.approx(curve.dtc.error)


def test_errors_of_a_measurement_move_together():
    one = on_grid(Chain.random(40, 3, key=2).curve(), [0, 3, 11, 39], 0.02)
    w = effective_weights(40)
    slopes = np.diff(w, prepend=0.0, append=0.0)
    at_grid = slopes @ interpolation(one.grid, 40)
    assert effective_tc(one).error == pytest.approx(0.02 * np.linalg.norm(at_grid))
    assert effective_tc(one) == pytest.approx(effective_tc(one.curve()))


def test_one_position():
    assert effective_tc([1.0]) == fixed_cardinality_mass([1.0]) == 0.0


def test_wrong_number_of_weights():
    with pytest.raises(CurveError, match="3 weights on a curve of length 3; expected 2"):
        weighted([1.0, 0.5, 0.2], np.ones(3))
