"""Schedules that use what is known: two numbers, or the whole information curve."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from demask.curve import Curve
from demask.errors import CurveError, PlanError
from demask.schedules.minimax import from_weights
from demask.schedules.plan import Floats, Plan, check, weights
from demask.schedules.systematic import Systematic


def two_number(length: int, steps: int, *, tc: float, dtc: float) -> Systematic:
    """Draw sizes that are best against the worst distribution with these total correlations.

    min over kappa >= 0 of a(kappa) (TC + kappa DTC), a(kappa) the minimax constant for w_i = (n - i) + kappa i.

    The bound is `guarantee(tc=tc, dtc=dtc)`: up to 2.7 times lower than the better of the two one-number schedules.

    Parameters:
        length: masked positions.
        steps: K >= 1; with K >= n every step unmasks one token.
        tc: total correlation, or an upper bound, nats, >= 0.
        dtc: dual total correlation, or an upper bound, nats, >= 0.

    Raises:
        PlanError: numbers below 0 or not finite.

    Cost: about thirty minimax solves.

    Example:
        >>> round(two_number(1024, 64, tc=1, dtc=0.1).guarantee(tc=1, dtc=0.1), 6)
        0.003225

    Reference: docs/guide/theory.md, section 6.
    """
    from scipy.optimize import minimize_scalar

    check(length, steps)
    for name, value in (("tc", tc), ("dtc", dtc)):
        if not (np.isfinite(value) and value >= 0):
            raise PlanError(f"{name} = {value}; expected a finite number >= 0, in nats")
    spec = f"two_number(length={length}, steps={steps}, tc={float(tc)!r}, dtc={float(dtc)!r})"
    if length == 1 or steps == 1 or steps >= length or tc == 0 or dtc == 0:
        return from_weights(weights(length, "both"), steps, spec)
    forward, backward = weights(length, "tc"), weights(length, "dtc")

    def solve(share: float) -> Systematic:
        # share in [0, 1] runs from TC alone to DTC alone, both in units of what is known of them.
        return from_weights((1 - share) * forward / tc + share * backward / dtc, steps, spec)

    def bound(share: float) -> float:
        return solve(share).guarantee(tc=tc, dtc=dtc)

    best = float(minimize_scalar(bound, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-7}).x)
    return min((solve(share) for share in (0.0, best, 1.0)), key=lambda s: s.guarantee(tc=tc, dtc=dtc))


def optimal(curve: Curve | Sequence[float], steps: int) -> Plan:
    """Unmask by the fixed sizes that cost least on a known curve.

    min over sizes of sum_k [(t_k - t_{k-1}) Z(t_{k-1}) - sum_j Z_j], j from t_{k-1} to t_k - 1.

    With a price per step the best plan is a least-weight path over a Monge cost, a lower envelope of lines found in one
    pass; the price at which it has `steps` steps is found by bisection, and where two plans tie, one is spliced into the
    other. No random schedule is better on a known curve.

    Parameters:
        curve: Z_0 .. Z_(n-1), nats, non-increasing; `Curve.projected()` gives the nearest such curve.
        steps: K >= 1; with K >= n every step unmasks one token.

    Raises:
        CurveError: a curve that rises.

    Cost: O(n) per price, about fifty prices; memory O(n).

    Example:
        >>> optimal([1.0, 0.5, 0.25, 0.25, 0.25, 0.25], 3)
        Plan(sizes=(1, 1, 4))

    Reference: Chen, Cong and Li, 2025, arXiv 2511.04647, Theorem 4; Aggarwal, Schieber and Tokuyama, 1994, for the price.
    """
    curve = curve if isinstance(curve, Curve) else Curve(curve)
    length = len(curve)
    check(length, steps)
    if not curve.monotone:
        at = int(np.argmin(curve.increments))
        raise CurveError(
            f"the curve rises by {-curve.increments[at]:.3g} nats from Z_{at} to Z_{at + 1}; information never hurts, so "
            "this is noise: plan on curve.projected()"
        )
    z = np.minimum.accumulate(curve.values)
    if steps >= length:
        return Plan([1] * length)
    if steps == 1:
        return Plan([length])
    return Plan(np.diff(_path(z, steps), prepend=0).tolist())


def _path(z: Floats, steps: int) -> list[int]:
    """Return the boundaries t_1 .. t_K of the cheapest plan of exactly `steps` steps."""
    few, many = [len(z)], _priced(z, 0.0)
    low, high = 0.0, float(len(z) * (z[0] - z[-1])) + 1e-300
    while len(many) > steps:  # a price at which the cheapest plan has more steps, one at which it has fewer
        middle = (low + high) / 2
        if middle in (low, high):
            break
        path = _priced(z, middle)
        if len(path) == steps:
            return path
        if len(path) > steps:
            low, many = middle, path
        else:
            high, few = middle, path
    if len(many) <= steps:
        return _refined(many, steps)
    return _spliced(few, many, steps)


def _spliced(few: list[int], many: list[int], steps: int) -> list[int]:
    """Join the beginning of one plan to the end of the other at nested blocks, which by Monge costs nothing."""
    ahead = steps - len(few)
    a, b = [0, *few], [0, *many]
    for i in range(len(few)):
        if a[i] <= b[i + ahead] and b[i + ahead + 1] <= a[i + 1]:
            return b[1 : i + ahead + 1] + a[i + 1 :]
    raise AssertionError("two optimal paths of a Monge cost always have nested blocks")


def _refined(path: list[int], steps: int) -> list[int]:
    """Split the largest blocks until there are `steps`; splitting a block never costs."""
    sizes = np.diff(path, prepend=0).tolist()
    while len(sizes) < steps:
        at = int(np.argmax(sizes))
        sizes[at : at + 1] = [sizes[at] - sizes[at] // 2, sizes[at] // 2]
    return list(accumulate(sizes))


def _priced(z: Floats, price: float) -> list[int]:
    """Return the boundaries of the cheapest plan when every step costs `price`.

    The best plan up to e that begins its last step at t costs [g(t) - t Z_t + P_t] + e Z_t - P_e + price: lines in e whose
    slopes Z_t fall with t, so the lower envelope is a queue that only moves forward.
    """
    n = len(z)
    slope = z.tolist()
    prefix = np.concatenate(([0.0], np.cumsum(z))).tolist()
    begin = [0] * (n + 1)
    queue_t = [0]
    queue_c = [0.0]  # intercepts g(t) - t Z_t + P_t
    head = 0
    for e in range(1, n + 1):
        while head + 1 < len(queue_t) and (
            queue_c[head + 1] + e * slope[queue_t[head + 1]] <= queue_c[head] + e * slope[queue_t[head]]
        ):
            head += 1
        t = queue_t[head]
        begin[e] = t
        if e == n:
            break
        cost = queue_c[head] + e * slope[t] - prefix[e] + price
        intercept, s = cost - e * slope[e] + prefix[e], slope[e]
        while len(queue_t) - head >= 2:
            s1, c1 = slope[queue_t[-2]], queue_c[-2]
            s2, c2 = slope[queue_t[-1]], queue_c[-1]
            # The middle line is never lowest if the outer two cross before it takes over.
            if (intercept - c1) * (s1 - s2) <= (c2 - c1) * (s1 - s):
                queue_t.pop()
                queue_c.pop()
            else:
                break
        if s == slope[queue_t[-1]] and intercept >= queue_c[-1]:
            continue
        queue_t.append(e)
        queue_c.append(intercept)
    path, e = [], n
    while e:
        path.append(e)
        e = begin[e]
    return path[::-1]
