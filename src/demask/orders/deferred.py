"""Positions that the denoiser would end at go last."""

from dataclasses import dataclass

import torch
from torch import Tensor

from demask.contracts import Step
from demask.errors import OrderError
from demask.orders.rules import Rule


@dataclass(frozen=True, repr=False)
class Deferred(Rule):
    """Unmask the positions whose mode is one of `tokens` after all others of the region, by the inner order.

    With the end token, an end that is merely likely far behind does not cut off what is not yet written; the laws themselves
    are left alone. Inside `Blockwise` the others are those of the block. It goes right around the score:
    `Threshold(Deferred(Confidence(), (2,)), 0.9)`.

    The published option gives such positions a confidence of 0, and its release applies that to a tensor that is not read
    again; this is what it says, with the mode in place of the draft (the same at temperature 0).

    Law: the inner order's.   Cost: the modes of all open positions, which are asked for.

    Parameters:
        inner: any order.
        tokens: ids, such as the end token's.

    Raises:
        OrderError: ids that are none.

    Example:
        >>> from demask.orders import Confidence
        >>> Deferred(Confidence(), (2,))
        Deferred(Confidence(of='mode'), (2,))

    Reference: Nie et al., LLaDA, 2025, arXiv 2502.09992 (`confidence_eos_eot_inf`).
    """

    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.tokens or any(isinstance(x, bool) or not isinstance(x, int) or x < 0 for x in self.tokens):
            raise OrderError(f"deferred tokens {self.tokens!r}; expected one or more token ids >= 0, such as (2,)")

    def score(self, step: Step) -> Tensor:
        """Return the inner scores, -inf where the mode is deferred while something else may go."""
        marginals = step.marginals(step.open)
        ids = torch.tensor(self.tokens, device=step.open.device)
        late = marginals.spread(torch.isin(marginals.mode, ids), fill=False)
        scores = self.inner.score(step)
        others = ((scores > -torch.inf) & ~late).any(1, keepdim=True)
        return scores.masked_fill(late & others, -torch.inf)
