"""The exact minimax randomised schedule, for any positive weights."""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, exp, log

import numpy as np

from demask.errors import PlanError
from demask.schedules.plan import Floats, Target, check, weights
from demask.schedules.systematic import Systematic


class _Minimax:
    """Random sizes that are best against the worst distribution, with nothing known about the data and nothing to tune.

    Minimises max_i R(i) / w_i over all laws of sizes with `steps` steps, so that E KL <= constant * sum_i delta_i w_i:

        target="tc"          E KL  = a TC for every distribution, the least possible a
        target="dtc"         E KL <= b DTC
        target="both"        E KL <= c min(TC, DTC); the right default when nothing is known
        target="complexity"  E KL <= g sum_i delta_i i (n - i) / n
        target=(w_1, ..)     any positive weights

    This is the project's answer to its founding paper, which shows that sizes that are random, with nothing known about
    the data, keep E KL at O~(TC/K) or O~(DTC/K) after K < L steps. Here the constants are the best possible for random
    positions and sizes that are independent of the data: no such scheme has a smaller one for all distributions.

    Solution: with D_i the expected number of boundaries at or after i, R(i) <= a w_i reads D_i >= a water level over
    the later D; one backward pass finds the least D for a given a, and the root of D_1(a) = K - 1 is the constant.

    Law: FACTORISED with random positions.   Cost: about fifteen passes of O(n), memory O(n); remembered.

    Parameters:
        length: masked positions, n >= 1.
        steps: K >= 1; with K >= n every step unmasks one token and the constant is 0.
        target: what to be safe against.

    Returns:
        A `Systematic` schedule: `inclusion`, `mixture()`, `residual()`, and `constant(target)`, recomputed from the
        boundaries really drawn.

    Raises:
        PlanError: a length or number of steps below 1, an unknown target, weights that are not positive.

    Example:
        >>> schedule = minimax(10, 4, target="tc")
        >>> round(schedule.constant("tc"), 8), len(schedule.mixture()), schedule.mixture()[0][1]
        (0.24305894, 9, Plan(sizes=(5, 3, 1, 1)))

    Reference: Zhao and Cai, 2026, arXiv 2602.20126 (random sizes, the rates); the constants are this library's.
    """

    __name__ = "minimax"

    def __call__(self, length: int, steps: int, *, target: Target = "both") -> Systematic:
        """Solve for `length` positions and `steps` steps."""
        check(length, steps)
        named = target if isinstance(target, str) else tuple(weights(length, target).tolist())
        return _solve(int(length), int(steps), named)

    def steps_for(self, length: int, constant: float, *, target: Target = "both") -> int:
        """Return the fewest steps whose minimax constant is at most `constant`.

        One backward pass: the fewest expected boundaries for a target a is D_1(a), to 1e-7 of a step.

        Raises:
            PlanError: a constant that is not a number >= 0.

        Example:
            >>> minimax.steps_for(1024, 0.0335108, target="tc")
            64
        """
        check(length, 1)
        w = weights(length, target)
        if not constant >= 0:
            raise PlanError(f"constant = {constant}; expected a number >= 0, such as 0.05")
        if length == 1:
            return 1
        if constant == 0:
            return length
        return 1 + ceil(_backward(w.tolist(), constant)[0] - 1e-7)

    def __repr__(self) -> str:
        return "minimax"


minimax = _Minimax()


@lru_cache(maxsize=256)
def _solve(length: int, steps: int, target: str | tuple[float, ...]) -> Systematic:
    spec = f"minimax(length={length}, steps={steps}, target={target!r})"
    return from_weights(weights(length, target), steps, spec)  # type: ignore[arg-type]


def from_weights(w: Floats, steps: int, spec: str = "") -> Systematic:
    """Return the minimax schedule for positive weights w_1 .. w_(n-1)."""
    length = len(w) + 1
    if steps == 1:
        return Systematic(np.zeros(length - 1), spec)
    if steps >= length:
        return Systematic(np.ones(length - 1), spec)
    if not np.all(w > 0):
        raise PlanError("weights must be > 0")
    expected = np.array(_root(w, steps))  # D_1 .. D_n
    expected *= (steps - 1) / expected[0]
    inclusion = np.clip(-np.diff(expected), 0.0, 1.0)  # the rescaling may pass 1 by a rounding error
    return Systematic(inclusion, spec)


def _root(w: Floats, steps: int) -> list[float]:
    """Return D at the constant a for which D_1(a) = steps - 1; log D_1 is nearly a line in log a."""
    from scipy.optimize import brentq

    listed, n = w.tolist(), len(w) + 1
    last: dict[float, list[float]] = {}

    def excess(log_a: float) -> float:
        last.clear()
        last[log_a] = _backward(listed, exp(log_a))
        expected = last[log_a][0]
        return log(expected / (steps - 1)) if expected > 0 else -1e3

    low = log((n - steps) / float(w.sum()))  # R(i) >= 1 - u_i, so the root lies above
    high = log(float(np.max((n - np.arange(1, n)) / w)))  # the constant of one step
    value = excess(low)
    if value <= 0:  # the bound is attained near steps = n, up to rounding
        return last[low]
    # That ceiling is far away: climb from the floor, each time as far as a slope of -1 would need, and a half more.
    reach = low
    while value > 0 and reach < high:
        low, reach = reach, min(reach + max(1.5 * value, 0.05), high)
        value = excess(reach)
    root = reach if value == 0 else brentq(excess, low, reach, xtol=1e-15, rtol=1e-14)
    return last[root] if root in last else _backward(listed, exp(root))


def _backward(w: Sequence[float], a: float) -> list[float]:
    """Return the least D_1 .. D_n with R(i) <= a w_i for all i: D_i = max(D_{i+1}, 1 + x_i).

    x_i is the water level sum_{j>i} (D_j - x)_+ = a w_i. The D_j above the level are i+1 .. j; the pointer j moves O(1)
    amortised, and suffix sums give the level in one division.
    """
    n = len(w) + 1
    d = [0.0] * (n + 2)  # d[n] = 0
    p = [0.0] * (n + 3)  # p[j] = d[j] + .. + d[n]
    j = n
    for i in range(n - 1, 0, -1):
        volume = a * w[i - 1]
        top = p[i + 1]
        first = i + 1
        # Is the level above d[j]?
        while j > first and top - p[j] - (j - first) * d[j] > volume:
            j -= 1
        while j < n and top - p[j + 1] - (j + 1 - first) * d[j + 1] <= volume:
            j += 1
        level = 1.0 + (top - p[j + 1] - volume) / (j - i)
        di = d[first]
        if level > di:
            di = level
        d[i] = di
        p[i] = top + di
    return d[1 : n + 1]
