"""Give credit to tokens that have been the mode before: what is said again and again is believed sooner."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from demask.canvas import Canvas, Marginals
from demask.contracts import Chance, Denoiser, Info, Law
from demask.errors import OrderError
from demask.masks import empty
from demask.samplers.parallel import Parallel, Passing, State


@dataclass(frozen=True, eq=False)
class Ledger:
    """The tokens that have been the mode of each position, and their credit.

    Parameters:
        tokens: (B, N, K) int64, -1 where there is none.
        credit: (B, N, K) float32, >= 0.
    """

    tokens: Tensor
    credit: Tensor

    def entered(self, answer: Marginals, *, power: float, decay: float) -> "Ledger":
        """Let the credit of the asked positions decay, and give their modes the power of their probability."""
        where, mode = answer.where, answer.mode
        tokens, credit = self.tokens[where], self.credit[where] * decay
        known = tokens == mode[:, None]
        new = ~known.any(1)
        wide = self
        if bool(new.any()):
            if bool((tokens[new] >= 0).all(1).any()):
                wide = Ledger(pad(self.tokens, (0, 1), value=-1), pad(self.credit, (0, 1)))
                tokens, credit, known = pad(tokens, (0, 1), value=-1), pad(credit, (0, 1)), pad(known, (0, 1))
            free = (tokens < 0).long().argmax(1, keepdim=True)
            slot = torch.zeros_like(known).scatter(1, free, new[:, None])
            tokens, known = torch.where(slot, mode[:, None], tokens), known | slot
        credit = credit + known * (power * answer.peak.float()).exp()[:, None]
        places = where[..., None]
        return Ledger(wide.tokens.masked_scatter(places, tokens), wide.credit.masked_scatter(places, credit))

    def fused(self, answer: Marginals, *, weight: float) -> Marginals:
        """Return the laws with weight log(1 + credit) added to the logits."""
        where, logits = answer.where, answer.logits
        gain = (weight * self.credit[where].log1p()).to(logits)
        return replace(answer, logits=logits.scatter_add(1, self.tokens[where].clamp(min=0), gain))


@dataclass(frozen=True, eq=False)
class Believed:
    """What the next step of `Credited` needs.

    Parameters:
        canvas, start, origin: those of `Parallel`.
        ledger: of all steps so far.
    """

    canvas: Canvas
    start: Tensor
    origin: Chance
    ledger: Ledger


@dataclass(frozen=True)
class Credited:
    """Let the inner sampler read and draw from laws in which earlier modes have a bonus.

    For a position that is asked about at step t, with v its mode and p(v) its probability,

        C_t(u) = decay C_{t-1}(u) + [u = v] p(v)^power,    logit_t(u) + weight log(1 + C_t(u)).

    So a token that stays the mode passes a threshold sooner than by its own probability. Positions that the inner order does
    not ask about, those of later blocks, have no credit yet. Credit is a memory, which orders do not have; so this is a
    sampler. dInfer's credit decoding is this around `Parallel(Unlimited(), Threshold(Blockwise(Confidence(), 32), 0.9))`.

    Law: TILTED; the laws drawn from are not the denoiser's.
    Cost: no NFE; a copy of the asked logits, and O(B N K) numbers for the K tokens that have been a position's mode.

    Parameters:
        inner: says how many, in which order, and what is kept.
        weight: >= 0, nats per log(1 + credit); 0 is the inner sampler.
        power: >= 0, of the mode's probability; 0 counts steps.
        decay: in [0, 1], of credit per step.

    Raises:
        OrderError: numbers out of range.

    Example:
        >>> from demask import Confidence, Tempered, Unlimited, oracles, sample
        >>> from demask.orders import Threshold
        >>> plain = Parallel(Unlimited(), Threshold(Confidence(), 0.8))
        >>> pair = Tempered(oracles.Table.dense([[0.5, 0.1], [0.1, 0.3]]), 0)  # modes of probability 0.6, then 5/6
        >>> for sampler in (plain, Credited(plain, weight=2.0)):
        ...     print(sample(pair, sampler, Canvas.blank(1, 2), key=0).when.tolist())
        [[0, 1]]
        [[0, 0]]

    Reference: Ma et al., dInfer, 2025, arXiv 2510.08666 (credit decoding).
    """

    law: ClassVar[Law] = Law.TILTED
    inner: Parallel
    weight: float = field(default=0.7, kw_only=True)
    power: float = field(default=0.2, kw_only=True)
    decay: float = field(default=0.8, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Parallel):
            raise OrderError(f"credit around {type(self.inner).__name__}; expected Parallel(schedule, order)")
        for name, value, most in (("weight", self.weight, 1e3), ("power", self.power, 1e3), ("decay", self.decay, 1.0)):
            if not 0 <= value <= most:
                raise OrderError(f"{name} = {value}; expected a number in [0, {most:g}], such as {_USUAL[name]}")

    def init(self, canvas: Canvas, chance: Chance) -> Believed:
        """Return the state of a run that begins with `canvas`."""
        empty = torch.full((*canvas.shape, 1), -1, dtype=torch.int64, device=canvas.device)
        return Believed(canvas, canvas.masked, chance, Ledger(empty, torch.zeros(empty.shape, device=canvas.device)))

    def step(self, state: Believed, denoiser: Denoiser, chance: Chance) -> tuple[Believed, Info]:
        """Return the state after one step of the inner sampler on laws with their bonus."""
        asked = _Bonus(denoiser, self, state.ledger)
        after, info = self.inner.step(State(state.canvas, state.start, state.origin), asked, chance)
        return Believed(after.canvas, after.start, after.origin, asked.ledger), info

    def done(self, state: Believed) -> Tensor:
        """Return the rows with nothing masked, (B,) bool."""
        return empty(state.canvas.masked)

    def __repr__(self) -> str:
        named = [f"{name}={getattr(self, name)!r}" for name, value in _USUAL.items() if getattr(self, name) != value]
        return f"Credited({', '.join([repr(self.inner), *named])})"


_USUAL = {"weight": 0.7, "power": 0.2, "decay": 0.8}


class _Bonus(Passing):
    """A denoiser whose modes have credit, and the ledger after what it was last asked."""

    def __init__(self, inner: Denoiser, rule: Credited, before: Ledger) -> None:
        self.inner, self.rule, self.before = inner, rule, before
        self.ledger = before

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        answer, rule = self.inner(canvas, where), self.rule
        self.ledger = self.before.entered(answer, power=rule.power, decay=rule.decay)
        return self.ledger.fused(answer, weight=rule.weight)
