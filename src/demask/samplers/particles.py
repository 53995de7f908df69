"""Several trajectories of every row: copies of its state, each with its own draws."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from demask.contracts import Chance

T = TypeVar("T")


def select(value: T, keep: Tensor) -> T:
    """Keep some rows of a sampler's state, or of what a step told: a (B,) bool, or row numbers, also repeated.

    Everything in it that has rows has them first, or a method `rows` that keeps them; the rest belongs to the run.

    Example:
        >>> from demask import Canvas
        >>> from demask.chance import Keyed
        >>> from demask.samplers import State
        >>> canvas = Canvas(torch.tensor([[4], [5]]), torch.tensor([[False], [False]]))
        >>> select(State(canvas, canvas.masked, Keyed.of(0, torch.arange(2))), torch.tensor([1, 1])).canvas
        Canvas([[5], [5]])
    """
    if hasattr(value, "rows"):
        return cast(T, value.rows(keep))
    if isinstance(value, Tensor):
        return cast(T, value[keep]) if value.ndim else value
    if is_dataclass(value) and not isinstance(value, type):
        parts: dict[str, Any] = {field.name: select(getattr(value, field.name), keep) for field in fields(value)}
        return cast(T, replace(value, **parts))
    if isinstance(value, tuple):
        return cast(T, tuple(select(part, keep) for part in value))
    return value


def copies(rows: int, count: int, device: torch.device) -> Tensor:
    """Return the row numbers of `count` copies of every row, the copies of a row side by side.

    Example:
        >>> copies(2, 3, torch.device("cpu"))
        tensor([0, 0, 0, 1, 1, 1])
    """
    return torch.arange(rows, device=device).repeat_interleave(count)


def split(chance: Chance, rows: int, count: int, device: torch.device) -> Chance:
    """Return chance for `count` copies of every row, each with its own draws; one copy draws what the row would."""
    chance = chance.rows(copies(rows, count, device))
    return chance if count == 1 else chance.fork("copy", torch.arange(count, device=device).repeat(rows))
