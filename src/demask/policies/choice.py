"""Laws of choice: from one logit per position to a random set of positions, and its exact log-probability.

A choice is written as ranks, (B, N) int64: 0 where a position stays masked, else 1, 2, .. in the order drawn (all 1 where
no order was drawn).
"""

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, Final, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from demask.contracts import Chance
from demask.errors import OrderError

_NEVER: Final = -1e30  # a finite stand-in for -inf, whose gradients would be nan
_ROUNDING: Final = 1e-4


class Choice(Protocol):
    """A random set of positions for given logits."""

    def draw(self, chance: Chance, where: Tensor, logits: Tensor) -> Tensor:
        """Return the ranks (B, N) of positions chosen from `where` (B, N), which may be empty in some rows."""
        ...

    def logp(self, where: Tensor, logits: Tensor, ranks: Tensor) -> Tensor:
        """Return the log-probability of drawn ranks, (B,) nats; every row of `where` has a position."""
        ...


@dataclass(frozen=True)
class Bernoulli:
    """Toss a coin for every masked position.

    s_i = min(1, boldness * sigmoid(b_i / temperature)),   log p = sum_{i chosen} log s_i + sum_{i not chosen} log(1 - s_i).

    Where no coin shows, `empty` says what goes: the position of largest logit ("best", which adds the probability of no
    coin to that one choice), or nothing ("wait": the step is spent, as in published training).

    Parameters:
        temperature: > 0; below 1 the coins become more decided.
        boldness: > 0; above 1 more positions go than the policy was trained for.
        empty: "best" or "wait".

    Raises:
        OrderError: a number that is not > 0, or another word for `empty`.

    Example:
        >>> where, logits = torch.tensor([[True, True]]), torch.tensor([[0.0, 1.0986123]])
        >>> Bernoulli().logp(where, logits, torch.tensor([[0, 1]])).exp()  # 1/2 * 3/4 + 1/2 * 1/4
        tensor([0.5000])

    Reference: Jazbec et al., Learning unmasking policies for diffusion language models, 2025, arXiv 2512.09106.
    """

    temperature: float = 1.0
    boldness: float = 1.0
    empty: Literal["best", "wait"] = "best"

    def __post_init__(self) -> None:
        _positive("temperature", self.temperature)
        _positive("boldness", self.boldness)
        if self.empty not in ("best", "wait"):
            raise OrderError(f"empty={self.empty!r}; expected 'best' or 'wait'")

    def draw(self, chance: Chance, where: Tensor, logits: Tensor) -> Tensor:
        """Return 1 where a position goes."""
        chosen = chance.bernoulli(where, self._log_coins(logits)[0].exp())
        if self.empty == "best":
            chosen = chosen | (_best(where, logits) & ~chosen.any(1, keepdim=True))
        return chosen.long()

    def logp(self, where: Tensor, logits: Tensor, ranks: Tensor) -> Tensor:
        """Return the log-probability of each row's choice."""
        yes, no = self._log_coins(logits)
        chosen = ranks > 0
        logp = torch.where(where, torch.where(chosen, yes, no), 0.0).sum(1)
        if self.empty == "wait":
            return logp
        nothing = torch.where(where, no, 0.0).sum(1)
        logp = torch.where((chosen == _best(where, logits)).all(1), torch.logaddexp(logp, nothing), logp)
        return logp.masked_fill(~chosen.any(1), -torch.inf)

    def _log_coins(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        scaled = logits / self.temperature
        if self.boldness == 1:
            return functional.logsigmoid(scaled), functional.logsigmoid(-scaled)
        show = (self.boldness * scaled.sigmoid()).clamp(max=1)
        return show.log(), (-show).log1p()


@dataclass(frozen=True)
class PlackettLuce:
    """Draw positions one after the other without replacement, until a stop is drawn: dynamic Plackett-Luce sampling.

    With b the logits over the temperature: the first position with probability exp(b_i) / sum_j exp(b_j), every further one
    from what is left and a stop of logit 0. So a choice is never empty, and with s_1 .. s_K in this order

        log p = b_{s_1} - LSE(b) + sum_{k=2..K+1} [ v_{s_k} - LSE(v of what is left and the stop) ],   s_{K+1} the stop.

    Parameters:
        temperature: > 0.

    Raises:
        OrderError: a temperature that is not > 0.

    Example:
        >>> where, logits = torch.tensor([[True, True]]), torch.zeros(1, 2)
        >>> PlackettLuce().logp(where, logits, torch.tensor([[1, 2]])).exp()  # 1/2 * 1/2, and the stop
        tensor([0.2500])

    Reference: Jazbec et al., Learning unmasking policies for diffusion language models, 2025, arXiv 2512.09106.
    """

    temperature: float = 1.0
    empty: ClassVar[str] = "never"

    def __post_init__(self) -> None:
        _positive("temperature", self.temperature)

    def draw(self, chance: Chance, where: Tensor, logits: Tensor) -> Tensor:
        """Return the ranks in the order drawn."""
        scaled = logits / self.temperature
        busy = where.any(1, keepdim=True)
        head = torch.where(busy, scaled.masked_fill(~where, -torch.inf), 0.0).softmax(1)
        place = torch.arange(where.shape[1], device=where.device)
        first = where & (place == chance.fork("first").outcome(head)[:, None])
        left = torch.cat((where & ~first, busy), 1)
        ranking = chance.fork("rest").permutation(left, functional.pad(scaled, (0, 1)))
        ahead = left[:, :-1] & (ranking[:, :-1] > ranking[:, -1:])
        turn = ranking.argsort(dim=1, descending=True, stable=True).argsort(1)[:, :-1] + 2
        return first.long() + turn * ahead

    def logp(self, where: Tensor, logits: Tensor, ranks: Tensor) -> Tensor:
        """Return the log-probability of each row's choice."""
        b = logits / self.temperature
        first, later, left = ranks == 1, ranks > 1, where & (ranks == 0)
        start = torch.where(first, b, 0.0).sum(1) - b.masked_fill(~where, -torch.inf).logsumexp(1)
        unchosen = functional.pad(b.masked_fill(~left, -torch.inf), (0, 1)).logsumexp(1, keepdim=True)
        backwards = ranks.argsort(dim=1, descending=True)  # the last drawn in front: it was drawn from the fewest
        drawn = torch.where(later, b, _NEVER).gather(1, backwards)
        pools = torch.cat((unchosen, drawn), 1).logcumsumexp(1)[:, 1:]
        rest = torch.where(later.gather(1, backwards), drawn - pools, 0.0).sum(1)
        return start + rest - unchosen[:, 0]


def _best(where: Tensor, logits: Tensor) -> Tensor:
    """Return the position of largest logit in `where`, (B, N) bool; the first of equals, none in an empty row.

    Logits that differ by rounding are equal, or a row would depend on its batch mates.
    """
    inside = logits.masked_fill(~where, -torch.inf)
    equal = where & (inside >= inside.amax(1, keepdim=True) - _ROUNDING)
    return equal & (equal.cumsum(1) == 1)


def _positive(name: str, value: float) -> None:
    if not (isfinite(value) and value > 0):
        raise OrderError(f"{name} = {value}; expected a finite number > 0, such as 1.0")
