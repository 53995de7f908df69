"""From a measured curve to sizes: the best for a number of steps, or the fewest steps for an excess."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log
from typing import Any, Literal, get_args

import numpy as np

from demask.canvas import Canvas
from demask.contracts import Denoiser
from demask.curve import Estimate
from demask.errors import CurveError, PlanError
from demask.information.certificate import Certificate, certify
from demask.information.measure import fingerprint
from demask.information.totals import Source, curve_of, standard_error
from demask.loop import Run, sample
from demask.orders import Random
from demask.samplers import Parallel
from demask.schedules import Plan, Sizes, cosine, fixed, geometric, minimax, optimal, sequential, two_number, uniform
from demask.schedules.hedged import hedged

Unit = Literal["nats", "bits/token"]


@dataclass(frozen=True)
class Planned:
    """A schedule, and what it is certified to cost."""

    schedule: Sizes
    certificate: Certificate

    def sample(self, denoiser: Denoiser, canvas: Canvas, *, key: int, **options: Any) -> Run:
        """Unmask uniformly random positions by the schedule; the run carries the certificate.

        Parameters:
            denoiser: the one that was measured.
            canvas: (B, N), with as many masked positions in every row as were measured.
            key, options: as `demask.sample` takes them.

        Raises:
            PlanError: another number of masked positions, or another model than the certificate's.

        Cost: that of `demask.sample`, and 4 passes to recognise the model, if the certificate names one.

        Example:
            >>> from demask.oracles import parity
            >>> run = plan(parity(8).curve(), steps=2).sample(parity(8), Canvas.blank(1, 8), key=0)
            >>> run.nfe.tolist(), round(run.certificate.cost, 6)
            ([2], 0.0)
        """
        told = self.certificate
        masked = canvas.masked.sum(1).tolist()
        odd = [row for row, count in enumerate(masked) if count != told.length]
        if odd:
            raise PlanError(
                f"row {odd[0]} has {masked[odd[0]]} masked positions, the plan is certified for {told.length}; measure and "
                f"plan for {masked[odd[0]]}"
            )
        if told.fingerprint and (found := fingerprint(denoiser, canvas.shape[1])) != told.fingerprint:
            raise PlanError(
                f"the model's fingerprint is {found}, the certificate is for {told.fingerprint}; measure this model, or use "
                "Parallel(planned.schedule, Random()) without a certificate"
            )
        run = sample(denoiser, Parallel(self.schedule, Random()), canvas, key=key, **options)
        return replace(run, certificate=told)


def plan(
    curve: Source,
    *,
    steps: int | None = None,
    excess: float | None = None,
    unit: Unit = "nats",
    hedge: float = 0.0,
    coverage: float = 0.95,
) -> Planned:
    """Plan the sizes of the steps for a curve, from the steps or from the excess that can be afforded.

    steps:  the sizes of least cost sum_i (L_{i-1} - L_i) R(i), or those hedged with minimax.
    excess: the fewest steps whose cost on the point curve is at most that.

    The cost is E[path negative log-likelihood] - NELBO, an upper bound on what parallelism adds to the KL of the output law.
    It is convex and never rises with the number of steps, so the fewest steps are found by bisection; a hedged schedule
    costs at least as much as the plan in it, so its search begins there and goes up one step at a time. The certificate
    carries the uncertainty of the curve: its interval can end above the excess asked for.

    Parameters:
        curve: a measurement, a curve, or its n numbers, non-increasing.
        steps: K >= 1; with K >= n every step unmasks one token.
        excess: > 0, in `unit`.
        unit: "nats" per sequence, or "bits/token".
        hedge: share of minimax, from 0 to 1; see `hedged`.
        coverage: of the certificate's interval.

    Returns:
        `Planned(schedule, certificate)`.

    Raises:
        PlanError: both or neither of `steps` and `excess`, an excess that is not > 0, an unknown unit.
        CurveError: a curve that rises.

    Cost: one `optimal`; for an excess about log2(n) of them, and one `hedged` for every step more that hedging needs.

    Example:
        >>> planned = plan([1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125], excess=0.3)
        >>> planned.schedule, planned.certificate.cost
        (Plan(sizes=(1, 1, 2, 2)), 0.15625)
        >>> plan([1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125], steps=2).schedule
        Plan(sizes=(2, 4))

    Reference: Chen, Cong and Li, 2025, arXiv 2511.04647, Theorem 4; docs/guide/theory.md, sections 7 and 8.
    """
    if (steps is None) == (excess is None):
        given = "neither" if steps is None else f"both steps={steps} and excess={excess}"
        raise PlanError(f"{given} given; expected one of them: plan(curve, steps=16) or plan(curve, excess=0.5)")
    if unit not in get_args(Unit):
        raise PlanError(f"unit {unit!r}; expected 'nats' per sequence or 'bits/token'")
    if not 0 <= hedge <= 1:
        raise PlanError(f"hedge = {hedge}; expected a share of minimax from 0 to 1, such as 0.1")
    point, wanted = curve_of(curve), None

    def solve(steps: int) -> Sizes:
        best = optimal(point, steps)
        return hedged(best, best.steps, share=hedge) if hedge else best

    if steps is None:
        assert excess is not None  # for the type checker: one of them is given
        if not (np.isfinite(excess) and excess > 0):
            raise PlanError(
                f"excess = {excess}; expected a finite number > 0 {unit}: only one token per step costs nothing, "
                f"plan(curve, steps={len(point)})"
            )
        wanted = float(excess) * (1.0 if unit == "nats" else len(point) * log(2))
        steps = _fewest(lambda k: optimal(point, k).cost(point) <= wanted, len(point))
        while hedge and solve(steps).cost(point) > wanted:
            steps += 1
    sizes = solve(steps)
    return Planned(sizes, certify(curve, sizes, wanted=wanted, hedge=hedge, coverage=coverage))


def path_nll(curve: Source, sizes: Sizes) -> Estimate:
    """Return the expected path negative log-likelihood of sizes, nats per sequence, with its standard error.

    For fixed sizes sum_k s_k L(t_{k-1}), for any law of sizes NELBO + sum_i (L_{i-1} - L_i) R(i). Both are identities for
    uniformly random positions and any denoiser, consistent or not; the curve may rise.

    Parameters:
        curve: L_0 .. L_(n-1), nats, or a measurement.
        sizes: of the same length.

    Raises:
        CurveError: another length.

    Example:
        >>> path_nll([1.0, 0.5, 0.25, 0.0], Plan((1, 3)))
        2.5

    Reference: docs/guide/theory.md, section 8.
    """
    point = curve_of(curve)
    if sizes.length != len(point):
        raise CurveError(
            f"a curve of length {len(point)} for sizes of {sizes.length} positions; expected equal lengths"
        )
    if isinstance(sizes, Plan):
        weights = np.zeros(len(point))
        weights[[0, *sizes.boundaries[:-1]]] = sizes.sizes
        value = float(weights @ point.values)
    else:
        residual = sizes.residual()
        weights = 1.0 + np.diff(residual, prepend=0.0, append=0.0)
        value = point.entropy + point.cost(residual)
    return Estimate(value, standard_error(curve, weights))


@dataclass(frozen=True)
class Candidate:
    """One row of a comparison.

    Parameters:
        name: of the family.
        schedule: its sizes.
        cost: on the curve, nats per sequence.
        bits: the same in bits per token.
        constant: largest cost per nat of min(TC, DTC), over all curves.
    """

    name: str
    schedule: Sizes
    cost: float
    bits: float
    constant: float


def best_of(curve: Source, steps: int) -> list[Candidate]:
    """Compare every family of schedules on one curve at one number of steps.

    "geometric" is the cheaper of its two directions on this curve; two_number is told the curve's own TC and DTC, "hedged"
    and "optimal" the whole curve.

    Parameters:
        curve: a measurement, a curve, or its n numbers, non-increasing.
        steps: K >= 1.

    Raises:
        CurveError: a curve that rises.

    Example:
        >>> for row in best_of([1.0, 0.5, 0.25, 0.125, 0.125, 0.125, 0.125, 0.125], 3)[::4]:
        ...     print(row.name, round(row.cost, 3), round(row.constant, 3))
        uniform 1.25 2.0
        sequential 2.186 2.721
        optimal 0.25 1.0
    """
    point = curve_of(curve)
    n = len(point)
    best = optimal(point, steps)  # first: it refuses a curve that rises
    tc, dtc = max(0.0, point.tc), max(0.0, point.dtc)
    both = [geometric(n, steps, direction=direction) for direction in ("decreasing", "increasing")]
    families: dict[str, Sizes] = {
        "uniform": uniform(n, steps),
        "cosine": cosine(n, steps),
        "fixed": fixed(n, steps),
        "geometric": min(both, key=lambda sizes: sizes.cost(point)),
        "sequential": sequential(n, steps),
        "minimax": minimax(n, steps),
        "two_number": two_number(n, steps, tc=tc, dtc=dtc),
        "hedged": hedged(best, best.steps),
        "optimal": best,
    }
    rows = []
    for name, sizes in families.items():
        cost = sizes.cost(point)
        rows.append(Candidate(name, sizes, cost, cost / (n * log(2)), sizes.constant("both")))
    return rows


def _fewest(enough: Callable[[int], bool], most: int) -> int:
    """Return the least k in 1 .. most that is enough; `most` is, and so is all above one that is."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high
