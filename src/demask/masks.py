"""Masks: bool tensors (B, N) that say which positions of a canvas are meant.

Nobody writes to a mask that others have seen. So where it is True is found once, and remembered with it.
"""

from bisect import bisect_left
from collections.abc import Iterable
from itertools import chain, compress, pairwise

import torch
from torch import Tensor

from demask.few import few, integers


def listed(where: Tensor) -> list[int]:
    """Return the places at which a mask is True, counted row by row, on the host.

    Example:
        >>> listed(torch.tensor([[False, True], [True, False]]))
        [1, 2]
    """
    known: list[int] | None = where.__dict__.get("_listed")
    if known is None:
        if few(where):
            known = list(compress(range(where.numel()), chain.from_iterable(where.tolist())))
        else:
            known = places(where).tolist()
        where.__dict__["_listed"] = known
    return known


def places(where: Tensor) -> Tensor:
    """Return the same as a tensor, (M,) int64, on the mask's device.

    Example:
        >>> places(torch.tensor([[False, True], [True, False]]))
        tensor([1, 2])
    """
    known: Tensor | None = where.__dict__.get("_places")
    if known is None:
        known = where.__dict__["_places"] = where.flatten().nonzero()[:, 0]
    return known


def counts(where: Tensor) -> list[int]:
    """Return in how many positions each row of a mask is True, on the host.

    Example:
        >>> counts(torch.tensor([[True, False], [True, True]]))
        [1, 2]
    """
    if not few(where):
        totals: list[int] = where.sum(1).tolist()
        return totals
    (rows, width), found = where.shape, listed(where)
    if rows == 1:
        return [len(found)]
    return [end - begin for begin, end in pairwise(bisect_left(found, row * width) for row in range(rows + 1))]


def number(where: Tensor) -> int:
    """Return in how many positions a mask is True.

    Example:
        >>> number(torch.tensor([[False, True], [True, True]]))
        3
    """
    return len(listed(where) if few(where) else places(where))


def both(where: Tensor, other: Tensor) -> Tensor:
    """Return `where` and `other`; of few numbers `other` itself, if it is True only where `where` is.

    Example:
        >>> both(torch.tensor([[True, False]]), torch.tensor([[True, True]]))
        tensor([[ True, False]])
    """
    return other if few(other) and set(listed(where)).issuperset(listed(other)) else where & other


def empty(where: Tensor) -> Tensor:
    """Return in which rows a mask is True nowhere, (B,) bool.

    Example:
        >>> empty(torch.tensor([[False, False], [False, True]]))
        tensor([ True, False])
    """
    if few(where) and where.shape[0]:
        return torch.frombuffer(bytearray(not count for count in counts(where)), dtype=torch.bool)
    return ~where.any(1)


def marks(shape: tuple[int, int], found: Iterable[int]) -> Tensor:
    """Return the mask on the host that is True at some places, counted row by row.

    Example:
        >>> marks((2, 2), [2, 1])
        tensor([[False,  True],
                [ True, False]])
    """
    flags, found = bytearray(shape[0] * shape[1]), sorted(found)
    for place in found:
        flags[place] = 1
    where = torch.frombuffer(flags, dtype=torch.bool).view(shape) if flags else torch.zeros(shape, dtype=torch.bool)
    where.__dict__["_listed"] = found
    return where


def ranks(where: Tensor, other: Tensor) -> Tensor | None:
    """Return which of the places of `other` those of `where` are, (M,) int64; None if one of them is not there.

    Example:
        >>> ranks(torch.tensor([[False, True]]), torch.tensor([[True, True]]))
        tensor([1])
        >>> ranks(torch.tensor([[False, True]]), torch.tensor([[True, False]])) is None
        True
    """
    if not few(where):
        index = where.masked_select(other).nonzero()[:, 0]
        return index if len(index) == len(places(where)) else None
    mine, wanted = listed(other), listed(where)
    found = [bisect_left(mine, place) for place in wanted]
    there = all(index < len(mine) and mine[index] == place for index, place in zip(found, wanted, strict=True))
    return integers(found) if there else None


def without(where: Tensor, other: Tensor) -> Tensor:
    """Return `where` and not `other` in one pass.

    Example:
        >>> without(torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False]))
        tensor([False,  True, False, False])
    """
    return where > other


def inside(where: Tensor, other: Tensor) -> bool:
    """Return whether `where` is True only where `other` is. One small copy to the host.

    Example:
        >>> inside(torch.tensor([True, False]), torch.tensor([True, True]))
        True
    """
    return not bool(without(where, other).any())
