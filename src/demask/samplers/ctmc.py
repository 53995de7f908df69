"""Tau-leaping: discrete diffusion as a continuous-time Markov chain, run backwards from noise level to noise level."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import exp, expm1, inf
from typing import Final

import torch
from torch import Tensor

from demask.canvas import Canvas, Marginals, Weighted
from demask.contracts import Chance, Denoiser, Info, Law, Noised, Step, noised
from demask.errors import PlanError
from demask.masks import empty, places
from demask.reductions import by_group
from demask.samplers.grids import ExponentialThenConstant, Grid
from demask.samplers.jumps import Jumping, summed
from demask.samplers.speculative import tempered

UNMASKING: Final = ("modified", "truncated")
REWRITING: Final = ("leave-one-out", "truncated", "modulo")


@dataclass(frozen=True, eq=False)
class Leapt:
    """What the next step of a tau-leaping sampler needs.

    Parameters:
        canvas, start, origin: those of `Parallel`.
        turn: how many steps have been.
    """

    canvas: Canvas
    start: Tensor
    origin: Chance
    turn: int


@dataclass(frozen=True)
class Absorbing:
    """Unmask at random from noise level to noise level: tau-leaping of the masked (absorbing) process.

    On the step from level l to u < l every masked position, independently, stays masked with probability

        modified:   (1 - e^-u) / (1 - e^-l),         the clock of unmasking integrated exactly;
        truncated:  exp( -(l - u) / (e^l - 1) ),     its rate frozen at l;

    otherwise its token is drawn from p(x_i | visible). The last step unmasks all that is left. "modified" is the released
    score form q_a = p(x_i = a | visible) / (e^l - 1) with the time step
    (e^l - 1) ln( (1 - e^-l) / (1 - e^-u) ) in its place, which the tests confirm. With `Linear(K)` it has the law of
    `Parallel(binomial(n, K), Random())`.

    Law: FACTORISED; on independent tokens exact after one step. For "modified" KL is at most of the order kappa D, with the
        grid's kappa and the effective total correlation D (`effective_tc`).
    Cost: at most one NFE per step and row: a step that unmasks nothing costs none.

    Parameters:
        grid: the noise levels: `Constant`, `ExponentialThenConstant` or `Linear`.
        rule: "modified" or "truncated".

    Raises:
        PlanError: an unknown rule, or "truncated" on a grid that begins at infinity.

    Example:
        >>> from demask import oracles, sample
        >>> from demask.samplers.grids import Constant
        >>> run = sample(oracles.parity(6), Absorbing(Constant(24)), Canvas.blank(4, 6), key=0)
        >>> run.steps.tolist(), bool((run.nfe <= 6).all())
        ([24, 24, 24, 24], True)

    Reference: Dmitriev, Huang and Wei, Efficient sampling with discrete diffusion models, 2026, arXiv 2602.15008,
    algorithm 1 and appendix E.3.
    """

    grid: Grid = field(default_factory=lambda: ExponentialThenConstant(32))
    rule: str = "modified"

    def __post_init__(self) -> None:
        _check(self.grid, self.rule, UNMASKING, "modified")

    @property
    def law(self) -> Law:
        """FACTORISED: honest conditionals, drawn independently within a step."""
        return Law.FACTORISED

    def stays(self, turn: int) -> float:
        """Return the probability that a masked position stays masked at step `turn`."""
        level, after = self.grid.levels[turn : turn + 2]
        if after == 0:
            return 0.0
        if self.rule == "truncated":
            return exp(-(level - after) / expm1(level))
        return expm1(-after) / expm1(-level)

    def init(self, canvas: Canvas, chance: Chance) -> Leapt:
        """Return the state of a run that begins with `canvas`."""
        return Leapt(canvas, canvas.masked, chance, 0)

    def step(self, state: Leapt, denoiser: Denoiser, chance: Chance) -> tuple[Leapt, Info]:
        """Return the state after one step, and what happened."""
        step = Step(state.canvas, state.start, state.start, denoiser, chance, state.origin)
        goes = torch.full(state.start.shape, 1 - self.stays(state.turn), dtype=torch.float64, device=state.start.device)
        kept = chance.fork("unmask").bernoulli(step.open, goes) if state.turn + 1 < self.grid.steps else step.open
        info = step.unmasked(kept, step.draft(kept))
        return replace(state, canvas=info.canvas, turn=state.turn + 1), info

    def done(self, state: Leapt) -> Tensor:
        """Return the rows with nothing masked, (B,) bool."""
        return empty(state.canvas.masked)


@dataclass(frozen=True)
class UniformState:
    """Rewrite tokens at random from noise level to noise level: tau-leaping of the uniform process.

    Every token to be written begins as noise, uniform on the V tokens, and nothing is masked: each step may change any of
    them. On the step from level l to u, h = l - u, with m_l(b) = e^-l p(x_i = b | all others) + (1 - e^-l) / V the law of
    the noisy token given all others, and s(b) = m_l(b) / m_l(x_i) its score, every position draws a new token b by itself:

        leave-one-out:  proportional to ( e^-h 1[b = x_i] + (1 - e^-h) / V ) m_u(b);
        truncated:      b != x_i with probability (1 - e^-hR) s(b) / V R,  R = sum over b != x_i of s(b) / V;
        modulo:         x_i + the sum modulo V of Poisson(h s(x_i + c) / V) jumps by c, for every c.

    The last two freeze the score during the step, with at most one jump and with any number, as published; the law of the
    sum is found by a Fourier transform. The first one freezes only what is known of the other tokens.

    Law: FACTORISED for "leave-one-out": each token is drawn from its exact law at level u given all noisy tokens, so
        independent tokens come out right but for the beginning, noise instead of noisy tokens, at most e^-T n ln V nats for
        horizon T. TILTED for the others: their error on n independent tokens is n times that on one; for bits of probability
        0.1 and `ExponentialThenConstant(21)` it is 0.0074 nats per token for "truncated" and 0.0185 for "modulo".
    Cost: one NFE per step and row; O(M V), and O(M V ln V) for "modulo".

    Parameters:
        grid: the noise levels; `ExponentialThenConstant` suits this process.
        rule: "leave-one-out", "truncated" or "modulo".

    Raises:
        PlanError: an unknown rule, or one that freezes the score on a grid that begins at infinity.
        DenoiserError: while sampling, a denoiser that was made for masks.

    Example:
        >>> from demask import oracles, sample
        >>> run = sample(oracles.parity(6), UniformState(ExponentialThenConstant(64)), Canvas.blank(4, 6), key=0)
        >>> run.nfe.tolist(), (run.tokens.sum(1) % 2).tolist()
        ([64, 64, 64, 64], [0, 0, 0, 0])

    Reference: Dmitriev, Huang and Wei, 2026, arXiv 2602.15008, equations 6 and 8; the leave-one-out sampler is from their
    follow-up, 2026, arXiv 2608.23554.
    """

    grid: Grid = field(default_factory=lambda: ExponentialThenConstant(32))
    rule: str = "leave-one-out"
    guesses = True

    def __post_init__(self) -> None:
        _check(self.grid, self.rule, REWRITING, "leave-one-out")

    @property
    def law(self) -> Law:
        """FACTORISED if the score is not frozen."""
        return Law.FACTORISED if self.rule == "leave-one-out" else Law.TILTED

    def transition(self, posterior: Tensor, tokens: Tensor, level: float, after: float) -> Tensor:
        """Return the law of the token after a step: (M, V).

        Parameters:
            posterior: (M, V) probabilities of what stood there before noise, given all noisy tokens.
            tokens: (M,) what stands there now.
            level, after: the noise before and after the step.
        """
        if self.rule == "leave-one-out":
            own, law = tokens[:, None], _mixed(without_own(posterior, tokens, level), after)
            stays, comes = _channel(law.shape[1], level - after)
            law.scatter_(1, own, law.gather(1, own) * (stays / comes))  # all are multiplied by `comes`, which cancels
            return law.div_(law.sum(1, keepdim=True))
        return (_one_jump if self.rule == "truncated" else summed)(_rates(posterior, tokens, level, after), tokens)

    def init(self, canvas: Canvas, chance: Chance) -> Leapt:
        """Return the state of a run that begins with `canvas`; the noise is drawn at the first step."""
        return Leapt(canvas, canvas.masked, chance, 0)

    def step(self, state: Leapt, denoiser: Denoiser, chance: Chance) -> tuple[Leapt, Info]:
        """Return the state after one step, and what changed."""
        network, start, canvas = noised(denoiser), state.start, state.canvas
        if state.turn == 0:
            tokens = canvas.tokens.masked_scatter(start, noise(start, network.vocabulary, chance))
            canvas = canvas.unmask(start, tokens)
        level, after = self.grid.levels[state.turn : state.turn + 2]
        levels = torch.full((len(start),), level, dtype=torch.float64, device=start.device)
        step = Step(canvas, start, start, Through(network, levels), chance, state.origin)
        answer = step.marginals(start)

        def leap(logits: Tensor, tokens: Tensor) -> Tensor:
            posterior = tempered(logits, answer.temperature)
            if self.rule == "modulo":
                return _rates(posterior, tokens, level, after)
            return self.transition(posterior, tokens, level, after)

        before = canvas.tokens.flatten()[places(start)]
        found = by_group(leap, answer.logits, before)
        law = Jumping(start, found, before) if self.rule == "modulo" else Weighted(start, found)
        tokens = canvas.tokens.masked_scatter(start, chance.fork("leap").categorical(law))
        changed = start if state.turn == 0 else tokens != canvas.tokens
        canvas = Canvas(tokens, canvas.masked)
        return replace(state, canvas=canvas, turn=state.turn + 1), step.changed(changed, canvas)

    def done(self, state: Leapt) -> Tensor:
        """Return the rows that have had all steps, or never had anything masked, (B,) bool."""
        over = ~state.start.any(1)
        return torch.ones_like(over) if state.turn >= self.grid.steps else over


@dataclass(frozen=True, eq=False)
class Through:
    """A denoiser that is asked about noisy tokens, of levels that are known.

    Parameters:
        inner: answers about noisy tokens.
        levels: (B,) of every row.
    """

    inner: Noised
    levels: Tensor

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer for visible positions, whose tokens are noisy."""
        return self.inner.noised(canvas, where, self.levels)


def noise(where: Tensor, vocabulary: int, chance: Chance) -> Tensor:
    """Draw a uniform token for each of the M positions of `where` (B, N): (M,) int64.

    Example:
        >>> from demask.chance import Keyed
        >>> where = torch.ones(2, 8, dtype=torch.bool)
        >>> sorted(set(noise(where, 3, Keyed.of(0, torch.arange(2))).tolist()))
        [0, 1, 2]
    """
    return chance.fork("noise").categorical(_Any(where, vocabulary))


class _Any(Marginals):
    """The uniform law of `size` tokens at each position of `where`, whose quantiles need no table."""

    size: int

    def __init__(self, where: Tensor, size: int) -> None:
        self.__dict__.update(where=where, size=size, temperature=1.0, passes=1)

    @cached_property
    def logits(self) -> Tensor:
        """Zeros, (M, V)."""
        return torch.zeros(len(places(self.where)), self.size, device=self.where.device)

    def draw(self, uniform: Tensor) -> Tensor:
        """Return the token at each quantile, (M,)."""
        return (uniform * self.size).long()


def without_own(posterior: Tensor, tokens: Tensor, level: float) -> Tensor:
    """Return the law of what stood there given all *other* noisy tokens: (M, V).

    p(b | others) is proportional to p(b | all) / q(x_i | b), q(x | b) = e^-l 1[b = x] + (1 - e^-l) / V.

    Parameters:
        posterior: (M, V) p(b | all).
        tokens: (M,) what stands there.
        level: l > 0.

    Example:
        >>> token = torch.tensor([0])
        >>> without_own(torch.tensor([[0.75, 0.25]]), token, torch.tensor(2.0).log().item())  # q = 0.75, 0.25
        tensor([[0.5000, 0.5000]])
    """
    own, (stays, comes) = tokens[:, None], _channel(posterior.shape[1], level)
    others = posterior.scatter(1, own, posterior.gather(1, own) * (comes / stays))
    return others.div_(others.sum(1, keepdim=True))


def _channel(vocabulary: int, level: float) -> tuple[float, float]:
    """Return the probabilities with which a token is seen as itself, and as each other one, after noise of `level`."""
    comes = -expm1(-level) / vocabulary
    return exp(-level) + comes, comes


def _mixed(law: Tensor, level: float) -> Tensor:
    """Return a law after noise of `level`, written over it."""
    return law.mul_(exp(-level)).add_(-expm1(-level) / law.shape[1])


def _rates(posterior: Tensor, tokens: Tensor, level: float, after: float) -> Tensor:
    """Return the rates of a jump to each token over a step, h s(b) / V: (M, V).

    The law of the noisy token is that of `without_own` after noise; in the ratio of two of its numbers what divides all of
    them cancels, so that only the token itself, and one number for all others, need it.
    """
    own, (stays, comes) = tokens[:, None], _channel(posterior.shape[1], level)
    here, share, least = posterior.gather(1, own), comes / stays, comes * exp(level)
    noise = (here * (least * (share - 1))).add_(least)
    scale = (level - after) / posterior.shape[1] / torch.add(noise, here, alpha=share)
    return torch.addcmul(noise.mul_(scale), posterior, scale).scatter_(1, own, 0.0)


def _one_jump(rates: Tensor, tokens: Tensor) -> Tensor:
    """Return the law after at most one jump, of rates (M, V) over the step, 0 at the token itself; written over them."""
    total = rates.sum(1, keepdim=True)
    share = -torch.expm1(-total) / total.clamp(min=torch.finfo(rates.dtype).tiny)
    return rates.mul_(share).scatter_add_(1, tokens[:, None], (-total).exp())


def _check(grid: Grid, rule: str, rules: tuple[str, ...], unfrozen: str) -> None:
    if rule not in rules:
        raise PlanError(f"rule {rule!r}; expected one of {', '.join(rules)}")
    if rule != unfrozen and grid.levels[0] == inf:
        raise PlanError(
            f"{rule} freezes a rate during a step, and {grid!r} begins at an infinite level; write Constant({grid.steps}) "
            f"or ExponentialThenConstant({grid.steps}), or rule={unfrozen!r}"
        )
