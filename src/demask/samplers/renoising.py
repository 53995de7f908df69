"""DiffusionGemma's acceptance: keep the surest draws of a uniform-state canvas, and put noise everywhere else."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from demask.canvas import Canvas, Marginals
from demask.contracts import Chance, Denoiser, Info, Law, Step, noised
from demask.errors import OrderError, PlanError
from demask.masks import without
from demask.samplers.ctmc import Through, noise


@dataclass(frozen=True, eq=False)
class Renoised:
    """What the next step of `Renoising` needs.

    Parameters:
        canvas: the modes of the last step, which is what comes out.
        start, origin: those of `Parallel`.
        tokens: (B, N) what the network will see: accepted draws, and noise.
        level: (B,) float64, -ln of the share that was accepted.
        turn: how many steps have been.
        calm: (B,) int64, for how many steps in a row no mode has changed.
        finished: (B,) bool, rows that have stopped.
    """

    canvas: Canvas
    start: Tensor
    origin: Chance
    tokens: Tensor
    level: Tensor
    turn: int
    calm: Tensor
    finished: Tensor


@dataclass(frozen=True)
class Renoising:
    """Draw every token anew at each step, accept the surest draws, and replace all others by noise.

    All begins as noise. At step k = 0 .. K - 1, at temperature t_k = coldest + (hottest - coldest) (K - k) / K, with H_i the
    entropy of the tempered law of position i, every position draws a token, and those of least entropy are accepted while

        sum of H over the accepted - the largest of them <= nats;

    the others become uniform noise. What was accepted before has no privilege. What comes out is the mode of every position
    at the last step. A row stops earlier once its modes have not changed for `calm` steps and the mean H is below `sure`.

    The network is told the level -ln(share accepted at the last step); one that guesses it from the canvas need not read it.
    Self-conditioning on the last logits is a matter of the network.

    Law: TILTED: temperatures, modes, and entropies that decide what stays.
    Cost: one NFE per step and unfinished row; O(M V).

    Parameters:
        steps: K >= 1.
        nats: > 0, the entropy bound.
        hottest, coldest: temperatures, 0 < coldest <= hottest.
        calm: >= 0 steps.
        sure: nats > 0.

    Raises:
        PlanError, OrderError: numbers out of range.
        DenoiserError: while sampling, a denoiser that was made for masks.

    Example:
        >>> from demask import oracles, sample
        >>> sample(oracles.reverse(4), Renoising(), Canvas.blank(1, 4), key=0).nfe
        tensor([2])

    Reference: DiffusionGemma (Google, 2026), the sampler and defaults of its release in transformers; the bound is that of
    Ben-Hamu et al., 2025, arXiv 2505.24857.
    """

    law: ClassVar[Law] = Law.TILTED
    guesses: ClassVar[bool] = True
    steps: int = 48
    nats: float = 0.1
    hottest: float = 0.8
    coldest: float = 0.4
    calm: int = 1
    sure: float = 0.005

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise PlanError(f"renoising in {self.steps!r} steps; expected an integer >= 1, such as 48")
        if not (self.nats > 0 and self.sure > 0):
            raise OrderError(f"{self}: expected nats > 0 and sure > 0, such as 0.1 and 0.005")
        if not 0 < self.coldest <= self.hottest < float("inf"):
            raise OrderError(f"{self}: expected temperatures 0 < coldest <= hottest, such as 0.4 and 0.8")
        if isinstance(self.calm, bool) or not isinstance(self.calm, int) or self.calm < 0:
            raise OrderError(f"calm for {self.calm!r} steps; expected an integer >= 0, such as 1")

    def init(self, canvas: Canvas, chance: Chance) -> Renoised:
        """Return the state of a run that begins with `canvas`; the noise is drawn at the first step."""
        start, rows = canvas.masked, len(canvas.masked)
        level = torch.full((rows,), torch.inf, dtype=torch.float64, device=canvas.device)
        calm = torch.full((rows,), -1, device=canvas.device)
        return Renoised(canvas, start, chance, canvas.tokens, level, 0, calm, ~start.any(1))

    def step(self, state: Renoised, denoiser: Denoiser, chance: Chance) -> tuple[Renoised, Info]:
        """Return the state after one step, and which modes changed."""
        network, start = noised(denoiser), state.start
        here = without(start, state.finished[:, None])
        tokens = state.tokens
        if state.turn == 0:
            tokens = tokens.masked_scatter(start, noise(start, network.vocabulary, chance))
        seen = Canvas(tokens, torch.zeros_like(start))
        step = Step(seen, start, start, Through(network, state.level), chance, state.origin)
        heat = self.coldest + (self.hottest - self.coldest) * (self.steps - state.turn) / self.steps
        answer = step.marginals(here)
        law = Marginals(here, answer.logits / heat, answer.temperature)
        entropy = law.spread(law.entropy)
        accepted = _surest(entropy, here, self.nats)
        tokens = tokens.masked_scatter(accepted, chance.fork("draft").categorical(law.only(accepted)))
        others = without(here, accepted)
        tokens = tokens.masked_scatter_(others, noise(others, law.vocabulary, chance.fork("again")))
        modes = state.canvas.tokens.masked_scatter(here, law.mode)
        changed, calm = here, state.calm + 1
        if state.turn:
            changed = modes != state.canvas.tokens
            calm = calm.masked_fill_(changed.any(1), 0)
        count = here.sum(1).clamp(min=1)
        finished = state.finished | ((calm >= self.calm) & (entropy.sum(1) / count < self.sure))
        canvas = Canvas(modes, seen.masked)
        level = (count.double() / accepted.sum(1)).log()
        after = Renoised(canvas, start, state.origin, tokens, level, state.turn + 1, calm, finished)
        return after, step.changed(changed, canvas)

    def done(self, state: Renoised) -> Tensor:
        """Return the rows that have stopped, or had all steps, (B,) bool."""
        return torch.ones_like(state.finished) if state.turn >= self.steps else state.finished


def _surest(entropy: Tensor, here: Tensor, nats: float) -> Tensor:
    """Return the positions of least entropy (B, N) whose sum less its largest is within `nats`; the least one always."""
    ranked, index = entropy.masked_fill(~here, torch.inf).sort(dim=1, stable=True)
    return torch.zeros_like(here).scatter_(1, index, ranked.cumsum(1) - ranked <= nats)  # inf - inf is no less
