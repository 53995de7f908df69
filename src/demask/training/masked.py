"""The loss of a masked denoiser: an unbiased, bounded estimate of the NELBO.

In continuous time a token is masked with probability t, and NELBO = integral over t in [0, 1] of 1/t E[sum of the masked
tokens' -log p]: the weight explodes near 0. Given t, the number of masked tokens m is binomial, and given m the masked set
is uniform; so t integrates out exactly, integral of Binomial(m; n, t) / t dt = 1/m, and

    NELBO = n E_m E_S[mean over the m masked tokens of -log p(x_i | visible)],   m uniform on 1 .. n.

The estimate draws m, not t. Its weights are at most n, and nothing is cut off near 0.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from demask.chance import Keyed
from demask.errors import TrainingError

_EVERY: Final = (0.0, 1.0)


@dataclass(frozen=True)
class Masks:
    """Which shares of a row are masked while it trains: easy ones first, then all.

    A network that meets heavily masked rows from the start can sit for a million tokens on the frequencies of single
    tokens. While less than `early` of the training has passed, shares are drawn below `easy`; shares below `least` teach
    little, since one token then carries the weight of a whole row, and are left out. Evaluation is over all shares.

    Parameters:
        least: the smallest share that is trained on.
        easy: the largest share at first.
        early: the part of the training that is "at first".

    Raises:
        TrainingError: not 0 <= least < easy <= 1, or early outside [0, 1].

    Example:
        >>> Masks().range(0.0), Masks().range(0.5), Masks(least=0.0, early=0.0).range(0.0)
        ((0.05, 0.3), (0.05, 1.0), (0.0, 1.0))
    """

    least: float = 0.05
    easy: float = 0.3
    early: float = 0.1

    def __post_init__(self) -> None:
        if not (0 <= self.least < self.easy <= 1 and 0 <= self.early <= 1):
            raise TrainingError(f"{self!r}; expected 0 <= least < easy <= 1 and 0 <= early <= 1")

    def range(self, progress: float) -> tuple[float, float]:
        """Return the smallest and largest share when `progress` in [0, 1] of the training has passed."""
        return self.least, self.easy if progress < self.early else 1.0


@dataclass(frozen=True)
class Masked:
    """Rows with some tokens masked, and the weight of the losses of a row.

    Parameters:
        where: (B, N) bool.
        weights: (B,) float32, 1/m for the m masked tokens of a row.
    """

    where: Tensor
    weights: Tensor

    def rows(self, keep: slice) -> "Masked":
        """Keep some rows."""
        return Masked(self.where[keep], self.weights[keep])

    def asking(self, asked: Tensor) -> "Masked":
        """Mask only what is `asked` (B, N) of the rows that have any; the others keep their masks.

        Example:
            >>> masked = Masked(torch.tensor([[True, True], [True, False]]), torch.tensor([0.5, 1.0]))
            >>> masked.asking(torch.tensor([[False, True], [False, False]])).where.tolist()
            [[False, True], [True, False]]
        """
        where = torch.where(asked.any(1, keepdim=True), asked, self.where)
        return Masked(where, 1.0 / where.sum(1).float())

    def sum(self, losses: Tensor) -> Tensor:
        """Return the sum over rows of the mean loss of their masked tokens: (M,) nats -> ()."""
        return (losses * self.weights[:, None].expand_as(self.where)[self.where]).sum()


def draw(present: Tensor, chance: Keyed, *, shares: tuple[float, float] = _EVERY) -> Masked:
    """Mask a random number of each row's tokens, the numbers stratified over consecutive rows.

    m = 1 + floor(n u) with u uniform on the range of `shares`: uniform on 1 .. n for (0, 1), for which n times the mean
    loss of a row's masked tokens is unbiased for its NELBO.

    Parameters:
        present: (B, N) bool, tokens that exist, one or more a row.
        chance: a row's draws depend on its name alone.
        shares: the smallest and the largest.

    Example:
        >>> masked = draw(torch.ones(4, 8, dtype=torch.bool), Keyed.of(0, torch.arange(4)))
        >>> masked.where.sum(1).sort().values.tolist(), float(masked.sum(torch.ones(16)))
        ([1, 3, 5, 7], 4.0)
    """
    length = present.sum(1)  # (B,)
    low, high = shares
    level = low + (high - low) * chance.fork("count").level(torch.empty(0))  # (B,)
    count = (1 + (length * level).floor().long()).minimum(length)  # (B,)
    return Masked(chance.fork("mask").subset(present, count), (1.0 / count).float())
