"""Resampling: which particle each new one descends from.

Each scheme takes the weights of every row, (B, P), each row summing to 1, and returns the ancestor of every new particle,
(B, P) int64. In every scheme the expected number of descendants of particle a is P w_a; they differ in how much it varies.
All draws are of finitely many outcomes, so that `information.law` can walk through them.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from demask.contracts import Chance
from demask.samplers.particles import split

Resampling = Callable[[Tensor, Chance], Tensor]
_ROUNDING: Final = 1e-12  # of a running sum of weights


def multinomial(weights: Tensor, chance: Chance) -> Tensor:
    """Draw every ancestor independently, a with probability w_a.

    Cost: P draws per row.

    Example:
        >>> from demask.chance import Keyed
        >>> multinomial(torch.tensor([[0.0, 1.0]]), Keyed.of(0, torch.arange(1)))
        tensor([[1, 1]])

    Reference: Gordon, Salmond and Smith, Novel approach to nonlinear/non-Gaussian Bayesian state estimation, 1993.
    """
    rows, count = weights.shape
    each = split(chance, rows, count, weights.device)
    return each.outcome(weights.repeat_interleave(count, 0)).view(rows, count)


def residual(weights: Tensor, chance: Chance) -> Tensor:
    """Copy particle a floor(P w_a) times, and draw the rest independently in proportion to what is left over.

    Cost: a draw per particle that is left over.

    Example:
        >>> from demask.chance import Keyed
        >>> residual(torch.tensor([[0.5, 0.0, 0.5, 0.0]]), Keyed.of(0, torch.arange(1)))
        tensor([[0, 0, 2, 2]])

    Reference: Liu and Chen, Sequential Monte Carlo methods for dynamic systems, 1998.
    """
    rows, count = weights.shape
    wanted = weights.double() * count
    sure = (wanted + _ROUNDING).floor()
    ends = sure.cumsum(1)  # new particle j descends from the first a with ends_a > j
    slots = torch.arange(count, device=weights.device, dtype=torch.float64).expand(rows, count).contiguous()
    ancestors = torch.searchsorted(ends, slots, right=True)
    drawn = (slots >= ends[:, -1:]).flatten()
    if bool(drawn.any()):
        left = (wanted - sure).clamp(min=0.0).repeat_interleave(count, 0)[drawn]
        each = split(chance, rows, count, weights.device).rows(drawn)
        ancestors.view(-1)[drawn] = each.outcome(left / left.sum(1, keepdim=True))
    return ancestors


def stratified(weights: Tensor, chance: Chance) -> Tensor:
    """Draw the ancestor of new particle j at a level uniform on [j / P, (j + 1) / P) of the running sum of weights.

    Cost: P draws per row.

    Example:
        >>> from demask.chance import Keyed
        >>> stratified(torch.tensor([[0.5, 0.0, 0.25, 0.25]]), Keyed.of(0, torch.arange(1)))
        tensor([[0, 0, 2, 3]])

    Reference: Kitagawa, Monte Carlo filter and smoother for non-Gaussian nonlinear state space models, 1996.
    """
    rows, count = weights.shape
    edges = pad(_ends(weights), (1, 0))
    strata = torch.arange(count, device=weights.device, dtype=torch.float64)[:, None]
    overlap = (edges[:, None] - strata).clamp(0.0, 1.0).diff(dim=2).view(-1, count)  # of stratum j with the share of a
    overlap = torch.where(overlap > _ROUNDING, overlap, 0.0)
    each = split(chance, rows, count, weights.device)
    return each.outcome(overlap / overlap.sum(1, keepdim=True)).view(rows, count)


def systematic(weights: Tensor, chance: Chance) -> Tensor:
    """Draw one u uniform on [0, 1) and take the ancestors at the levels (j + u) / P of the running sum of weights.

    Particle a has floor(P w_a) descendants, or one more. Which ancestors are taken depends only on the cell of u between
    the fractions of the running sums, so a cell is drawn.

    Cost: one draw per row.

    Example:
        >>> from demask.chance import Keyed
        >>> systematic(torch.tensor([[0.5, 0.0, 0.25, 0.25]]), Keyed.of(0, torch.arange(1)))
        tensor([[0, 0, 2, 3]])

    Reference: Kitagawa, 1996; Carpenter, Clifford and Fearnhead, Improved particle filter for nonlinear problems, 1999.
    """
    rows, count = weights.shape
    ends = _ends(weights)
    breaks = ((ends[:, :-1] + _ROUNDING) % 1.0 - _ROUNDING).clamp(min=0.0).sort(1).values
    edges = pad(pad(breaks, (1, 0)), (0, 1), value=1.0)
    widths = edges.diff(dim=1)
    widths = torch.where(widths > 2 * _ROUNDING, widths, 0.0)
    cell = chance.outcome(widths / widths.sum(1, keepdim=True))[:, None]
    level = (edges.gather(1, cell) + edges.gather(1, cell + 1)) / 2
    slots = torch.arange(count, device=weights.device, dtype=torch.float64)
    return torch.searchsorted(ends, (slots + level).expand(rows, count).contiguous(), right=True)


def _ends(weights: Tensor) -> Tensor:
    """Running sums of the weights in numbers of particles, the last one exactly P."""
    count = weights.shape[1]
    ends = weights.double().cumsum(1)
    return ends / ends[:, -1:] * count


SCHEMES: Final[dict[str, Resampling]] = {
    "multinomial": multinomial,
    "residual": residual,
    "stratified": stratified,
    "systematic": systematic,
}
