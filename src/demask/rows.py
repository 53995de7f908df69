"""Rows of anything that has them: some of a value, and those of several values side by side.

A value is a tensor, a canvas, a chance, a frozen dataclass or a tuple of such. Its tensors have the rows first; a tensor
without dimensions, and all that is no tensor, belongs to the run.
"""

from collections.abc import Hashable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from demask.canvas import ABSENT, Canvas, Marginals
from demask.chance import Keyed

T = TypeVar("T")


def select(value: T, keep: Tensor) -> T:
    """Keep some rows of a sampler's state, or of what a step told: a (B,) bool, or row numbers, also repeated.

    What has a method `rows` is asked to keep them.

    Example:
        >>> from demask.samplers import State
        >>> canvas = Canvas(torch.tensor([[4], [5]]), torch.tensor([[False], [False]]))
        >>> select(State(canvas, canvas.masked, Keyed.of(0, torch.arange(2))), torch.tensor([1, 1])).canvas
        Canvas([[5], [5]])
    """
    if hasattr(value, "rows"):
        return cast(T, value.rows(keep))
    if isinstance(value, Tensor):
        return cast(T, value[keep]) if value.ndim else value
    if _parted(value):
        parts = {field.name: select(getattr(value, field.name), keep) for field in fields(cast(Any, value))}
        return cast(T, replace(cast(Any, value), **parts))
    if isinstance(value, tuple):
        return cast(T, tuple(select(part, keep) for part in value))
    return value


def kind(value: object, shape: tuple[int, int]) -> Hashable:
    """Return what values must have in common for `join`; something that nothing else equals, where it cannot be joined.

    A canvas and (B, N) bools may be of any width. Other numbers may not: nothing says what they would be where a row has no
    position.

    Parameters:
        value: of a run.
        shape: of its canvas, (B, N).

    Example:
        >>> kind(torch.zeros(2, 3).bool(), (2, 3)) == kind(torch.zeros(1, 5).bool(), (1, 5))
        True
        >>> kind(torch.zeros(2, 3), (2, 3)) == kind(torch.zeros(1, 5), (1, 5))
        False
    """
    if isinstance(value, Canvas):
        return (Canvas, value.device) if value.shape == shape else object()
    if isinstance(value, Keyed):
        return (Keyed, len(value.tags)) if len(value.names) == shape[0] else object()
    if isinstance(value, Tensor):
        if value.ndim == 0 or len(value) != shape[0]:
            return object()
        wide = value.dtype == torch.bool and value.shape == shape
        return (value.dtype, value.device, None if wide else value.shape[1:])
    if _parted(value) and not hasattr(value, "rows"):
        return (type(value), *(kind(getattr(value, field.name), shape) for field in fields(cast(Any, value))))
    if isinstance(value, tuple):
        return (tuple, *(kind(part, shape) for part in value))
    return (type(value), value) if value is None or isinstance(value, bool | int | float | str) else object()


def join(values: Sequence[T]) -> T:
    """Return a value with the rows of several of one `kind`, one after the other.

    The shorter rows get positions that do not exist: absent in a canvas, False among bools.

    Example:
        >>> join([Canvas.blank(1, 2), Canvas(torch.tensor([[7]]), torch.tensor([[False]]))])
        Canvas([[_, _], [7, -1]])
    """
    first: Any = values[0]
    rest = cast(Sequence[Any], values)
    if isinstance(first, Canvas):
        tokens, masked = (_beside([getattr(v, name) for v in rest], fill) for name, fill in _CANVAS)
        return cast(T, Canvas(tokens, masked))
    if isinstance(first, Keyed):
        return cast(T, Keyed.join(rest))
    if isinstance(first, Tensor):
        return cast(T, _beside(rest, False) if first.dtype == torch.bool and first.ndim == 2 else torch.cat(list(rest)))
    if _parted(first):
        return cast(T, replace(first, **{f.name: join([getattr(v, f.name) for v in rest]) for f in fields(first)}))
    if isinstance(first, tuple):
        return cast(T, tuple(join(parts) for parts in zip(*rest, strict=True)))
    return cast(T, first)


def narrow(value: T, shape: tuple[int, int], width: int) -> T:
    """Drop the positions from `width` on, of which no row has any: what `join` has added for a row that has left.

    Parameters:
        value: of a run.
        shape: of its canvas, (B, N).
        width: <= N.

    Example:
        >>> narrow(Canvas(torch.tensor([[7, -1]]), torch.tensor([[False, False]])), (1, 2), 1)
        Canvas([[7]])
    """
    held: Any = value
    if isinstance(held, Canvas):
        return cast(T, Canvas(held.tokens[:, :width].contiguous(), held.masked[:, :width].contiguous()))
    if isinstance(held, Marginals):
        return cast(T, replace(held, where=held.where[:, :width].contiguous()))
    if isinstance(held, Tensor):
        return cast(T, held[:, :width].contiguous() if held.shape == shape else held)
    if _parted(held) and not isinstance(held, Keyed):
        parts = {field.name: narrow(getattr(held, field.name), shape, width) for field in fields(held)}
        return cast(T, replace(held, **parts))
    return cast(T, tuple(narrow(part, shape, width) for part in held)) if isinstance(held, tuple) else value


_CANVAS = (("tokens", ABSENT), ("masked", False))


def _parted(value: object) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _beside(parts: Sequence[Tensor], fill: int) -> Tensor:
    """Return (B_i, N_i) tensors one below the other, filled up to the widest."""
    width = max(part.shape[1] for part in parts)
    return torch.cat(
        [part if part.shape[1] == width else pad(part, (0, width - part.shape[1]), value=fill) for part in parts]
    )
