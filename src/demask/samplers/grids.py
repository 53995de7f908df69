"""Noise levels of the steps of a continuous-time sampler."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import inf, log

from demask.errors import PlanError


@dataclass(frozen=True)
class Grid(ABC):
    """The noise levels between which a sampler steps: K + 1 falling numbers, the last of them 0.

    At level l a token is still its own with probability exp(-l).
    """

    steps: int

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise PlanError(f"a grid of {self.steps!r} steps; expected an integer >= 1, such as 32")

    @property
    @abstractmethod
    def levels(self) -> tuple[float, ...]:
        """l_0 > l_1 > .. > l_K = 0."""

    @property
    def kappa(self) -> float:
        """The least kappa with l_k - l_(k+1) <= kappa min(1, l_(k+1)) for all steps but the last, which ends at 0."""
        pairs = list(zip(self.levels[:-2], self.levels[1:-1], strict=True))
        return max(((before - after) / min(1.0, after) for before, after in pairs), default=0.0)


@dataclass(frozen=True)
class Linear(Grid):
    """Step so that the mean share of tokens that are their own grows by 1/K at each step.

    l_k = -ln(k / K); the first level is infinite: pure noise.

    Example:
        >>> [round(level, 4) for level in Linear(4).levels]
        [inf, 1.3863, 0.6931, 0.2877, 0.0]

    Reference: Dmitriev, Huang and Wei, 2026, arXiv 2602.15008, in terms of unmasked shares.
    """

    @property
    def levels(self) -> tuple[float, ...]:
        """l_0 > l_1 > .. > l_K = 0."""
        return (inf, *(-log(k / self.steps) for k in range(1, self.steps)), 0.0)


@dataclass(frozen=True)
class Constant(Grid):
    """Step by equal differences of the level, from `horizon` to 0.

    Example:
        >>> Constant(4, 8.0).levels
        (8.0, 6.0, 4.0, 2.0, 0.0)

    Reference: Dmitriev, Huang and Wei, 2026, arXiv 2602.15008.
    """

    horizon: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.horizon < inf:
            raise PlanError(f"a horizon of {self.horizon}; expected a finite level > 0, such as 8.0")

    @property
    def levels(self) -> tuple[float, ...]:
        """l_0 > l_1 > .. > l_K = 0."""
        return (*(self.horizon * (1 - k / self.steps) for k in range(self.steps)), 0.0)


@dataclass(frozen=True)
class ExponentialThenConstant(Grid):
    """Step by kappa while the level is above 1, and by equal factors 1 + kappa below, to `least`; the last step goes to 0.

    l_k - l_(k+1) = kappa min(1, l_(k+1)), with the kappa for which K - 1 steps end at `least`. (Read forwards in noise, the
    steps grow exponentially and are constant then.) With it the masked process has KL at most of the order kappa D, D the
    effective total correlation, whatever D is: so K may grow with D alone.

    Parameters:
        steps: K >= 1; one step goes from the horizon to 0.
        horizon: the first level, T.
        least: the last level above 0, delta.

    Raises:
        PlanError: fewer steps than 1, or levels that do not fall.

    Example:
        >>> grid = ExponentialThenConstant(6, 8.0, 0.01)
        >>> [round(level, 3) for level in grid.levels], round(grid.kappa, 3)
        ([8.0, 4.416, 0.963, 0.21, 0.046, 0.01, 0.0], 3.584)

    Reference: Dmitriev, Huang and Wei, 2026, arXiv 2602.15008.
    """

    horizon: float = 8.0
    least: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.least < self.horizon < inf:
            raise PlanError(f"{self}: expected 0 < least < horizon, such as horizon=8.0, least=0.001")

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """l_0 > l_1 > .. > l_K = 0."""
        if self.steps == 1:
            return (self.horizon, 0.0)
        low, high = 0.0, self.horizon / self.least  # one step of this kappa is more than enough
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (low, middle) if self._falls(middle)[-1] < self.least else (middle, high)
        return (*self._falls(low)[:-1], self.least, 0.0)

    def _falls(self, kappa: float) -> list[float]:
        """Return the levels of K - 1 steps of this kappa."""
        levels = [self.horizon]
        for _ in range(self.steps - 1):
            level = levels[-1]
            levels.append(level - kappa if level >= 1 + kappa else level / (1 + kappa))
        return levels
