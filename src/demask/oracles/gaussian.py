"""Distributions on R^d whose scores are known exactly: mixtures of Gaussians of low rank, such as points and subspaces."""

from dataclasses import dataclass
from math import isfinite, log, pi, sqrt

import torch
from torch import Tensor

from demask.chance import Keyed
from demask.errors import OracleError

_ORTHONORMAL = 1e-9  # how far a basis may be from it


@dataclass(frozen=True, eq=False)
class Gaussians:
    """A mixture of Gaussians, each on an affine subspace of its own; its score is exact at every level of noise.

    X_0 ~ sum_m w_m N(mu_m, U_m diag(lambda_m) U_m^T). With y = x - sqrt(1 - v) mu_m, c = U_m^T y and v the noise,

        s(x) = -sum_m r_m(x) [ (y - U_m c) / v + U_m c / ((1 - v) lambda_m + v) ],   r_m = P(m | x).

    k = 0, or variances of 0, are points; one component of mean 0 is a Gaussian on a subspace.

    Cost: O(B M d k) per answer; no d x d matrix is ever made.

    Parameters:
        means: (M, d).
        bases: (M, d, k), orthonormal columns, k <= d.
        variances: (M, k), >= 0, along them.
        weights: (M,), >= 0, of sum 1.

    Raises:
        OracleError: shapes, signs or sums that do not fit, numbers that are not finite, columns that are not orthonormal.

    Example:
        >>> two = Gaussians(torch.tensor([[1.0], [-1.0]]), torch.zeros(2, 1, 0), torch.zeros(2, 0), torch.tensor([0.5, 0.5]))
        >>> two.mean(torch.tensor([[0.5]]), 0.5).item()  # tanh(sqrt(0.5) * 0.5 / 0.5)
        0.6088...
    """

    means: Tensor
    bases: Tensor
    variances: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        for name in ("means", "bases", "variances", "weights"):
            value = torch.as_tensor(getattr(self, name)).to(torch.float64)
            if not bool(value.isfinite().all()):
                raise OracleError(f"{name} with numbers that are not finite; expected finite ones")
            object.__setattr__(self, name, value)
        if self.means.ndim != 2 or 0 in self.means.shape:
            raise OracleError(f"means of shape {tuple(self.means.shape)}; expected (components, dimension)")
        count, dimension = self.means.shape
        if self.bases.ndim != 3 or self.bases.shape[:2] != (count, dimension):
            raise OracleError(f"bases of shape {tuple(self.bases.shape)}; expected ({count}, {dimension}, rank)")
        check_rank(dimension, self.rank)
        if self.variances.shape != (count, self.rank) or bool((self.variances < 0).any()):
            raise OracleError(
                f"variances of shape {tuple(self.variances.shape)}; expected ({count}, {self.rank}) numbers >= 0"
            )
        gram = self.bases.mT @ self.bases - torch.eye(self.rank, dtype=torch.float64)
        if self.rank and float(gram.abs().amax()) > _ORTHONORMAL:
            raise OracleError("bases whose columns are not orthonormal; take torch.linalg.qr(basis).Q")
        if (
            self.weights.shape != (count,)
            or bool((self.weights < 0).any())
            or abs(float(self.weights.sum()) - 1) > 1e-9
        ):
            raise OracleError(f"weights {self.weights.tolist()}; expected {count} numbers >= 0 with the sum 1")

    @property
    def dimension(self) -> int:
        """Coordinates of a point, d."""
        return int(self.means.shape[1])

    @property
    def rank(self) -> int:
        """Dimensions of a component, k."""
        return int(self.bases.shape[2])

    @property
    def centred(self) -> bool:
        """Whether this is one Gaussian of mean 0, of which everything is known in closed form."""
        return len(self.means) == 1 and not bool(self.means.any())

    def __call__(self, points: Tensor, noise: float) -> Tensor:
        """Return the score of sqrt(1 - noise) X_0 + sqrt(noise) W at (B, d) points.

        Raises:
            OracleError: points of another dimension, or a noise outside (0, 1].
        """
        share, inside, off, total = self._parts(points, noise)
        along = torch.einsum("mdk,bmk,bm->bd", self.bases, inside / total, share)
        return (-along - torch.einsum("bmd,bm->bd", off, share) / noise).to(points)

    def mean(self, points: Tensor, noise: float) -> Tensor:
        """Return E[X_0 | sqrt(1 - noise) X_0 + sqrt(noise) W = point], (B, d).

        The score is (sqrt(1 - noise) mean - point) / noise.

        Raises:
            OracleError: points of another dimension, or a noise outside (0, 1].
        """
        share, inside, _, total = self._parts(points, noise)
        shrunk = sqrt(1.0 - noise) * self.variances / total * inside
        return (share @ self.means + torch.einsum("mdk,bmk,bm->bd", self.bases, shrunk, share)).to(points)

    def log_prob(self, points: Tensor, noise: float) -> Tensor:
        """Return the log-density of sqrt(1 - noise) X_0 + sqrt(noise) W at (B, d) points, nats, (B,).

        Raises:
            OracleError: points of another dimension, or a noise outside (0, 1].
        """
        return self._joint(*self._coordinates(points, noise), noise).logsumexp(1)

    def sample(self, rows: int, *, key: int, noise: float = 0.0) -> Tensor:
        """Draw sqrt(1 - noise) X_0 + sqrt(noise) W, (rows, d) float64; row i depends on the key and i alone.

        Raises:
            OracleError: no rows, or a noise outside [0, 1].
        """
        if rows < 1 or not 0 <= noise <= 1:
            raise OracleError(f"{rows} rows at noise {noise}; expected 1 or more, and a noise in [0, 1]")
        chance = Keyed.of(key, torch.arange(rows))
        part = chance.fork("component").outcome(self.weights.expand(rows, -1))
        inside = chance.fork("inside").normal(self.rank) * self.variances[part].sqrt()
        points = self.means[part] + torch.einsum("bdk,bk->bd", self.bases[part], inside)
        return sqrt(1.0 - noise) * points + sqrt(noise) * chance.fork("noise").normal(self.dimension)

    def _parts(self, points: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return P(m | x) (B, M), U^T y (B, M, k), y - U U^T y (B, M, d), and the variances along U (M, k)."""
        inside, off, total = self._coordinates(points, noise)
        return self._joint(inside, off, total, noise).softmax(1), inside, off, total

    def _coordinates(self, points: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor]:
        if points.ndim != 2 or points.shape[1] != self.dimension:
            raise OracleError(f"points of shape {tuple(points.shape)}; expected (rows, {self.dimension})")
        if not 0 < noise <= 1:
            raise OracleError(f"a noise of {noise}; expected a variance in (0, 1]")
        y = points.to(torch.float64)[:, None] - sqrt(1.0 - noise) * self.means
        inside = torch.einsum("bmd,mdk->bmk", y, self.bases)
        off = y - torch.einsum("mdk,bmk->bmd", self.bases, inside)
        return inside, off, (1.0 - noise) * self.variances + noise

    def _joint(self, inside: Tensor, off: Tensor, total: Tensor, noise: float) -> Tensor:
        """Return log p(m, x), (B, M)."""
        distance = off.square().sum(2) / noise + (inside.square() / total).sum(2)
        volume = (self.dimension - self.rank) * log(noise) + total.log().sum(1) + self.dimension * log(2 * pi)
        return self.weights.log() - (distance + volume) / 2

    def __repr__(self) -> str:
        return f"Gaussians(components={len(self.means)}, dimension={self.dimension}, rank={self.rank})"


def check_rank(dimension: int, rank: int) -> None:
    """Raise OracleError unless 0 <= rank <= dimension and 1 <= dimension."""
    if dimension < 1 or not 0 <= rank <= dimension:
        raise OracleError(
            f"rank {rank} in {dimension} dimensions; expected 0 <= rank <= dimension, such as subspaces(32, 4)"
        )


def subspaces(dimension: int, rank: int, *, count: int = 1, variance: float = 0.25, key: int = 0) -> Gaussians:
    """Return Gaussians on random subspaces through 0, equally probable: intrinsic dimension `rank`, whatever `dimension`.

    Parameters:
        dimension: d >= 1.
        rank: 0 <= k <= d.
        count: subspaces, >= 1; one is a Gaussian.
        variance: > 0, along every direction of each.
        key: of the subspaces.

    Raises:
        OracleError: numbers out of range.

    Example:
        >>> subspaces(32, 4, count=3)
        Gaussians(components=3, dimension=32, rank=4)
    """
    check_rank(dimension, rank)
    if count < 1 or not (isfinite(variance) and variance > 0):
        raise OracleError(f"{count} subspaces of variance {variance}; expected 1 or more, and a finite variance > 0")
    share = torch.full((count,), 1 / count, dtype=torch.float64)
    variances = torch.full((count, rank), variance, dtype=torch.float64)
    bases = torch.linalg.qr(_normal(count, dimension * rank, key).view(count, dimension, rank)).Q
    means = torch.zeros(count, dimension, dtype=torch.float64)
    return Gaussians(means, bases, variances, share)


def points(dimension: int, *, count: int = 2, key: int = 0) -> Gaussians:
    """Return `count` equally probable points on the unit sphere: intrinsic dimension 0, and at most log(count) nats.

    Parameters:
        dimension: d >= 1.
        count: >= 1; two are opposite to each other.
        key: of the points.

    Raises:
        OracleError: numbers out of range.

    Example:
        >>> points(8, count=2).means.sum(0).abs().max().item()
        0.0
    """
    check_rank(dimension, 0)
    if count < 1:
        raise OracleError(f"{count} points; expected 1 or more")
    means = torch.nn.functional.normalize(_normal(count, dimension, key))
    if count == 2:
        means[1] = -means[0]
    empty = torch.zeros(count, dimension, 0)
    return Gaussians(means, empty, torch.zeros(count, 0), torch.full((count,), 1 / count, dtype=torch.float64))


def _normal(rows: int, width: int, key: int) -> Tensor:
    return Keyed.of(key, torch.arange(rows)).fork("distribution").normal(width)
