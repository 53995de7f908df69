"""The continuous companion: noise that is taken away in T steps, with coefficients that adapt to intrinsic dimension.

A point of R^d has no masks and no finite draws, so this sampler has init, step and done as all others have, and is turned by
`draw`, not by `demask.sample` (decision 14). Variances are per coordinate; all numbers are float64.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite, log, sqrt
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from demask.chance import Keyed
from demask.curve import Floats
from demask.errors import DenoiserError, PlanError


class Score(Protocol):
    """The gradient of the log-density of sqrt(1 - noise) X_0 + sqrt(noise) W."""

    def __call__(self, points: Tensor, noise: float) -> Tensor:
        """Answer for (B, d) points at a noise level in (0, 1], rows independent of each other."""
        ...


@dataclass(frozen=True)
class Forward:
    """Turn data into noise in T steps: X_t = sqrt(1 - beta_t) X_{t-1} + sqrt(beta_t) W_t.

        beta_1 = T^-c0,   beta_{t+1} = h min(beta_1 (1 + h)^t, 1),   h = c1 log(T) / T.

    The noise grows geometrically from beta_1 and then by equal steps. What a sampler gives is X_1, not X_0: they differ by
    noise of variance T^-c0. (The schedule and its constants are recalled from the paper, not compared with its text.)

    Parameters:
        steps: T >= 2.
        c0: > 0, how little noise X_1 has.
        c1: > 0, how fast the noise grows; c1 log(T) / T must stay below 1, and c1 well above c0, so that X_T is noise.

    Raises:
        PlanError: numbers out of range, or steps so few that some beta is not in (0, 1).

    Example:
        >>> forward = Forward(200)
        >>> round(float(forward.beta[-1]), 3), f"{1 - float(forward.noise[-1]):.1e}"
        (0.106, '8.8e-06')

    Reference: Li and Yan, O(d/T) convergence theory for diffusion models, 2024, arXiv 2409.18959.
    """

    steps: int
    c0: float = 2.0
    c1: float = 4.0

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 2:
            raise PlanError(f"T = {self.steps!r} steps of noise; expected an integer >= 2, such as Forward(200)")
        for name in ("c0", "c1"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise PlanError(f"{name} = {value}; expected a finite number > 0, such as Forward({self.steps})")
        bad = np.flatnonzero(~((self.beta > 0) & (self.beta < 1)))
        if len(bad):
            enough = self.steps
            while self.c1 * log(enough) >= enough:
                enough += 1
            raise PlanError(
                f"beta_{bad[0] + 1} = {self.beta[bad[0]]:.3g} at T = {self.steps}, c0 = {self.c0}, c1 = {self.c1}; expected "
                f"0 < beta < 1: Forward({enough}, c1={self.c1}), or smaller constants"
            )

    @cached_property
    def beta(self) -> Floats:
        """beta_1 .. beta_T, (T,)."""
        rate = self.c1 * log(self.steps) / self.steps
        grown = np.exp(np.minimum(np.arange(1, self.steps) * np.log1p(rate) - self.c0 * log(self.steps), 0.0))
        return np.concatenate(([self.steps**-self.c0], rate * grown))

    @cached_property
    def noise(self) -> Floats:
        """Variance of the noise in X_1 .. X_T, 1 - (1 - beta_1) .. (1 - beta_t), (T,); small ones to full precision."""
        noise: Floats = -np.expm1(np.cumsum(np.log1p(-self.beta)))
        return noise

    @cached_property
    def snr(self) -> Floats:
        """(1 - noise) / noise, the ratio of signal to noise, gamma_1 > .. > gamma_T, (T,)."""
        return (1.0 - self.noise) / self.noise

    @cached_property
    def bridge(self) -> Floats:
        """Variance of X_{t-1} given X_t and X_0: beta_t noise_{t-1} / noise_t, and 0 at t = 1, (T,)."""
        return self.beta * np.concatenate(([0.0], self.noise[:-1])) / self.noise


class Coefficients(Protocol):
    """How much noise a backward step adds."""

    def variance(self, forward: Forward) -> Floats:
        """Return Var(Y_{t-1} | Y_t) for t = 1 .. T, (T,), of which the first is never used."""
        ...


@dataclass(frozen=True)
class General:
    """Add back the noise that the forward step added: sigma_t^2 = 1 - alpha_t.

    Var(Y_{t-1} | Y_t) = sigma_t^2 / alpha_t = beta_t / alpha_t. TV to X_1 is O~(d / T) for any data, and no better where the
    data have fewer dimensions: every direction without data has an error of its own.

    Example:
        >>> General().variance(Forward(50))[-3:].round(3)
        array([0.456, 0.456, 0.456])

    Reference: Li and Yan, 2024, arXiv 2409.18959, Theorem 1 (recalled, not compared with its text).
    """

    def variance(self, forward: Forward) -> Floats:
        """Return beta_t / alpha_t, (T,)."""
        return forward.beta / (1.0 - forward.beta)


@dataclass(frozen=True)
class LowDimensional:
    """Add the noise of the bridge: sigma_t^2 = (1 - alpha_t) (alpha_t - abar_t) / (1 - abar_t), as the first DDPM did.

    Var(Y_{t-1} | Y_t) = sigma_t^2 / alpha_t = Var(X_{t-1} | X_t, X_0), abar_t = alpha_1 .. alpha_t. In a direction without
    data the score is -y / (1 - abar_t), and no other variance takes 1 - abar_t to 1 - abar_{t-1}: there Y is exact at every
    T, and the error O~(k / T) is that of the k dimensions of the data.

    Example:
        >>> LowDimensional().variance(Forward(50))[:3].round(7)
        array([0.       , 0.0001165, 0.0001561])

    Reference: Li and Yan, 2024, arXiv 2405.14861; Li and Yan, 2024, arXiv 2409.18959, Theorem 2 (formula recalled, and
    derived anew); Ho, Jain and Abbeel, 2020, arXiv 2006.11239.
    """

    def variance(self, forward: Forward) -> Floats:
        """Return the variance of the bridge, (T,)."""
        return forward.bridge


@dataclass(frozen=True, eq=False)
class Cloud:
    """What the next step of `Backward` needs.

    Parameters:
        points: (B, d) float64, Y_t.
        level: t, from T down to 1.
    """

    points: Tensor
    level: int


@dataclass(frozen=True)
class Backward:
    """Take the noise away step by step, from Y_T ~ N(0, I) to Y_1.

        Y_{t-1} = (Y_t + (1 - alpha_t) s_t(Y_t) + sigma_t Z_t) / sqrt(alpha_t),   t = T .. 2.

    The mean is E[X_{t-1} | X_t] exactly, whatever the data (Tweedie's formula); a step gets wrong the shape around it.

    Cost: T - 1 scores of all rows.

    Parameters:
        forward: the noise that was added.
        coefficients: sigma_t, which decides whether the error follows d or k.

    Example:
        >>> from demask.oracles import subspaces
        >>> line = subspaces(64, 1, variance=0.25)
        >>> points = draw(line, Backward(Forward(50)), rows=3, dimension=64, key=0)
        >>> off = points - points @ line.bases[0] @ line.bases[0].T
        >>> bool((off.std() * 50 - 1).abs() < 0.2)  # noise of X_1: standard deviation 1 / T
        True

    Reference: that of its coefficients.
    """

    forward: Forward
    coefficients: Coefficients = field(default_factory=LowDimensional)

    @cached_property
    def variance(self) -> Floats:
        """Var(Y_{t-1} | Y_t) for t = 1 .. T, (T,)."""
        return self.coefficients.variance(self.forward)

    def init(self, dimension: int, chance: Keyed) -> Cloud:
        """Return Y_T, a standard normal point per row."""
        if dimension < 1:
            raise PlanError(f"points of {dimension} dimensions; expected 1 or more")
        return Cloud(chance.fork("start").normal(dimension), self.forward.steps)

    def step(self, state: Cloud, score: Score, chance: Keyed) -> Cloud:
        """Return Y_{t-1}.

        Raises:
            DenoiserError: a score of another shape than the points.
        """
        points, at = state.points, state.level - 1
        beta = float(self.forward.beta[at])
        drift = score(points, float(self.forward.noise[at]))
        if drift.shape != points.shape:
            raise DenoiserError(
                f"a score of shape {tuple(drift.shape)} for points {tuple(points.shape)}; expected the same"
            )
        fresh = chance.fork("step", state.level).normal(points.shape[1])
        after = (points + beta * drift) / sqrt(1.0 - beta) + sqrt(self.variance[at]) * fresh
        return replace(state, points=after, level=state.level - 1)

    def done(self, state: Cloud) -> bool:
        """Whether Y_1 is reached."""
        return state.level == 1


def draw(score: Score, sampler: Backward, *, rows: int, dimension: int, key: int) -> Tensor:
    """Return Y_1 of every row, (rows, dimension) float64; a row's draws depend on the key and its number alone.

    Raises:
        PlanError: no rows or no dimensions.
        DenoiserError: a score of another shape, or one that leads to numbers that are not finite.

    Cost: T - 1 scores of all rows.

    Example:
        >>> normal = lambda points, noise: -points  # the score of N(0, I) at every noise level
        >>> draw(normal, Backward(Forward(20)), rows=2, dimension=3, key=0).shape
        torch.Size([2, 3])
    """
    if rows < 1:
        raise PlanError(f"{rows} rows; expected 1 or more")
    chance = Keyed.of(key, torch.arange(rows))
    state = sampler.init(dimension, chance)
    while not sampler.done(state):
        state = sampler.step(state, score, chance)
    if not bool(state.points.isfinite().all()):
        raise DenoiserError("the score led to points that are not finite; check it at small noise, where it is largest")
    return state.points
