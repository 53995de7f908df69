"""How a peer moves along a direction between two exchanges: by plain steps, by heavy-ball steps, or by Adam's."""

from dataclasses import dataclass
from math import isfinite
from typing import Final, Protocol

import torch
from torch import Tensor

from demask.errors import TrainingError

Memory = dict[str, Tensor]  # what a peer keeps beside its weights: tensors by name, never sent
_TINY: Final = 1e-8


class Descent(Protocol):
    """Moves a point against a direction."""

    def start(self, memory: Memory) -> None:
        """Prepare `memory` for the local steps of a round."""
        ...

    def move(self, point: Tensor, direction: Tensor, memory: Memory, height: float) -> None:
        """Move `point` (P,) in place, at `height` times the peak rate."""
        ...


@dataclass(frozen=True)
class SGD:
    """Go down the direction, with what is left of the last move of this round.

    v <- momentum v - rate direction,   x <- x + v,   v = 0 when a round begins.

    Parameters:
        rate: > 0, the step eta.
        momentum: in [0, 1); 0 is the plain step.

    Raises:
        TrainingError: a number out of its range.
    """

    rate: float = 0.1
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_positive(rate=self.rate)
        check_share(momentum=self.momentum)

    def start(self, memory: Memory) -> None:
        """Forget the last move: it led away from where mixing has put the peer."""
        memory.pop("velocity", None)

    def move(self, point: Tensor, direction: Tensor, memory: Memory, height: float) -> None:
        """Move in place."""
        if self.momentum == 0:
            point.add_(direction, alpha=-self.rate * height)
            return
        velocity = memory.setdefault("velocity", torch.zeros_like(point))
        velocity.mul_(self.momentum).add_(direction, alpha=-self.rate * height)
        point.add_(velocity)


@dataclass(frozen=True)
class Adam:
    """Go by the mean of recent directions over the root of their mean square; the means live as long as the peer.

    Each peer keeps its own means and sends none. Not part of the published methods, which take plain steps; transformers
    learn little from those.

    Parameters:
        rate: > 0, how far a number moves at most or so.
        first, second: in [0, 1), how long directions and their squares are remembered.

    Raises:
        TrainingError: a number out of its range.

    Reference: Kingma and Ba, Adam, 2014, arXiv 1412.6980.
    """

    rate: float = 1e-3
    first: float = 0.9
    second: float = 0.98

    def __post_init__(self) -> None:
        check_positive(rate=self.rate)
        check_share(first=self.first, second=self.second)

    def start(self, memory: Memory) -> None:
        """Keep everything."""

    def move(self, point: Tensor, direction: Tensor, memory: Memory, height: float) -> None:
        """Move in place."""
        mean = memory.setdefault("mean", torch.zeros_like(point))
        square = memory.setdefault("square", torch.zeros_like(point))
        moves = memory.setdefault("moves", torch.zeros((), dtype=torch.float64))
        moves += 1
        mean.lerp_(direction, 1 - self.first)
        square.lerp_(direction * direction, 1 - self.second)
        count = float(moves)
        scale = (square / (1 - self.second**count)).sqrt_().add_(_TINY)
        point.addcdiv_(mean, scale, value=-self.rate * height / (1 - self.first**count))


def check_positive(**numbers: float) -> None:
    """Raise a TrainingError for a number that is not finite and > 0."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not (isfinite(value) and value > 0):
            raise TrainingError(f"{name} = {value!r}; expected a finite number > 0")


def check_share(**numbers: float) -> None:
    """Raise a TrainingError for a number outside [0, 1)."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise TrainingError(f"{name} = {value!r}; expected a number in [0, 1)")
