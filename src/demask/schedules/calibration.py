"""What finished runs have told about the information curve, as a value that adds up."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite, log
from pathlib import Path
from typing import Any, Final

import numpy as np

from demask.curve import Curve
from demask.errors import CurveError
from demask.files import write
from demask.schedules.plan import Floats, Ints, check

SCHEMA: Final = "demask.calibration/1"
_VISITS: Final = 12  # visits of a cell, at least, before its mean bounds anything
_CELLS: Final = 96  # cells at most
# Geometric grids on which a straight curve is tried, the coarsest first.
_BASES: Final = (8.0, 4.0, 2.0, 2.0**0.5)
_ALARM: Final = 0.01  # probability that a change is ever called in vain


@dataclass(frozen=True, eq=False)
class Calibration:
    """What finished runs have told about the curve: how often each count was visited, and the entropies seen there.

    Visits of count j by different rows have mean Z_j, if positions are random and the model is calibrated. Values add:
    `a + b` is what one process would have gathered from both, in any order.

    Parameters:
        length: masked positions at the start of every row, n.
        visits: (n,) rows that took a step with j tokens visible.
        total: (n,) sum over them of the mean entropy of the tokens unmasked, nats.
        square: (n,) sum of its squares.
        ceiling: the largest entropy possible, log V, nats.
        updates: comparisons made by `updated` so far.
        resets: changes found by them.

    Raises:
        CurveError: numbers that cannot have been gathered.

    Example:
        >>> Calibration.empty(4) + Calibration.empty(4)
        Calibration(length=4, rows=0, visits=0, resets=0)
    """

    length: int
    visits: Ints
    total: Floats
    square: Floats
    ceiling: float = 0.0
    updates: int = 0
    resets: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.length, int) or isinstance(self.length, bool) or self.length < 1:
            raise CurveError(f"length = {self.length!r}; expected an integer >= 1")
        for name in ("updates", "resets"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise CurveError(f"{name} = {value!r}; expected an integer >= 0")
        if not (isinstance(self.ceiling, int | float) and isfinite(self.ceiling) and self.ceiling >= 0):
            raise CurveError(f"ceiling = {self.ceiling!r}; expected log V, a finite number >= 0 of nats")
        for name, kind in (("visits", np.int64), ("total", np.float64), ("square", np.float64)):
            given = np.array(getattr(self, name))
            if given.shape != (self.length,) or given.dtype.kind not in "iuf":
                raise CurveError(f"{name} of shape {given.shape}, {given.dtype}; expected {self.length} numbers")
            if not np.all(np.isfinite(given) & (given >= -1e-9)) or (kind is np.int64 and np.any(given % 1 != 0)):
                raise CurveError(f"{name} contains what no run can have gathered: nan, infinities, or numbers below 0")
            array = given.astype(kind)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        slack = 1 + 1e-3 * self.visits
        over = np.flatnonzero(
            (self.total > self.ceiling * self.visits + slack * 1e-2)
            | (self.square > self.ceiling * self.total + slack * 1e-2)
            | (self.total**2 > self.square * self.visits + slack * 1e-2 * max(1.0, self.ceiling) ** 2)
        )
        if len(over):
            raise CurveError(
                f"count {over[0]}: {self.visits[over[0]]} visits, total {self.total[over[0]]:.6g}, squares "
                f"{self.square[over[0]]:.6g}; these are no entropies between 0 and {self.ceiling:.6g} nats"
            )

    @classmethod
    def empty(cls, length: int) -> "Calibration":
        """Return what is known before the first run."""
        check(length, 1)
        zeros = np.zeros(length)
        return cls(int(length), zeros.astype(np.int64), zeros, zeros)

    def __add__(self, other: "Calibration") -> "Calibration":
        if not isinstance(other, Calibration):
            return NotImplemented
        if other.length != self.length:
            raise CurveError(
                f"calibrations of {self.length} and {other.length} positions; they do not add: keep one per length"
            )
        return Calibration(
            self.length,
            self.visits + other.visits,
            self.total + other.total,
            self.square + other.square,
            max(self.ceiling, other.ceiling),
            self.updates + other.updates,
            self.resets + other.resets,
        )

    def __repr__(self) -> str:
        visits = int(self.visits.sum())
        return f"Calibration(length={self.length}, rows={self.rows}, visits={visits}, resets={self.resets})"

    @property
    def rows(self) -> int:
        """How many rows were seen: every one begins with nothing visible."""
        return int(self.visits[0])

    def curve(self) -> Curve:
        """Return the curve: weighted isotonic regression over the visited counts, linear between them.

        Raises:
            CurveError: nothing was visited yet.
        """
        fit = self._fit()
        return Curve(fit, np.interp(np.arange(self.length), self._seen, np.sqrt(self._variance() / self._visited)))

    def differs(self, new: "Calibration", *, risk: float = _ALARM) -> bool:
        """Return whether `new` rows have another curve than these, at a false-alarm probability of about `risk`.

        In every cell of neighbouring counts, small and large, the mean difference of new and old visits, at equal shares
        of the smallest cells, over its standard error; a change is called where the largest passes the two-sided normal
        quantile, shared among the cells. The quantile is that of the normal law, so the rate is nominal, not proved.

        Raises:
            CurveError: another length.
        """
        from scipy.special import ndtri

        if new.length != self.length:
            raise CurveError(f"calibrations of {self.length} and {new.length} positions; keep one per length")
        joint, rows = self + new, []
        for begin, end in joint._cells():
            old, fresh = int(self.visits[begin:end].sum()), int(new.visits[begin:end].sum())
            if old and fresh:
                gap = new.total[begin:end].sum() / fresh - self.total[begin:end].sum() / old
                spread = joint._spread(begin, end) + joint.ceiling**2 / 4 / (old + fresh)
                rows.append((fresh, float(gap), spread * fresh**2 * (1 / old + 1 / fresh), old))
        scores = []
        width = 1
        while rows and width < 2 * len(rows):
            for first in range(0, len(rows), width):
                share, gap, square, seen = np.array(rows[first : first + width], dtype=np.float64).T
                # The visits of one row may all tell the same.
                repeat = max(1.0, seen.sum() / max(self.rows, 1), share.sum() / max(new.rows, 1))
                scores.append(abs(share @ gap) / max(np.sqrt(repeat * square.sum()), 1e-12))
            width *= 2
        return bool(scores) and bool(max(scores) > -float(ndtri(risk / 2 / len(scores))))

    def updated(self, new: "Calibration", *, risk: float = _ALARM) -> "Calibration":
        """Return both together; or `new` alone, if it contradicts what was known: `self_calibrating` then starts again.

        The b-th comparison is made at risk / (b (b + 1)), so a change is called in vain with probability at most
        about `risk` in a run of any length.
        """
        turn = self.updates + 1
        if self.differs(new, risk=risk / (turn * (turn + 1))):
            return replace(new, updates=0, resets=self.resets + 1)
        return replace(self + new, updates=turn)

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and lists, with the schema."""
        return {
            "schema": SCHEMA,
            "length": self.length,
            "visits": self.visits.tolist(),
            "total": self.total.tolist(),
            "square": self.square.tolist(),
            "ceiling": float(self.ceiling),
            "updates": self.updates,
            "resets": self.resets,
        }

    @classmethod
    def from_json(cls, data: Any) -> "Calibration":
        """Return what `to_json` gave.

        Raises:
            CurveError: another schema, a missing or unknown entry, or numbers that no run can have gathered.
        """
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise CurveError(f"schema {found!r}; expected {SCHEMA!r}, as Calibration.save writes it")
        expected = Calibration.empty(1).to_json().keys()
        if data.keys() != expected:
            odd = sorted(data.keys() ^ expected)
            raise CurveError(f"{', '.join(odd)}: missing or unknown; expected {', '.join(expected)}")
        entries = {name: data[name] for name in expected if name != "schema"}
        for name in ("visits", "total", "square"):
            if not isinstance(entries[name], list) or any(type(x) not in (int, float) for x in entries[name]):
                raise CurveError(f"{name} is no list of numbers")
        return cls(**entries)

    def save(self, path: str | Path) -> None:
        """Write JSON, whole or not at all."""
        write(path, (json.dumps(self.to_json()) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            CurveError: a file that is truncated, foreign or of another version; it is named.
        """
        try:
            return cls.from_json(json.loads(Path(path).read_bytes()))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CurveError(f"{path}: not JSON ({error}); expected a file written by Calibration.save") from error
        except CurveError as error:
            raise CurveError(f"{path}: {error}") from error

    @property
    def _seen(self) -> Ints:
        seen = np.flatnonzero(self.visits)
        if not len(seen):
            raise CurveError("nothing was visited yet; run sample(..., collect=[Calibrator(length)]) first")
        return seen

    @property
    def _visited(self) -> Floats:
        return self.visits[self._seen].astype(np.float64)

    def _fit(self) -> Floats:
        """Return the simplest curve that the visits do not contradict, (n,).

        Straight between few knots, then between more, fitted by least squares under monotonicity; a finer one is taken
        only if some cell's mean lies further from the coarser one than chance explains. The finest is the isotonic fit.
        """
        from scipy.optimize import nnls
        from scipy.special import ndtri

        seen, j = self._seen, np.arange(self.length)
        means = self.total[seen] / self._visited
        root = np.sqrt(self._visited / self._variance())
        cells = [row for row in self._pyramid() if row[1] - row[0] < self.length]
        quantile = -float(ndtri(0.05 / 2 / max(len(cells), 1)))
        for base in _BASES:
            knots = _knots(self.length, base)
            if len(knots) >= len(seen):
                break
            # A falling ramp per stretch, 1 before it and 0 behind it, and the last value.
            ramps = np.clip((knots[1:] - j[:, None]) / np.diff(knots), 0.0, 1.0)
            table = np.concatenate((ramps, np.ones((self.length, 1))), axis=1)
            fit: Floats = table @ nnls(table[seen] * root[:, None], means * root)[0]
            if all(abs(mean - self._at(begin, end) @ fit) <= quantile * error for begin, end, mean, error in cells):
                return fit
        return self._isotonic()

    def _isotonic(self) -> Floats:
        """Return the monotone curve nearest to the means, (n,)."""
        from scipy.optimize import isotonic_regression

        seen = self._seen
        means = self.total[seen] / self._visited
        fit = isotonic_regression(means, weights=self._visited / self._variance(), increasing=False).x
        return np.asarray(np.interp(np.arange(self.length), seen, fit), dtype=np.float64)

    def _at(self, begin: int, end: int) -> Floats:
        """Return the shares of the counts among the visits of a cell, (n,)."""
        out = np.zeros(self.length)
        out[begin:end] = self.visits[begin:end] / self.visits[begin:end].sum()
        return out

    def _pyramid(self) -> list[tuple[int, int, float, float]]:
        """Return the cells, pairs of them, pairs of pairs and so on: begin, end, mean and standard error.

        To each variance is added that of one visit at the far end of the possible: a few equal visits prove little. The
        visits of one row may all tell the same, so a cell counts for no more of them than there were rows.
        """
        level, out = list(self._cells()), []
        while level:
            for begin, end in level:
                m = int(self.visits[begin:end].sum())
                free = min(m, max(self.rows, 1))
                error = np.sqrt((self._spread(begin, end) + (self.ceiling / 2) ** 2 / free) / free)
                out.append((begin, end, float(self.total[begin:end].sum()) / m, float(error)))
            if len(level) == 1 or self.visits.sum() > 2 * len(level) * self.rows:
                break  # larger cells would count for no more
            level = [(level[k][0], level[min(k + 1, len(level) - 1)][1]) for k in range(0, len(level), 2)]
        return out

    def _variance(self) -> Floats:
        """Return the variance of a visit at each visited count, shared within its cell, and never 0."""
        out = np.zeros(self.length)
        for begin, end in self._cells():
            m = int(self.visits[begin:end].sum())
            out[begin:end] = self._spread(begin, end) + (self.ceiling / 2) ** 2 / m
        return np.maximum(out[self._seen], 1e-12)

    def _spread(self, begin: int, end: int) -> float:
        """Return the variance of the visits of a cell."""
        m = int(self.visits[begin:end].sum())
        mean = self.total[begin:end].sum() / max(m, 1)
        return max(0.0, float(self.square[begin:end].sum() - m * mean**2)) / max(m - 1, 1)

    def _cells(self) -> Iterator[tuple[int, int]]:
        """Cut the counts into runs of at least `_VISITS` visits, the last one with what is left."""
        wanted = max(_VISITS, -(-int(self.visits.sum()) // _CELLS))
        begin = have = 0
        cells: list[tuple[int, int]] = []
        for j, count in enumerate(self.visits.tolist()):
            have += count
            if have >= wanted:
                cells.append((begin, j + 1))
                begin, have = j + 1, 0
        if begin < self.length and cells:
            cells[-1] = (cells[-1][0], self.length)
        elif begin < self.length:
            cells.append((begin, self.length))
        yield from cells


def _knots(length: int, base: float) -> Floats:
    """Return counts from 0 to n - 1 that are geometric from both ends."""
    powers = np.floor(base ** np.arange(1 + int(log(max(length / 2, 2)) / log(base)))) - 1
    counts = np.concatenate((powers, [(length - 1) // 2], length - 1 - powers))
    return np.asarray(np.unique(counts), dtype=np.float64)
