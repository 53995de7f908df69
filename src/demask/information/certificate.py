"""What a schedule is certified to cost on a measured curve, and what nobody promises."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite, log
from textwrap import wrap
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from demask.curve import Estimate, Floats
from demask.errors import CurveError, PlanError
from demask.information.totals import Source, curve_of, measured
from demask.schedules import Plan, Sizes

SCHEMA: Final = "demask.certificate/1"
NOT_PROMISED: Final = (
    "the KL of the output law itself: it is at most the path cost, by convexity, and usually less;",
    "anything for orders that look at the model, such as confidence: positions must be uniformly random;",
    "anything about the model's own error: the cost is counted above its NELBO on this data;",
    "anything for other data, other prompts or another number of masked positions.",
)
_WIDTH: Final = 98
_FEW: Final = 80  # sequences below which intervals were seen to cover less than stated: benchmarks/coverage.py


@dataclass(frozen=True)
class Certificate:
    """What a schedule costs above decoding one token at a time, as an interval, with all that is needed to check it.

    Promised: with uniformly random positions, E[path negative log-likelihood] - NELBO = sum_i (L_{i-1} - L_i) R(i) lies in
    `interval` with probability `coverage`, L being the model's loss curve on the named data.

    Parameters:
        schedule: the specification that builds the sizes again.
        length: masked positions, n.
        steps: K, expected if random.
        sizes: the sizes if they are fixed, else None.
        cost: on the point curve (`Measurement.curve`), nats per sequence.
        interval: lower and upper cost, nats per sequence.
        coverage: probability of the interval; 1 where the curve is exact.
        wanted: the excess asked for, nats per sequence, or None.
        nelbo: sum_j L_j, nats per sequence.
        tc: n L_0 - NELBO, nats.
        dtc: NELBO - n L_{n-1}, nats.
        against_tc: largest cost per nat of TC, over all curves.
        against_dtc: largest cost per nat of DTC, over all curves.
        against_both: largest cost per nat of min(TC, DTC), over all curves.
        worst: largest cost over all curves whose TC and DTC are at most the upper ends of their intervals, nats.
        hedge: share of minimax in the sizes.
        data: name of the data.
        fingerprint: of the model.
        key: of the measurement, or None.
        paths: walked by the measurement, at least as many as it had sequences; None where nothing was measured.
    """

    schedule: str
    length: int
    steps: float | int
    sizes: tuple[int, ...] | None
    cost: float
    interval: tuple[float, float]
    coverage: float
    wanted: float | None
    nelbo: Estimate
    tc: Estimate
    dtc: Estimate
    against_tc: float
    against_dtc: float
    against_both: float
    worst: float
    hedge: float
    data: str
    fingerprint: str
    key: int | None
    paths: int | None

    @property
    def exact(self) -> bool:
        """Whether the interval is a point."""
        return self.interval[0] == self.interval[1]

    @property
    def bits(self) -> tuple[float, float]:
        """The interval in bits per token."""
        low, high = self.interval
        return low / (self.length * log(2)), high / (self.length * log(2))

    def text(self) -> str:
        """Return the certificate as plain text, at most 100 columns wide."""
        (low, high), (bits_low, bits_high) = self.interval, self.bits
        if self.exact:
            range_nats, range_bits, how = f"= {self.cost:.4g}", f"= {bits_low:.4g}", "The curve is exact."
        else:
            range_nats, range_bits = f"in [{low:.4g}, {high:.4g}]", f"in [{bits_low:.4g}, {bits_high:.4g}]"
            how = (
                f"The interval holds with probability {self.coverage:g}, for all sizes at once, if the loss curve does not "
                "rise and the errors at the measured counts are normal and independent."
            )
            if self.paths is not None and self.paths < _FEW:
                how += (
                    f" It comes from {self.paths} sequences or fewer; with less than {_FEW} an interval covers some "
                    "percent less than it says, since losses are skewed."
                )
        wanted = "" if self.wanted is None else f" Asked for: at most {self.wanted:.4g} nats per sequence."
        source = [self.data or "a curve given as numbers", f"model {self.fingerprint}" if self.fingerprint else ""]
        source += [f"key {self.key}" if self.key is not None else ""]
        paragraphs = [
            ("Schedule", f"{self.schedule}"),
            ("For", f"{self.length} masked positions, {self.steps:g} steps"),
            (
                "Promised",
                f"expected path negative log-likelihood - NELBO {range_nats} nats per sequence; point value "
                f"{self.cost:.4g}, {self.cost / self.length / log(2):.4g} bits per token ({range_bits}).{wanted} {how}",
            ),
            ("Of", f"NELBO {_plus(self.nelbo)} nats, TC {_plus(self.tc)}, DTC {_plus(self.dtc)}"),
            (
                "Worst case",
                f"whatever the curve: cost <= {self.against_tc:.4g} TC, <= {self.against_dtc:.4g} DTC, "
                f"<= {self.against_both:.4g} min(TC, DTC); <= {self.worst:.4g} nats for any curve with these TC and DTC",
            ),
            ("Hedge", f"{self.hedge:g} of minimax"),
            ("Data", ", ".join(filter(None, source))),
        ]
        lines = ["demask certificate", ""]
        for name, content in paragraphs:
            lines += wrap(f"{name:<12}{content}", _WIDTH, subsequent_indent=" " * 12)
        lines += ["", "Not promised"]
        for sentence in NOT_PROMISED:
            lines += wrap(f"- {sentence}", _WIDTH, initial_indent="  ", subsequent_indent="    ")
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return the certificate as what `json.dumps` takes; `Certificate.from_json` reads it back."""
        content: dict[str, Any] = {"schema": SCHEMA} | asdict(self)
        for name in ("nelbo", "tc", "dtc"):
            estimate: Estimate = getattr(self, name)
            content[name] = {"value": float(estimate), "error": estimate.error}
        content["interval"] = list(self.interval)
        content["sizes"] = None if self.sizes is None else list(self.sizes)
        content["not_promised"] = list(NOT_PROMISED)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the certificate that `to_json` wrote.

        Raises:
            PlanError: another schema, a missing field, or a field that is not what it should be.
        """
        if not isinstance(content, Mapping) or content.get("schema") != SCHEMA:
            found = content.get("schema") if isinstance(content, Mapping) else type(content).__name__
            raise PlanError(f"schema {found!r}; expected {SCHEMA!r}, as Certificate.to_json() writes it")
        missing = [field.name for field in fields(cls) if field.name not in content]
        if missing:
            raise PlanError(f"the certificate has no {', '.join(missing)}; it was cut short: write it again")
        values = {}
        for field in fields(cls):
            try:
                values[field.name] = _READ[field.name](content[field.name])
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise PlanError(f"the certificate's {field.name} is {content[field.name]!r}: {error}") from error
        sizes = values["sizes"]
        if sizes is not None and sum(sizes) != values["length"]:
            raise PlanError(f"the certificate's sizes sum to {sum(sizes)}, its length is {values['length']}")
        if values["interval"][0] > values["interval"][1]:
            raise PlanError(f"the certificate's interval {values['interval']} ends before it begins")
        return cls(**values)


def certify(
    source: Source, sizes: Sizes, *, wanted: float | None = None, hedge: float = 0.0, coverage: float = 0.95
) -> Certificate:
    """Return what sizes cost on a measured curve, as an interval.

    Of a measurement only the values at G counts are known, with errors, and that L does not rise. Over all such curves the
    least and the largest cost are sums of these values (`extent`), so their errors are known too:

        [least - r se(least), largest + r se(largest)],   r^2 the quantile of chi^2 with G degrees of freedom.

    That is Scheffe's interval: it holds for all sizes at once, hence for those chosen by looking at this very curve, where
    the usual 1.96 standard errors would fail, since a plan steps where the noise happens to be low. Projection to a curve
    that falls, weighted by 1 / error^2, only brings the values nearer to the truth. An exact curve has a point for an
    interval; of an estimated `Curve` all n values are known with errors. The interval is cut at 0, below which no falling
    curve can go. Movements enter the point cost and the choice of sizes, never the interval.

    Parameters:
        source: a measurement, a curve, or its n numbers.
        sizes: of the same length; any `Sizes`.
        wanted: the excess asked for, nats per sequence, to be recorded.
        hedge: the share of minimax, to be recorded.
        coverage: of the interval, between 0 and 1.

    Raises:
        PlanError: sizes for another length.
        CurveError: a curve that rises.

    Example:
        >>> certify([1.0, 0.5, 0.25, 0.0], Plan((2, 2))).interval
        (0.75, 0.75)
    """
    curve = curve_of(source)
    if sizes.length != len(curve):
        raise PlanError(f"sizes for {sizes.length} positions on a curve of length {len(curve)}; expected equal lengths")
    cost, interval = cost_interval(source, sizes, coverage=coverage)
    told = source if measured(source) else None
    nelbo, tc, dtc = (told.nelbo, told.tc, told.dtc) if told else (curve.entropy, curve.tc, curve.dtc)
    steps = getattr(sizes, "steps", None)
    return Certificate(
        schedule=repr(sizes),
        length=len(curve),
        steps=sizes.length if steps is None else steps,
        sizes=sizes.sizes if isinstance(sizes, Plan) else None,
        cost=cost,
        interval=interval,
        coverage=1.0 if interval[0] == interval[1] else coverage,
        wanted=wanted,
        nelbo=nelbo,
        tc=tc,
        dtc=dtc,
        against_tc=sizes.constant("tc"),
        against_dtc=sizes.constant("dtc"),
        against_both=sizes.constant("both"),
        worst=sizes.guarantee(tc=max(0.0, tc.interval(coverage)[1]), dtc=max(0.0, dtc.interval(coverage)[1])),
        hedge=float(hedge),
        data=told.data if told else "",
        fingerprint=told.fingerprint if told else "",
        key=told.key if told else None,
        paths=int(told.passes[0]) if told else None,
    )


def cost_interval(source: Source, sizes: Sizes, *, coverage: float = 0.95) -> tuple[float, tuple[float, float]]:
    """Return the cost on the point curve, nats, and its interval as `certify` describes it.

    Raises:
        CurveError: a curve that rises.
        PlanError: a coverage outside (0, 1).

    Example:
        >>> from demask.curve import Curve
        >>> cost_interval(Curve([1.0, 0.5, 0.5], [0.0, 0.1, 0.0]), Plan((2, 1)))
        (0.5, (0.304..., 0.695...))
    """
    from scipy.special import chdtri  # imported where it is used: `import demask` stays light

    if not 0 < coverage < 1:
        raise PlanError(f"a coverage of {coverage}; expected a probability, such as 0.95")
    curve, residual = curve_of(source), sizes.residual()
    if not curve.monotone:
        raise CurveError("the curve rises, which only noise can do; certify on curve.projected()")
    cost = curve.cost(residual)
    if measured(source):
        grid, error, values = source.grid, source.error, source.projected()
    elif curve.error is None:
        return cost, (cost, cost)
    else:
        grid, error, values = np.arange(len(curve)), curve.error, curve.values
    least, largest = extent(residual, grid, values, error)
    noisy = np.count_nonzero(error)
    radius = float(np.sqrt(chdtri(noisy, 1 - coverage))) if noisy else 0.0
    below, above = max(0.0, least - radius * least.error), largest + radius * largest.error
    return cost, (min(below, cost), max(above, cost))


def extent(residual: Floats, grid: NDArray[np.int64], values: Floats, error: Floats) -> tuple[Estimate, Estimate]:
    """Return the least and the largest cost over all non-increasing curves with given values at some counts.

    Cut a non-increasing curve L at the level v: m(v) = #{j : L_j > v}. Its cost is a sum over levels,

        sum_i (L_{i-1} - L_i) R(i) = int_0^inf R(m(v)) dv,   R(0) = R(n) = 0,

    and at levels between the values at neighbouring counts g < h all that is known is g < m(v) <= h. So the extremes are

        sum over neighbours of (L_g - L_h) max { R(m) : g < m <= h },   and the same with min,

    attained by the curve that falls at the best m of each cell. They are the extremes of the cost inside
    `Measurement.bracket()`, and linear in the values, so that errors, taken to be independent, give theirs.

    Parameters:
        residual: R(1) .. R(n-1).
        grid: (G,) counts, increasing from 0 to n - 1.
        values: (G,) non-increasing, nats.
        error: (G,) standard errors.

    Cost: O(n).

    Example:
        >>> extent(Plan((2, 2)).residual(), np.array([0, 3]), np.array([1.0, 0.0]), np.zeros(2))
        (0.0, 1.0)
    """
    height = np.concatenate(([0.0], residual, [0.0]))

    def total(heights: Floats) -> Estimate:
        slopes = np.diff(heights, prepend=0.0)
        return Estimate(float(slopes @ values), float(np.linalg.norm(slopes * error)))

    return total(np.minimum.reduceat(height, grid + 1)), total(np.maximum.reduceat(height, grid + 1))


def _plus(estimate: Estimate) -> str:
    return f"{estimate:.6g}" if estimate.exact else f"{estimate:.5g} +- {estimate.error:.2g}"


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError("expected a finite number")
    return float(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("expected an integer")
    return value


def _count(value: Any) -> int:
    if _integer(value) < 1:
        raise ValueError("expected an integer >= 1")
    return int(value)


def _steps(value: Any) -> float | int:
    return _count(value) if isinstance(value, int) else _number(value)


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected text")
    return value


def _pair(value: Any) -> tuple[float, float]:
    low, high = value
    return _number(low), _number(high)


def _estimate(value: Any) -> Estimate:
    return Estimate(_number(value["value"]), _number(value["error"]))


_READ: Final[dict[str, Any]] = {
    "schedule": _word,
    "length": _count,
    "steps": _steps,
    "sizes": lambda value: None if value is None else tuple(map(_count, value)),
    "interval": _pair,
    "wanted": lambda value: None if value is None else _number(value),
    "nelbo": _estimate,
    "tc": _estimate,
    "dtc": _estimate,
    "data": _word,
    "fingerprint": _word,
    "key": lambda value: None if value is None else _integer(value),
    "paths": lambda value: None if value is None else _count(value),
} | dict.fromkeys(("cost", "coverage", "against_tc", "against_dtc", "against_both", "worst", "hedge"), _number)
