"""Conformance checks for your own denoisers, orders, schedules and samplers.

Each check raises AssertionError with what was given and what was expected, so it can be called from any test. The
project's own components pass them all.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demask.canvas import Canvas, Marginals
from demask.chance import Keyed
from demask.contracts import Denoiser, Law, Order, Sampler, Schedule, Step
from demask.information import law
from demask.oracles import Oracle
from demask.orders import Random
from demask.samplers import Parallel, State
from demask.schedules import Plan, Sizes

__all__ = ["check_denoiser", "check_law", "check_order", "check_schedule"]


def check_denoiser(denoiser: Denoiser, canvas: Canvas, *, atol: float = 1e-5) -> None:
    """Check that a denoiser answers with distributions, for the asked rows, one batch row at a time.

    Packed rows in row-major order; finite normalisers; the same answer for a subset of positions, for a row alone, and
    whatever stands under the masks, which are not written to.

    Raises:
        AssertionError: naming what failed.

    Example:
        >>> from demask.oracles import parity
        >>> check_denoiser(parity(4), Canvas.blank(2, 4))
    """
    where, before = canvas.masked, canvas.masked.clone()
    full = denoiser(canvas, where)
    rows = int(before.sum())
    _expect(torch.equal(where, before), "the denoiser wrote to the mask it was given; expected a mask of its own")
    _expect(
        full.logits.ndim == 2 and len(full.logits) == rows, f"logits {tuple(full.logits.shape)} for {rows} positions"
    )
    _expect(bool(full.logsumexp.isfinite().all()), "a row of logits has no finite normaliser: it is no distribution")
    laws = full.logits.double().log_softmax(-1)

    def compare(part: Tensor, expected: Tensor, what: str) -> None:
        gap = float((part.double().log_softmax(-1).exp() - expected.exp()).abs().amax()) if len(part) else 0.0
        _expect(gap <= atol, f"{what} changes a probability by {gap:.2g}; expected at most {atol}")

    some = where & (torch.arange(where.shape[1], device=where.device) % 2 == 0)
    asked = some.any(1)
    if bool(asked.any()):
        part = denoiser(canvas.rows(asked), some[asked])
        compare(part.logits, laws[some[where]], "asking for fewer positions")
    hidden = canvas.tokens.masked_fill(canvas.masked, full.vocabulary - 1)
    compare(denoiser(Canvas(hidden, canvas.masked), where).logits, laws, "what stands under the masks")
    for row in where.any(1).nonzero()[:, 0].tolist():
        alone = denoiser(canvas.rows(torch.tensor([row])), where[row : row + 1])
        mine = where.nonzero()[:, 0] == row
        compare(alone.logits, laws[mine], f"leaving row {row} alone")


def check_order(order: Order, oracle: Oracle, *, key: int = 0) -> None:
    """Check that an order scores the open positions only, one row at a time, writes to no mask, and that its law holds.

    An order that claims FACTORISED must leave the law exact at one token per step: checked by replay on the oracle,
    which should be small and have a skewed law.

    Raises:
        AssertionError: naming what failed.

    Example:
        >>> from demask.oracles import Table
        >>> check_order(Random(), Table.random(3, 2, key=0))
    """
    tokens = oracle.sample(4, key=key)
    masked = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(key)) < 0.6
    masked[0] = True
    masked[1] = False
    names = torch.arange(len(tokens))

    def score(rows: Tensor) -> Tensor:
        canvas, chance = Canvas(tokens, masked).rows(rows), Keyed.of(key, names[rows])
        region = canvas.masked.clone()
        step = Step(canvas, region, region, oracle, chance.fork("step", 0), chance.fork("run"))
        scores, written = order.score(step), "the order wrote to a mask of the step; expected `step.open.clone()`"
        _expect(all(torch.equal(mask, masked[rows]) for mask in (canvas.masked, region, step.open)), written)
        return scores

    scores = score(names)
    _expect(scores.shape == masked.shape, f"scores of shape {tuple(scores.shape)} on a canvas {tuple(masked.shape)}")
    _expect(not bool(scores.isnan().any()), "a score is nan")
    _expect(bool((scores[~masked] == -torch.inf).all()), "a visible position has a score other than -inf")
    some = (scores > -torch.inf).any(1)
    _expect(bool((some == masked.any(1)).all()), "a row with masked positions lets none through: it would never end")
    alone = torch.cat([score(row[None]) for row in names])
    _expect(torch.allclose(alone, scores, rtol=1e-6, atol=1e-9), "a row's scores depend on its batch mates")
    if order.law is not Law.TILTED:
        check_law(Parallel(Plan([1] * oracle.length), order), oracle)


def check_schedule(schedule: Schedule, *, length: int, rows: int = 8, key: int = 0) -> None:
    """Check that a schedule finishes rows of `length` positions, and that what it says of itself is true.

    For `Sizes`: a residual of length - 1 numbers, R(i) in [0, n - i]; equal to that of its mixture where it lists one.

    Raises:
        AssertionError: naming what failed.

    Example:
        >>> from demask.schedules import minimax
        >>> check_schedule(minimax(8, 3), length=8)
    """
    chance = Keyed.of(key, torch.arange(rows))
    canvas = Canvas.blank(rows, length)
    state = State(canvas, canvas.masked, chance)
    for _ in range(length + 1):
        if not bool(state.canvas.masked.any()):
            break
        step = Step(state.canvas, state.start, state.start, _nothing, chance, state.origin)
        scores = Random().score(step)
        count = schedule.count(step, scores)
        _expect(count.shape == (rows,) and count.dtype == torch.int64, f"count is {count.dtype} {tuple(count.shape)}")
        left = state.canvas.masked.sum(1)
        _expect(bool(((count >= 1) | (left == 0)).all()), "an unfinished row is to unmask nothing")
        shown = scores.argsort(dim=1, descending=True).argsort(1) < count[:, None]
        state = replace(state, canvas=state.canvas.unmask(shown & state.canvas.masked, state.canvas.tokens))
    _expect(not bool(state.canvas.masked.any()), f"rows are unfinished after {length + 1} steps")
    if isinstance(schedule, Sizes):
        _check_residual(schedule, length)


def check_law(sampler: Sampler[Any], oracle: Oracle, *, tolerance: float = 1e-9) -> None:
    """Check what a sampler claims of its law, by replay on a small oracle.

    EXACT: KL(oracle || output) < tolerance. FACTORISED: exact once every step unmasks one token. TILTED and CONSISTENT
    claim nothing that a replay could refute.

    Raises:
        AssertionError: with the KL found.

    Example:
        >>> from demask.oracles import Table
        >>> check_law(Parallel(Plan((1, 1, 1)), Random()), Table.random(3, 2, key=0))
    """
    if sampler.law is Law.FACTORISED and isinstance(sampler, Parallel):
        sampler = replace(sampler, schedule=Plan([1] * oracle.length))
    if sampler.law is not Law.EXACT:
        return
    kl = oracle.to_table().kl(law(oracle, sampler))
    _expect(abs(kl) < tolerance, f"{sampler!r} claims the exact law, but its output has KL {kl:.3g} nats")


def _check_residual(sizes: Sizes, length: int) -> None:
    residual = sizes.residual()
    most = length - np.arange(1, length)
    _expect(residual.shape == (length - 1,), f"a residual of shape {residual.shape}; expected ({length - 1},)")
    _expect(bool(np.all((residual >= 0) & (residual <= most + 1e-9))), "a residual outside [0, n - i]")
    if type(sizes).mixture is not Sizes.mixture:
        plans = sizes.mixture()
        _expect(abs(sum(share for share, _ in plans) - 1) < 1e-9, "the mixture's shares do not sum to 1")
        mean = sum(share * plan.residual() for share, plan in plans)
        _expect(bool(np.allclose(mean, residual, rtol=1e-7, atol=1e-9)), "the residual is not that of the mixture")


def _nothing(canvas: Canvas, where: Tensor) -> Marginals:
    raise AssertionError("a schedule asked the denoiser; only orders and verifiers may")


def _expect(fact: bool, otherwise: str) -> None:
    if not fact:
        raise AssertionError(otherwise)
