"""Learn a score from few points by taking noise off them again.

A clean point is guessed from a noisy one by least squares, which is all that a score needs (Tweedie's formula). The guess
begins as the best linear one, that of the data's mean and covariance, and lies in their span: a direction in which no two
points differ stays exact, however badly the rest is learned.
"""

from dataclasses import dataclass
from math import isfinite, pi, sqrt
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from demask.errors import TrainingError
from demask.samplers.gaussian import Forward

_FREQUENCIES: Final = (0.25, 0.5, 1.0, 2.0)  # of the logarithm of signal to noise, in units of pi / 4
_RIPPLES: Final = (1.0, 2.0, 4.0)  # of every coordinate, for laws that are finer than their spread
_LEVELS: Final = 32  # of noise, at which every held-out point is guessed
_CHECKS: Final = 20  # times that held-out points are guessed during the training


@dataclass(frozen=True, eq=False)
class LearnedScore:
    """A score that was learned from points; `fit_score` makes them.

    With v the noise, a = U^T (x - sqrt(1 - v) c) and total = (1 - v) lambda + v,

        E[X_0 | x] = c + U (sqrt(1 - v) lambda a / total + sqrt(lambda v / total) F(a / sqrt(total), v)).

    F = 0 is exact for Gaussian data; what is learned is the rest, in units of what a Gaussian would leave unknown.

    Parameters:
        network: F.
        centre: (d,), mean of the data.
        basis: (d, r), orthonormal columns, the span of the data less their mean.
        variances: (r,) of the data along them.
        held_out: nats; the mean over points that were not trained on of sum_t (g_{t-1} - g_t) |guess - X_0|^2 / 2, which is
            the path KL up to a constant of the data.
    """

    network: nn.Module
    centre: Tensor
    basis: Tensor
    variances: Tensor
    held_out: float

    def __call__(self, points: Tensor, noise: float) -> Tensor:
        """Return the score of sqrt(1 - noise) X_0 + sqrt(noise) W at (B, d) points."""
        return (sqrt(1.0 - noise) * self.mean(points, noise) - points) / noise

    @torch.no_grad()
    def mean(self, points: Tensor, noise: float) -> Tensor:
        """Return the guess of E[X_0 | sqrt(1 - noise) X_0 + sqrt(noise) W = point], (B, d).

        Raises:
            TrainingError: points of another dimension than the data, or a noise outside (0, 1].
        """
        if points.ndim != 2 or points.shape[1] != len(self.centre) or not 0 < noise <= 1:
            raise TrainingError(
                f"points {tuple(points.shape)} at noise {noise}; expected (rows, {len(self.centre)}), and a noise in (0, 1]"
            )
        levels = torch.full((len(points), 1), noise, dtype=torch.float64)
        inside = (points.to(torch.float64) - sqrt(1.0 - noise) * self.centre) @ self.basis
        return (self.centre + _guess(self.network, self.variances, inside, levels) @ self.basis.T).to(points)


def fit_score(
    data: Tensor,
    forward: Forward,
    *,
    iterations: int = 2000,
    batch: int = 512,
    width: int = 128,
    rate: float = 5e-3,
    key: int = 0,
) -> LearnedScore:
    """Learn the score of the law that the data were drawn from, at the noise levels of a forward schedule.

    Minimises sum_{t=2}^{T} (g_{t-1} - g_t) E |guess - X_0|^2 / 2, g the ratio of signal to noise: of a sampler with
    `LowDimensional` coefficients this is the path KL itself, up to what no score changes. A tenth of the points is held out,
    and the weights that guess them best are kept, so that few points are not learned by heart.

    Parameters:
        data: (n, d), n >= 10, finite.
        forward: whose noise levels are learned.
        iterations: >= 1, steps of AdamW; the rate falls to 0 by a cosine.
        batch: >= 1, points per step, each with noise of its own.
        width: >= 1, of the two hidden layers.
        rate: > 0.
        key: of every random choice.

    Raises:
        TrainingError: data that are too few, of another shape, not finite or all equal; settings out of range.

    Cost: O(batch width (width + r)) per iteration, and one singular value decomposition of the data.

    Example:
        >>> from demask.oracles import subspaces
        >>> plane = subspaces(16, 2)
        >>> score = fit_score(plane.sample(200, key=0), Forward(50), iterations=20)
        >>> score.basis.shape
        torch.Size([16, 2])

    Reference: Vincent, 2011, A connection between score matching and denoising autoencoders.
    """
    for name, value in (("iterations", iterations), ("batch", batch), ("width", width)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise TrainingError(f"{name} = {value!r}; expected an integer >= 1")
    if not (isfinite(rate) and rate > 0):
        raise TrainingError(f"rate = {rate}; expected a finite number > 0")
    data = torch.as_tensor(data).to(torch.float64)
    if data.ndim != 2 or len(data) < 10 or not data.shape[1]:
        raise TrainingError(f"data of shape {tuple(data.shape)}; expected (points, dimension), 10 points or more")
    if not bool(data.isfinite().all()):
        raise TrainingError("data with numbers that are not finite; leave those points out")
    generator = torch.Generator().manual_seed(key)
    data = data[torch.randperm(len(data), generator=generator)]
    centre = data.mean(0)
    _, spread, basis = torch.linalg.svd(data - centre, full_matrices=False)
    rank = int((spread > spread[0] * max(data.shape) * torch.finfo(torch.float64).eps).sum())
    if not float(spread[0]) > 1e-12 * float(data.abs().amax()):
        raise TrainingError(
            f"{len(data)} points that are all equal; their score is known: oracles.Gaussians, one component"
        )
    basis, variances = basis[:rank].T, spread[:rank] ** 2 / len(data)
    inside = (data - centre) @ basis
    apart = max(1, len(data) // 10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key)
        network = _network(rank, width)
    task = _Task(forward, variances)
    held_out = _descend(network, task, inside[apart:], inside[:apart], iterations, batch, rate, generator)
    return LearnedScore(network, centre, basis, variances, held_out)


class _Task:
    """The loss: what guesses cost at the levels 2 .. T of a forward schedule, in nats."""

    def __init__(self, forward: Forward, variances: Tensor) -> None:
        self.noise = torch.from_numpy(forward.noise[1:].copy())
        self.cost = torch.from_numpy(-np.diff(forward.snr) * (forward.steps - 1) / 2)
        self.variances = variances

    def loss(self, network: nn.Module, clean: Tensor, level: Tensor, fresh: Tensor) -> Tensor:
        noise = self.noise[level, None]
        noisy = (1.0 - noise).sqrt() * clean + noise.sqrt() * fresh
        missed = _guess(network, self.variances, noisy, noise) - clean
        return (self.cost[level] * missed.square().sum(1)).mean()


def _descend(
    network: nn.Module, task: _Task, data: Tensor, held: Tensor, iterations: int, batch: int, rate: float,
    generator: torch.Generator,
) -> float:  # fmt: skip
    """Train the network, leave it with the weights that guess held-out points best, and return their loss."""

    def fresh(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    levels = len(task.noise)
    checked = held.repeat(_LEVELS, 1)
    where = torch.linspace(0, levels - 1, _LEVELS).round().long().repeat_interleave(len(held))
    noise = fresh(checked)
    with torch.no_grad():
        best = float(task.loss(network, checked, where, noise))
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    for turn in range(1, iterations + 1):
        clean = data[torch.randint(len(data), (batch,), generator=generator)]
        loss = task.loss(network, clean, torch.randint(levels, (batch,), generator=generator), fresh(clean))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        cosine.step()
        if turn % max(1, iterations // _CHECKS) == 0 or turn == iterations:
            with torch.no_grad():
                found = float(task.loss(network, checked, where, noise))
            if not isfinite(found):
                raise TrainingError(f"the loss is {found} after {turn} iterations; take a smaller rate than {rate}")
            if found < best:
                best, kept = found, {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(kept)
    return best


def _network(rank: int, width: int) -> nn.Module:
    """Return F; it begins as 0."""
    features = rank * (1 + 2 * len(_RIPPLES)) + 1 + 2 * len(_FREQUENCIES)
    last = nn.Linear(width, rank)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)


def _guess(network: nn.Module, variances: Tensor, inside: Tensor, noise: Tensor) -> Tensor:
    """Return the guess in coordinates of the span, (B, r), of noisy ones, with the noise (B, 1) of each."""
    total = (1.0 - noise) * variances + noise
    height = ((1.0 - noise) / noise).log()
    waves = height * torch.tensor(_FREQUENCIES, dtype=torch.float64) * (pi / 4)
    unit = inside / total.sqrt()
    ripples = torch.cat([unit * frequency for frequency in _RIPPLES], 1)
    seen = torch.cat((unit, ripples.sin(), ripples.cos(), height / 10, waves.sin(), waves.cos()), 1)
    rest: Tensor = network(seen.float()).double()
    return (1.0 - noise).sqrt() * variances * inside / total + (variances * noise / total).sqrt() * rest
