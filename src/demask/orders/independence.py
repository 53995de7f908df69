"""Test which positions are independent given what is visible, with few passes: PUNT."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from demask.contracts import Law, Step
from demask.errors import OrderError
from demask.masks import without
from demask.orders.divergence import divergence
from demask.orders.rules import Rule


@dataclass(frozen=True, eq=False)
class Tests:
    """What the tests of one step found.

    Parameters:
        accepted: (B, N) bool, the positions that may go together.
        divergence: (B, N), nats, the largest KL that a position showed in its tests; 0 where it met none, and outside the
            step's open positions.
        passes: (B,) int64, forward passes that the tests took, beside the one that the step needs anyway.
    """

    accepted: Tensor
    divergence: Tensor
    passes: Tensor


@dataclass(frozen=True, repr=False)
class Independent(Rule):
    """Let through positions whose laws do not change when better ranked ones are filled in.

    The open positions are ranked 0, 1, .. by the inner order. For every bit of the rank, most significant first: the
    surviving positions whose bit is 0 are filled in with their tokens y, and a surviving j whose bit is 1 is dropped if

        KL( p(x_j | visible) || p(x_j | visible, y) ) > epsilon.

    Two survivors differ in some bit, so the lower ranked was tested with the higher one filled in. Rank 0 is never
    tested: at least one position goes. With `Unlimited()` as schedule all survivors go at once; any other schedule caps
    their number, best ranked first, and `Blockwise` around the rule keeps the tests within a block.

    Law: the inner order's with `of="mode"`: the tests then look at nothing that was drawn. With `of="draft"`, as published,
    TILTED: the tests of j fill in the tokens that are about to be written, and whether j survives depends, through
    those which its own token has driven out, on its own draw (on the chain of tests/orders/test_independence.py, at
    epsilon 0.16, a token that goes at the first step is 0 with probability 0.32 instead of 0.60). Yet with an exact
    denoiser the published form is exact for epsilon -> 0 where independence given some tokens implies independence given
    fewer of them (independence stability), as in products of groups. It fails where every pair is independent and the
    whole is not: on parity both forms are off by TV 0.5 at any epsilon. Candidates that contradict each
    other can hide a dependence, too: three copies of a fair bit are off by TV 0.25.

    Cost: at most 1 + ceil(log2 m) NFE per step with m open positions, each round one pass with up to m rows asked; a round
    in which a row has nobody to fill in or to test costs that row nothing. O(m V) for the divergences.

    Parameters:
        inner: an order; published with confidence. An inner rule narrows what is tested.
        epsilon: >= 0, nats; 0.01 to 0.32 in the paper. At 0 the rounding of equal laws counts as dependence.
        of: what is filled in: the step's draft, or the mode.

    Raises:
        OrderError: epsilon that is no number >= 0, or another word for `of`.

    Example:
        >>> from demask import Canvas, Parallel, Unlimited, oracles, sample
        >>> from demask.orders import Confidence
        >>> three = oracles.repetition(3, 2)
        >>> run = sample(three, Parallel(Unlimited(), Independent(Confidence(), 0.01)), Canvas.blank(1, 3), key=0)
        >>> run.when.tolist(), run.nfe.tolist()
        ([[0, 1, 1]], [5])

    Reference: Azangulov et al., PUNT, 2025, arXiv 2510.21961.
    """

    epsilon: float
    of: Literal["mode", "draft"] = "draft"

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise OrderError(f"a divergence of at most {self.epsilon} nats; expected a number >= 0, such as 0.04")
        if self.of not in ("mode", "draft"):
            raise OrderError(f"tests with {self.of!r} filled in; expected 'draft' (published) or 'mode' (honest)")

    @property
    def law(self) -> Law:
        """The inner order's for the mode, TILTED for the draft."""
        return self.inner.law if self.of == "mode" else Law.TILTED

    def score(self, step: Step) -> Tensor:
        """Return the inner scores, -inf where a test was failed."""
        scores = self.inner.score(step)
        return scores.masked_fill(~self._test(step, scores).accepted, -torch.inf)

    def test(self, step: Step) -> Tests:
        """Return the accepted set, the divergences and the passes of a step. Cost: the NFE of the tests, once more."""
        return self._test(step, self.inner.score(step))

    def _test(self, step: Step, scores: Tensor) -> Tests:
        accepted = scores > -torch.inf
        worst = torch.zeros(scores.shape, device=scores.device)
        passes = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
        if bool(accepted.any()):
            before = step.marginals(step.open)
            tokens = step.draft(step.open) if self.of == "draft" else before.spread(before.mode)
            worst = worst.to(before.peak)
            ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            for bit in reversed(range((int(accepted.sum(1).max()) - 1).bit_length())):
                late = (ranks >> bit) & 1 == 1
                filled, tested = accepted & ~late, accepted & late
                busy = filled.any(1) & tested.any(1)
                if not bool(busy.any()):
                    continue
                filled, tested = filled & busy[:, None], tested & busy[:, None]
                after = step.denoiser(step.canvas.unmask(filled, tokens), tested)
                moved = divergence(before.only(tested).logits, after.logits)
                found = after.spread(moved)
                worst = torch.maximum(worst, found.to(worst))
                accepted = without(accepted, tested & ~(found <= self.epsilon))  # nan, too, is no sign of independence
                passes += busy
        return Tests(accepted, worst, passes)
