"""A learned score: Gaussian data need none, other data gain, and what the data do not span stays exact."""

import pytest
import torch

from demask.errors import TrainingError
from demask.information.continuous import path_kl
from demask.oracles import Gaussians, subspaces
from demask.samplers import Backward, Forward, draw
from demask.training import fit_score

FORWARD = Forward(40)


def bumps(dimension):
    line = subspaces(dimension, 1, key=1).bases
    means = torch.tensor([[-1.0], [0.2], [1.0]], dtype=torch.float64) @ line[0].T
    return Gaussians(
        means, line.expand(3, -1, -1), torch.full((3, 1), 0.01), torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    )


@pytest.fixture(scope="module")
def learned():
    target = bumps(12)
    return target, fit_score(target.sample(500, key=0), FORWARD, iterations=800, batch=256, width=64)


def test_learning_beats_the_gaussian_that_it_begins_with(learned):
    """300 paths; the differences are several standard errors."""
    target, score = learned
    linear = fit_score(target.sample(500, key=0), FORWARD, iterations=1, rate=1e-12)
    exact, good, poor = (
        path_kl(target, Backward(FORWARD), score=one, rows=300, key=3) for one in (target, score, linear)
    )
    assert poor - good > 5 * (poor.error + good.error)
    assert good - exact < 0.3 * (poor - exact)
    assert score.held_out < linear.held_out


def test_what_the_data_do_not_span_is_exact(learned):
    """400 rows of 11 null directions: five standard errors, false alarm below 1e-5."""
    _, score = learned
    assert score.basis.shape == (12, 1)
    y = draw(score, Backward(FORWARD), rows=400, dimension=12, key=0)
    off = y - (y @ score.basis) @ score.basis.T
    assert float(off.square().sum() / (400 * 11)) * 40**2 == pytest.approx(1, rel=5 * (2 / 4400) ** 0.5)


def test_gaussian_data_need_no_network():
    """The guess of untrained weights is that of the data's own mean and covariance."""
    data = subspaces(5, 2).sample(60, key=0) + 1.0
    score = fit_score(data, FORWARD, iterations=1, rate=1e-12)
    centred = data - data.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / 60)
    fitted = Gaussians(data.mean(0)[None], vectors[None], values.clamp(min=0)[None], torch.ones(1))
    x = fitted.sample(7, key=1, noise=0.3)
    torch.testing.assert_close(score(x, 0.3), fitted(x, 0.3), rtol=1e-6, atol=1e-6)


def test_equal_keys_give_equal_scores():
    data = bumps(3).sample(40, key=0)
    x = torch.ones(2, 3)
    one, same, other = (fit_score(data, FORWARD, iterations=30, width=8, key=key)(x, 0.2) for key in (1, 1, 2))
    assert torch.equal(one, same)
    assert one.dtype == torch.float32
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (torch.zeros(3, 2), {}, "10 points or more"),
        (torch.zeros(30), {}, "data of shape"),
        (torch.zeros(30, 0), {}, "data of shape"),
        (torch.ones(30, 2), {}, "all equal"),
        (torch.zeros(30, 2), {}, "all equal"),
        (torch.full((30, 2), float("nan")), {}, "not finite"),
        (torch.randn(30, 2), {"iterations": 0}, "iterations = 0"),
        (torch.randn(30, 2), {"batch": 1.5}, "batch = 1.5"),
        (torch.randn(30, 2), {"width": True}, "width = True"),
        (torch.randn(30, 2), {"rate": float("inf")}, "rate = inf"),
        (torch.randn(30, 2), {"rate": 1e30, "iterations": 20}, "smaller rate"),
    ],
)
def test_bad_input(data, options, message):
    with pytest.raises(TrainingError, match=message):
        fit_score(data, FORWARD, **options)


def test_bad_questions(learned):
    with pytest.raises(TrainingError, match=r"expected \(rows, 12\)"):
        learned[1](torch.zeros(1, 3), 0.5)
    with pytest.raises(TrainingError, match=r"noise 0\.0"):
        learned[1].mean(torch.zeros(1, 12), 0.0)
