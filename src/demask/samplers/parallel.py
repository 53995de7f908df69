"""The workhorse: a schedule says how many, an order which, a verifier what is kept."""

from dataclasses import dataclass, field
from math import inf
from typing import Final

import torch
from torch import Tensor

from demask.canvas import Canvas, Marginals
from demask.contracts import Chance, Denoiser, Info, Law, Order, Schedule, Step, Verifier, ranked
from demask.few import few
from demask.masks import empty, inside, marks
from demask.verifiers import AcceptAll

_ONE_BY_ONE: Final = 8  # the most positions of a row that are not worth sorting it


@dataclass(frozen=True, eq=False)
class State:
    """What the next step of `Parallel` needs.

    Parameters:
        canvas: as it stands.
        start: (B, N) bool, what was masked at the beginning.
        origin: the run's chance.
    """

    canvas: Canvas
    start: Tensor
    origin: Chance


@dataclass(frozen=True)
class Parallel:
    """Unmask the `schedule`'s number of positions, first by `order`, and keep what `verifier` keeps.

    Law: TILTED if the order is; EXACT if every step unmasks one token; FACTORISED otherwise.
    Cost: one NFE per step and unfinished row, unless an order or verifier says otherwise; rows that have nothing to
    unmask cost none.

    Example:
        >>> from demask.orders import Random
        >>> from demask.schedules import uniform
        >>> Parallel(uniform(8, 8), Random()).law
        <Law.EXACT: "the model's own joint law">
    """

    schedule: Schedule
    order: Order
    verifier: Verifier = field(default_factory=AcceptAll)

    @property
    def law(self) -> Law:
        """What follows from the parts."""
        if Law.TILTED in (self.order.law, self.verifier.law):
            return Law.TILTED
        return Law.EXACT if getattr(self.schedule, "single", False) else Law.FACTORISED

    def init(self, canvas: Canvas, chance: Chance) -> State:
        """Return the state of a run that begins with `canvas`."""
        return State(canvas, canvas.masked, chance)

    def step(self, state: State, denoiser: Denoiser, chance: Chance) -> tuple[State, Info]:
        """Return the state after one step, and what happened."""
        step = Step(state.canvas, state.start, state.start, denoiser, chance, state.origin)
        scores = self.order.score(step)
        chosen = largest(scores, self.schedule.count(step, scores))
        kept, tokens = self.verifier.verify(step, chosen, scores)
        info = step.unmasked(kept, tokens)
        return State(info.canvas, state.start, state.origin), info

    def done(self, state: State) -> Tensor:
        """Return the rows with nothing masked, (B,) bool."""
        return empty(state.canvas.masked)

    def __repr__(self) -> str:
        verifier = "" if self.verifier == AcceptAll() else f", {self.verifier!r}"
        return f"Parallel({self.schedule!r}, {self.order!r}{verifier})"


class Passing:
    """A denoiser around another, to which it passes on what is asked along an order."""

    inner: Denoiser

    def along(self, canvas: Canvas, where: Tensor, ranks: Tensor) -> Marginals:
        """Ask along an order."""
        return ranked(self.inner).along(canvas, where, ranks)

    @property
    def vocabulary(self) -> int:
        """How many tokens can be written, V."""
        return ranked(self.inner).vocabulary


@dataclass(frozen=True, eq=False)
class Asked(Passing):
    """A denoiser that has already been asked about one canvas.

    Parameters:
        canvas: about which.
        answer: what it said.
        inner: for other canvases, and for positions that it was not asked about.
    """

    canvas: Canvas
    answer: Marginals
    inner: Denoiser

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer from what is known, or ask."""
        known = canvas is self.canvas and inside(where, self.answer.where)
        return self.answer.only(where) if known else self.inner(canvas, where)


def largest(scores: Tensor, count: Tensor) -> Tensor:
    """Return the `count` (B,) positions of largest score (B, N) per row, never one of -inf; equals from the left.

    What is no number counts as largest, so that it is drawn from, and found out, at once.

    Example:
        >>> largest(torch.tensor([[0.5, 0.9, -torch.inf]]), torch.tensor([2]))
        tensor([[ True,  True, False]])
    """
    if few(scores):
        width = scores.shape[1]
        rows = enumerate(zip(scores.tolist(), count.tolist(), strict=True))
        return marks((len(scores), width), [row * width + place for row, line in rows for place in _largest(*line)])
    none, sizes = torch.zeros_like(scores, dtype=torch.bool), set(count.tolist()) if count.is_cpu else set()
    if sizes == {1}:  # one token at a time
        best, index = scores.max(1, keepdim=True)
    else:
        best, index = scores.sort(dim=1, descending=True, stable=True)
    if len(sizes) == 1:
        size = sizes.pop()
        return none.scatter_(1, index[:, :size], best[:, :size] != -inf)
    ranks = torch.arange(scores.shape[1], device=scores.device) < count[:, None]
    return none.scatter_(1, index, ranks & (best != -inf))


def _largest(values: list[float], size: int) -> list[int]:
    """Return the places of the so many largest of a row."""
    total = sum(values)
    if total != total:
        values = [inf if value != value else value for value in values]
    if size > _ONE_BY_ONE:
        ranked = sorted(range(len(values)), key=values.__getitem__, reverse=True)
        return [place for place in ranked[:size] if values[place] != -inf]
    found: list[int] = []
    while len(found) < size and (best := max(values)) != -inf:
        found.append(values.index(best))
        values[found[-1]] = -inf
    return found
