"""Scores against derivatives, Tweedie's formula and plain matrices; bad input."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from demask.errors import OracleError
from demask.oracles import Gaussians, points, subspaces
from demask.registry import build

GENERATOR = torch.Generator().manual_seed(0)
SKEWED = Gaussians(
    torch.randn(3, 5, generator=GENERATOR).double(),
    torch.linalg.qr(torch.randn(3, 5, 2, generator=GENERATOR).double()).Q,
    torch.tensor([[0.5, 0.1], [2.0, 0.0], [0.3, 1.0]]),
    torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
)
TARGETS = [SKEWED, subspaces(7, 2, count=3), subspaces(4, 4), points(3, count=4), points(6), subspaces(3, 0)]


@pytest.mark.parametrize("target", TARGETS, ids=repr)
@pytest.mark.parametrize("noise", [1e-4, 0.03, 0.5, 0.999, 1.0])
def test_the_score_three_ways(target, noise):
    """The gradient of the log-density, and (sqrt(1 - v) E[X_0 | x] - x) / v."""
    x = target.sample(6, key=1, noise=noise).requires_grad_()
    (gradient,) = torch.autograd.grad(target.log_prob(x, noise).sum(), x)
    x = x.detach()
    score = target(x, noise)
    torch.testing.assert_close(score, gradient, rtol=1e-7, atol=1e-7 / noise**0.5)
    tweedie = ((1 - noise) ** 0.5 * target.mean(x, noise) - x) / noise
    torch.testing.assert_close(score, tweedie, rtol=1e-7, atol=1e-9 / noise)


@pytest.mark.parametrize("target", TARGETS, ids=repr)
def test_densities_are_those_of_whole_matrices(target):
    noise = 0.2
    x = target.sample(5, key=2, noise=noise)
    covariances = target.bases @ torch.diag_embed(target.variances) @ target.bases.mT
    whole = (1 - noise) * covariances + noise * torch.eye(target.dimension)
    parts = MultivariateNormal((1 - noise) ** 0.5 * target.means, whole).log_prob(x[:, None])
    torch.testing.assert_close(target.log_prob(x, noise), (parts + target.weights.log()).logsumexp(1))


def test_samples_have_the_moments_of_the_law():
    """20,000 rows: every mean and covariance within six standard errors, false alarm below 1e-7 for 20 numbers."""
    x = SKEWED.sample(20_000, key=0)
    mean = SKEWED.weights @ SKEWED.means
    within = SKEWED.bases @ torch.diag_embed(SKEWED.variances) @ SKEWED.bases.mT
    between = SKEWED.means - mean
    covariance = torch.einsum("m,mij->ij", SKEWED.weights, within + between[:, :, None] * between[:, None])
    products = (x - mean)[:, :, None] * (x - mean)[:, None]
    assert bool(((x.mean(0) - mean).abs() < 6 * x.std(0) / 20_000**0.5).all())
    assert bool(((products.mean(0) - covariance).abs() < 6 * products.std(0) / 20_000**0.5).all())
    assert torch.equal(SKEWED.sample(5, key=0), x[:5])


def test_answers_keep_the_type_of_the_points():
    x = SKEWED.sample(2, key=0, noise=0.1).float()
    assert SKEWED(x, 0.1).dtype == SKEWED.mean(x, 0.1).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: subspaces(3, 4), "rank 4 in 3 dimensions"),
        (lambda: subspaces(0, 0), "rank 0 in 0 dimensions"),
        (lambda: subspaces(3, -1), "rank -1"),
        (lambda: subspaces(3, 1, count=0), "0 subspaces"),
        (lambda: subspaces(3, 1, variance=float("nan")), "variance nan"),
        (lambda: subspaces(3, 1, variance=0.0), "variance 0.0"),
        (lambda: points(3, count=0), "0 points"),
        (lambda: Gaussians(torch.ones(2), torch.ones(2, 1), torch.ones(1), torch.ones(1)), "means of shape"),
        (lambda: Gaussians(torch.ones(1, 2), torch.ones(1, 3, 1), torch.ones(1, 1), torch.ones(1)), "bases of shape"),
        (lambda: Gaussians(torch.ones(1, 2), torch.ones(1, 2, 1), torch.ones(1, 1), torch.ones(1)), "orthonormal"),
        (lambda: Gaussians(torch.ones(1, 2), torch.zeros(1, 2, 0), torch.ones(1, 1), torch.ones(1)), "variances of"),
        (lambda: Gaussians(torch.ones(1, 1), torch.ones(1, 1, 1), -torch.ones(1, 1), torch.ones(1)), "variances of"),
        (lambda: Gaussians(torch.ones(1, 2), torch.zeros(1, 2, 0), torch.ones(1, 0), torch.ones(1) / 2), "sum 1"),
        (lambda: Gaussians(torch.ones(1, 2) / 0, torch.zeros(1, 2, 0), torch.ones(1, 0), torch.ones(1)), "not finite"),
        (lambda: SKEWED(torch.zeros(1, 4), 0.5), r"expected \(rows, 5\)"),
        (lambda: SKEWED(torch.zeros(1, 5), 0.0), "a noise of 0.0"),
        (lambda: SKEWED.log_prob(torch.zeros(1, 5), 1.5), "a noise of 1.5"),
        (lambda: SKEWED.sample(0, key=0), "0 rows"),
        (lambda: SKEWED.sample(1, key=0, noise=-1.0), "noise -1.0"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(OracleError, match=message):
        make()


def test_specifications():
    target = build("subspaces(count=3)", "distribution", dimension=8, rank=2)
    assert repr(target) == "Gaussians(components=3, dimension=8, rank=2)"
    assert build("points(count=5)", "distribution", dimension=8, rank=2).rank == 0
