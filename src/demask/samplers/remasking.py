"""Remask what has been unmasked, so that early tokens can be drawn again from a fuller context."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from demask.canvas import Canvas
from demask.contracts import Chance, Denoiser, Info, Law, Step
from demask.errors import PlanError
from demask.masks import empty


class Strategy(ABC):
    """How much is remasked at each step, and where."""

    law: ClassVar[Law] = Law.FACTORISED

    @abstractmethod
    def clock(self, turn: int, steps: int) -> tuple[float, float, float]:
        """Return the visible shares before and after step `turn`, alpha_t and alpha_s, and the remasking rate sigma."""

    def shares(self, shown: Tensor, probability: Tensor) -> Tensor:
        """Return what part of the rate each shown position (B, N) takes, given how probable its token was when drawn."""
        return shown.double()


@dataclass(frozen=True)
class Cap(Strategy):
    """Remask each visible token with probability min(eta, largest possible).

    sigma_t = min(eta, (1 - alpha_s) / alpha_t).

    Example:
        >>> [round(Cap(0.3).clock(turn, 4)[2], 4) for turn in range(4)]
        [0.3, 0.3, 0.3, 0.0]
    """

    eta: float = 0.008

    def __post_init__(self) -> None:
        _share("eta", self.eta)

    def clock(self, turn: int, steps: int) -> tuple[float, float, float]:
        """Return alpha_t, alpha_s and the capped rate, on the linear clock."""
        before, after = turn / steps, (turn + 1) / steps
        return before, after, min(self.eta, _most(before, after))


@dataclass(frozen=True)
class Rescale(Strategy):
    """Remask each visible token with a constant part of the largest possible probability.

    sigma_t = eta min(1, (1 - alpha_s) / alpha_t); eta = 0 is ancestral sampling.

    Example:
        >>> [round(Rescale(0.3).clock(turn, 4)[2], 4) for turn in range(4)]
        [0.3, 0.3, 0.15, 0.0]
    """

    eta: float = 0.015

    def __post_init__(self) -> None:
        _share("eta", self.eta)

    def clock(self, turn: int, steps: int) -> tuple[float, float, float]:
        """Return alpha_t, alpha_s and the rescaled rate, on the linear clock."""
        before, after = turn / steps, (turn + 1) / steps
        return before, after, self.eta * _most(before, after)


@dataclass(frozen=True)
class Loop(Strategy):
    """Unmask a share `level`, then remask and unmask in turn for a while, then finish without remasking.

    Time runs from 1 to 0. alpha grows linearly to `level` at time `on`, rests there until `off`, and grows linearly to 1.
    While it rests, sigma_t = min(eta, (1 - alpha_s) / alpha_t); otherwise 0.

    Example:
        >>> [round(Loop(0.02).clock(turn, 10)[0], 4) for turn in (0, 3, 5, 9)]
        [0.0, 0.6, 0.9, 0.9]
    """

    eta: float = 0.02
    on: float = 0.55
    off: float = 0.05
    level: float = 0.9

    def __post_init__(self) -> None:
        _share("eta", self.eta)
        if not (0 < self.off < self.on < 1 and 0 < self.level < 1):
            raise PlanError(f"{self}: expected 0 < off < on < 1 and 0 < level < 1, such as Loop(0.02, 0.55, 0.05, 0.9)")

    def clock(self, turn: int, steps: int) -> tuple[float, float, float]:
        """Return alpha_t, alpha_s and the rate."""
        time = 1 - turn / steps
        before, after = self._alpha(time), self._alpha(1 - (turn + 1) / steps)
        return before, after, min(self.eta, _most(before, after)) if self.off < time <= self.on else 0.0

    def _alpha(self, time: float) -> float:
        if time > self.on:
            return self.level * (1 - time) / (1 - self.on)
        return self.level if time > self.off else 1 - (1 - self.level) * time / self.off


@dataclass(frozen=True)
class Confident(Strategy):
    """Give the rate of another strategy to the positions whose tokens were least probable when drawn.

    sigma_i = sigma softmax(-p_i) over the visible positions, p_i the probability of the token there when it was drawn.

    The rates of a row sum to sigma: less is remasked than by the strategy itself. What is remasked depends on what was
    drawn, which tilts the law.
    """

    strategy: Strategy = field(default_factory=lambda: Rescale(1.0))
    law: ClassVar[Law] = Law.TILTED

    def __post_init__(self) -> None:
        if self.strategy.law is Law.TILTED:
            raise PlanError(f"Confident around {self.strategy}; expected Cap, Rescale or Loop")

    def clock(self, turn: int, steps: int) -> tuple[float, float, float]:
        """Return those of the strategy."""
        return self.strategy.clock(turn, steps)

    def shares(self, shown: Tensor, probability: Tensor) -> Tensor:
        """Return the softmax of what each token lacked to be certain."""
        return (-probability).masked_fill(~shown, -torch.inf).softmax(1).nan_to_num(0.0)  # nothing shown: no share


@dataclass(frozen=True, eq=False)
class Remasked:
    """What the next step of `Remasking` needs.

    Parameters:
        canvas, start, origin: those of `Parallel`.
        turn: how many steps have been.
        probability: (B, N) float64, of each token when it was last drawn.
    """

    canvas: Canvas
    start: Tensor
    origin: Chance
    turn: int
    probability: Tensor


@dataclass(frozen=True)
class Remasking:
    """Unmask and remask at random in `steps` steps, so that the share of visible tokens follows the clock in the mean.

    At each step, independently, with alpha_t, alpha_s and sigma by the strategy,

        a masked position is unmasked with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t),
        a visible one that was masked at the start is remasked with probability sigma.

    The last step unmasks all that is left. What was given is never remasked. Steps that unmask nothing cost no pass.

    Law: FACTORISED. Dropping a position whatever stands there leaves the others with their law, so with an exact denoiser
    nothing is wrong but what is drawn at the same step. TILTED with `Confident`, which drops by what stands there.

    It is meant for denoisers that are wrong. With an exact one it buys nothing: on two bits that agree with probability
    0.85, 40 steps are at total variation 0.009 without remasking and 0.018 with `Rescale(0.3)`, for more is drawn at once.

    Cost: at most one NFE per step and row.

    Parameters:
        steps: >= 1.
        strategy: `Cap`, `Rescale`, `Loop`, or `Confident` around one of them.

    Raises:
        PlanError: fewer steps than 1.

    Example:
        >>> from demask import oracles, sample
        >>> run = sample(oracles.parity(6), Remasking(40, Cap(0.1)), Canvas.blank(1, 6), key=0)
        >>> run.status.name, int(run.steps), int(run.nfe) > 6
        ('FINISHED', 40, True)

    Reference: Wang et al., Remasking discrete diffusion models with inference-time scaling, 2025, arXiv 2503.00307.
    """

    steps: int
    strategy: Strategy = field(default_factory=Rescale)

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise PlanError(f"remasking in {self.steps!r} steps; expected an integer >= 1, such as 64")

    @property
    def law(self) -> Law:
        """The strategy's."""
        return self.strategy.law

    def init(self, canvas: Canvas, chance: Chance) -> Remasked:
        """Return the state of a run that begins with `canvas`."""
        return Remasked(
            canvas, canvas.masked, chance, 0, torch.zeros(canvas.shape, dtype=torch.float64, device=canvas.device)
        )

    def step(self, state: Remasked, denoiser: Denoiser, chance: Chance) -> tuple[Remasked, Info]:
        """Return the state after one step, and what happened."""
        step = Step(state.canvas, state.start, state.start, denoiser, chance, state.origin)
        before, after, sigma = self.strategy.clock(state.turn, self.steps)
        shown = state.start & ~state.canvas.masked
        rate = sigma * self.strategy.shares(shown, state.probability)
        dropped = chance.fork("remask").bernoulli(shown, rate)
        stays = sigma if self.law is not Law.TILTED else 0.0  # a masked position has no token whose share it could take
        goes = min(1.0, (after - (1 - stays) * before) / (1 - before))
        kept = chance.fork("unmask").bernoulli(step.open, torch.full_like(rate, goes))
        canvas, probability = state.canvas, state.probability
        if bool(kept.any()):
            tokens, marginals = step.draft(kept), step.marginals(kept)
            drawn = marginals.spread(marginals.logp(tokens[kept]).exp().double())
            canvas, probability = canvas.unmask(kept, tokens), torch.where(kept, drawn, probability)
        canvas = Canvas(canvas.tokens, canvas.masked | dropped)
        return Remasked(canvas, state.start, state.origin, state.turn + 1, probability), Info(step, kept, canvas)

    def done(self, state: Remasked) -> Tensor:
        """Return the rows that have had all steps, or never had anything masked, (B,) bool."""
        over = ~state.start.any(1)
        return over | empty(state.canvas.masked) if state.turn >= self.steps else over


def _most(before: float, after: float) -> float:
    """Return the largest rate at which the share can still grow from `before` to `after`."""
    return min(1.0, (1 - after) / before) if before > 0 else 1.0


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise PlanError(f"{name} = {value}; expected a number in [0, 1]: 0 remasks nothing")
