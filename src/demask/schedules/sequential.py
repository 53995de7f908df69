"""The sequential TC equaliser: choose the first size at random, recurse on the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
import torch

from demask.contracts import Chance
from demask.schedules.plan import Floats, Sizes, check

# What a chance has drawn so far, a pure function of it, by boundary and row: schedules keep no state of a run.
_DRAWN: Final[WeakKeyDictionary[Chance, dict["Sequential", list[list[int]]]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Sequential(Sizes):
    """Random sizes, each drawn given only how many tokens and steps are left; E KL = a_K(n) TC exactly.

    Parameters:
        length: masked positions, n.
        steps: K < n.
    """

    length: int
    steps: int

    @property
    def largest(self) -> int:
        """The largest number of tokens that one step can unmask."""
        return self.length - self.steps + 1

    def residual(self) -> Floats:
        """R(i) = a_K(n) (n - i)."""
        a = float(_constants(self.steps, self.length)[self.steps, self.length])
        return a * (self.length - np.arange(1, self.length, dtype=np.float64))

    def first(self, left: int, steps: int) -> Floats:
        """Return the law of the next size with `left` tokens and `steps` steps left: P(s), s = 0 .. left."""
        return _first(self.steps, self.length, left, steps)

    def boundary(self, done: Sequence[int], chance: Chance) -> list[int]:
        """Return the next boundary, drawing all sizes up to it that this chance has not drawn before."""
        known = _DRAWN.setdefault(chance, {}).setdefault(self, [[0] * len(done)])
        while any(end <= begin for end, begin in zip(known[-1], done, strict=True)):
            laws = np.zeros((len(done), self.length + 1))
            steps = self.steps + 1 - len(known)
            for row, begin in enumerate(known[-1]):
                law = self.first(self.length - begin, steps) if begin < self.length else np.ones(1)
                laws[row, : len(law)] = law
            size = chance.fork(len(known) - 1).outcome(torch.from_numpy(laws)).tolist()
            known.append([begin + more for begin, more in zip(known[-1], size, strict=True)])
        rows = zip(zip(*known, strict=True), done, strict=True)
        return [next(end for end in ends if end > begin) for ends, begin in rows]

    def __repr__(self) -> str:
        return f"sequential(length={self.length}, steps={self.steps})"


def sequential(length: int, steps: int) -> Sequential:
    """Draw one size after the other so that E KL = a TC exactly, for every distribution.

    p(i) (1 + a_{K-1}(n-i) (n-i-1)) = p(i-1) a_{K-1}(n-i+1) (n-i+1), p(n) = 0 for K > 1.

    A correct equaliser, kept as the reference randomised scheme: it is minimax-optimal only for K = 2 and K = n - 1, and
    its constant tends to twice that of `minimax(length, steps, target="tc")`. With steps >= length every step unmasks
    one token.

    Cost: O(n K) to solve, a draw per step; O(K) of them where the rows that are left change from step to step.

    Example:
        >>> schedule = sequential(10, 4)
        >>> round(schedule.constant("tc"), 8), schedule.first(10, 4).round(3)[:4]
        (0.29664493, array([0.   , 0.163, 0.163, 0.162]))

    Reference: docs/guide/theory.md, section 4.
    """
    check(length, steps)
    return Sequential(length, min(steps, length))


@lru_cache(maxsize=1 << 12)
def _first(most: int, length: int, left: int, steps: int) -> Floats:
    """Return `Sequential(length, most).first(left, steps)`, which every row and step asks for."""
    out = np.zeros(left + 1)
    if steps >= left:
        out[1] = 1.0
    elif steps == 1:
        out[left] = 1.0
    else:
        a = _constants(most, length)[steps - 1]
        s = np.arange(2, left - steps + 2)
        m = left - s
        # p(s) / p(s - 1); a is 0 where steps - 1 steps suffice for one token each, which ends the support.
        ratio = a[m + 1] * (m + 1) / (1 + a[m] * (m - 1))
        log_p = np.concatenate(([0.0], np.cumsum(np.log(ratio))))
        p = np.exp(log_p - log_p.max())
        out[1 : left - steps + 2] = p / p.sum()
    out.setflags(write=False)
    return out


@lru_cache(maxsize=32)
def _constants(steps: int, length: int) -> Floats:
    """Return a_k(m) for k = 0 .. steps and m = 0 .. length; a_k(m) = 0 for m <= k, and a_1 = 1."""
    a = np.zeros((steps + 1, length + 1))
    a[1, 2:] = 1.0
    for k in range(2, steps + 1):
        previous, current = a[k - 1].tolist(), [0.0] * (length + 1)
        s = n = 0.0
        for m in range(k, length + 1):
            r = previous[m - 1] * (m - 1) / (1 + previous[m - 2] * (m - 3)) if m - 2 >= k - 1 else 0.0
            s = 1 + r * s
            current[m] = r * n / (s * (m - 1))
            n = s + r * n
        a[k] = current
    a.setflags(write=False)
    return a
