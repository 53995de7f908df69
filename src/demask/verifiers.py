"""Which of the drafted tokens are kept."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from demask.contracts import Law, Step


@dataclass(frozen=True)
class AcceptAll:
    """Draw a token for every chosen position and keep it.

    Law: EXACT, it keeps what was drawn.   Cost: no extra NFE; one draw per chosen position.

    Example:
        >>> AcceptAll().law
        <Law.EXACT: "the model's own joint law">
    """

    law: ClassVar[Law] = Law.EXACT

    def verify(self, step: Step, chosen: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return all of the chosen positions, with their draft."""
        return chosen, step.draft(chosen)
