"""Let through what a sampler has found settled; the sampler that finds it is `demask.samplers.stable.Stable`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from demask.contracts import Step
from demask.orders.rules import Rule, best


@dataclass(frozen=True, repr=False, eq=False)
class Settled(Rule):
    """Let through the positions of a given set; of a row where the inner order lets none of them through, its best one.

    Law: the inner order's, if the set depends on nothing that is drawn at this step.   Cost: O(N).

    Parameters:
        inner: any order.
        among: (B, N) bool.

    Example:
        >>> from demask.orders import Confidence
        >>> Settled(Confidence(), torch.tensor([[True, False]]))
        Settled(Confidence(of='mode'), tensor([[ True, False]]))
    """

    among: Tensor

    def score(self, step: Step) -> Tensor:
        """Return the inner scores, -inf outside the set."""
        scores = self.inner.score(step)
        passes = self.among & (scores > -torch.inf)
        none = ~passes.any(1, keepdim=True)
        return scores.masked_fill(~passes & ~(none & best(scores)), -torch.inf)
