"""Stop where a stop string is complete without paying for what follows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from demask.canvas import Canvas
from demask.contracts import Chance, Denoiser, Info, Law, Sampler
from demask.masks import without
from demask.samplers.ended import check_keeps
from demask.samplers.particles import refuse_several


@dataclass(frozen=True)
class Stopped:
    """Write the end token behind the first stop as soon as everything up to it stands, and ask for nothing behind it.

    After every step of the inner sampler `found` reads the row's generated tokens from the left, up to the first that is
    still masked. Where it finds a stop after n of them, all behind become the end token, also where something else had been
    drawn. What was given is never touched. A stop behind a masked position is not acted upon: the text before it may yet
    bring an earlier one.

    Law: the inner sampler's, of the text up to its first stop: nothing is written behind before that text is complete. This
    holds for samplers that never remask.

    Cost: no NFE, and none for the positions behind the stop; the generated tokens are read on the host at every step.

    Raises:
        OrderError: a sampler that writes over all tokens until its last step.

    Parameters:
        inner: a sampler whose state has a canvas, and as `start` what was masked at the beginning.
        end: the end token.
        found: of the generated tokens from the left, how many hold the first stop; None where there is none.

    Example:
        >>> from demask import LeftToRight, Parallel, oracles, sample, uniform
        >>> pair = oracles.Table.dense([[[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]])  # always 1 0 1
        >>> sampler = Stopped(Parallel(uniform(3, 3), LeftToRight()), 1, lambda tokens: 2 if 0 in tokens else None)
        >>> run = sample(pair, sampler, Canvas.blank(1, 3), key=0)
        >>> run.tokens.tolist(), run.nfe.tolist()
        ([[1, 0, 1]], [2])
    """

    inner: Sampler[Any]
    end: int
    found: Callable[[Sequence[int]], int | None]

    def __post_init__(self) -> None:
        refuse_several(self, self.inner)
        check_keeps(self.inner)

    @property
    def law(self) -> Law:
        """The inner sampler's."""
        return self.inner.law

    def init(self, canvas: Canvas, chance: Chance) -> Any:
        """Return the state of a run that begins with `canvas`."""
        return self.inner.init(canvas, chance)

    def step(self, state: Any, denoiser: Denoiser, chance: Chance) -> tuple[Any, Info]:
        """Return the state after one step of the inner sampler and the stop that it may have completed."""
        state, info = self.inner.step(state, denoiser, chance)
        canvas, start = info.canvas, state.start
        complete = without(start, canvas.masked.cumsum(1) > 0)
        most = torch.full((len(start),), canvas.shape[1], device=canvas.device)
        for row in info.kept.any(1).nonzero()[:, 0].tolist():
            stop = self.found(canvas.tokens[row, complete[row]].tolist())
            if stop is not None:
                most[row] = stop
        behind = start & (start.cumsum(1) > most[:, None])
        canvas = Canvas(canvas.tokens.masked_fill(behind, self.end), without(canvas.masked, behind))
        return replace(state, canvas=canvas), replace(info, canvas=canvas)

    def done(self, state: Any) -> Tensor:
        """Return the rows that the inner sampler has finished, (B,) bool."""
        return self.inner.done(state)
