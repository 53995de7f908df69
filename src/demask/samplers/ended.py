"""Stop at the end-of-text token without paying for what follows."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from demask.canvas import Canvas
from demask.contracts import Chance, Denoiser, Info, Law, Sampler
from demask.errors import OrderError
from demask.few import few
from demask.masks import listed, marks, without
from demask.samplers.particles import refuse_several


@dataclass(frozen=True)
class Ended:
    """Write the end token to the end of the row as soon as one stands, and ask for nothing behind it.

    After every step of the inner sampler, with p the first position of a row at which the sampler has unmasked the end
    token: every position behind p that was masked at the beginning becomes the end token, also one where something else
    had been drawn. What was given is never touched. A row is done when all before its first end token is unmasked.

    Schedules count such positions as unmasked, since they are known: boundaries are passed, none is moved, and no row
    takes more steps than planned. `Info.kept` names the tokens that were drawn; the others were not asked for.

    Law: the inner sampler's, of the text up to the first end token, for the denoiser that is certain of the end behind a
    visible end and answers as the given one elsewhere. That is the given one itself where it puts probability 1 on the
    end token behind an end token: then one token per step is exact. Where it does not, the tokens *before* the end see
    end tokens behind it, instead of what the denoiser would have drawn there, and their law is that of this context.

    Cost: no NFE, and none for the positions behind the end; O(B N) per step.

    Raises:
        OrderError: a sampler that writes over all tokens until its last step, of which none is an end before.

    Parameters:
        inner: a sampler whose state has a canvas, and as `start` what was masked at the beginning: all of them do.
        end: the end token.

    Example:
        >>> import torch
        >>> from demask import LeftToRight, Parallel, oracles, sample, uniform
        >>> words = oracles.Table.dense([[0.0, 0.0], [0.0, 1.0]])
        >>> run = sample(words, Ended(Parallel(uniform(2, 2), LeftToRight()), 1), Canvas.blank(1, 2), key=0)
        >>> run.tokens.tolist(), run.nfe.tolist()
        ([[1, 1]], [1])
    """

    inner: Sampler[Any]
    end: int

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
        """Return the state after one step of the inner sampler and the end that it may have drawn."""
        state, info = self.inner.step(state, denoiser, chance)
        behind = self._behind(state.start, info)
        if behind is None:
            return state, info
        canvas = info.canvas
        canvas = Canvas(canvas.tokens.masked_fill(behind, self.end), without(canvas.masked, behind))
        return replace(state, canvas=canvas), replace(info, canvas=canvas)

    def _behind(self, start: Tensor, info: Info) -> Tensor | None:
        """Return the positions behind a new end token that `start` has, (B, N) bool; None if nothing is to be done."""
        canvas, known = info.canvas, info.written
        if known is not None and known.is_cpu:  # on a host a look costs less than what it saves
            drawn = known.tolist()
            if self.end not in drawn:
                return None
            if few(start):
                found = self._open(listed(start), canvas, zip(listed(info.kept), drawn, strict=True))
                return marks(canvas.shape, found) if found else None
        new = info.kept if info.alone else without(start, canvas.masked)
        ended = new & (canvas.tokens == self.end)
        if ended.is_cpu and not bool(ended.any()):
            return None
        return start & (ended.cumsum(1) > 0)

    def _open(self, start: list[int], canvas: Canvas, written: Iterable[tuple[int, int]]) -> list[int]:
        """Return the places behind a new end token at which no end token stands: in orders that end first, there is none."""
        tokens, masked, width, found = canvas.tokens.tolist(), canvas.masked.tolist(), canvas.shape[1], []
        first: dict[int, int] = {}
        for place, token in written:
            if token == self.end:
                first.setdefault(place // width, place)
        for row, place in first.items():
            shown, hidden, begin = tokens[row], masked[row], row * width
            behind = start[bisect_right(start, place) : bisect_left(start, begin + width)]
            found += [spot for spot in behind if shown[spot - begin] != self.end or hidden[spot - begin]]
        return found

    def done(self, state: Any) -> Tensor:
        """Return the rows in which nothing is masked, (B,) bool."""
        return self.inner.done(state)


def check_keeps(sampler: Sampler[Any]) -> None:
    """Refuse a sampler of which no visible token is more than a guess until its last step.

    Raises:
        OrderError: such a sampler.
    """
    if getattr(sampler, "guesses", False):
        raise OrderError(
            f"{sampler!r} writes over every token until its last step, so nothing that it shows before ends a text; cut the "
            "text afterwards, or take a sampler that unmasks: Absorbing(..), Parallel(..)"
        )
