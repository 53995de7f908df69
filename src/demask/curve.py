"""The information curve: the mean entropy of a token, given j visible ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demask.errors import CurveError

Floats = NDArray[np.float64]


class Estimate(float):
    """A number with its standard error; 0 means that it is exact.

    It is a float in every sum and product, which then forget the error: take the interval first.

    Example:
        >>> Estimate(2.0, error=0.1).interval(0.95)
        (1.804..., 2.195...)
        >>> Estimate(2.0).exact
        True
    """

    error: float

    def __new__(cls, value: float, error: float = 0.0) -> "Estimate":
        """Return `value` with its standard error."""
        self = super().__new__(cls, value)
        self.error = float(error)
        return self

    @property
    def exact(self) -> bool:
        """Whether no sampling went into the number."""
        return self.error == 0.0

    def interval(self, coverage: float = 0.95) -> tuple[float, float]:
        """Return the normal interval that covers the truth with probability `coverage`."""
        from scipy.special import ndtri  # scipy is imported where it is used: `import demask` stays light

        if not 0 < coverage < 1:
            raise CurveError(f"a coverage of {coverage}; expected a probability, such as 0.95")
        half = self.error * float(ndtri((1 + coverage) / 2))
        return self - half, self + half


@dataclass(frozen=True, eq=False)
class Curve:
    """Mean conditional entropy of a token given j visible ones, j = 0 .. n-1.

    Z_j = mean over uniformly random S with |S| = j and i not in S of H(X_i | X_S).

    Everything that a schedule with uniformly random positions can cost follows from it: H = sum_j Z_j,
    TC = sum_i delta_i (n - i), DTC = sum_i delta_i i with delta_i = Z_{i-1} - Z_i, and the expected KL error of sizes
    with residual R is sum_i delta_i R(i).

    Parameters:
        values: (n,) nats, finite and >= 0.
        error: (n,) standard errors where the curve was estimated by sampling; None where it is exact.

    Raises:
        CurveError: an empty curve, or a value that is not a finite number >= 0.

    Example:
        Four bits of even parity: any three are free and fix the fourth.

        >>> parity = Curve(np.log(2) * np.array([1, 1, 1, 0]))
        >>> round(parity.tc, 4), round(parity.dtc, 4)
        (0.6931, 2.0794)

    Reference: Chen, Cong and Li, 2025, arXiv 2511.04647, Theorem 4 and Lemma 8.
    """

    values: Floats
    error: Floats | None = None

    def __init__(self, values: Sequence[float] | Floats, error: Sequence[float] | Floats | None = None) -> None:
        array = np.array(values, dtype=np.float64)
        if array.ndim != 1 or not len(array):
            raise CurveError(f"a curve of shape {array.shape}; expected the n numbers Z_0 .. Z_(n-1)")
        bad = np.flatnonzero(~(np.isfinite(array) & (array >= -1e-9)))
        if len(bad):
            raise CurveError(f"Z_{bad[0]} = {array[bad[0]]}; entropies are finite and >= 0 nats")
        array = np.maximum(array, 0.0)  # rounding of an exact zero, at most 1e-9
        array.setflags(write=False)
        object.__setattr__(self, "values", array)
        if error is not None:
            error = np.array(error, dtype=np.float64)
            if error.shape != array.shape or not np.all(error >= 0):
                raise CurveError(f"{error.shape} standard errors for {array.shape} values; expected as many, all >= 0")
            error.setflags(write=False)
        object.__setattr__(self, "error", error)

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        return np.array(self.values, dtype=dtype)

    def __repr__(self) -> str:
        kind = "exact" if self.exact else "estimated"
        return f"Curve(length={len(self)}, entropy={self.entropy:.6g}, tc={self.tc:.6g}, dtc={self.dtc:.6g}, {kind})"

    @property
    def exact(self) -> bool:
        """Whether no sampling went into the curve."""
        return self.error is None

    @property
    def increments(self) -> Floats:
        """delta_i = Z_{i-1} - Z_i for i = 1 .. n-1, nats, (n-1,)."""
        return -np.diff(self.values)

    @property
    def entropy(self) -> Estimate:
        """H(X) = sum_j Z_j, nats."""
        return self._total(np.ones(len(self)))

    @property
    def tc(self) -> Estimate:
        """Total correlation n Z_0 - H, nats."""
        weights = -np.ones(len(self))
        weights[0] += len(self)
        return self._total(weights)

    @property
    def dtc(self) -> Estimate:
        """Dual total correlation H - n Z_{n-1}, nats."""
        weights = np.ones(len(self))
        weights[-1] -= len(self)
        return self._total(weights)

    def cost(self, residual: Floats) -> float:
        """Return sum_i delta_i R(i), nats: the expected path KL of sizes with residual R.

        The KL of the output law is at most this, by convexity.
        """
        if len(residual) != len(self) - 1:
            raise CurveError(
                f"a residual of {len(residual)} numbers on a curve of length {len(self)}; expected length - 1"
            )
        return float(self.increments @ residual)

    @property
    def monotone(self) -> bool:
        """Whether the curve never rises, as every curve of a consistent law."""
        return bool(np.all(self.increments >= -1e-9 * max(1.0, float(self.values[0]))))

    def projected(self) -> "Curve":
        """Return the nearest non-increasing curve: least squares, weighted by 1 / error^2 where errors are known."""
        from scipy.optimize import isotonic_regression

        weights = None if self.error is None else 1.0 / np.maximum(self.error, 1e-12) ** 2
        fit = isotonic_regression(self.values, weights=weights, increasing=False)
        return Curve(fit.x, self.error)

    def _total(self, weights: Floats) -> Estimate:
        error = 0.0 if self.error is None else float(np.sqrt(np.sum((weights * self.error) ** 2)))
        return Estimate(float(weights @ self.values), error)
