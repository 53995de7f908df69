"""Random sizes from inclusion probabilities, drawn systematically."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import floor

import numpy as np
import torch
from torch import Tensor

from demask.chance import Keyed
from demask.contracts import Chance
from demask.errors import PlanError
from demask.schedules.plan import Floats, Plan, Sizes, origin


@dataclass(frozen=True, eq=False)
class Systematic(Sizes):
    """Random sizes in which position i is a boundary with probability u_i, in the best possible way.

    One uniform U sets all boundaries: i is one iff floor(C_i + U) > floor(C_{i-1} + U), C_i = u_1 + .. + u_i. Then

        R(i) = sum_{m=i}^{n-1} max(0, 1 - (C_m - C_{i-1})),

    which no law with the same u undercuts at any i. If sum u = K - 1 is an integer, every draw has exactly K steps.

    Parameters:
        inclusion: (n-1,) probabilities u_1 .. u_(n-1).

    Raises:
        PlanError: a probability outside [0, 1].

    Cost: a draw is K binary searches; the law is a mixture of at most n plans.

    Example:
        >>> Systematic(np.array([0.5, 0.5])).mixture()
        [(0.5, Plan(sizes=(2, 1))), (0.5, Plan(sizes=(1, 2)))]

    Reference: theory of this library, docs/guide/theory.md, Theorem 1; Madow, 1949, for the draw.
    """

    inclusion: Floats
    spec: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        u = np.array(self.inclusion, dtype=np.float64)
        if u.ndim != 1:
            raise PlanError(f"inclusion probabilities of shape {u.shape}; expected length - 1 numbers")
        bad = np.flatnonzero(~((u >= 0) & (u <= 1)))
        if len(bad):
            raise PlanError(f"u_{bad[0] + 1} = {u[bad[0]]}; inclusion probabilities lie in [0, 1]")
        u.setflags(write=False)
        object.__setattr__(self, "inclusion", u)

    @cached_property
    def length(self) -> int:  # type: ignore[override]
        """The number of positions, n."""
        return len(self.inclusion) + 1

    @cached_property
    def steps(self) -> float | int:
        """The expected number of steps; an integer if every draw has as many."""
        return 1 + (round(self._cumulated[-1]) if self._lockstep else float(self._cumulated[-1]))

    @property
    def largest(self) -> int:
        """The largest number of tokens that one step can unmask."""
        ends = np.concatenate((self._cumulated, [np.inf]))
        # From i the next boundary is at most where C has grown by a whole unit.
        reach = np.minimum(np.searchsorted(ends, self._cumulated + 1 - 1e-12), self.length)
        return int(np.max(reach - np.arange(self.length)))

    def residual(self) -> Floats:
        """Return R(i), from what is really drawn."""
        c = self._cumulated.astype(np.longdouble)
        prefix = np.concatenate((np.zeros(1, np.longdouble), np.cumsum(c)))  # prefix[m] = C_0 + .. + C_(m-1)
        i = np.arange(1, self.length)
        stop = np.searchsorted(self._cumulated, self._cumulated[i - 1] + 1)  # first m that a boundary surely precedes
        stop = np.maximum(stop, i)
        r = (stop - i) * (1 + c[i - 1]) - (prefix[stop] - prefix[i])
        return np.maximum(r, 0.0).astype(np.float64)

    def boundary(self, done: Sequence[int], chance: Chance) -> list[int]:
        """Return the next boundary."""
        ends, out = self._ends, []
        for begin, u in zip(done, chance.level(self._breaks).tolist(), strict=True):
            turn = floor(ends[begin] + u) + 1  # boundary number k lies where C first reaches k - U, the last one at n
            while (end := bisect_left(ends, turn - u)) <= begin:  # a boundary at `begin` itself, by rounding
                turn += 1
            out.append(end)
        return out

    def draw(self, rows: int, *, key: int) -> list[Plan]:
        """Draw the sizes of `rows` rows, stratified; the same that `sample` uses for this key."""
        level = origin(Keyed.of(key, torch.arange(rows)).fork("run")).level(torch.empty(0)).numpy()
        return [Plan(sizes) for sizes in self._sizes(level)]

    def mixture(self) -> list[tuple[float, Plan]]:
        """Return the law as a finite mixture: pairs of probability and plan, the most probable first."""
        edges = np.concatenate(([0.0], self._breaks.numpy(), [1.0]))
        shares: dict[tuple[int, ...], float] = {}
        for share, sizes in zip(np.diff(edges), self._sizes((edges[1:] + edges[:-1]) / 2), strict=True):
            shares[tuple(sizes)] = shares.get(tuple(sizes), 0.0) + float(share)
        ranked = sorted(shares.items(), key=lambda item: -item[1])
        return [(share, Plan(sizes)) for sizes, share in ranked]

    def __repr__(self) -> str:
        if self.spec:
            return self.spec
        return f"Systematic(({', '.join(f'{u:.6g}' for u in self.inclusion.tolist())}))"

    def _sizes(self, level: Floats) -> list[list[int]]:
        turns = np.arange(1, int(np.ceil(self._cumulated[-1])) + 1)
        ends = np.searchsorted(self._cumulated, turns[None, :] - level[:, None])
        ends = np.concatenate((np.minimum(ends, self.length), np.full((len(level), 1), self.length)), axis=1)
        sizes = np.diff(ends, prepend=0, axis=1)
        return sizes.tolist() if sizes.all() else [[size for size in row if size] for row in sizes.tolist()]

    @cached_property
    def _lockstep(self) -> bool:
        return bool(abs(self._cumulated[-1] - round(self._cumulated[-1])) < 1e-9)

    @cached_property
    def _cumulated(self) -> Floats:
        """C_0 .. C_(n-1); a sum that is an integer up to rounding ends on it exactly, or some draws would lose a step."""
        c = np.concatenate(([0.0], np.cumsum(self.inclusion)))
        whole = round(float(c[-1]))
        if whole and abs(c[-1] - whole) < 1e-6:
            c *= whole / c[-1]
            c[-1] = whole
        return c

    @cached_property
    def _ends(self) -> list[float]:
        ends: list[float] = self._cumulated.tolist()
        return ends

    @cached_property
    def _breaks(self) -> Tensor:
        """Return the levels at which the drawn plan changes: the fractional parts of -C_i, inside (0, 1), distinct."""
        parts = np.unique((-self._cumulated) % 1.0)
        parts = parts[(parts > 1e-12) & (parts < 1 - 1e-12)]
        return torch.from_numpy(parts[np.diff(parts, prepend=0.0) > 1e-12])
