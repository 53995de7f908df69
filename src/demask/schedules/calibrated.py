"""Sizes that learn the information curve from runs that were made anyway."""

from dataclasses import dataclass, field
from math import log
from typing import ClassVar, Final, Self

import numpy as np

from demask.contracts import Info
from demask.curve import Curve
from demask.errors import CurveError, PlanError
from demask.schedules.calibration import Calibration
from demask.schedules.fitted import optimal
from demask.schedules.minimax import minimax
from demask.schedules.plan import Floats, check
from demask.schedules.systematic import Systematic

__all__ = ["Calibration", "Calibrator", "self_calibrating"]

_SHARES: Final = (1.0, 0.9, 0.75, 0.5, 0.25)  # of the learned plan, the boldest first
_MISS: Final = 0.05  # probability that a confidence set misses the curve


@dataclass
class Calibrator:
    """Collect the entropies that a run has already paid for, as a `Calibration`.

    For every row and step: how many tokens were visible, and the mean entropy of the tokens unmasked. With the order
    `Random()` and every draft kept these are unbiased for the curve under the tokens seen; any other order asks for easy
    tokens first, and teaches a curve that is too low.

    Cost: one reduction of the unmasked rows per step; no NFE.

    Parameters:
        length: masked positions at the start of every row.

    Example:
        >>> Calibrator(8).result()
        Calibration(length=8, rows=0, visits=0, resets=0)
    """

    name: ClassVar[str] = "calibration"
    length: int
    _state: Calibration = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._state = Calibration.empty(self.length)

    def see(self, info: Info) -> None:
        """Read the laws that the step has already asked for.

        Raises:
            CurveError: a row that began with another number of masked positions.
        """
        done, total = (np.asarray(x, dtype=np.int64) for x in info.step.progress)
        wrong = np.flatnonzero(total != self.length)
        if len(wrong):
            raise CurveError(
                f"row {wrong[0]} began with {total[wrong[0]]} masked positions; this Calibrator is for {self.length}: "
                "keep one calibration per length"
            )
        counts = info.kept.sum(1)
        if not bool(counts.any()):
            return
        marginals = info.step.marginals(info.kept)
        sums = marginals.spread(marginals.entropy.double()).sum(1).tolist()
        taken = np.asarray(counts.tolist(), dtype=np.int64)
        live = taken > 0
        means = np.maximum(np.asarray(sums)[live] / taken[live], 0.0)
        at = done[live]

        def gathered(values: Floats | None) -> Floats:
            return np.bincount(at, values, minlength=self.length).astype(np.float64)

        self._state += Calibration(
            self.length,
            gathered(None).astype(np.int64),
            gathered(means),
            gathered(means**2),
            log(marginals.vocabulary),
        )

    def result(self) -> Calibration:
        """Return what was gathered."""
        return self._state


def self_calibrating(
    length: int, steps: int, *, calibration: Calibration | None = None, hedge: float = 0.1
) -> Systematic:
    """Draw sizes that begin as the minimax ones and become the optimal ones as earlier rows reveal the curve.

    u = (1 - s) u_minimax(both) + s u_learned, the cheapest on the learned curve among those for which

        sup over the curves Z that the evidence allows of  E KL(u; Z) - (1 + hedge) E KL(minimax; Z)  <=  0,

    where the evidence allows every non-increasing Z whose mean over the visits of each cell of counts is as observed, up
    to a normal quantile times a standard error (for all cells together 95 %). So while the curve is in that set, the
    sizes cost at most 1 + hedge times the minimax ones, whatever was learned; and s <= 1 - hedge / 5 always, so that

        R(i) <= s R_learned(i) + (1 - s) R_minimax(i)    for every i and every distribution,

    and all counts go on being visited. What is not promised: the set is only as honest as the entropies. Its
    quantiles are normal, and entropies are read on what was sampled, not on data: a model that is not calibrated, contexts
    that the model finds impossible, an order other than random, or a change of data that `Calibration.updated` has not yet
    seen, void it.

    Parameters:
        length: masked positions, n.
        steps: K >= 1.
        calibration: from rows that are finished; None or an empty one gives `minimax(length, steps, target="both")`.
        hedge: what may be lost against minimax within the confidence set, as a fraction, 0 < hedge < 1.

    Returns:
        A `Systematic` schedule with exactly K steps in every draw. It is fixed before a row begins and was learned from
        other rows alone.

    Raises:
        PlanError: a hedge outside (0, 1).
        CurveError: a calibration of another length.

    Law: FACTORISED.   Cost: no extra NFE; at most ten linear programs of n variables.

    Example:
        >>> from demask import Canvas, Parallel, Random, sample
        >>> from demask.oracles import parity
        >>> known = Calibration.empty(16)
        >>> for batch in range(4):
        ...     sizes = self_calibrating(16, 4, calibration=known)
        ...     run = sample(parity(16), Parallel(sizes, Random()), Canvas.blank(16, 16), key=batch,
        ...                  collect=[Calibrator(16)])
        ...     known = known.updated(run.collected["calibration"])
        >>> known.rows
        64

    Reference: docs/decisions/0008-self-calibrating.md; docs/guide/theory.md, sections 2 and 7.
    """
    check(length, steps)
    if not 0 < hedge < 1:
        raise PlanError(f"hedge = {hedge}; expected a fraction between 0 and 1, such as 0.1")
    safe = minimax(length, steps, target="both")
    spec = f"self_calibrating(length={length}, steps={steps}, hedge={hedge!r})"
    if calibration is None or not calibration.visits.any() or steps >= length or steps == 1:
        _check_length(calibration, length)
        return Systematic(safe.inclusion, spec)
    _check_length(calibration, length)
    curve = Curve(calibration._fit())
    evidence = _Evidence.of(calibration)
    sharp = np.zeros(length - 1)
    sharp[np.cumsum(optimal(curve, steps).sizes)[:-1] - 1] = 1.0
    allowed = (1 + hedge) * safe.residual()
    candidates = [
        Systematic((1 - share) * safe.inclusion + share * learned)
        for learned in (sharp, _spread_out(sharp))
        for share in (min(share, 1 - hedge / 5) for share in _SHARES)
    ]
    for sizes in sorted(candidates, key=lambda sizes: sizes.cost(curve)):
        if sizes.cost(curve) > safe.cost(curve):
            break
        if evidence.largest(sizes.residual() - allowed) <= 0:
            return sizes
    return Systematic(safe.inclusion, spec)


@dataclass(frozen=True, eq=False)
class _Evidence:
    """The curves that a calibration allows: |share_l . Z - centre_l| <= half_l for every cell l, Z non-increasing.

    Parameters:
        shares: (L, n) of the visits of cell l, those of count j.
        centre: (L,) nats.
        half: (L,) nats.
        ceiling: Z_0 is at most this.
    """

    shares: Floats
    centre: Floats
    half: Floats
    ceiling: float

    @classmethod
    def of(cls, known: Calibration) -> Self:
        """Return the confidence set, centred at the monotone fit and widened where the means were not monotone.

        Cells of all sizes, each by itself at its share of the risk.
        """
        from scipy.special import ndtri

        cells, fit = known._pyramid(), known._isotonic()
        quantile = -float(ndtri(_MISS / 2 / len(cells)))
        shares = np.stack([known._at(begin, end) for begin, end, _, _ in cells])
        centre = shares @ fit
        mean, error = np.array([row[2] for row in cells]), np.array([row[3] for row in cells])
        return cls(shares, centre, quantile * error + np.abs(mean - centre), known.ceiling)

    def largest(self, gain: Floats) -> float:
        """Return the largest sum_i delta_i gain_i over the curves of the set, by a linear program."""
        from scipy.optimize import linprog

        # Unknowns: delta_1 .. delta_(n-1) and the last value; Z_j is the last value plus all delta_i with i > j.
        before = np.cumsum(self.shares, axis=1)
        table = np.concatenate((before[:, :-1], before[:, -1:]), axis=1)
        rows = np.concatenate((table, -table, np.ones((1, table.shape[1]))))
        limits = np.concatenate((self.centre + self.half, self.half - self.centre, [self.ceiling]))
        answer = linprog(np.append(-gain, 0.0), A_ub=rows, b_ub=limits, bounds=(0, None), method="highs")
        return -float(answer.fun) if answer.status == 0 else np.inf


def _spread_out(sharp: Floats) -> Floats:
    """Spread every boundary evenly over the stretch that is nearer to it than to its neighbours.

    On a curve that is nearly straight over a block this costs almost nothing, no gap is longer than two of the plan's, and
    every count is visited.
    """
    at = np.flatnonzero(sharp) + 1
    length = len(sharp) + 1
    edges = np.concatenate(([0.5], (at[1:] + at[:-1]) / 2, [length - 0.5]))
    # The first and last stretch keep to as much on the far side of the boundary as there is on the near one.
    out = np.zeros(length - 1)
    for k, boundary in enumerate(at.tolist()):
        reach = max(0.5, min(boundary - edges[k], edges[k + 1] - boundary))
        begin, end = boundary - reach, boundary + reach
        i = np.arange(int(np.floor(begin + 0.5)), int(np.ceil(end - 0.5)) + 1)
        covered = np.minimum(i + 0.5, end) - np.maximum(i - 0.5, begin)
        out[i - 1] += covered / covered.sum()
    return np.minimum(out, 1.0)


def _check_length(calibration: Calibration | None, length: int) -> None:
    if calibration is not None and calibration.length != length:
        raise CurveError(
            f"a calibration of {calibration.length} positions for {length}; expected the same: keep one per length"
        )
