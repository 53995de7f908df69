"""Unmask what has stopped moving: positions whose law changed little over the last steps."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from demask.canvas import Canvas, Marginals
from demask.contracts import Chance, Denoiser, Info, Law
from demask.errors import OrderError
from demask.masks import empty
from demask.orders.divergence import divergence
from demask.orders.stability import Settled
from demask.reductions import by_group
from demask.samplers.parallel import Asked, Parallel, State


@dataclass(frozen=True, eq=False)
class Watched:
    """What the next step of `Stable` needs.

    Parameters:
        canvas, start, origin: those of `Parallel`.
        before: what the denoiser said at the last step, of all positions masked then; None before the first.
        calm: (B, N) int64, for how many steps in a row each position has hardly moved.
    """

    canvas: Canvas
    start: Tensor
    origin: Chance
    before: Marginals | None
    calm: Tensor


@dataclass(frozen=True)
class Stable:
    """Let the inner sampler's order choose only among positions whose law has settled.

    Position i is settled at step t if, for each of the last `steps` steps s = t, t - 1, ..,

        KL( p_s(x_i) || p_{s-1}(x_i) ) < kl,   p_s the law given what was visible at step s.

    Of a row without a settled position that the order lets through, the order's best goes alone. KLASS is this around
    `Parallel(Unlimited(), Threshold(Blockwise(Confidence(), 64), 0.9))`. The laws of a step must be remembered for the next,
    which orders do not do; so this is a sampler, and they stand in its state, where rows can be dropped and reordered.

    Law: the inner sampler's; what settles depends on visible tokens alone.
    Cost: no extra NFE; all masked positions are asked for at every step, O(M V) for the divergences, and the logits of one
    step, (M, V), stay in memory.

    Parameters:
        inner: says how many, in which order, and what is kept.
        kl: > 0, nats; 0.001 to 0.015 in the paper's settings.
        steps: >= 1, how long a position must be calm.

    Raises:
        OrderError: kl that is not > 0, or steps below 1.

    Example:
        >>> from demask import Confidence, Random, Unlimited, oracles, sample
        >>> from demask.orders import Threshold
        >>> sampler = Stable(Parallel(Unlimited(), Threshold(Confidence(), 0.5)))
        >>> sample(oracles.parity(6), sampler, Canvas.blank(1, 6), key=0).when
        tensor([[0, 1, 2, 2, 2, 2]])

    Reference: Kim et al., KLASS, 2025, arXiv 2511.05664.
    """

    inner: Parallel
    kl: float = 0.01
    steps: int = 2

    def __post_init__(self) -> None:
        if not self.kl > 0:
            raise OrderError(f"laws that move by less than {self.kl} nats; expected a number > 0, such as 0.01")
        if not isinstance(self.steps, int) or self.steps < 1:
            raise OrderError(f"calm for {self.steps!r} steps; expected an integer >= 1, such as 2")

    @property
    def law(self) -> Law:
        """The inner sampler's."""
        return self.inner.law

    def init(self, canvas: Canvas, chance: Chance) -> Watched:
        """Return the state of a run that begins with `canvas`."""
        state = self.inner.init(canvas, chance)
        return Watched(state.canvas, state.start, state.origin, None, torch.zeros_like(canvas.tokens))

    def step(self, state: Watched, denoiser: Denoiser, chance: Chance) -> tuple[Watched, Info]:
        """Return the state after one step of the inner sampler among what has settled."""
        now = denoiser(state.canvas, state.canvas.masked)
        calm = state.calm
        if state.before is not None:
            before, places = state.before.logits, now.where[state.before.where].nonzero()[:, 0]
            moved = by_group(lambda logits, index: divergence(logits, before[index]), now.logits, places)
            calm = (calm + 1) * now.spread(moved < self.kl)
        sampler = replace(self.inner, order=Settled(self.inner.order, calm >= self.steps))
        asked = Asked(state.canvas, now, denoiser)
        after, info = sampler.step(State(state.canvas, state.start, state.origin), asked, chance)
        return Watched(after.canvas, after.start, after.origin, now, calm), info

    def done(self, state: Watched) -> Tensor:
        """Return the rows with nothing masked, (B,) bool."""
        return empty(state.canvas.masked)
