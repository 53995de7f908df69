"""Schedules that know nothing: the classical curves, the ancestral clock, and the best of those without randomness."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch

from demask.contracts import Chance
from demask.errors import PlanError
from demask.schedules.plan import Floats, Ints, Plan, Sizes, Target, check, weights

Direction = Literal["decreasing", "increasing"]
Clock = Literal["linear", "log-linear"]


def uniform(length: int, steps: int) -> Plan:
    """Unmask equally many tokens at each step, the larger ones first.

    s_k = floor(n / K), and one more for the first n mod K.

    With steps >= length every step unmasks one token. Worst case: E KL <= TC for 1 < K < n, no better than one step.

    Example:
        >>> uniform(10, 4)
        Plan(sizes=(3, 3, 2, 2))

    Reference: Nie et al., LLaDA, 2025, arXiv 2502.09992.
    """
    check(length, steps)
    steps = min(steps, length)
    base, more = divmod(length, steps)
    return Plan([base + 1] * more + [base] * (steps - more))


def cosine(length: int, steps: int) -> Plan:
    """Unmask few tokens at first and many at the end.

    t_k = round(n (1 - cos(pi k / 2 K))), moved by the least that leaves every step at least one token.

    With steps >= length every step unmasks one token.

    Example:
        >>> cosine(16, 4)
        Plan(sizes=(1, 4, 5, 6))

    Reference: Chang et al., MaskGIT, 2022, arXiv 2202.04200.
    """
    check(length, steps)
    steps = min(steps, length)
    ends: list[int] = []
    for k in range(1, steps + 1):
        wanted = round(length * (1 - np.cos(np.pi * k / (2 * steps))))
        ends.append(min(max(wanted, (ends[-1] if ends else 0) + 1), length - (steps - k)))
    return Plan(np.diff(ends, prepend=0).tolist())


def geometric(length: int, steps: int, *, direction: Direction = "decreasing") -> Plan:
    """Unmask a constant share of what is left at each step.

    N_i = ceil(N_{i-1} + (n - N_{i-1}) / zeta), with the largest zeta that needs at most `steps` steps; "increasing" is the
    mirror image. For zeta = 1 + ceil(TC / eps) the published bound is E KL <= eps, hence E KL <= TC / (zeta - 1) for
    "decreasing", and the same with DTC for "increasing".

    The result may have fewer steps than asked where no zeta gives as many.

    Example:
        >>> geometric(16, 4), geometric(16, 4, direction="increasing")
        (Plan(sizes=(9, 4, 2, 1)), Plan(sizes=(1, 2, 4, 9)))

    Reference: Chen, Cong and Li, 2025, arXiv 2511.04647, Theorem 9.
    """
    check(length, steps)
    if direction not in get_args(Direction):
        raise PlanError(f"direction {direction!r}; expected 'decreasing' (for TC) or 'increasing' (for DTC)")

    def sizes(zeta: float) -> list[int]:
        out, left = [], length
        while left:
            out.append(max(1, int(np.ceil(left / zeta - 1e-12))))
            left -= out[-1]
        return out

    low, high = 1.0, float(length)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if len(sizes(middle)) <= steps else (low, middle)
    found = sizes(high if len(sizes(high)) <= steps else low)
    return Plan(found if direction == "decreasing" else found[::-1])


def fixed(length: int, steps: int, *, target: Target = "both") -> Plan:
    """Unmask by the fixed sizes that are best against the worst distribution: minimax without randomness.

    The least a for which the longest blocks [t, e) with e - i <= a w_i for all t < i < e number at most `steps`. At
    practical lengths its constant is about twice that of `minimax`, which may draw its sizes.

    Example:
        >>> plan = fixed(16, 4, target="tc")
        >>> plan, round(plan.constant("tc"), 5)
        (Plan(sizes=(9, 4, 2, 1)), 0.53333)

    Reference: docs/guide/theory.md, section 3.
    """
    check(length, steps)
    if length == 1 or steps == 1:
        return Plan([length])
    w = weights(length, target)

    def sizes(a: float) -> list[int]:
        reach = np.arange(1, length) + a * w + 1e-9 * (1 + a * w)  # a block over boundary i may end here at most
        out, begin = [], 0
        while begin < length:
            lowest = np.minimum.accumulate(reach[begin:])
            ends = np.arange(begin + 2, length + 1)  # a block ending at e crosses begin+1 .. e-1
            fits = ends <= lowest
            end = begin + 1 + (len(fits) if fits.all() else int(np.argmin(fits)))
            out.append(end - begin)
            begin = end
        return out

    low, high = 0.0, float(np.max((length - np.arange(1, length)) / w))
    if len(sizes(low)) <= steps:
        return Plan(sizes(low))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if len(sizes(middle)) <= steps else (middle, high)
    return Plan(sizes(high))


@dataclass(frozen=True)
class Binomial(Sizes):
    """Unmask every token independently, with the probabilities of a reverse clock.

    P(token unmasked by step k) = F_k; the number of steps that unmask anything is random and at most K, and the others
    are skipped, so they cost no forward pass.

    Example:
        >>> Binomial(2, 2, "linear").residual()
        array([0.5])
    """

    length: int
    steps: int
    clock: Clock

    @cached_property
    def shares(self) -> Floats:
        """F_0 = 0 .. F_K = 1."""
        k = np.arange(self.steps + 1) / self.steps
        if self.clock == "linear" or self.steps == 1:
            return k
        # The masked share falls by equal factors to 1/n, one expected token, which the last step takes.
        masked = float(self.length) ** -(np.arange(self.steps) / (self.steps - 1))
        return np.append(1.0 - masked, 1.0)

    def residual(self) -> Floats:
        """R(i) = sum_k E[(C_k - i)_+ ; C_{k-1} < i] with C_k the tokens unmasked by step k; O(K n^2), once."""
        return self._residual

    @cached_property
    def _residual(self) -> Floats:
        n = self.length
        count = np.arange(n + 1)
        out = np.zeros(n - 1)
        for before, after in zip(self.shares[:-1], self.shares[1:], strict=True):
            if after <= before:
                continue
            begin = _binomial(np.array([n]), before, n)[0]  # P(C_(k-1) = c)
            step = _binomial(n - count, (after - before) / (1 - before), n)  # P(X = x | c), x = 0 .. n
            # E[(X - r)_+] = sum_{x > r} P(X >= x), by two cumulative sums from the end.
            above = np.cumsum(step[:, ::-1], axis=1)[:, ::-1]
            excess = np.append(np.cumsum(above[:, :0:-1], axis=1)[:, ::-1], np.zeros((n + 1, 1)), axis=1)
            for i in range(1, n):
                c = count[:i]
                out[i - 1] += begin[:i] @ excess[c, i - c]
        out.setflags(write=False)
        return out

    def boundary(self, done: Sequence[int], chance: Chance) -> list[int]:
        """Return the next boundary: what is unmasked when the clock next takes a token."""
        total = torch.full((len(done),), self.length, dtype=torch.int64)
        ends = chance.multinomial(total, torch.from_numpy(np.diff(self.shares))).cumsum(1).cpu().numpy()
        following: list[int] = np.where(ends > np.asarray(done)[:, None], ends, self.length).min(axis=1).tolist()
        return following

    def __repr__(self) -> str:
        return f"binomial(length={self.length}, steps={self.steps}, clock={self.clock!r})"


def binomial(length: int, steps: int, *, clock: Clock = "linear") -> Binomial:
    """Unmask as ancestral sampling of masked diffusion does: each token goes at its own random step.

    "linear": the masked share falls by 1/K at each step (the clock that MDLM's log-linear noise amounts to).
    "log-linear": the masked share falls by equal factors, from 1 to 1/n before the last step.

    Example:
        >>> binomial(8, 4)
        binomial(length=8, steps=4, clock='linear')

    Reference: Sahoo et al., MDLM, 2024, arXiv 2406.07524.
    """
    check(length, steps)
    if clock not in get_args(Clock):
        raise PlanError(f"clock {clock!r}; expected 'linear' or 'log-linear'")
    return Binomial(length, steps, clock)


def _binomial(trials: Ints, p: float, largest: int) -> Floats:
    """Return P(Bin(m, p) = x) for every m of `trials` and x = 0 .. largest."""
    from scipy.special import gammaln, xlog1py, xlogy  # imported where it is used: `import demask` stays light

    m, x = trials[:, None].astype(np.float64), np.arange(largest + 1)[None, :].astype(np.float64)
    rest = np.maximum(m - x, 0.0)
    logp = gammaln(m + 1) - gammaln(x + 1) - gammaln(rest + 1) + xlogy(x, p) + xlog1py(rest, -p)
    return np.where(x <= m, np.exp(logp), 0.0)
