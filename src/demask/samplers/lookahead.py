"""Lookahead: try several next steps, look one pass ahead, and go on from one of them."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from demask.canvas import Canvas, Marginals
from demask.contracts import Chance, Denoiser, Info, Law, Sampler, Step
from demask.errors import ParticleError
from demask.rows import select
from demask.samplers.parallel import Asked, Passing
from demask.samplers.particles import checked, copies, shares, split
from demask.samplers.potentials import Foresight, Potential


@dataclass(frozen=True, eq=False)
class Ahead:
    """What the next step of `Lookahead` needs.

    Parameters:
        canvas, start: those of the inner state.
        inner: the inner sampler's state.
        total: (B,) float64, log potential of what stands.
        answer: what the denoiser has already said of the canvas.
    """

    canvas: Canvas
    start: Tensor
    inner: Any
    total: Tensor
    answer: Marginals | None


@dataclass(frozen=True)
class Lookahead:
    """Take the next step of the inner sampler in several ways, and go on from the one that is worth most, or by worth.

    With psi the log potential, path j of k is chosen with probability exp(psi_j - psi) / sum over paths, or the first
    largest. All paths begin at the same canvas, which is asked about once; with `Foresight`, r_j / temperature, what the
    denoiser says of the winner answers the next step.

    LookUM with its importance resampling is this around `Parallel(schedule, Pooled(Confidence(), 5))`, two paths; with its
    resampling of particles, `SMC(inner, Foresight(), 2)`. Known of the paper are the pool of the surest positions, sets of a
    step's size out of it, the mean negative entropy of what is still masked, the choice by importance or the best, and that
    the winner's logits are used again. In no source that we found, and so ours, are the weight exp(r / temperature) with
    the 0.1 of `Foresight`, and that a set is drawn uniformly from the pool (`Pooled`). No path takes the plain best.

    Law: TILTED: the chosen step depends on what was drawn. One path is the inner sampler, draw for draw.
    Cost: with `Foresight`, one NFE at the start and k per step but the last: 1 + k (steps - 1), in batches of B k rows.

    Parameters:
        inner: any sampler; `Ended` and `Stopped` go inside, see `inside`. Paths differ by its draws: a `Pooled` or `Noisy`
            order tries several sets of positions.
        potential: `Foresight()`, `Reward(function)` or `SelfReward()`.
        paths: k >= 1.
        choose: "best", or "draw": by worth, at the potential's temperature.

    Raises:
        ParticleError: fewer paths than 1, an unknown word; while sampling, a potential that is nan or +inf, or -inf for all
            paths of a row.

    Example:
        >>> from demask import Confidence, Parallel, oracles, sample, uniform
        >>> from demask.orders import Pooled
        >>> sampler = Lookahead(Parallel(uniform(6, 3), Pooled(Confidence(), 5)), Foresight(), 3)
        >>> sample(oracles.parity(6), sampler, Canvas.blank(2, 6), key=0).nfe  # 1 + 3 * 2
        tensor([7, 7])

    Reference: Lee et al., Lookahead unmasking, 2025, arXiv 2511.05563.
    """

    several: ClassVar[bool] = True
    inner: Sampler[Any]
    potential: Potential = field(default_factory=Foresight)
    paths: int = 2
    choose: Literal["best", "draw"] = field(default="best", kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.paths, bool) or not isinstance(self.paths, int) or self.paths < 1:
            raise ParticleError(f"paths = {self.paths!r}; expected an integer >= 1, such as 2")
        if self.choose not in ("best", "draw"):
            raise ParticleError(f"choose = {self.choose!r}; expected one of 'best', 'draw'")

    @property
    def law(self) -> Law:
        """TILTED, unless there is one path."""
        return self.inner.law if self.paths == 1 else Law.TILTED

    def init(self, canvas: Canvas, chance: Chance) -> Ahead:
        """Return the state of a run that begins with `canvas`."""
        zeros = torch.zeros(canvas.shape[0], dtype=torch.float64, device=canvas.device)
        return Ahead(canvas, canvas.masked, self.inner.init(canvas, chance), zeros, None)

    def step(self, state: Ahead, denoiser: Denoiser, chance: Chance) -> tuple[Ahead, Info]:
        """Return the state after the chosen one of several steps, and what happened there."""
        rows, device = len(state.total), state.canvas.device
        over = self.done(state)
        begin = replace(state.inner, start=state.start)  # narrowed where the row waits, as a particle
        known = denoiser if state.answer is None else Asked(state.canvas, state.answer, denoiser)
        if self.paths == 1:
            inner, info = self.inner.step(begin, known, chance)
            return Ahead(inner.canvas, inner.start, inner, state.total, None), info
        each = copies(rows, self.paths, device)
        tried = select(begin, each)
        shared = _Shared(tried.canvas, state.canvas, self.paths, known, denoiser)
        inner, info = self.inner.step(tried, shared, split(chance, rows, self.paths, device))
        after = Step(inner.canvas, inner.start, inner.start, denoiser, info.step.chance.fork("after"), info.step.origin)
        before = state.total[each]
        totals = checked(self.potential.total(before, info, after), before.view(rows, self.paths))
        weights = shares((totals - state.total[:, None]).masked_fill(over[:, None], 0.0))
        winner = weights.argmax(1)
        if self.choose == "draw" and not bool(over.all()):
            winner[~over] = chance.fork("choose").rows(~over).outcome(weights[~over])
        line = torch.arange(rows, device=device) * self.paths + winner
        inner, answer = select(inner, line), select(after.known, line)
        info = select(info, line)
        return Ahead(inner.canvas, inner.start, inner, totals.flatten()[line], answer), info

    def done(self, state: Ahead) -> Tensor:
        """Return the rows that the inner sampler has finished, (B,) bool."""
        return self.inner.done(state.inner)

    def __repr__(self) -> str:
        choose = "" if self.choose == "best" else f", choose={self.choose!r}"
        return f"Lookahead({self.inner!r}, {self.potential!r}, {self.paths}{choose})"


@dataclass(frozen=True, eq=False)
class _Shared(Passing):
    """A denoiser that is asked once about a canvas of which there are several copies."""

    copied: Canvas
    canvas: Canvas
    count: int
    once: Denoiser
    inner: Denoiser

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        if canvas is not self.copied:
            return self.inner(canvas, where)
        asked = where.view(-1, self.count, where.shape[1]).any(1)
        return self.once(self.canvas, asked).rows(copies(len(asked), self.count, where.device)).only(where)
