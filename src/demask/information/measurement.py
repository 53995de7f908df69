"""A measured loss curve: the value, what can be read off it, and how it is stored."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from demask import files
from demask.curve import Curve, Estimate
from demask.errors import CurveError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SCHEMA: Final = "demask.measurement/1"
_ARRAYS: Final = ("loss", "error", "movement", "movement_error")
_TOTALS: Final = ("nelbo", "tc", "dtc")


@dataclass(frozen=True, eq=False)
class Measurement:
    """The loss curve of a denoiser on held-out data, at some visible counts.

    L_j = mean over uniformly random S with |S| = j and i not in S of E[-log p(x_i | x_S)].

    The standard errors are over independent sequences and carry Student's factor for their number, so that
    `Estimate.interval(0.95)` is the 95 % Student interval.

    Parameters:
        length: masked positions of the problem, n; those of a continuation or of a block, if one was measured.
        grid: (G,) visible counts, increasing from 0 to n - 1.
        loss: (G,) mean of -log p of the masked tokens at each count, nats.
        error: (G,) standard errors.
        passes: (G,) sequence passes averaged at each point; the one pass of the blank canvas serves every sequence and
            counts for each.
        nelbo: sum_j L_j, nats, unbiased.
        tc: n L_0 - NELBO, nats, unbiased.
        dtc: NELBO - n L_{n-1}, nats, unbiased.
        movement: (G-1,) KL between the predictions at consecutive counts, nats; None where it was not asked for.
        movement_error: (G-1,) its standard errors, or None.
        fingerprint: of the denoiser, 16 hex digits.
        data: name of the data.
        key: of the random orders.
        seconds: spent.

    Raises:
        CurveError: arrays that do not fit together, or numbers that are not finite.

    Example:
        >>> zero = np.zeros(3)
        >>> m = Measurement(
        ...     length=5, grid=np.array([0, 1, 4]), loss=np.array([0.7, 0.5, 0.1]), error=zero, passes=np.array([8, 8, 8]),
        ...     nelbo=Estimate(1.9), tc=Estimate(1.6), dtc=Estimate(1.4), movement=None, movement_error=None,
        ...     fingerprint="0" * 16, data="an example", key=0, seconds=1.0)
        >>> m.curve().values.round(3).tolist()
        [0.7, 0.5, 0.38, 0.259, 0.1]
        >>> [end.values.tolist() for end in m.bracket()]
        [[0.7, 0.5, 0.1, 0.1, 0.1], [0.7, 0.5, 0.5, 0.5, 0.1]]
    """

    length: int
    grid: Ints
    loss: Floats
    error: Floats
    passes: Ints
    nelbo: Estimate
    tc: Estimate
    dtc: Estimate
    movement: Floats | None
    movement_error: Floats | None
    fingerprint: str
    data: str
    key: int
    seconds: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", check_grid(self.grid, self.length))
        for name in ("loss", "error", "passes", "movement", "movement_error"):
            value = getattr(self, name)
            if value is None and name.startswith("movement"):
                continue
            object.__setattr__(self, name, self._checked(name, value))
        if (self.movement is None) != (self.movement_error is None):
            raise CurveError("a movement without its errors, or errors without a movement; give both or neither")
        for name in _TOTALS:
            total = getattr(self, name)
            if not (isfinite(total) and isfinite(total.error) and total.error >= 0):
                raise CurveError(
                    f"{name} = {float(total)} with error {total.error}; expected finite numbers, error >= 0"
                )
        if not (isfinite(self.seconds) and self.seconds >= 0):
            raise CurveError(f"seconds = {self.seconds}; expected a finite number >= 0")

    def __repr__(self) -> str:
        return (
            f"Measurement({self.data!r}, length={self.length}, points={len(self.grid)}, passes={int(self.passes.sum())}, "
            f"nelbo={_plus_minus(self.nelbo)}, tc={_plus_minus(self.tc)}, dtc={_plus_minus(self.dtc)})"
        )

    def curve(self) -> Curve:
        """Return all n values of the curve: a point estimate, on which plans are made; `bracket` is rigorous.

        The first of these that the losses do not contradict, at 5 % over all pairs of grid counts:

        1. with movements: what the predictions' movement says of exact conditionals, smoothed (`shape.falls`),
        2. the same times one factor, for a model that moves more or less than its loss falls,
        3. the losses alone.

        A movement is many times less noisy than a loss, so plans from few passes need it; where the model's movement is not
        what its loss does, enough passes show it. Movements give the shape; the height is that of the NELBO.

        The losses: at the grid the nearest non-increasing numbers (`projected`), between them linear in log (j+1)/(n-j),
        which is log j near one end and log (n-j) near the other. The errors are those of the losses, interpolated alike.
        """
        return self._curve

    @cached_property
    def _curve(self) -> Curve:
        table = interpolation(self.grid, self.length)
        error = table @ self.error
        for values in self._moved():
            return Curve(values, error)
        return Curve(table @ self.projected(), error)

    def _moved(self) -> Iterator[Floats]:
        """Yield the curve that the movements give, if the losses do not contradict it."""
        from scipy.special import ndtri

        from demask.information.shape import effective_numbers, falls

        if self.movement is None or self.movement_error is None or len(self.grid) < 3:
            return
        effective = effective_numbers(self.grid, self.length, self.passes, self.movement, self.movement_error)
        fallen = np.concatenate(([0.0], np.cumsum(falls(self.grid, self.length, self.movement, effective))))
        first, last = np.triu_indices(len(self.grid), 1)
        moved = fallen[self.grid[last]] - fallen[self.grid[first]]
        spread = np.concatenate(([0.0], np.cumsum(self.movement**2 / effective)))
        variance = self.error[first] ** 2 + self.error[last] ** 2 + spread[last] - spread[first]
        lost = self.loss[first] - self.loss[last]
        weight = moved / np.maximum(variance, 1e-300)
        factor = float(weight @ lost) / max(float(weight @ moved), 1e-300)
        limit = -float(ndtri(0.05 / 2 / len(lost))) * np.sqrt(variance) + 1e-9
        for scale in (1.0, max(factor, 0.0)):
            if np.all(np.abs(lost - scale * moved) <= limit):
                values = (float(self.nelbo) + scale * fallen.sum()) / self.length - scale * fallen
                yield values - min(0.0, float(values[-1]))

    def bracket(self) -> tuple[Curve, Curve]:
        """Return (low, high): the step functions between which every non-increasing curve lies.

        L_{g+} <= L_j <= L_g for the grid counts g <= j <= g+. Rigorous but for the sampling errors of the grid values,
        which are carried along: any schedule costs at least what the steps of the one and at most what those of the
        other allow.
        """
        counts = np.arange(self.length)
        after = np.searchsorted(self.grid, counts, side="left")
        before = np.searchsorted(self.grid, counts, side="right") - 1
        fit = self.projected()
        return Curve(fit[after], self.error[after]), Curve(fit[before], self.error[before])

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, from which `from_json` makes an equal value."""
        body: dict[str, Any] = {"schema": SCHEMA, "length": self.length}
        for name in ("grid", "passes", *_ARRAYS):
            value = getattr(self, name)
            body[name] = None if value is None else value.tolist()
        for name in _TOTALS:
            total = getattr(self, name)
            body[name] = {"value": float(total), "error": total.error}
        rest = {"fingerprint": self.fingerprint, "data": self.data, "key": self.key, "seconds": self.seconds}
        return {**body, **rest}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Measurement":
        """Return the measurement that `to_json` wrote.

        Raises:
            CurveError: another schema, a field that is missing or of another type, or numbers that do not fit together.
        """
        schema = body.get("schema") if isinstance(body, Mapping) else None
        if schema != SCHEMA:
            raise CurveError(f"the schema is {schema!r}; expected {SCHEMA!r}, as Measurement.save writes it")
        names = set(cls.__dataclass_fields__) | {"schema"}
        if missing := sorted(names - set(body)):
            raise CurveError(f"{', '.join(missing)} missing; the file was cut or edited: measure again")
        if unknown := sorted(set(body) - names):
            raise CurveError(f"unknown field {', '.join(unknown)}; {SCHEMA} has {', '.join(sorted(names))}")
        for name, kind in (("length", int), ("key", int), ("fingerprint", str), ("data", str)):
            if not isinstance(body[name], kind) or isinstance(body[name], bool):
                raise CurveError(f"{name} is {body[name]!r}; expected {kind.__name__}")
        values: dict[str, Any] = {name: body[name] for name in ("length", "key", "fingerprint", "data")}
        values["seconds"] = _number("seconds", body["seconds"])
        for name in ("grid", "passes"):
            values[name] = _numbers(name, body[name], integer=True)
        for name in _ARRAYS:
            values[name] = None if body[name] is None else _numbers(name, body[name], integer=False)
        for name in _TOTALS:
            total = body[name]
            if not isinstance(total, Mapping) or set(total) != {"value", "error"}:
                raise CurveError(f'{name} is {total!r}; expected {{"value": nats, "error": nats}}')
            values[name] = Estimate(_number(name, total["value"]), _number(f"{name}'s error", total["error"]))
        return cls(**values)

    def save(self, path: str | Path) -> None:
        """Write a small JSON file, whole or not at all."""
        files.write(path, json.dumps(self.to_json(), indent=1, allow_nan=False).encode() + b"\n")

    @classmethod
    def load(cls, path: str | Path) -> "Measurement":
        """Read what `save` wrote.

        Raises:
            CurveError: no such file, or one that is truncated, foreign, of another version or holds NaN; names the file.
        """
        body = read_json(path, SCHEMA)
        try:
            return cls.from_json(body)
        except CurveError as error:
            raise CurveError(f"{path}: {error}") from None

    def projected(self) -> Floats:
        """Return the nearest non-increasing losses at the grid, (G,), in least squares weighted by the passes.

        They never raise the weighted squared error if the true curve falls.
        """
        from scipy.optimize import isotonic_regression

        fit = isotonic_regression(self.loss, weights=np.maximum(self.passes, 1).astype(np.float64), increasing=False)
        return np.asarray(fit.x, dtype=np.float64)

    def _checked(self, name: str, value: Any) -> Floats | Ints:
        size = len(self.grid) - name.startswith("movement")
        array: Any = np.array(value, dtype=np.int64 if name == "passes" else np.float64)
        if array.shape != (size,):
            raise CurveError(
                f"{name} has shape {array.shape}; expected ({size},) for a grid of {len(self.grid)} counts"
            )
        bad = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
        if len(bad):
            raise CurveError(f"{name}[{bad[0]}] = {array[bad[0]]}; expected finite numbers >= 0")
        array.setflags(write=False)
        return cast(Floats | Ints, array)


def check_grid(grid: Any, length: int) -> Ints:
    """Return visible counts as an array, checked to increase from 0 to length - 1."""
    if not isinstance(length, int | np.integer) or isinstance(length, bool) or length < 1:
        raise CurveError(f"length = {length!r}; expected the number of masked positions, an integer >= 1")
    given = np.asarray(grid)
    if given.ndim != 1 or not len(given) or not np.issubdtype(given.dtype, np.integer):
        raise CurveError(f"a grid of shape {given.shape} and type {given.dtype}; expected a list of integers")
    array: Ints = given.astype(np.int64)
    if array[0] != 0 or array[-1] != length - 1 or np.any(np.diff(array) <= 0):
        raise CurveError(
            f"the grid {array.tolist()[:8]}{'..' if len(array) > 8 else ''} up to {array[-1]}; expected increasing "
            f"visible counts, the first 0 and the last n - 1 = {length - 1}"
        )
    array.setflags(write=False)
    return array


def interpolation(grid: Ints, length: int) -> Floats:
    """Return the (n, G) weights of linear interpolation in log (j+1)/(n-j); every row sums to 1."""
    counts = np.arange(length)
    place = np.log(counts + 1.0) - np.log(length - counts)
    columns = [np.interp(place, place[grid], unit) for unit in np.eye(len(grid))]
    return np.stack(columns, axis=1)


def read_json(path: str | Path, schema: str) -> dict[str, Any]:
    """Read a JSON object whose "schema" is as given; anything else is a CurveError that names the file."""
    try:
        body = json.loads(Path(path).read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise CurveError(f"{path}: {error.strerror or error}; expected a file of schema {schema!r}") from None
    except (ValueError, RecursionError) as error:
        raise CurveError(f"{path}: not whole JSON ({error}); expected a file of schema {schema!r}") from None
    if not isinstance(body, dict) or body.get("schema") != schema:
        found = body.get("schema") if isinstance(body, dict) else type(body).__name__
        raise CurveError(f"{path}: the schema is {found!r}; expected {schema!r}")
    return body


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the number {name} is not finite")


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CurveError(f"{name} is {value!r}; expected a number")
    return float(value)


def _numbers(name: str, value: Any, *, integer: bool) -> NDArray[Any]:
    kinds = int if integer else (int, float)
    if not isinstance(value, list) or any(isinstance(v, bool) or not isinstance(v, kinds) for v in value):
        raise CurveError(f"{name} is not a list of {'integers' if integer else 'numbers'}: {str(value)[:60]}")
    return np.array(value, dtype=np.int64 if integer else np.float64)


def _plus_minus(total: Estimate) -> str:
    return f"{total:.4g} +- {total.error:.2g}"
