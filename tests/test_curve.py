import numpy as np
import pytest

from demask.curve import Curve, Estimate
from demask.errors import CurveError


def test_totals():
    z = [1.5, 1.0, 0.25, 0.25]
    curve = Curve(z)
    assert curve.entropy == pytest.approx(3.0)
    assert curve.tc == pytest.approx(4 * 1.5 - 3)
    assert curve.dtc == pytest.approx(3 - 4 * 0.25)
    assert curve.tc.exact
    assert curve.cost(np.zeros(3)) == 0
    assert curve.cost(np.array([3.0, 2.0, 1.0])) == pytest.approx(curve.tc)
    assert "exact" in repr(curve)


def test_errors_add_in_squares():
    curve = Curve([1.0, 0.5], [0.3, 0.4])
    assert curve.entropy.error == pytest.approx(0.5)
    assert curve.tc.error == pytest.approx(0.5)  # weights 2 - 1 = 1 and -1
    low, high = curve.entropy.interval(0.95)
    assert (high - low) / 2 == pytest.approx(1.959964 * 0.5, abs=1e-5)
    with pytest.raises(CurveError, match="coverage of 95"):
        curve.entropy.interval(95)


def test_projection_is_least_squares():
    curve = Curve([1.0, 1.2, 0.5, 0.7, 0.1])
    assert not curve.monotone
    assert curve.projected().values == pytest.approx([1.1, 1.1, 0.6, 0.6, 0.1])
    weighted = Curve([1.0, 1.3], [1.0, 0.5]).projected()
    assert weighted.values == pytest.approx([(1.0 + 4 * 1.3) / 5] * 2)
    assert Curve([2.0, 1.0]).projected().values == pytest.approx([2.0, 1.0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "shape"),
        ([[1.0]], "shape"),
        ([1.0, float("nan")], "Z_1 = nan"),
        ([1.0, -0.1], "Z_1 = -0.1"),
        ([float("inf")], "Z_0"),
    ],
)
def test_refuses(values, message):
    with pytest.raises(CurveError, match=message):
        Curve(values)


def test_refuses_misfits():
    with pytest.raises(CurveError, match="standard errors"):
        Curve([1.0, 0.5], [0.1])
    with pytest.raises(CurveError, match="length - 1"):
        Curve([1.0, 0.5]).cost(np.zeros(5))
    with pytest.raises(ValueError, match="read-only"):
        Curve([1.0]).values[0] = 2


def test_estimate_is_a_float():
    assert Estimate(2.0, 0.1) + 1 == 3.0
    assert not Estimate(2.0, 0.1).exact
    assert Estimate(2.0).interval() == (2.0, 2.0)
