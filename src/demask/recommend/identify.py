"""Semantic identifiers: a few digits per item, equal where items are alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demask.errors import RecommendError
from demask.recommend.tables import extra

_RANK: Final = 1e-6  # directions of less variance than this share of the largest are rounding


@dataclass(frozen=True, eq=False)
class Quantiser:
    """Turn vectors into digits that are parallel, not successive: each is the nearest centroid in a subspace of its own.

    x -> W (x - mean), of length 1 -> R x, cut into n parts -> digit d = argmin_c |part_d - centroid_dc|.

    W is principal component whitening; R is the rotation that product quantisation loses least under (OPQ, by faiss).

    Parameters:
        mean: (D,).
        whitening: W, (d, D).
        rotation: R, (d, d), orthogonal.
        centroids: (n, C, d / n).

    Reference: Ge et al., Optimized product quantization, 2013; Liu et al., DiffGRM, 2025, arXiv 2510.21805 (parallel
    semantic encoding).
    """

    mean: Tensor
    whitening: Tensor
    rotation: Tensor
    centroids: Tensor

    @classmethod
    def fit(
        cls,
        vectors: NDArray[np.float32],
        *,
        digits: int = 4,
        codes: int = 256,
        dimensions: int = 256,
        fitted: Sequence[bool] | None = None,
        key: int = 0,
    ) -> "Quantiser":
        """Fit to the vectors of some items.

        Parameters:
            vectors: (I, D), normalised first.
            digits: n.
            codes: per digit, C, a power of two.
            dimensions: that are kept, at most; a multiple of the digits, and no more than directions in which items vary.
            fitted: which items to fit to, those of the training, say; None: all.
            key: of the clustering.

        Raises:
            RecommendError: vectors that are not finite or zero; fewer items than codes; fewer directions than digits; codes
                that are no power of two; faiss missing.

        Cost: 50 rounds of clustering of (items, d / n) into C, per digit.
        """
        bits = codes.bit_length() - 1
        if digits < 1 or codes < 2 or codes != 1 << bits or bits > 16:
            raise RecommendError(
                f"{digits} digits of {codes} codes; expected digits >= 1 and a power of two: 16, 64, 256"
            )
        every = _normalised(torch.as_tensor(np.asarray(vectors), dtype=torch.float32))
        points = every if fitted is None else every[torch.as_tensor(list(fitted), dtype=torch.bool)]
        if len(points) < codes:
            raise RecommendError(
                f"{len(points)} items for {codes} codes per digit; expected as many items: codes={_below(len(points))}"
            )
        mean = points.mean(0)
        spread, axes = torch.linalg.eigh((points - mean).T.double() @ (points - mean).double() / len(points))
        rank = int((spread > _RANK * spread[-1]).sum()) if float(spread[-1]) > 0 else 0
        kept = min(dimensions, rank) // digits * digits
        if kept < digits:
            raise RecommendError(
                f"the items vary in {rank} directions and {min(dimensions, rank)} are kept; {digits} digits need as many: "
                "give longer texts, or fewer digits"
            )
        whitening = (axes[:, -kept:] / spread[-kept:].sqrt()).T.flip(0).float()
        reduced = _normalised((points - mean) @ whitening.T)
        rotation, centroids = _cluster(reduced.numpy(), digits, bits, key)
        return cls(mean, whitening, rotation, centroids)

    @property
    def digits(self) -> int:
        """How many digits, n."""
        return self.centroids.shape[0]

    @property
    def codes(self) -> int:
        """How many codes a digit may have, C."""
        return self.centroids.shape[1]

    def rotate(self, vectors: NDArray[np.float32] | Tensor) -> Tensor:
        """Return what is quantised: (I, D) -> (I, n, d / n)."""
        points = _normalised(torch.as_tensor(vectors, dtype=torch.float32))
        reduced = _normalised((points - self.mean) @ self.whitening.T) @ self.rotation.T
        return reduced.view(len(reduced), self.digits, -1)

    def encode(self, vectors: NDArray[np.float32] | Tensor) -> Tensor:
        """Return the digits, (I, n) int64: the nearest centroid in every subspace."""
        parts = self.rotate(vectors)
        return torch.stack(
            [torch.cdist(parts[:, digit], self.centroids[digit]).argmin(1) for digit in range(self.digits)], 1
        )

    def decode(self, codes: Tensor) -> Tensor:
        """Return the centroids of digits: (I, n) -> (I, n, d / n)."""
        return self.centroids[torch.arange(self.digits), codes]


def _cluster(points: NDArray[np.float32], digits: int, bits: int, key: int) -> tuple[Tensor, Tensor]:
    faiss = extra("faiss", "making identifiers")
    width = points.shape[1]
    quantiser = faiss.ProductQuantizer(width, digits, bits)
    quantiser.cp.seed = key + 1
    quantiser.cp.min_points_per_centroid = 1  # small catalogues are no mistake
    turn = faiss.OPQMatrix(width, digits)
    turn.pq = quantiser
    turn.train(points)
    quantiser.train(turn.apply(points))
    rotation = faiss.vector_to_array(turn.A).reshape(width, width)
    centroids = faiss.vector_to_array(quantiser.centroids).reshape(digits, 1 << bits, width // digits)
    return torch.from_numpy(rotation.copy()), torch.from_numpy(centroids.copy())


def _normalised(points: Tensor) -> Tensor:
    length: Tensor = points.norm(dim=1, keepdim=True)
    bad = ~(length.isfinite() & (length > 0))[:, 0]
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise RecommendError(
            f"vector {first} is zero or not finite, so it has no direction; give item {first} another one"
        )
    return points / length


def _below(items: int) -> int:
    return 1 << max(1, items.bit_length() - 1)
