"""Orders: which positions go first.

A score is larger for a position that should go earlier. An order whose scores depend only on the visible tokens, and on
chance that is independent of the draws, is honest (FACTORISED): one token per step it leaves the law exact.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from demask.contracts import Law, Step
from demask.errors import OrderError


@dataclass(frozen=True)
class Random:
    """Unmask uniformly random positions.

    score_i = the rank of i in one random permutation per row (and block), drawn when it begins.

    The only order for which a schedule's guarantees hold.

    Law: FACTORISED.   Cost: no extra NFE, and only the chosen rows are asked for.

    Example:
        >>> Random().unit
        'priority'
    """

    law: ClassVar[Law] = Law.FACTORISED
    unit: ClassVar[str] = "priority"

    def score(self, step: Step) -> Tensor:
        """Return the priorities of the open positions."""
        return step.origin.fork("order").permutation(step.region).masked_fill(~step.open, -torch.inf)


@dataclass(frozen=True)
class LeftToRight:
    """Unmask from the left.

    score_i = -i.

    Law: FACTORISED.   Cost: no extra NFE, and only the chosen rows are asked for.

    Example:
        >>> from demask import Canvas, Parallel, oracles, sample, uniform
        >>> sample(oracles.parity(4), Parallel(uniform(4, 4), LeftToRight()), Canvas.blank(1, 4), key=0).when
        tensor([[0, 1, 2, 3]])
    """

    law: ClassVar[Law] = Law.FACTORISED
    unit: ClassVar[str] = "position"

    def score(self, step: Step) -> Tensor:
        """Return the negated positions."""
        places = -torch.arange(step.open.shape[1], dtype=torch.float32, device=step.open.device)
        return places.expand(step.open.shape).masked_fill(~step.open, -torch.inf)


@dataclass(frozen=True)
class Confidence:
    """Unmask the positions whose mode is most probable.

    score_i = max_v log p(x_i = v | visible), or log p of the drawn token with `of="draft"`.

    The draft makes the set of unmasked positions depend on the draws: at temperature > 0 even one token per step is then
    wrong, with an exact denoiser (mean KL 0.91 nats over the 20 random 4-token binary Markov chains of
    tests/laws/test_identities.py), which is why that form is TILTED and not the default. At temperature 0 both are the same.

    Law: FACTORISED for the mode, TILTED for the draft.   Cost: no extra NFE; O(M V), and for the draft a draw per open
    position.

    Example:
        >>> Confidence().law, Confidence("draft").law
        (<Law.FACTORISED: ...>, <Law.TILTED: ...>)

    Reference: Chang et al., MaskGIT, 2022, arXiv 2202.04200 (draft); Nie et al., LLaDA, 2025, arXiv 2502.09992 (draft).
    """

    of: Literal["mode", "draft"] = "mode"
    unit: ClassVar[str] = "log-probability"

    def __post_init__(self) -> None:
        if self.of not in ("mode", "draft"):
            raise OrderError(f"Confidence({self.of!r}); expected 'mode' (honest) or 'draft' (the published rule)")

    @property
    def law(self) -> Law:
        """FACTORISED for the mode, TILTED for the draft."""
        return Law.FACTORISED if self.of == "mode" else Law.TILTED

    def score(self, step: Step) -> Tensor:
        """Return the log-probabilities."""
        marginals = step.marginals(step.open)
        if self.of == "mode":
            return marginals.spread(marginals.peak, fill=-torch.inf)
        drawn = step.draft(step.open)[step.open]
        return marginals.spread(marginals.logp(drawn), fill=-torch.inf)


@dataclass(frozen=True)
class Margin:
    """Unmask the positions whose two best tokens are furthest apart.

    score_i = p(mode) - p(runner-up).

    Law: FACTORISED.   Cost: no extra NFE; O(M V).

    Example:
        >>> Margin().unit
        'probability'

    Reference: Kim et al., Train for the worst, plan for the best, 2025, arXiv 2502.06768.
    """

    law: ClassVar[Law] = Law.FACTORISED
    unit: ClassVar[str] = "probability"

    def score(self, step: Step) -> Tensor:
        """Return the differences."""
        marginals = step.marginals(step.open)
        return marginals.spread(marginals.margin, fill=-torch.inf)


@dataclass(frozen=True)
class Entropy:
    """Unmask the positions whose law has the least entropy.

    score_i = -H(x_i | visible), nats.

    Law: FACTORISED.   Cost: no extra NFE; O(M V).

    Example:
        >>> Entropy().law
        <Law.FACTORISED: 'honest conditionals, drawn independently within a step'>

    Reference: Ye et al., Dream, 2025, arXiv 2508.15487.
    """

    law: ClassVar[Law] = Law.FACTORISED
    unit: ClassVar[str] = "nats"

    def score(self, step: Step) -> Tensor:
        """Return the negated entropies."""
        marginals = step.marginals(step.open)
        return marginals.spread(-marginals.entropy, fill=-torch.inf)
