"""Potentials: what a trajectory is worth so far, by which samplers weigh several of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from demask.canvas import Canvas
from demask.contracts import Info, Law, Step
from demask.errors import ParticleError


class Potential(Protocol):
    """What a trajectory is worth so far: the log of the factor by which its probability is multiplied."""

    @property
    def law(self) -> Law:
        """CONSISTENT: 0 on every complete canvas, so it guides and does not tilt. TILTED: otherwise."""
        ...

    def total(self, before: Tensor, info: Info, after: Step) -> Tensor:
        """Return the log potential (R,) after a step: before it (R,), the step, and the canvas as it stands now.

        What `after` is asked for is remembered, so the next step does not ask again. -inf excludes a trajectory for good.
        """
        ...


@dataclass(frozen=True)
class SelfReward:
    """A trajectory is worth what the model thought of it: the product of the probabilities of its tokens when drawn.

    sum over steps t and positions i unmasked at t of log p(x_i | x_t), untempered.

    One token per step in an order that depends on no draw, an exact denoiser p and temperature 1 give sequences the law
    p(x)^2 / sum p^2; with draws at temperature T, p_T(x) p(x), normalised.

    Law: TILTED.   Cost: no NFE; O(M V) for the normalisers of the drawn tokens' laws.

    Example:
        >>> SelfReward().law.name
        'TILTED'

    Reference: Luo et al., Self-rewarding sequential Monte Carlo for masked diffusion language models, 2026,
    arXiv 2602.01849.
    """

    law: ClassVar[Law] = Law.TILTED

    def total(self, before: Tensor, info: Info, after: Step) -> Tensor:
        """Return the sum with this step's tokens added."""
        if not bool(info.kept.any()):
            return before
        drawn = info.step.marginals(info.kept)
        logp = drawn.logp(info.canvas.tokens[info.kept]).double()
        return before + drawn.spread(logp).sum(1)


@dataclass(frozen=True)
class Reward:
    """A trajectory is worth a given function of the canvas that it has reached.

    function(canvas) / temperature, nats; complete canvases get the law p(x) exp(function(x) / temperature), normalised.

    On incomplete canvases the function only guides: any values give the same law as particles grow, good ones sooner.

    Law: TILTED.   Cost: one call per step, for all particles at once; no NFE.

    Parameters:
        function: of a canvas (R, N), (R,) numbers; -inf for what must not be, and whatever becomes of it.
        temperature: > 0; small is greedy.

    Raises:
        ParticleError: a temperature that is not > 0; while sampling, an answer that is nan, +inf or not (R,).

    Example:
        >>> from demask import Canvas
        >>> ones = Reward(lambda canvas: canvas.tokens.masked_fill(canvas.masked, 0).sum(1), 0.5)
        >>> ones.law.name
        'TILTED'

    Reference: Wu et al., Practical and asymptotically exact conditional sampling in diffusion models, 2023, arXiv 2306.17775
    (twisted particles, of which this is the plain form).
    """

    law: ClassVar[Law] = Law.TILTED
    function: Callable[[Canvas], Tensor]
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _positive(self.temperature)

    def total(self, before: Tensor, info: Info, after: Step) -> Tensor:
        """Return the reward of the canvas."""
        value = self.function(after.canvas)
        if not isinstance(value, Tensor) or value.shape != before.shape:
            given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ParticleError(
                f"the reward of {len(before)} canvases is {given}; expected a tensor of shape ({len(before)},)"
            )
        value = value.to(before)
        wrong = ~(value < torch.inf)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ParticleError(
                f"the reward of {after.canvas.rows(wrong.nonzero()[0])} is {float(value[row])}; expected a finite number, "
                "or -inf for what must not be"
            )
        return value / self.temperature


@dataclass(frozen=True)
class Foresight:
    """A trajectory is worth how sure the model is of what is still masked.

    r / temperature, with r the mean over masked positions i of -H(x_i | visible) ("entropy", nats) or of
    max_v p(x_i = v | visible) - 1 ("confidence"), and 0 where nothing is masked.

    Law: CONSISTENT: it is 0 in the end.   Cost: one NFE per canvas, which answers the next step too.

    Parameters:
        of: "entropy" or "confidence".
        temperature: > 0, in units of r. The paper's weight and its temperature are in no source that we found: the
            exponential and 0.1 are ours. `Lookahead`'s choose="best" knows no temperature, its limit at 0.

    Raises:
        ParticleError: another word, or a temperature that is not > 0.

    Example:
        >>> Foresight("confidence").temperature
        0.1

    Reference: Lee et al., Lookahead unmasking, 2025, arXiv 2511.05563.
    """

    law: ClassVar[Law] = Law.CONSISTENT
    of: Literal["entropy", "confidence"] = "entropy"
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.of not in ("entropy", "confidence"):
            raise ParticleError(f"foresight of {self.of!r}; expected 'entropy' or 'confidence'")
        _positive(self.temperature)

    def total(self, before: Tensor, info: Info, after: Step) -> Tensor:
        """Return how sure the model is of the rest."""
        if not bool(after.open.any()):
            return torch.zeros_like(before)
        rest = after.marginals(after.open)
        sure = -rest.entropy if self.of == "entropy" else rest.peak.expm1()
        return rest.spread(sure.double()).sum(1) / after.open.sum(1).clamp(min=1) / self.temperature


def _positive(temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise ParticleError(
            f"a temperature of {temperature}; expected a number > 0; for the best one write choose='best'"
        )
