"""What is computed of rows of logits: sums in float32 at least, in groups of rows that stay in a CPU's cache.

Every function is row-wise: a row is answered alike in every batch, to the last bit.
"""

from collections.abc import Callable, Iterable
from math import e, log2
from typing import Final

import torch
from torch import Tensor

_CHUNK: Final = 1 << 20  # numbers handled at once on a CPU, so that temporaries stay in the cache
_COLD: Final = 1e-3  # a temperature below which logits, divided by it, may be too large for a number
_LOG2_E: Final = log2(e)
Scratch = tuple[Tensor, Tensor] | tuple[None, None]
Source = tuple[Tensor, Tensor | None]


def by_chunk(source: Source, reduce: Callable[..., tuple[Tensor, ...]], *extra: Tensor) -> tuple[Tensor, ...]:
    """Apply a reduction to groups of rows that stay in a CPU's cache, and join the answers.

    The groups share two buffers, since memory that is new to a process costs more than the arithmetic in it.

    Parameters:
        source: logits, and which rows of them are meant; None for all. A row that is a group is not copied.
        reduce: takes rows, two buffers of their shape or (None, None), and these rows of every `extra`.
        extra: one number per row that is meant.

    Example:
        >>> by_chunk((torch.eye(3), torch.tensor([2, 0])), lambda rows, scratch: (rows.argmax(-1),))
        (tensor([2, 0]),)
    """
    logits, index = source
    rows, width, dtype = len(logits if index is None else index), logits.shape[-1], wide(logits.dtype)
    size = rows if not logits.is_cpu else max(1, _near() // max(1, width))
    if rows <= size:
        return reduce((logits if index is None else logits.index_select(0, index)).to(dtype), (None, None), *extra)
    one, two = torch.empty(2, size, width, dtype=dtype)
    parts = []
    for chunk, *more in zip(_groups(logits, index, size), *(torch.split(part, size) for part in extra), strict=True):
        count = chunk.shape[0]
        scratch = (one, two) if count == size else (one[:count], two[:count])
        parts.append(reduce(chunk if chunk.dtype == dtype else chunk.to(dtype), scratch, *more))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def by_group(function: Callable[..., Tensor], *parts: Tensor) -> Tensor:
    """Apply a row-wise function of (M, V) and (M,) tensors to cache-sized groups of rows on a CPU, and join the answers.

    Example:
        >>> by_group(lambda rows, index: rows.gather(1, index[:, None])[:, 0], torch.eye(3), torch.tensor([0, 2, 2]))
        tensor([1., 0., 1.])
    """
    rows, width = parts[0].shape
    size = max(1, rows if parts[0].device.type != "cpu" else _CHUNK // max(1, width))
    if rows <= size:
        return function(*parts)
    out: Tensor | None = None
    for begin in range(0, rows, size):
        found = function(*(part[begin : begin + size] for part in parts))
        out = found.new_empty((rows, *found.shape[1:])) if out is None else out
        out[begin : begin + size] = found
    assert out is not None
    return out


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the precision of sums: float32 for logits of less.

    Example:
        >>> wide(torch.bfloat16)
        torch.float32
    """
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def powers(chunk: Tensor, top: Tensor, temperature: float, scratch: Scratch) -> Tensor:
    """Return exp((logit - largest) / temperature), written to `scratch`.

    Example:
        >>> powers(torch.tensor([[2.0, 2.0, -torch.inf]]), torch.tensor([[2.0]]), 0.5, (None, None))
        tensor([[1., 1., 0.]])
    """
    scale = _scale(chunk)
    found = torch.sub(chunk, top, out=scratch[0])
    found = found if scale == temperature else found.mul_(scale / temperature)
    return found.exp_() if scale == 1 else found.exp2_()


def masses(source: Source, *mode: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest logit of every row, and the sum of exp(logit - largest); quicker where the mode is known.

    Example:
        >>> masses((torch.tensor([[2.0, 2.0, -torch.inf]]), None))
        (tensor([2.]), tensor([2.]))
    """

    def reduce(rows: Tensor, scratch: Scratch, *mode: Tensor) -> tuple[Tensor, ...]:
        top = rows.gather(-1, mode[0][:, None]) if mode else rows.amax(-1, keepdim=True)
        return top, _sums(powers(rows, top, 1.0, scratch))

    top, mass = by_chunk(source, reduce, *mode)
    return top[:, 0], mass


def entropies(source: Source) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `masses` does, and the entropy of every row, nats: of a large vocabulary.

    Sums are torch's, which add in pairs: a dot product of so many numbers is off by 1e-4 on some processors.

    Example:
        >>> entropies((torch.tensor([[2.0, 2.0, -torch.inf]]), None))
        (tensor([2.]), tensor([2.]), tensor([0.6931]))
    """
    scale = _scale(source[0])

    def reduce(rows: Tensor, scratch: Scratch) -> tuple[Tensor, ...]:
        top = rows.amax(-1, keepdim=True)
        below = torch.sub(rows, top, out=scratch[0])
        found = torch.exp(below, out=scratch[1]) if scale == 1 else torch.exp2(below.mul_(scale), out=scratch[1])
        mass = _sums(found)
        return top, mass, _sums(found.mul_(below), torch.nansum)  # 0 times -inf is nan, and meant to be 0

    top, mass, products = by_chunk(source, reduce)
    return top[:, 0], mass, mass.log() - products / (mass * scale)


def surprise(chunk: Tensor, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """Return the entropy of every row, nats, and its probabilities: of a small vocabulary, where calls are what costs.

    Example:
        >>> surprise(torch.tensor([[2.0, 2.0, -torch.inf]]), (None, None))
        (tensor([0.6931]), tensor([[0.5000, 0.5000, 0.0000]]))
    """
    logs = torch.log_softmax(chunk, -1, out=scratch[0])
    found = torch.exp(logs, out=scratch[1])
    floor = -800.0 if logs.dtype == torch.float64 else -120.0  # below it a probability is 0; 0 times -inf would be nan
    return torch.linalg.vecdot(found, logs.clamp_(min=floor)).neg_(), found


def law(logits: Tensor, temperature: float) -> Tensor:
    """Return the probabilities at a temperature > 0.

    Example:
        >>> law(torch.tensor([[0.0, 0.0, -torch.inf]]), 0.5)
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    if temperature == 1:
        return logits.softmax(-1, dtype=wide(logits.dtype))
    if temperature > _COLD:
        return logits.to(wide(logits.dtype)).mul(1 / temperature).softmax(-1)
    return logits.log_softmax(-1, dtype=wide(logits.dtype)).mul_(1 / temperature).softmax(-1)


def first_largest(rows: Tensor) -> Tensor:
    """Return the index of the first largest number of each row, on a CPU.

    It is numpy's, which compares many numbers at once, torch's one after the other.

    Example:
        >>> first_largest(torch.tensor([[1.0, 3.0, 3.0]]))
        tensor([1])
    """
    return torch.from_numpy(rows.detach().numpy().argmax(-1))


def _groups(rows: Tensor, index: Tensor | None, size: int) -> Iterable[Tensor]:
    """Yield so many rows at a time; a row that is a group is not copied."""
    if index is None:
        return torch.split(rows, size)
    if size == 1:
        return (rows.narrow(0, place, 1) for place in index.tolist())
    return (rows.index_select(0, part) for part in torch.split(index, size))


def _near() -> int:
    """Return how many numbers are handled at once where two buffers are read again.

    A row of a large vocabulary; several threads need more, or they spend it on meeting at its end.
    """
    return 1 << (17 if torch.get_num_threads() == 1 else 18)


def _scale(near: Tensor) -> float:
    """Return what natural exponents are multiplied by: on a CPU log2(e), since for many exp takes thrice as long as exp2."""
    return _LOG2_E if near.is_cpu else 1.0


def _sums(rows: Tensor, add: Callable[..., Tensor] = torch.sum) -> Tensor:
    """Return the sum of each row, rounded alike in every batch: torch would split a single row among its threads."""
    if rows.shape[0] > 1 or (rows.is_cpu and torch.get_num_threads() == 1):
        return add(rows, -1)
    return add(rows.expand(2, -1), -1)[:1]
