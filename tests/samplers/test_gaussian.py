"""The table of variances, exact null directions, and samples against laws that are known."""

from math import log

import numpy as np
import pytest
import torch

from demask.chance import Keyed
from demask.errors import DenoiserError, PlanError
from demask.information.continuous import variance
from demask.oracles import Gaussians, points, subspaces
from demask.samplers import Backward, Forward, General, LowDimensional, draw

STEPS = (50, 100, 200, 400, 800, 1600)
# Relative errors of Var(Y_1), computed apart from this library when the method was first written down.
TABLE = {
    (General(), 0.0): (0.371, 0.203, 0.112, 0.0618, 0.0340, 0.0186),
    (General(), 0.25): (0.214, 0.120, 0.0671, 0.0374, 0.0207, 0.0114),
    (LowDimensional(), 0.25): (-0.138, -0.0879, -0.0534, -0.0312, -0.0177, -0.0099),
}


def relative_error(sampler, data):
    noise = sampler.forward.noise[0]
    return float(variance(sampler, data) / ((1 - noise) * data + noise) - 1)


@pytest.mark.parametrize(("rule", "data"), TABLE)
def test_the_table_of_variances(rule, data):
    errors = [relative_error(Backward(Forward(steps), rule), data) for steps in STEPS]
    assert errors == pytest.approx(TABLE[rule, data], rel=6e-3)
    slope = np.polyfit(np.log(STEPS), np.log(np.abs(errors)), 1)[0]
    assert -1 < slope < -0.7  # 1 / T but for a logarithm


@pytest.mark.parametrize("steps", [20, 25, *STEPS, 6400])
def test_null_directions_are_exact(steps):
    """The start, N(0, 1) for 1 - abar_T, leaves beta_1 abar_T^2; from T = 20 on that is below 1e-9, from 50 below 1e-10."""
    sampler = Backward(Forward(steps))
    start = float(sampler.forward.beta[0] * (1 - sampler.forward.noise[-1]) ** 2)
    assert abs(relative_error(sampler, 0.0)) < max(1e-10, 2 * start)
    assert start < (1e-10 if steps >= 50 else 1e-9)
    assert relative_error(Backward(Forward(steps), General()), 0.0) > 1e-3


def test_no_other_variance_is_exact_across():
    class Scaled:
        def variance(self, forward):
            return 1.001 * forward.bridge

    assert abs(relative_error(Backward(Forward(100), Scaled()), 0.0)) > 1e-4


@pytest.mark.parametrize("steps", [2, 3, 9, 64])
def test_the_schedule(steps):
    forward = Forward(steps)
    h = 4 * log(steps) / steps
    beta = [steps**-2.0]
    for t in range(1, steps):
        beta.append(h * min(beta[0] * (1 + h) ** t, 1))
    assert forward.beta == pytest.approx(beta)
    kept = np.cumprod(1 - np.array(beta))
    assert forward.noise == pytest.approx(1 - kept)
    assert forward.noise[0] == pytest.approx(beta[0], rel=1e-14)
    assert LowDimensional().variance(forward)[1:] * (1 - forward.beta[1:]) == pytest.approx(
        forward.beta[1:] * (1 - forward.beta[1:] - kept[1:]) / (1 - kept[1:])
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((1,), "T = 1"), ((0,), "T = 0"), ((-3,), "T = -3"), ((10.0,), "T = 10.0"), ((True,), "T = True"),
        ((4,), r"beta_4 = .*Forward\(9"), ((50, float("nan")), "c0 = nan"), ((50, 2, float("inf")), "c1 = inf"),
        ((50, 0), "c0 = 0"), ((50, 2, -1), "c1 = -1"), ((1000, 1e9), "beta_1 = 0"),
    ],
)  # fmt: skip
def test_schedules_that_are_none(args, message):
    with pytest.raises(PlanError, match=message):
        Forward(*args)


def test_a_row_does_not_depend_on_its_mates():
    target, sampler = subspaces(6, 2, count=3), Backward(Forward(30))
    many, few = (draw(target, sampler, rows=rows, dimension=6, key=4) for rows in (9, 4))
    assert torch.equal(many[:4], few)
    assert not torch.allclose(few, draw(target, sampler, rows=4, dimension=6, key=5))


def test_normal_numbers():
    """160,000 of them: moments within five standard errors, false alarm below 1e-5; places and rows uncorrelated."""
    x = Keyed.of(0, torch.arange(400)).normal(400)
    n = x.numel()
    for power, mean, spread in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs(float((x**power).mean()) - mean) < 5 * (spread / n) ** 0.5
    assert abs(float((x[:, 1:] * x[:, :-1]).mean())) < 5 / n**0.5
    assert abs(float((x[1:] * x[:-1]).mean())) < 5 / n**0.5
    assert bool(x.isfinite().all())


@pytest.mark.parametrize("rule", [General(), LowDimensional()])
def test_sampled_variances_are_those_of_the_recursion(rule):
    """4,000 rows of one Gaussian: variance along and across within five standard errors, false alarm below 1e-5."""
    target, sampler = subspaces(12, 3, key=2), Backward(Forward(40), rule)
    y = draw(target, sampler, rows=4000, dimension=12, key=0)
    inside = y @ target.bases[0]
    off = y - inside @ target.bases[0].T
    along, across = variance(sampler, np.array([0.25, 0.0]))
    assert float(inside.square().mean()) == pytest.approx(along, rel=5 * (2 / 12_000) ** 0.5)
    assert float(off.square().sum() / (4000 * 9)) == pytest.approx(across, rel=5 * (2 / 36_000) ** 0.5)


def test_two_points_along_and_across_the_line():
    """TV along the line, from 20,000 samples in 24 cells of equal probability; across, the variance is exact, or is not.

    The TV of as many draws from X_1 itself is 0.011 on the mean, and above 0.018 with probability below 1e-6.
    """
    target, found = points(5, count=2, key=1), {}
    for rule in (General(), LowDimensional()):
        for steps in (12, 36):
            sampler = Backward(Forward(steps), rule)
            y = draw(target, sampler, rows=20_000, dimension=5, key=3)
            line = y @ target.means[0]
            across = float((y - line[:, None] * target.means[0]).square().sum() / (4 * 20_000))
            expected = float(variance(sampler, 0.0))
            assert across == pytest.approx(expected, rel=5 * (2 / 80_000) ** 0.5)
            noise = float(sampler.forward.noise[0])
            uniform = torch.special.ndtr((line.abs() - (1 - noise) ** 0.5) / noise**0.5)
            cells = torch.bincount((uniform * 12).long().clamp(max=11) + 12 * (line > 0), minlength=24) / 20_000
            found[type(rule), steps] = float((cells - 1 / 24).abs().sum() / 2)
    assert 0.25 > found[General, 12] > 1.5 * found[General, 36] > 0.1
    assert 0.06 > found[LowDimensional, 12] > 0.03
    assert found[LowDimensional, 36] < 0.018


def test_one_point_is_reproduced():
    """The law of Y_1 is that of X_1, whatever T: a chi-square within five standard errors, false alarm below 1e-5."""
    target = points(40, count=1)
    y = draw(target, Backward(Forward(12)), rows=2000, dimension=40, key=0)
    noise = 12.0**-2
    assert float((y - (1 - noise) ** 0.5 * target.means).square().mean()) == pytest.approx(
        noise, rel=5 * (2 / 80_000) ** 0.5
    )


def test_bad_scores():
    sampler = Backward(Forward(10))
    with pytest.raises(DenoiserError, match=r"score of shape \(2, 1\)"):
        draw(lambda x, noise: x[:, :1], sampler, rows=2, dimension=3, key=0)
    with pytest.raises(DenoiserError, match="not finite"):
        draw(lambda x, noise: x * float("nan"), sampler, rows=2, dimension=3, key=0)
    with pytest.raises(PlanError, match="0 rows"):
        draw(points(3), sampler, rows=0, dimension=3, key=0)
    with pytest.raises(PlanError, match="0 dimensions"):
        draw(points(3), sampler, rows=1, dimension=0, key=0)


def test_coefficients_are_written_as_they_are_read():
    assert repr(Backward(Forward(10), General())) == (
        "Backward(forward=Forward(steps=10, c0=2.0, c1=4.0), coefficients=General())"
    )
    assert isinstance(Backward(Forward(10)).coefficients, LowDimensional)
    assert isinstance(subspaces(3, 1), Gaussians)
