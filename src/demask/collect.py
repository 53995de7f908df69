"""What is looked at while the loop turns."""

from dataclasses import dataclass, field
from time import perf_counter
from typing import ClassVar

import torch
from torch import Tensor

from demask.contracts import Info


@dataclass
class Trace:
    """Keep the canvas after every step: (steps, B, N) tokens, -1 where still masked.

    Example:
        >>> Trace().name
        'trace'
    """

    name: ClassVar[str] = "trace"
    _frames: list[Tensor] = field(default_factory=list, repr=False)

    def see(self, info: Info) -> None:
        """Keep a copy."""
        self._frames.append(info.canvas.tokens.masked_fill(info.canvas.masked, -1))

    def result(self) -> Tensor:
        """Return the stacked canvases."""
        return torch.stack(self._frames) if self._frames else torch.zeros(0, 0, 0, dtype=torch.int64)


@dataclass
class Entropies:
    """Keep the entropy of every token's law when it was unmasked: (B, N) nats, nan where none was.

    Cost: one reduction of the unmasked rows per step; no NFE.
    """

    name: ClassVar[str] = "entropies"
    _seen: Tensor | None = field(default=None, repr=False)

    def see(self, info: Info) -> None:
        """Read the laws that the step has already asked for."""
        if self._seen is None:
            self._seen = torch.full(info.kept.shape, torch.nan, device=info.kept.device)
        if bool(info.kept.any()):
            marginals = info.step.marginals(info.kept)
            self._seen = torch.where(info.kept, marginals.spread(marginals.entropy.float()), self._seen)

    def result(self) -> Tensor:
        """Return the entropies."""
        return torch.zeros(0, 0) if self._seen is None else self._seen


@dataclass
class Sizes:
    """Keep how many tokens each step unmasked: (steps, B) int64."""

    name: ClassVar[str] = "sizes"
    _counts: list[Tensor] = field(default_factory=list, repr=False)

    def see(self, info: Info) -> None:
        """Count."""
        self._counts.append(info.kept.sum(1))

    def result(self) -> Tensor:
        """Return the stacked counts."""
        return torch.stack(self._counts) if self._counts else torch.zeros(0, 0, dtype=torch.int64)


@dataclass
class Seconds:
    """Keep the seconds that each step took, as a list; the clock starts when the collector is made."""

    name: ClassVar[str] = "seconds"
    _marks: list[float] = field(default_factory=lambda: [perf_counter()], repr=False)

    def see(self, info: Info) -> None:
        """Read the clock; on a GPU the step's work may still be queued."""
        self._marks.append(perf_counter())

    def result(self) -> list[float]:
        """Return the seconds per step."""
        return [later - earlier for earlier, later in zip(self._marks[:-1], self._marks[1:], strict=True)]
