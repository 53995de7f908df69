"""Numbers that sum up a curve: how much dependence there is, as the different analyses count it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from demask.curve import Curve, Estimate, Floats
from demask.errors import CurveError
from demask.schedules import weights

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from demask.information.measurement import Measurement

Source: TypeAlias = "Curve | Measurement | Sequence[float]"


def curve_of(source: Source) -> Curve:
    """Return the curve of a measurement, or of the n numbers themselves; a curve is returned as it is.

    Example:
        >>> curve_of([1.0, 0.5])
        Curve(length=2, entropy=1.5, tc=0.5, dtc=0.5, exact)
    """
    if isinstance(source, Curve):
        return source
    return source.curve() if measured(source) else Curve(source)


def measured(source: Source) -> "TypeIs[Measurement]":
    """Whether the source is a measurement: a curve known on a grid, with a bracket between.

    Example:
        >>> measured(Curve([1.0, 0.5]))
        False
    """
    return hasattr(source, "bracket")


def standard_error(source: Source, slopes: Floats) -> float:
    """Return the standard error of sum_j slopes_j L_j, nats.

    The errors of an estimated curve, or those at the grid counts of a measurement, are taken to be independent; what is
    interpolated between grid counts moves with its neighbours.

    Example:
        >>> standard_error(Curve([1.0, 0.5], [0.3, 0.4]), np.array([1.0, 1.0]))
        0.5
    """
    if measured(source):
        from demask.information.measurement import interpolation

        return float(np.linalg.norm(slopes @ interpolation(source.grid, source.length) * source.error))
    error = curve_of(source).error
    return 0.0 if error is None else float(np.linalg.norm(slopes * error))


def weighted(source: Source, w: Floats) -> Estimate:
    """Return sum_i (Z_{i-1} - Z_i) w_i over i = 1 .. n-1, nats, with its standard error.

    TC is w_i = n - i, DTC is w_i = i, and the cost of sizes is w_i = R(i). As a sum over Z_j the weights are w_{j+1} - w_j
    with w_0 = w_n = 0, from which `standard_error` follows.

    Raises:
        CurveError: other than n - 1 weights.

    Example:
        >>> weighted(Curve([1.0, 0.5, 0.25], [0.0, 0.1, 0.0]), np.array([1.0, 2.0])).error
        0.1
    """
    curve = curve_of(source)
    if np.shape(w) != (len(curve) - 1,):
        raise CurveError(f"{np.size(w)} weights on a curve of length {len(curve)}; expected {len(curve) - 1}")
    slopes = np.diff(w, prepend=0.0, append=0.0)
    return Estimate(float(curve.increments @ w), standard_error(source, slopes))


def effective_tc(curve: Source) -> Estimate:
    """Return the effective total correlation, nats: at most TC and at most DTC.

    D = int_0^inf min(1, t) I(t) dt = sum_i delta_i omega_i, where I(t) is the information at noise level t and

        omega_i = i E[min(1, -ln p)] = i sum_{k=i+1}^{n} P(Bin(n, 1/e) < k) / k,   p ~ Beta(i + 1, n - i).

    The sum follows from E[min(1, -ln p)] = int_0^1 P(Bin(n, e^-t) > i) dt: neighbours in i differ by one term. All terms are
    positive, so nothing cancels. Since 1 - p <= min(1, -ln p) and E p = (i + 1) / (n + 1),

        i (n - i) / (n + 1) <= omega_i <= min(i, n - i),

    hence n / (n + 1) `fixed_cardinality_mass(curve)` <= D <= min(TC, DTC). Without that factor the lower bound fails: by
    e^-n of it at i = n - 1, and by 14 % at n = 2.

    Parameters:
        curve: Z_0 .. Z_(n-1), or a measurement.

    Cost: O(n).

    Example:
        >>> from demask.oracles import Chain
        >>> chain = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=5)
        >>> round(effective_tc(chain.curve()), 6)
        0.201602

    Reference: Dmitriev, Huang and Wei, 2026, arXiv 2602.15008, for D; the finite sum is this library's.
    """
    return weighted(curve, effective_weights(len(curve_of(curve))))


def effective_weights(length: int) -> Floats:
    """Return omega_1 .. omega_(n-1); `minimax(n, K, target=effective_weights(n))` is the best schedule against D.

    Example:
        >>> effective_weights(3).round(6)
        array([0.663522, 0.633475])
    """
    from scipy.special import bdtr  # imported where it is used: `import demask` stays light

    k = np.arange(1, length + 1)
    terms = bdtr((k - 1).astype(np.float64), length, np.exp(-1.0)) / k
    tails = np.cumsum(terms[::-1])[::-1]  # tails[i] = terms of k = i+1 .. n
    omega: Floats = k[:-1] * tails[1:]
    return omega


def fixed_cardinality_mass(curve: Source) -> Estimate:
    """Return the fixed-cardinality mass, nats: at most (n + 1) / n times the effective total correlation.

    sum_i delta_i i (n - i) / n, the complexity of Tononi, Sporns and Edelman up to scale.

    Parameters:
        curve: Z_0 .. Z_(n-1), or a measurement.

    Example:
        >>> fixed_cardinality_mass([1.0, 0.5, 0.5, 0.0])
        0.75

    Reference: Wainwright, 2026, arXiv 2608.13520; Tononi, Sporns and Edelman, 1994.
    """
    return weighted(curve, weights(len(curve_of(curve)), "complexity"))
