"""Several trajectories of every row: copies of its state, each with its own draws."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from demask.contracts import Chance, Sampler
from demask.errors import ParticleError


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


def checked(totals: Tensor, like: Tensor) -> Tensor:
    """Return log potentials (B P,) in the shape of `like` (B, P).

    Raises:
        ParticleError: one is nan or +inf.
    """
    wrong = ~(totals < torch.inf)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0]) // like.shape[1]
        raise ParticleError(f"the potential of a trajectory of row {row} is nan or +inf; expected a number, or -inf")
    return totals.view(like.shape).to(like)


def shares(logw: Tensor) -> Tensor:
    """Return weights that sum to 1 from their logs, (B, P).

    Raises:
        ParticleError: a row in which all weights are 0.
    """
    if not bool((logw > -torch.inf).any(1).all()):
        row = int((logw == -torch.inf).all(1).nonzero()[0])
        raise ParticleError(
            f"all {logw.shape[1]} trajectories of row {row} have weight 0; expected one above: take more, or a finite "
            "reward, such as -20, for what is unwanted"
        )
    return logw.softmax(1)


def inside(sampler: Sampler[Any], wrap: Callable[..., Sampler[Any]], *options: Any) -> Sampler[Any]:
    """Wrap what acts on single texts: a sampler, or that inside one that moves several trajectories of a row.

    Example:
        >>> from demask import Ended, LeftToRight, Parallel, uniform
        >>> from demask.samplers import SMC
        >>> sampler = inside(SMC(Parallel(uniform(4, 4), LeftToRight())), Ended, 2)
        >>> type(sampler).__name__, type(sampler.inner).__name__
        ('SMC', 'Ended')
    """
    if getattr(sampler, "several", False):
        changed: Any = sampler
        return cast(Sampler[Any], replace(changed, inner=inside(changed.inner, wrap, *options)))
    return wrap(sampler, *options)


def refuse_several(wrapper: object, inner: object) -> None:
    """Raise if a wrapper that acts on single texts stands around several trajectories of a row."""
    if getattr(inner, "several", False):
        mine, theirs = type(wrapper).__name__, type(inner).__name__
        raise ParticleError(
            f"{mine} around {theirs} acts on the trajectory that is shown, and on no other; put it inside, "
            f"{theirs}({mine}(..), ..): demask.samplers.inside({theirs}(..), {mine}, ..) does"
        )
