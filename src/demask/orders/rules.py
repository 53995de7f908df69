"""Rules: orders around orders, which say what may not go at this step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from demask.contracts import Law, Order, Over, Step, check_blocks
from demask.errors import OrderError


@dataclass(frozen=True, repr=False)
class Rule(ABC):
    """An order around an inner order, whose law it keeps: what it adds depends on no token's own draw."""

    inner: Order

    @property
    def law(self) -> Law:
        """The inner order's."""
        return self.inner.law

    @property
    def unit(self) -> str:
        """The inner order's, unless the rule changes the scores."""
        return self.inner.unit

    @abstractmethod
    def score(self, step: Step) -> Tensor:
        """Return the inner scores, -inf for what may not go."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(getattr(self, field.name)) for field in fields(self))})"


@dataclass(frozen=True, repr=False)
class Blockwise(Rule):
    """Finish one block of `size` positions before the next, from the left.

    Blocks are counted over the positions masked at the start, so prompts and gaps need no care and lengths need not
    divide. Together with `PerBlock(schedule, size)` every block has its own schedule.

    Law: the inner order's.   Cost: only the block's rows are asked for.

    Parameters:
        inner: any order.
        size: positions of a block.
        over: "masked"; or "row", to count them over the whole row, the prompt included, as block-diffusion networks need it.

    Raises:
        OrderError: a size that is no integer >= 1.

    Example:
        >>> from demask.orders import Confidence
        >>> Blockwise(Confidence(), 32), Blockwise(Confidence(), 4, over="row")
        (Blockwise(Confidence(of='mode'), 32), Blockwise(Confidence(of='mode'), 4, over='row'))

    Reference: Nie et al., LLaDA, 2025, arXiv 2502.09992 (semi-autoregressive remasking).
    """

    size: int
    over: Over = "masked"

    def __post_init__(self) -> None:
        check_blocks(self.size, self.over)

    def score(self, step: Step) -> Tensor:
        """Return the inner scores within the block, -inf elsewhere."""
        return self.inner.score(step.block(self.size, self.over))

    def __repr__(self) -> str:
        over = "" if self.over == "masked" else f", over={self.over!r}"
        return f"Blockwise({self.inner!r}, {self.size}{over})"


@dataclass(frozen=True, repr=False)
class Threshold(Rule):
    """Let through the positions of probability at least `least`, and always the best one.

    With `Unlimited()` as schedule all of them go at once.

    Law: the inner order's.   Cost: none beyond the inner order's.

    Parameters:
        inner: an order whose score is a log-probability: `Confidence`, or a rule around it.
        least: a probability in (0, 1].

    Raises:
        OrderError: another kind of score, or a number that is no probability.

    Example:
        >>> from demask.orders import Confidence
        >>> Threshold(Blockwise(Confidence(), 32), 0.9)
        Threshold(Blockwise(Confidence(of='mode'), 32), 0.9)

    Reference: Wu et al., Fast-dLLM, 2025, arXiv 2505.22618.
    """

    least: float

    def __post_init__(self) -> None:
        needs_probability(self, self.inner)
        if not 0 < self.least <= 1:
            raise OrderError(f"a threshold of {self.least}; expected a probability in (0, 1], such as 0.9")

    def score(self, step: Step) -> Tensor:
        """Return the inner scores, -inf where the probability is too small."""
        scores = self.inner.score(step)
        return scores.masked_fill((scores.exp() < self.least) & ~best(scores), -torch.inf)


@dataclass(frozen=True, repr=False)
class Factor(Rule):
    """Let through the n most probable positions, n the largest for which each k-th of them has p_(k) >= 1 - factor/(k+1).

    Always the best one. With `Unlimited()` as schedule all of them go at once.

    Law: the inner order's.   Cost: a sort of N scores.

    Parameters:
        inner: an order whose score is a log-probability: `Confidence`, or a rule around it.
        factor: > 0; larger is bolder.

    Raises:
        OrderError: another kind of score, or a factor that is not > 0.

    Example:
        >>> from demask.orders import Confidence
        >>> Factor(Blockwise(Confidence(), 32), 1.0)
        Factor(Blockwise(Confidence(of='mode'), 32), 1.0)

    Reference: Wu et al., Fast-dLLM, 2025, arXiv 2505.22618, section 3.3.
    """

    factor: float

    def __post_init__(self) -> None:
        needs_probability(self, self.inner)
        if not self.factor > 0:
            raise OrderError(f"a factor of {self.factor}; expected a number > 0, such as 1.0")

    def score(self, step: Step) -> Tensor:
        """Return the inner scores, -inf from the first that fails."""
        scores = self.inner.score(step)
        ranked, index = scores.sort(dim=1, descending=True, stable=True)
        k = torch.arange(1, ranked.shape[1] + 1, device=ranked.device)
        passes = (ranked.exp() >= 1 - self.factor / (k + 1)) & (ranked > -torch.inf)
        passes[:, 0] = True
        return scores.masked_fill(~_through(passes, index), -torch.inf)


@dataclass(frozen=True, repr=False)
class EntropyBudget(Rule):
    """Let through as many positions, best first, as keep their summed entropy less the largest within `nats`.

    sum_{l in U} H_l - max_{l in U} H_l <= nats, a bound on the total correlation of what is unmasked together, since
    TC(U) = sum H_l - H(U) and H(U) >= max H_l. Always the best one.

    Law: the inner order's.   Cost: no extra NFE; the entropies of all open positions, O(M V).

    Parameters:
        inner: any order; published with entropy, confidence and margin.
        nats: >= 0; 0 unmasks one uncertain token at a time, and certain ones for free.

    Example:
        >>> from demask.orders import Entropy
        >>> EntropyBudget(Entropy(), 0.1)
        EntropyBudget(Entropy(), 0.1)

    Reference: Ben-Hamu et al., 2025, arXiv 2505.24857.
    """

    nats: float

    def __post_init__(self) -> None:
        if not self.nats >= 0:
            raise OrderError(f"a budget of {self.nats} nats; expected a number >= 0, such as 0.1")

    def score(self, step: Step) -> Tensor:
        """Return the inner scores, -inf beyond the budget."""
        marginals = step.marginals(step.open)
        scores = self.inner.score(step)
        entropies = marginals.spread(marginals.entropy)
        ranked, index = scores.sort(dim=1, descending=True, stable=True)
        spent = entropies.gather(1, index)
        passes = (spent.cumsum(1) - spent.cummax(1).values <= self.nats) & (ranked > -torch.inf)
        passes[:, 0] = True
        return scores.masked_fill(~_through(passes, index), -torch.inf)


@dataclass(frozen=True, repr=False)
class Noisy(Rule):
    """Rank at random, each next position with probability proportional to exp(score / temperature).

    The noise is independent of the tokens' draws, so the law of the inner order stays.

    Law: the inner order's.   Cost: O(N) per row.

    Parameters:
        inner: any order.
        temperature: > 0, in units of the inner score; small is nearly the inner order, large nearly `Random`.

    Raises:
        OrderError: a temperature that is not > 0.

    Example:
        >>> from demask.orders import Entropy
        >>> Noisy(Entropy(), 0.5)
        Noisy(Entropy(), 0.5)
    """

    temperature: float

    @property
    def unit(self) -> str:
        """Random priorities."""
        return "priority"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise OrderError(f"a noise temperature of {self.temperature}; expected > 0, or use {self.inner!r} as it is")

    def score(self, step: Step) -> Tensor:
        """Return noisy priorities where the inner order lets a position through."""
        scores = self.inner.score(step)
        return step.chance.fork("noise").permutation(scores > -torch.inf, scores / self.temperature)


@dataclass(frozen=True, repr=False)
class Pooled(Rule):
    """Rank the `size` best positions at random and let through no other.

    The positions of a step are a uniformly random set out of the pool, so that paths through the same canvas differ; the
    paper's law of drawing it is in no source that we found, and uniform is ours. Their number is at most the pool's.
    `Pooled(Threshold(order, 0.9), size)` pools only what is certain.

    Law: the inner order's; the ranking is independent of the tokens' draws.   Cost: a sort of N scores.

    Parameters:
        inner: any order.
        size: >= 1, of the pool.

    Raises:
        OrderError: a size that is no integer >= 1.

    Example:
        >>> from demask.orders import Confidence
        >>> Pooled(Confidence(), 5)
        Pooled(Confidence(of='mode'), 5)

    Reference: Lee et al., Lookahead unmasking, 2025, arXiv 2511.05563 (path generator).
    """

    size: int

    @property
    def unit(self) -> str:
        """Random priorities."""
        return "priority"

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise OrderError(f"a pool of {self.size!r} positions; expected an integer >= 1, such as 5")

    def score(self, step: Step) -> Tensor:
        """Return random priorities in the pool, -inf elsewhere."""
        ranked, index = self.inner.score(step).sort(dim=1, descending=True, stable=True)
        ranks = torch.arange(ranked.shape[1], device=ranked.device)
        pool = _through((ranks < self.size) & (ranked > -torch.inf), index)
        return step.chance.fork("pool").permutation(pool)


def best(scores: Tensor) -> Tensor:
    """Return the first position of the largest score of every row, (B, N) bool."""
    places = torch.arange(scores.shape[1], device=scores.device)
    return places == scores.argmax(1, keepdim=True)


def _through(passes: Tensor, index: Tensor) -> Tensor:
    """Return the positions ranked before the first that fails, from a test of every rank."""
    before = passes.long().cumprod(1).bool()
    return torch.zeros_like(before).scatter(1, index, before)


def needs_probability(rule: object, inner: Order) -> None:
    """Raise if the inner order's scores are not log-probabilities."""
    if inner.unit != "log-probability":
        name = type(rule).__name__
        raise OrderError(
            f"{name} compares probabilities, but {inner!r} scores in another unit ({inner.unit}); write "
            f"{name}(Confidence(), ..), or EntropyBudget({inner!r}, 0.1)"
        )
