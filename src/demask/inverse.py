"""The inverse of a cumulative law: the first index at which the running share of the weights exceeds a level."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

SINGLE_LEVEL: Final = 2048  # up to so many weights one running sum finds an index
BELOW_ONE: Final = 1 - 2.0**-52  # a float64 times this is less than it was, whatever the rounding


def invert(weights: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first index at which the running share of `weights` (M, V) exceeds `level` (M,), and the weights' sum.

    A level in [0, 1] above `BELOW_ONE` is taken for it.

    Example:
        >>> invert(torch.tensor([[1.0, 0.0, 3.0]]), torch.tensor([0.25]))
        (tensor([2]), tensor([4.], dtype=torch.float64))
    """
    width = weights.shape[-1]
    if width > SINGLE_LEVEL:
        return invert_stretches(stretches(weights), level, width, lambda places: weights.gather(1, places))
    total = weights.cumsum(-1, dtype=torch.float64)
    level, whole = level.clamp(max=BELOW_ONE), total[:, -1]
    return _search(total, level * whole), whole


def stretches(weights: Tensor) -> Tensor:
    """Return the sum of every stretch of about sqrt(V) weights of each row, the last one possibly shorter.

    Example:
        >>> stretches(torch.ones(1, 10))
        tensor([[4., 4., 2.]])
    """
    stretch = _stretch(weights.shape[-1])
    whole = weights.shape[-1] - weights.shape[-1] % stretch
    found = weights[:, :whole].view(len(weights), -1, stretch).sum(-1)
    if whole == weights.shape[-1]:
        return found
    return torch.cat((found, weights[:, whole:].sum(-1, keepdim=True)), 1)


def invert_stretches(
    sums: Tensor, level: Tensor, width: int, read: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Do what `invert` does where only the sums of `stretches` are kept, by reading one stretch of each row again.

    Parameters:
        sums: of the stretches of `width` weights per row.
        level: (M,) in [0, 1].
        width: V.
        read: gives the weights at some indices of each row, (M, S) -> (M, S).

    Example:
        >>> weights = torch.tensor([[1.0, 0.0, 3.0, 0.0, 0.0, 4.0]])
        >>> invert_stretches(stretches(weights), torch.tensor([0.75]), 6, lambda places: weights.gather(1, places))
        (tensor([5]), tensor([8.], dtype=torch.float64))
    """
    stretch, total = _stretch(width), sums.cumsum(-1, dtype=torch.float64)
    whole = total[:, -1]
    level = level.clamp(max=BELOW_ONE) * whole
    tile = _search(total, level)[:, None]
    places = tile * stretch + torch.arange(stretch, device=sums.device)
    inside = read(places.clamp(max=width - 1)).masked_fill(places >= width, 0.0)
    within = inside.cumsum(-1, dtype=torch.float64)
    left = level - torch.where(tile > 0, total.gather(1, (tile - 1).clamp_(min=0)), 0.0)[:, 0]
    left = torch.minimum(left, within[:, -1] * BELOW_ONE)  # the stretch's own sum may be rounded to less
    return tile[:, 0] * stretch + _search(within, left), whole


def _stretch(width: int) -> int:
    """Return how many weights are searched at once: about sqrt(V)."""
    return 1 << (width.bit_length() // 2)


def _search(total: Tensor, level: Tensor) -> Tensor:
    """Return the first index whose running sum exceeds `level` (M,), which is >= 0 and less than the last sum.

    Its weight is never 0, since there the sum does not grow.
    """
    return torch.searchsorted(total, level.unsqueeze(1), right=True).squeeze(1)
