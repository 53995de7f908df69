"""Orders that look at where a position lies: spaced apart, or spread over the gaps."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from demask.contracts import Law, Step
from demask.errors import OrderError
from demask.orders.rules import Rule, best, needs_probability


@dataclass(frozen=True)
class Dilated:
    """Unmask positions spaced far apart first, then those between them, level by level.

    Of n positions, counted from the left of the region (a block, inside `Blockwise`), those whose index is a multiple of
    s_1 = floor(n / base) come first, then those of s_2 = floor(s_1 / base), and so on to 1. A level is finished before the
    next begins: with `Unlimited()` as schedule a level goes in one step, about log_base(n) steps in all; other schedules
    take a level from the left, in several steps.

    Tokens far apart hardly know of each other in a chain with memory lost at a constant rate: what is unmasked together
    has little total correlation there, and the last level, the largest, sees both its neighbours.

    Law: FACTORISED.   Cost: no extra NFE, only the chosen rows are asked for; O(N log N) comparisons.

    Parameters:
        base: >= 2, the factor between the spacings.

    Raises:
        OrderError: a base below 2.

    Example:
        >>> from demask import Canvas, Parallel, Unlimited, oracles, sample
        >>> sample(oracles.parity(8), Parallel(Unlimited(), Dilated()), Canvas.blank(1, 8), key=0).when
        tensor([[0, 2, 1, 2, 0, 2, 1, 2]])

    Reference: Luxembourg, Permuter and Nachmani, Plan for speed: dilated scheduling, 2025, arXiv 2506.19037.
    """

    base: int = 2
    law: ClassVar[Law] = Law.FACTORISED
    unit: ClassVar[str] = "position"

    def __post_init__(self) -> None:
        if not isinstance(self.base, int) or self.base < 2:
            raise OrderError(f"spacings that shrink by a factor of {self.base!r}; expected an integer >= 2")

    def score(self, step: Step) -> Tensor:
        """Return the negated positions of the first unfinished level, -inf elsewhere."""
        index = step.region.cumsum(1) - 1
        spacing = step.region.sum(1, keepdim=True)
        level = torch.zeros_like(index)
        pending = torch.ones_like(step.region)
        while bool((spacing > 1).any()):
            spacing = spacing.div(self.base, rounding_mode="floor").clamp(min=1)
            pending = pending & (index % spacing != 0)
            level += pending
        current = level.masked_fill(~step.open, torch.iinfo(torch.int64).max).amin(1, keepdim=True)
        places = -torch.arange(index.shape[1], dtype=torch.float32, device=index.device)
        return places.expand(index.shape).masked_fill(~step.open | (level != current), -torch.inf)


@dataclass(frozen=True, repr=False)
class Hierarchical(Rule):
    """Let through the best position of every gap if its probability is at least `floor`, and all of at least `least`.

    A gap is a run of neighbouring positions that the inner order lets through, bounded by visible tokens or by the edge of
    a block; so what goes together is spread out, and every step cuts each gap in two. Always the best position of all.
    With `Unlimited()` as schedule all of them go at once.

    Law: the inner order's.   Cost: none beyond the inner order's; O(N).

    Parameters:
        inner: an order whose score is a log-probability: `Confidence`, or a rule around it.
        least: a probability in (0, 1].
        floor: a probability in [0, least].

    Raises:
        OrderError: another kind of score, or numbers that are no probabilities in this order.

    Example:
        >>> from demask.orders import Blockwise, Confidence
        >>> Hierarchical(Blockwise(Confidence(), 32), 0.9, 0.4)
        Hierarchical(Blockwise(Confidence(of='mode'), 32), 0.9, 0.4)

    Reference: Ma et al., dInfer, 2025, arXiv 2510.08666.
    """

    least: float
    floor: float

    def __post_init__(self) -> None:
        needs_probability(self, self.inner)
        if not 0 <= self.floor <= self.least <= 1 or self.least == 0:
            raise OrderError(
                f"probabilities of at least {self.least}, and {self.floor} for the best of a gap; expected "
                "0 <= floor <= least <= 1 and least > 0, such as 0.9 and 0.4"
            )

    def score(self, step: Step) -> Tensor:
        """Return the inner scores, -inf where neither rule lets a position through."""
        scores = self.inner.score(step)
        live = scores > -torch.inf
        begins = live.clone()
        begins[:, 1:] &= ~live[:, :-1]
        gap = begins.cumsum(1) * live  # 0 outside
        tops = scores.new_full((len(scores), scores.shape[1] + 1), -torch.inf).scatter_reduce(1, gap, scores, "amax")
        ties = live & (scores == tops.gather(1, gap))
        rank = ties.cumsum(1)
        first = ties & (rank - ((rank - ties.long()) * begins).cummax(1).values == 1)  # equals of a gap from the left
        passes = (first & (scores.exp() >= self.floor)) | (scores.exp() >= self.least) | best(scores)
        return scores.masked_fill(~passes, -torch.inf)
