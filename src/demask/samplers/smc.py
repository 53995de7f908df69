"""Sequential Monte Carlo: several trajectories per row, weighed as they go, the light ones replaced by the heavy."""

from dataclasses import dataclass, field, replace
from math import log
from typing import Any, ClassVar, Final, Literal, get_args

import torch
from torch import Tensor

from demask.canvas import Canvas, Marginals
from demask.contracts import Chance, Denoiser, Info, Law, Sampler, Step
from demask.errors import ParticleError
from demask.masks import without
from demask.rows import select
from demask.samplers.editing import Editing
from demask.samplers.parallel import Asked
from demask.samplers.particles import checked, copies, shares, split
from demask.samplers.potentials import Potential, SelfReward
from demask.samplers.remasking import Remasking
from demask.samplers.resampling import SCHEMES

Ramp = Literal["none", "increments", "total"]
Choose = Literal["draw", "best"]
_EQUAL: Final = 1 - 1e-9  # an effective number of particles that is P but for rounding


@dataclass(frozen=True, eq=False)
class Cloud:
    """What the next step of `SMC` needs.

    Parameters:
        canvas: (B, N), of the particle that is shown.
        start: (B, N) bool, what was masked at the beginning.
        inner: the inner sampler's state, of B P rows: particle p of row b is row b P + p.
        logw: (B, P) float64, log-weights since the row was last resampled.
        totals: (B, P) float64, log potential of each particle's own trajectory.
        log_normaliser: (B,) float64, of the resampled past.
        stage: (B,) int64, how often all particles have come `every` tokens further.
        answer: what the denoiser has already said of the particles' canvases.
    """

    canvas: Canvas
    start: Tensor
    inner: Any
    logw: Tensor
    totals: Tensor
    log_normaliser: Tensor
    stage: Tensor
    answer: Marginals | None

    def rows(self, keep: Tensor) -> "Cloud":
        """Keep some rows, each with its particles."""
        count = self.logw.shape[1]
        named = torch.arange(len(self.logw), device=keep.device)[keep]
        particles = (named[:, None] * count + torch.arange(count, device=keep.device)).flatten()
        parts = {name: select(getattr(self, name), keep) for name in ("canvas", "start", "logw", "totals", "stage")}
        inner, answer = select(self.inner, particles), select(self.answer, particles)
        return Cloud(inner=inner, answer=answer, log_normaliser=self.log_normaliser[keep], **parts)


@dataclass(frozen=True)
class Weighed(Info):
    """What `SMC` did at a step, and what stands; `step`, `kept` and `canvas` are those of the particle that is shown.

    Parameters:
        effective: (B,) float64, 1 / sum of squared weights, before resampling: from 1 to P.
        resampled: (B,) bool.
        log_normaliser: (B,) float64, log of the product, over the row's rounds so far, of its mean weight.
    """

    effective: Tensor
    resampled: Tensor
    log_normaliser: Tensor


@dataclass(frozen=True)
class SMC:
    """Run several trajectories per row, weigh them by a potential, and replace light ones by copies of heavy ones.

    With psi_t the log potential of a particle after step t, its weight grows by exp(psi_t - psi_{t-1}). Where the effective
    number 1 / sum W^2 of a row's particles falls below `threshold` P, each gives way to a copy of one drawn by weight, and
    weights are equal again. Copies go on with their own draws, but keep what was drawn once for the run, such as the
    random order.

    The product over rounds of the mean weight has expectation Z = E[exp(psi_T)] over the inner sampler's trajectories, for
    every P, threshold and scheme; `Normaliser` collects it. As P grows, what is put out tends to the inner sampler's law
    times exp(psi_T), divided by Z.

    Law: CONSISTENT with a potential that is 0 in the end, an EXACT inner sampler, whose law it then is as P grows, and a
    particle drawn by weight. TILTED otherwise: by `SelfReward` to p^2 / sum p^2, by `Reward` to p exp(reward) / Z, where the
    inner sampler draws from p; one with `Confidence("draft")` does not. One particle is the inner sampler, draw for draw.

    Cost: P times the inner sampler's NFE, in one batch of B P rows, and the potential's.

    `Run.when` is the step at which a token was first shown; while a row runs, that is the particle worth most.

    Parameters:
        inner: any sampler. `Ended` and `Stopped` go inside, around each particle: see `inside`.
        potential: `SelfReward()`, `Reward(function)`, `Foresight()`.
        particles: P >= 1.
        threshold: in [0, 1]; 0 never resamples, 1 wherever weights differ.
        resampling: "multinomial", "residual", "stratified" or "systematic".
        every: resample only after so many tokens, where particles that are there wait for the others. None: after every
            step, and no particle waits. With `Blockwise(order, 32)` inside, every=32 is the end of a block.
        ramp: "none"; "total": psi_t times the share of the row that is unmasked, which ends as psi_T with the same law;
            "increments": psi_t - psi_{t-1} times it, as in released code, so late tokens count more in the end too.
        choose: what is put out, "draw": a particle by weight; "best": that of largest psi_T.

    Raises:
        ParticleError: numbers out of range, an unknown word, `every` around `Remasking`, `Editing` or `SMC`, which cannot
            wait; while sampling, a potential that is nan or +inf, or -inf for all particles of a row.

    Example:
        >>> from demask import LeftToRight, Parallel, oracles, sample, uniform
        >>> from demask.samplers import Reward
        >>> even = Parallel(uniform(4, 4), LeftToRight())
        >>> ones = SMC(even, Reward(lambda canvas: canvas.tokens.sum(1) * 9.0), 16, choose="best")
        >>> run = sample(oracles.parity(4), ones, Canvas.blank(2, 4), key=0)
        >>> run.tokens.tolist(), run.nfe.tolist()
        ([[1, 1, 1, 1], [1, 1, 1, 1]], [64, 64])

    Reference: Luo et al., Self-rewarding sequential Monte Carlo for masked diffusion language models, 2026,
    arXiv 2602.01849.
    """

    several: ClassVar[bool] = True
    inner: Sampler[Any]
    potential: Potential = field(default_factory=SelfReward)
    particles: int = 4
    threshold: float = field(default=0.5, kw_only=True)
    resampling: str = field(default="multinomial", kw_only=True)
    every: int | None = field(default=None, kw_only=True)
    ramp: Ramp = field(default="none", kw_only=True)
    choose: Choose = field(default="draw", kw_only=True)

    def __post_init__(self) -> None:
        _whole("particles", self.particles, "4")
        if not 0 <= self.threshold <= 1:
            raise ParticleError(
                f"a threshold of {self.threshold}; expected a share of the particles in [0, 1], such as 0.5; 0 is never"
            )
        for name, known in (("resampling", SCHEMES), ("ramp", get_args(Ramp)), ("choose", get_args(Choose))):
            if getattr(self, name) not in known:
                raise ParticleError(f"{name} = {getattr(self, name)!r}; expected one of {', '.join(map(repr, known))}")
        if self.every is not None:
            _whole("every", self.every, "32, or None")
            restless = _within(self.inner, (Editing, Remasking, SMC))
            if restless:
                raise ParticleError(
                    f"every={self.every} lets particles wait, which {restless} cannot; write every=None"
                )

    @property
    def law(self) -> Law:
        """What the potential leaves of the inner sampler's."""
        if self.particles == 1:
            return self.inner.law
        guided = self.potential.law is Law.CONSISTENT and self.ramp != "increments" and self.choose == "draw"
        return Law.CONSISTENT if guided and self.inner.law is Law.EXACT else Law.TILTED

    def init(self, canvas: Canvas, chance: Chance) -> Cloud:
        """Return the state of a run that begins with `canvas`."""
        rows, device = canvas.shape[0], canvas.device
        every = copies(rows, self.particles, device)
        inner = self.inner.init(canvas.rows(every), split(chance, rows, self.particles, device))
        zeros = torch.zeros(rows, self.particles, dtype=torch.float64, device=device)
        stage = torch.zeros(rows, dtype=torch.int64, device=device)
        return Cloud(canvas, canvas.masked, inner, zeros, zeros, zeros[:, 0], stage, None)

    def step(self, state: Cloud, denoiser: Denoiser, chance: Chance) -> tuple[Cloud, Weighed]:
        """Return the state after one step of every particle, its weighing, and a resampling where it is due."""
        rows, count = state.logw.shape
        over = self.done(state)
        inner, info = self._moved(state, denoiser, split(chance, rows, count, state.start.device))
        after = Step(inner.canvas, inner.start, inner.start, denoiser, info.step.chance.fork("after"), info.step.origin)
        totals = checked(self.potential.total(state.totals.flatten(), info, after), state.totals)
        logw = state.logw + self._increments(state, totals, info.step.canvas, inner.canvas)
        weights = shares(logw)
        normaliser = state.log_normaliser + logw.logsumexp(1) - log(count)
        effective = 1 / weights.square().sum(1)

        finished = self.inner.done(inner).view(rows, count).all(1)
        stage, due = self._stage(state, inner)
        due = without(due, finished) & (effective < self.threshold * count * _EQUAL)
        place = torch.arange(count, device=logw.device).expand(rows, count)
        answer, past = after.known, state.log_normaliser
        if bool(due.any()):
            place = place.clone()
            place[due] = SCHEMES[self.resampling](weights[due], chance.fork("resample").rows(due))
            line = self._line(place).flatten()
            inner, answer = select(inner, line), select(answer, line)
            totals = totals.gather(1, place)
            logw, past = logw.masked_fill(due[:, None], 0.0), torch.where(due, normaliser, past)

        shown = totals.argmax(1)
        ends = without(finished, over)
        if self.choose == "draw" and bool(ends.any()):
            shown[ends] = chance.fork("choose").rows(ends).outcome(weights[ends])
        shown = shown[:, None]
        seen = inner.canvas.rows(self._line(shown)[:, 0])
        canvas = Canvas(
            torch.where(over[:, None], state.canvas.tokens, seen.tokens),
            torch.where(over[:, None], state.canvas.masked, seen.masked),
        )
        line = self._line(place.gather(1, shown))[:, 0]
        told = Weighed(info.step.rows(line), info.kept[line], canvas, effective, due, normaliser)
        return Cloud(canvas, state.start, inner, logw, totals, past, stage, answer), told

    def done(self, state: Cloud) -> Tensor:
        """Return the rows of which every particle is done, (B,) bool."""
        return self.inner.done(state.inner).view(state.logw.shape).all(1)

    def __repr__(self) -> str:
        usual = {"threshold": 0.5, "resampling": "multinomial", "every": None, "ramp": "none", "choose": "draw"}
        named = [f"{name}={getattr(self, name)!r}" for name, value in usual.items() if getattr(self, name) != value]
        return f"SMC({', '.join([repr(self.inner), repr(self.potential), repr(self.particles), *named])})"

    def _moved(self, state: Cloud, denoiser: Denoiser, chance: Chance) -> tuple[Any, Info]:
        """Return the inner state after a step of the particles that do not wait, and what they did."""
        inner = state.inner
        if self.every is not None:
            waits = self._ready(state.stage, inner).flatten()
            inner = replace(inner, start=without(inner.start, waits[:, None]))
        if state.answer is not None:
            denoiser = Asked(inner.canvas, state.answer, denoiser)
        after, info = self.inner.step(inner, denoiser, chance)
        return (after if self.every is None else replace(after, start=state.inner.start)), info

    def _increments(self, state: Cloud, totals: Tensor, before: Canvas, after: Canvas) -> Tensor:
        """Return by how much log-weights grow, (B, P); what is excluded stays so."""
        old = state.totals
        grown = torch.where(old > -torch.inf, totals - old, -torch.inf)
        if self.ramp == "none":
            return grown
        length = state.start.sum(1, keepdim=True).clamp(min=1).double()
        now, then = ((length - (canvas.masked.sum(1).view(old.shape))) / length for canvas in (after, before))
        level = now * totals - then * old if self.ramp == "total" else now * grown
        return torch.where(grown > -torch.inf, level, -torch.inf)

    def _ready(self, stage: Tensor, inner: Any) -> Tensor:
        """Return the particles (B, P) that are `every` tokens further than the row's last stage, or done."""
        assert self.every is not None
        unmasked = without(inner.start, inner.canvas.masked).sum(1).view(len(stage), self.particles)
        return (unmasked >= (stage[:, None] + 1) * self.every) | self.inner.done(inner).view(unmasked.shape)

    def _stage(self, state: Cloud, inner: Any) -> tuple[Tensor, Tensor]:
        """Return the rows' new stages, and the rows that have come to one."""
        if self.every is None:
            return state.stage, torch.ones_like(state.stage, dtype=torch.bool)
        reached = self._ready(state.stage, inner).all(1)
        unmasked = without(inner.start, inner.canvas.masked).sum(1).view(len(reached), self.particles)
        return torch.where(reached, unmasked.amin(1) // self.every, state.stage), reached

    def _line(self, place: Tensor) -> Tensor:
        """Return the row numbers among all particles of places (B, A) among their row's."""
        return torch.arange(len(place), device=place.device)[:, None] * self.particles + place


@dataclass
class Normaliser:
    """Keep what a run of `SMC` says of the normaliser: (B,) float64, its log; exp of it is unbiased for E[exp(psi_T)].

    Raises:
        ParticleError: a sampler without particles.

    Example:
        >>> from demask import LeftToRight, Parallel, oracles, sample, uniform
        >>> sampler = SMC(Parallel(uniform(3, 3), LeftToRight()), SelfReward(), 2)
        >>> run = sample(oracles.parity(3), sampler, Canvas.blank(1, 3), key=0, collect=[Normaliser()])
        >>> run.collected["log_normaliser"].exp()  # four strings of probability 1/4
        tensor([0.2500], dtype=torch.float64)
    """

    name: str = field(default="log_normaliser", init=False)
    _last: Tensor | None = field(default=None, repr=False)

    def see(self, info: Info) -> None:
        """Take the newest."""
        if not isinstance(info, Weighed):
            raise ParticleError(
                "Normaliser() was given a sampler without particles; expected SMC(inner, potential, 4), say"
            )
        self._last = info.log_normaliser

    def result(self) -> Tensor:
        """Return the log."""
        return torch.zeros(0, dtype=torch.float64) if self._last is None else self._last


def _within(sampler: object, kinds: tuple[type, ...]) -> str | None:
    """Return the name of a sampler of these kinds, itself or inside."""
    while sampler is not None and not isinstance(sampler, kinds):
        sampler = getattr(sampler, "inner", None)
    return None if sampler is None else type(sampler).__name__


def _whole(name: str, value: object, such: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ParticleError(f"{name} = {value!r}; expected an integer >= 1, such as {such}")
