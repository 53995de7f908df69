"""Sizes as data, and the law of random sizes.

For a row with n masked positions a schedule is a set of *boundaries* 0 = t_0 < t_1 < .. < t_K = n: after step k, t_k
tokens are unmasked. Only the count matters, so a rejected token delays a boundary and breaks nothing.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demask.chance import Keyed
from demask.contracts import Chance, Over, Schedule, Step, check_blocks
from demask.curve import Curve
from demask.errors import PlanError
from demask.few import integers

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Target = Literal["tc", "dtc", "both", "complexity"] | Sequence[float]
TARGETS = ("tc", "dtc", "both", "complexity")


def weights(length: int, target: Target) -> Floats:
    """Return the weights w_1 .. w_(n-1) against which a residual is held.

    sum_i delta_i w_i is TC for w_i = n - i ("tc"), DTC for i ("dtc"), at most both for min(i, n - i) ("both"), and the
    fixed-cardinality mass, the complexity of Tononi, Sporns and Edelman up to scale, for i (n - i) / n ("complexity").

    Raises:
        PlanError: an unknown name, or numbers that are not length - 1 positive ones.

    Example:
        >>> weights(4, "both")
        array([1., 2., 1.])
    """
    i = np.arange(1, length, dtype=np.float64)
    if isinstance(target, str):
        match target:
            case "tc":
                return length - i
            case "dtc":
                return i
            case "both":
                return np.minimum(i, length - i)
            case "complexity":
                return i * (length - i) / length
        raise PlanError(f"target {target!r}; expected one of {', '.join(TARGETS)}, or {length - 1} positive weights")
    try:
        given = np.asarray(target, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PlanError(f"target {target!r}; expected one of {', '.join(TARGETS)}, or {length - 1} numbers") from error
    if given.shape != (length - 1,):
        raise PlanError(f"{given.size} weights for length {length}; expected one per boundary, {length - 1}")
    bad = np.flatnonzero(~(np.isfinite(given) & (given > 0)))
    if len(bad):
        raise PlanError(f"weight {bad[0] + 1} is {given[bad[0]]}; weights are finite and > 0")
    return given


class Sizes(ABC):
    """The law of the sizes of the steps of a row with `length` masked positions.

    A value of this class is a `Schedule`. Its guarantees hold for uniformly random positions.
    """

    length: int

    @abstractmethod
    def residual(self) -> Floats:
        """R(i) = E[distance from i to the next boundary at or after i], i = 1 .. n-1, (n-1,).

        E KL = sum_i delta_i R(i) over the increments of the information curve.
        """

    @abstractmethod
    def boundary(self, done: Sequence[int], chance: Chance) -> list[int]:
        """Return the next boundary of each row after `done` unmasked tokens; `chance` is the run's.

        Numbers on the host, since they are few: calls of an array library would cost more than what they compute.
        """

    @property
    def largest(self) -> int:
        """The largest number of tokens that one step can unmask."""
        return self.length

    @property
    def single(self) -> bool:
        """Whether every step unmasks one token."""
        return self.largest == 1

    def count(self, step: Step, scores: Tensor) -> Tensor:
        """Return how many tokens bring each row to its next boundary, (B,) int64.

        Raises:
            PlanError: a row's masked positions are not `length`.
        """

        def plan(total: int) -> Sizes:
            if total != self.length:
                row = step.progress[1].index(total)
                raise PlanError(
                    f"the plan unmasks {self.length} positions, row {row} has {total} masked; build it for {total}, "
                    "or let every row have its own: PerRow(uniform, steps=8)"
                )
            return self

        return _count(step, plan)

    def draw(self, rows: int, *, key: int) -> list["Plan"]:
        """Draw the sizes of `rows` rows, stratified; the same that `sample` uses for this key.

        Example:
            >>> Plan((2, 1)).draw(2, key=0)
            [Plan(sizes=(2, 1)), Plan(sizes=(2, 1))]
        """
        chance = origin(Keyed.of(key, torch.arange(rows)).fork("run"))
        ends: list[list[int]] = [[] for _ in range(rows)]
        done = [0] * rows
        while any(some < self.length for some in done):
            done = self.boundary(done, chance)
            for row, end in enumerate(done):
                if not ends[row] or ends[row][-1] < end:
                    ends[row].append(end)
        return [Plan(np.diff(row, prepend=0).tolist()) for row in ends]

    def mixture(self) -> list[tuple[float, "Plan"]]:
        """Return the law as a finite mixture: pairs of probability and plan, the most probable first.

        Raises:
            PlanError: the law has too many plans to list.
        """
        raise PlanError(f"{self!r} is a mixture of too many plans to list; draw some with draw(rows=8, key=0)")

    def constant(self, target: Target) -> float:
        """Return max_i R(i) / w_i: E KL <= constant * sum_i delta_i w_i for every distribution, and no less will do.

        Example:
            >>> uniform = Plan((2, 2, 2, 2))
            >>> uniform.constant("tc"), uniform.constant("dtc")
            (1.0, 1.0)
        """
        if self.length == 1:
            return 0.0
        return float(np.max(self.residual() / weights(self.length, target)))

    def guarantee(self, *, tc: float = np.inf, dtc: float = np.inf) -> float:
        """Return the largest expected KL over all distributions with at most these totals, nats.

        The linear program max sum_i delta_i R(i) over delta >= 0, sum_i delta_i (n - i) <= tc, sum_i delta_i i <= dtc, by
        its dual, so that rounding can only make the bound larger.

        Example:
            >>> Plan((2, 2, 2, 2)).guarantee(tc=0.5)
            0.5
        """
        for name, value in (("tc", tc), ("dtc", dtc)):
            if not value >= 0:
                raise PlanError(f"{name} = {value}; total correlations are >= 0 nats")
        if not (np.isfinite(tc) or np.isfinite(dtc)):
            raise PlanError(
                "a guarantee needs tc, dtc or both, in nats; an oracle tells them: oracle.tc(), oracle.dtc()"
            )
        if self.length == 1 or 0.0 in (tc, dtc):
            return 0.0
        if not np.isfinite(dtc):
            return self.constant("tc") * tc
        if not np.isfinite(tc):
            return self.constant("dtc") * dtc
        if min(tc, dtc) < 1e-280:  # the dual would divide by it
            return min(self.constant("tc") * tc, self.constant("dtc") * dtc)
        residual, i = self.residual(), np.arange(1, self.length)
        tight = residual > 0
        if not tight.any():
            return 0.0
        forward = (self.length - i[tight]) / tc / residual[tight]
        return 1.0 / _highest(forward, i[tight] / dtc / residual[tight])

    def cost(self, curve: Curve | Sequence[float]) -> float:
        """Return sum_i delta_i R(i), nats: the expected path KL on a known curve.

        Example:
            >>> Plan((2, 2)).cost([1.0, 0.5, 0.25, 0.0])
            0.75
        """
        return (curve if isinstance(curve, Curve) else Curve(curve)).cost(self.residual())


@dataclass(frozen=True)
class Plan(Sizes):
    """Fixed sizes.

    Parameters:
        sizes: positive integers, the tokens unmasked at each step.

    Raises:
        PlanError: no sizes, or one that is not a positive integer.

    Example:
        >>> plan = Plan((3, 2, 1))
        >>> plan.length, plan.steps, plan.residual()
        (6, 3, array([2., 1., 0., 1., 0.]))
    """

    sizes: tuple[int, ...]

    def __init__(self, sizes: Sequence[int]) -> None:
        given = tuple(sizes)
        if (
            not given
            or any(not issubclass(t, int | np.integer) or t is bool for t in set(map(type, given)))
            or min(given) < 1
        ):
            raise PlanError(f"sizes {_short(given)}; expected positive integers, such as Plan((4, 2, 1, 1))")
        object.__setattr__(self, "sizes", tuple(map(int, given)))

    @property
    def steps(self) -> int:
        """The number of steps, K."""
        return len(self.sizes)

    @cached_property
    def length(self) -> int:  # type: ignore[override]
        """The number of positions, n."""
        return sum(self.sizes)

    @cached_property
    def boundaries(self) -> tuple[int, ...]:
        """t_1 .. t_K."""
        return tuple(accumulate(self.sizes))

    @property
    def largest(self) -> int:
        """The largest size."""
        return max(self.sizes)

    def residual(self) -> Floats:
        """Return the distance from i to the next boundary at or after i."""
        i = np.arange(1, self.length)
        ends = np.asarray(self.boundaries)
        return (ends[np.searchsorted(ends, i)] - i).astype(np.float64)

    def boundary(self, done: Sequence[int], chance: Chance) -> list[int]:
        """Return the next boundary; nothing is random."""
        ends, last = self.boundaries, len(self.boundaries) - 1
        return [ends[min(bisect_right(ends, begin), last)] for begin in done]

    def mixture(self) -> list[tuple[float, "Plan"]]:
        """Return the plan itself, with probability 1."""
        return [(1.0, self)]


@dataclass(frozen=True)
class PerRow:
    """Plan each row for its own number of masked positions.

    Parameters:
        family: a function (length, steps, **options) -> Sizes, such as `uniform` or `minimax`.
        steps: the number of steps; a row of fewer positions takes one step per position.
        options: passed to the family.

    Cost: one solve per distinct number of masked positions, remembered.

    Example:
        >>> from demask.schedules import uniform
        >>> PerRow(uniform, steps=2).plan(5)
        Plan(sizes=(3, 2))
    """

    family: Callable[..., Sizes]
    steps: int
    options: tuple[tuple[str, Any], ...] = ()

    def __init__(self, family: Callable[..., Sizes], steps: int, **options: Any) -> None:
        check(1, steps)
        object.__setattr__(self, "family", family)
        object.__setattr__(self, "steps", steps)
        frozen = ((name, tuple(v) if isinstance(v, list) else v) for name, v in options.items())
        object.__setattr__(self, "options", tuple(frozen))

    @property
    def single(self) -> bool:
        """Whether every step unmasks one token, whatever the row: not known before the row is seen."""
        return False

    def plan(self, length: int) -> Sizes:
        """Return the sizes for a row with `length` masked positions."""
        return _solve(self.family, length, self.steps, self.options)

    def count(self, step: Step, scores: Tensor) -> Tensor:
        """Return how many tokens bring each row to its next boundary, (B,) int64."""
        return _count(step, self.plan)

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options)
        return f"{self.family.__name__}(steps={self.steps}{options})"


@dataclass(frozen=True)
class PerBlock:
    """Give every block of `size` positions the sizes of an inner schedule.

    Use it together with `Blockwise(order, size)`; lengths need not divide. `over` says how blocks are counted, there and
    here alike.

    Example:
        >>> from demask.schedules import uniform
        >>> PerBlock(PerRow(uniform, steps=4), 32)
        PerBlock(uniform(steps=4), 32)
    """

    inner: Schedule
    size: int
    over: Over = "masked"

    def __post_init__(self) -> None:
        check_blocks(self.size, self.over)

    def count(self, step: Step, scores: Tensor) -> Tensor:
        """Return how many tokens bring each row to the next boundary of its block, (B,) int64."""
        return self.inner.count(step.block(self.size, self.over), scores)

    def __repr__(self) -> str:
        over = "" if self.over == "masked" else f", over={self.over!r}"
        return f"PerBlock({self.inner!r}, {self.size}{over})"


@dataclass(frozen=True)
class Unlimited:
    """As many as the order lets through.

    For orders that decide how many by themselves: `Threshold`, `Factor`, `EntropyBudget`.

    Example:
        >>> scores = torch.tensor([[0.5, -torch.inf, 0.1]])
        >>> Unlimited().count(None, scores)
        tensor([2])
    """

    def count(self, step: Step, scores: Tensor) -> Tensor:
        """Return the number of positions whose score is not -inf, (B,) int64."""
        return (scores > -torch.inf).sum(1)


def check(length: int, steps: int) -> None:
    """Raise PlanError unless both are integers >= 1."""
    for name, value in (("length", length), ("steps", steps)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise PlanError(f"{name} = {value!r}; expected an integer >= 1")


def origin(chance: Chance) -> Chance:
    """Return the chance that sizes are drawn from, given that of the run."""
    return chance.fork("sizes")


def _highest(left: Floats, right: Floats) -> float:
    """Return max over s in [0, 1] of min_i (1 - s) left_i + s right_i: the top of a concave line of finitely many pieces."""
    low, high = int(np.argmin(left)), int(np.argmin(right))  # the pieces at either end
    best = float(max(left[low], right[high]))
    for _ in range(len(left)):
        rise, fall = right[low] - left[low], right[high] - left[high]
        if rise <= 0 or fall >= 0:  # already falling at s = 0, or still rising at s = 1: the end is the top
            return float(left[low] if rise <= 0 else right[high])
        s = (left[high] - left[low]) / (rise - fall)  # where the two pieces cross
        values = (1 - s) * left + s * right
        piece = int(np.argmin(values))
        best = max(best, float(values[piece]))
        if values[piece] >= values[low] * (1 - 1e-15):
            break
        low, high = (piece, high) if right[piece] > left[piece] else (low, piece)
    return best


def _count(step: Step, plan: Callable[[int], Sizes]) -> Tensor:
    """Bring every row to the next boundary of the plan for its own number of positions."""
    done, total = step.progress
    chance, out = origin(step.origin), [0] * len(done)
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(total):
        if done[row] < length:
            groups.setdefault(length, []).append(row)
    for length, rows in groups.items():
        some = chance if len(rows) == len(done) else chance.rows(torch.tensor(rows, device=step.canvas.device))
        begins = [done[row] for row in rows]
        for row, begin, end in zip(rows, begins, plan(length).boundary(begins, some), strict=True):
            out[row] = end - begin
    return integers(out, step.canvas.device)


@lru_cache(maxsize=4096)
def _solve(family: Callable[..., Sizes], length: int, steps: int, options: tuple[tuple[str, Any], ...]) -> Sizes:
    arguments: Mapping[str, Any] = dict(options)
    return family(length, steps, **arguments)


def _short(items: Sequence[object]) -> str:
    return str(tuple(items)) if len(items) <= 8 else f"({', '.join(map(str, items[:8]))}, ..)"
