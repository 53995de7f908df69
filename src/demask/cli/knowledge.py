"""What can be known of a distribution in reasonable time."""

from typing import Any, Final, cast

from demask.curve import Curve, Estimate
from demask.errors import OracleError
from demask.oracles import Chain, Oracle

_ENTRIES: Final = 2**16  # sequences that oracles enumerate
_CURVE: Final = 6e9  # numbers that a curve by Monte Carlo may go through, some five minutes
_TOTAL: Final = 5e8  # the same for a total correlation, some half a minute
_CURVE_SAMPLES: Final = 256
_SAMPLES: Final = (64, 1024)  # least and most for a total


def known_curve(oracle: Oracle) -> Curve | None:
    """Return the oracle's curve, None where it would take too long."""
    if _per_sample(oracle) * oracle.length * _CURVE_SAMPLES > _CURVE:
        return None
    return oracle.curve(samples=_CURVE_SAMPLES)


def must_know_curve(oracle: Oracle) -> Curve:
    """Return the oracle's curve.

    Raises:
        OracleError: it would take too long.
    """
    curve = known_curve(oracle)
    if curve is None:
        raise OracleError(
            f"the curve of a chain of order {cast(Any, oracle).order} with {oracle.vocabulary} tokens at length "
            f"{oracle.length} would take hours; use --markov 1, whose curve is a formula, or a shorter --length"
        )
    return curve


def known_dtc(oracle: Oracle) -> Estimate | None:
    """Return the dual total correlation, from as many samples as time allows; None where those are too few."""
    least, most = _SAMPLES
    each = _per_sample(oracle)
    samples = most if each == 0 else min(most, int(_TOTAL / each))
    return None if samples < least else oracle.dtc(samples=samples)


def at_most(value: Estimate) -> float:
    """Return a total correlation as a bound: the number itself if exact, else the upper end of its 95% interval."""
    return max(0.0, float(value) if value.exact else value.interval()[1])


def context(oracle: Oracle, names: set[str]) -> dict[str, Any]:
    """Return what the named schedules want to know of the distribution, and nothing that they do not."""
    known: dict[str, Any] = {}
    if "optimal" in names:
        curve = must_know_curve(oracle)
        known["curve"] = curve if curve.monotone else curve.projected()
    if "twonumber" in names:
        dtc = known_dtc(oracle)
        known |= {"tc": at_most(oracle.tc()), "dtc": at_most(must_know_curve(oracle).dtc if dtc is None else dtc)}
    return known


def _per_sample(oracle: Oracle) -> float:
    """Return the numbers that one Monte Carlo sample goes through, 0 where everything is exact."""
    if isinstance(oracle, Chain) and oracle.order > 1 and oracle.vocabulary**oracle.length > _ENTRIES:
        return oracle.length * float(oracle.vocabulary) ** (oracle.order + 1)
    return 0.0
