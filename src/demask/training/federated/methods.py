"""What a peer does between two exchanges, and what it sends: decentralised methods as two functions each.

All minimise (1/m) sum_i f_i(x), f_i known to peer i alone, on a symmetric doubly stochastic W. A round: every peer proposes
a vector z_i, hears those of its neighbours, and accepts sum_j W_ij z_j. Every method sends one vector per edge and
direction in a round.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from demask.errors import TrainingError
from demask.training.federated.descent import SGD, Descent, Memory, check_positive

Gradient = Callable[[Tensor, int], Tensor]  # (point, local step) -> (P,); the same step asks the same minibatch
_LEAST: Final = 1e-30  # a gradient of norm 0 points nowhere, and is followed by 0


class Method(Protocol):
    """A rule of what is sent and what is done with what is heard."""

    @property
    def steps(self) -> int:
        """Local steps per round, K."""
        ...

    def propose(self, point: Tensor, memory: Memory, gradient: Gradient, height: float) -> tuple[Tensor, Memory]:
        """Return what to send, and what to remember; the arguments stay as they are."""
        ...

    def accept(self, mixed: Tensor, memory: Memory) -> Tensor:
        """Return the peer's new point: (P,) from sum_j W_ij z_j."""
        ...


@dataclass(frozen=True)
class DPSGD:
    """Mix points while the gradient is computed, and subtract it after.

    x_i <- sum_j W_ij x_j - eta grad f_i(x_i).   One gradient per round.

    Law: for deterministic gradients the fixed point is x = W x - eta grad f(x), and not the optimum.

    Parameters:
        descent: the step.

    Reference: Lian et al., Can decentralized algorithms outperform centralized algorithms?, 2017, arXiv 1705.09056,
    Algorithm 1.
    """

    descent: Descent = field(default_factory=SGD)

    @property
    def steps(self) -> int:
        """One."""
        return 1

    def propose(self, point: Tensor, memory: Memory, gradient: Gradient, height: float) -> tuple[Tensor, Memory]:
        """Return the point itself; its step waits in the memory."""
        kept, moved = _copied(memory), point.clone()
        self.descent.start(kept)
        self.descent.move(moved, gradient(point, 0), kept, height)
        return point, kept | {"step": moved - point}

    def accept(self, mixed: Tensor, memory: Memory) -> Tensor:
        """Return the mixed point plus the step that was waiting."""
        return mixed + memory.pop("step")


@dataclass(frozen=True)
class DFedAvg:
    """Take K local steps, then send the point: sharp-aware and heavy-ball variants included.

    x_0 = x_i,   x_{k+1} = x_k - eta grad f_i(x_k + radius g / |g|),   g = grad f_i(x_k),   z_i = x_K.

    With momentum in the descent this is DFedAvgM, with a radius DFedSAM.

    Law: for deterministic gradients and K = 1 the fixed point is x = W (x - eta grad f(x)); for K > 1 peers drift to their
        own optima, and the limit depends on K and eta.

    Parameters:
        steps: K >= 1.
        descent: the local step.
        radius: >= 0, rho; 0 asks for one gradient per step, otherwise two.

    Raises:
        TrainingError: a number out of its range.

    Reference: Sun, Li and Wang, Decentralized federated averaging, 2021, arXiv 2104.11375 (DFedAvg, DFedAvgM); Shi et al.,
    Improving the model consistency of decentralized federated learning, 2023, arXiv 2302.04083 (DFedSAM).
    """

    steps: int = 5
    descent: Descent = field(default_factory=SGD)
    radius: float = 0.0

    def __post_init__(self) -> None:
        _check(self.steps, self.radius)

    def propose(self, point: Tensor, memory: Memory, gradient: Gradient, height: float) -> tuple[Tensor, Memory]:
        """Return the point after K steps."""
        kept, moved = _copied(memory), point.clone()
        self.descent.start(kept)
        for step in range(self.steps):
            self.descent.move(moved, sharp(gradient, moved, step, self.radius), kept, height)
        return moved, kept

    def accept(self, mixed: Tensor, memory: Memory) -> Tensor:
        """Return the mixed point."""
        return mixed


@dataclass(frozen=True)
class DFedADMM:
    """Take K steps on the peer's augmented Lagrangian, whose dual variable learns what the others want.

    x_0 = x_i,   x_{k+1} = x_k - eta (g_k - dual_i + (x_k - x_0) / lambda),   g_k = grad f_i(x_k + radius g / |g|),
    dual_i <- dual_i - (x_K - x_0) / lambda,   z_i = x_K - lambda dual_i.

    Law: for deterministic gradients dual_i = grad f_i(x_i) at the fixed point, which is that of gossip gradient descent,
        x = W (x - lambda grad f(x)), whatever K and eta (any descent that rests where its direction is 0): local steps cause
        no drift. Where every peer hears every other this is the optimum of the mean; on a sparse graph peers stay
        O(lambda / (1 - psi)) apart.

    Where rates fall, lambda falls with them: a peer moves by lambda dual_i per round however small its own steps are, so
    small steps with a large lambda go on in the direction of an old dual.

    The steps above are recalled from the paper and agree with the centralised code of its authors; they are not confirmed
    line by line against its pseudo-code. The laws are tested.

    Parameters:
        steps: K >= 1.
        reach: lambda > 0, how far a round may go against the gradient; 1 / lambda is the weight of staying near.
        descent: the local step, eta.
        radius: >= 0, rho; > 0 is the SAM variant, two gradients per step of the same minibatch.

    Raises:
        TrainingError: a number out of its range.

    Reference: Li, Shen, Li, Yin and Tao, DFedADMM, 2023, arXiv 2308.08290.
    """

    steps: int = 5
    reach: float = 0.1
    descent: Descent = field(default_factory=SGD)
    radius: float = 0.0

    def __post_init__(self) -> None:
        _check(self.steps, self.radius)
        check_positive(reach=self.reach)

    def propose(self, point: Tensor, memory: Memory, gradient: Gradient, height: float) -> tuple[Tensor, Memory]:
        """Return z, and the memory with the new dual."""
        kept, moved = _copied(memory), point.clone()
        dual, reach = kept.get("dual", torch.zeros_like(point)), self.reach * height
        self.descent.start(kept)
        for step in range(self.steps):
            pull = (moved - point).div_(reach).sub_(dual)
            self.descent.move(moved, pull.add_(sharp(gradient, moved, step, self.radius)), kept, height)
        dual = dual - (moved - point) / reach
        return moved - reach * dual, kept | {"dual": dual}

    def accept(self, mixed: Tensor, memory: Memory) -> Tensor:
        """Return the mixed point."""
        return mixed


def dfedavgm(steps: int = 5, rate: float = 0.1, momentum: float = 0.9) -> DFedAvg:
    """DFedAvg by heavy-ball steps, which begin anew at every round.

    Reference: Sun, Li and Wang, Decentralized federated averaging, 2021, arXiv 2104.11375.
    """
    return DFedAvg(steps, SGD(rate, momentum))


def dfedsam(steps: int = 5, rate: float = 0.1, radius: float = 0.1) -> DFedAvg:
    """DFedAvg by gradients at the worst point nearby.

    Reference: Shi et al., Improving the model consistency of decentralized federated learning, 2023, arXiv 2302.04083.
    """
    return DFedAvg(steps, SGD(rate), radius)


def dfedadmm_sam(steps: int = 5, reach: float = 0.1, descent: Descent | None = None, radius: float = 0.1) -> DFedADMM:
    """DFedADMM by gradients at the worst point nearby.

    Reference: Li, Shen, Li, Yin and Tao, DFedADMM, 2023, arXiv 2308.08290.
    """
    return DFedADMM(steps, reach, descent or SGD(), radius)


def sharp(gradient: Gradient, point: Tensor, step: int, radius: float) -> Tensor:
    """Return the gradient where it is worst within `radius`, to first order: grad f(x + radius g / |g|), g = grad f(x)."""
    here = gradient(point, step)
    if radius == 0:
        return here
    return gradient(torch.add(point, here, alpha=radius / max(float(here.norm()), _LEAST)), step)


def _copied(memory: Memory) -> Memory:
    return {name: value.clone() for name, value in memory.items()}


def _check(steps: Any, radius: Any) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise TrainingError(f"steps = {steps!r}; expected an integer >= 1")
    if isinstance(radius, bool) or not isinstance(radius, int | float) or not (isfinite(radius) and radius >= 0):
        raise TrainingError(f"radius = {radius!r}; expected a finite number >= 0")
