"""Products of matrices of logarithms."""

from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Final

import torch
from torch import Tensor

_SMALL: Final = 1e-280  # scaled sums below this may have lost terms to underflow
_CHUNK: Final = 1 << 22


@dataclass(frozen=True, eq=False)
class LogMatrix:
    """Multiplies by a matrix of logarithms without overflow or underflow.

    after(left) = log(exp(left) @ exp(logs)). Rows and columns are scaled by their largest entries, multiplied, and scaled
    back; entries whose scaled sum is below 1e-280, where terms may have vanished, are summed once more in logarithms.

    Parameters:
        logs: (..., K, V); -inf is a structural zero.

    Cost: one matrix product; O(K) more for each entry that was summed again.

    Example:
        >>> step = LogMatrix(torch.tensor([[-0.0, -800.0], [-torch.inf, 0.0]], dtype=torch.float64))
        >>> step.after(torch.tensor([[-900.0, -1800.0]], dtype=torch.float64)).tolist()
        [[-900.0, -1700.0]]
    """

    logs: Tensor

    @cached_property
    def _scaled(self) -> tuple[Tensor, Tensor]:
        top = _finite(self.logs.amax(-2, keepdim=True))
        return top, (self.logs - top).exp()

    def after(self, left: Tensor) -> Tensor:
        """Return log(exp(left) @ exp(logs)): (..., B, K) -> (..., B, V)."""
        top, scaled = self._scaled
        peak = _finite(left.amax(-1, keepdim=True))
        shifted = left - peak
        sums = shifted.exp() @ scaled
        small = sums < _SMALL
        out = sums.log().add_(peak).add_(top)
        if small.any() and _depth(shifted) + self._depth < log(_SMALL):
            self._sum_again(left, small, out)
        return out

    @cached_property
    def _depth(self) -> float:
        return _depth(self.logs - self._scaled[0])

    def _sum_again(self, left: Tensor, small: Tensor, out: Tensor) -> None:
        reachable = (left > -torch.inf).to(out.dtype) @ (self.logs > -torch.inf).to(out.dtype)
        places = (small & (reachable > 0)).nonzero()
        left = left.expand(*out.shape[:-1], left.shape[-1])
        right = self.logs.mT.expand(*out.shape[:-2], out.shape[-1], left.shape[-1])
        for part in torch.split(places, max(1, _CHUNK // left.shape[-1])):
            *batch, row, column = part.unbind(1)
            out[(*batch, row, column)] = torch.logsumexp(left[(*batch, row)] + right[(*batch, column)], -1)


def _depth(shifted: Tensor) -> float:
    """Return the least finite number; no product of two scaled factors is below exp of the sum of their depths."""
    return float(shifted.masked_fill(shifted == -torch.inf, 0.0).amin()) if shifted.numel() else 0.0


def _finite(peak: Tensor) -> Tensor:
    return torch.where(peak == -torch.inf, torch.zeros_like(peak), peak)
