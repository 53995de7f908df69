"""What can be known of a distribution in reasonable time."""

from typing import Any, Final, cast

from demask.curve import Curve, Estimate
from demask.errors import OracleError
from demask.oracles import Chain, Oracle

_ENTRIES: Final = 2**16  # sequences that oracles enumerate
_MOST: Final = 2e12  # multiplications that a curve by Monte Carlo may take, some ten minutes
_SAMPLES: Final = 256


def known_curve(oracle: Oracle) -> Curve | None:
    """Return the oracle's curve, None where it would take too long."""
    if isinstance(oracle, Chain) and oracle.order > 1 and oracle.vocabulary**oracle.length > _ENTRIES:
        if _SAMPLES * oracle.length**2 * float(oracle.vocabulary) ** (oracle.order + 1) > _MOST:
            return None
    return oracle.curve(samples=_SAMPLES)


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
        known |= {"tc": at_most(oracle.tc()), "dtc": at_most(oracle.dtc())}
    return known
