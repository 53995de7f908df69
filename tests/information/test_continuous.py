"""Path KL, output KL and total variation against sums of rectangles, whole matrices and draws."""

import numpy as np
import pytest
import torch

from demask.errors import OracleError
from demask.information.continuous import guarantee, output_kl, path_kl, total_variation
from demask.oracles import Gaussians, points, subspaces
from demask.samplers import Backward, Forward, General, LowDimensional

RULES = [General(), LowDimensional()]


class Narrow:
    """Less noise than the bridge has."""

    def variance(self, forward):
        return 0.9 * forward.bridge


@pytest.mark.parametrize("steps", [10, 100, 700])
@pytest.mark.parametrize("data", [0.01, 0.25, 1.0, 9.0])
def test_the_error_of_rectangles_under_one_curve(steps, data):
    target, forward = subspaces(20, 3, variance=data), Forward(steps)
    g = forward.snr
    rectangles = 3 * ((g[:-1] - g[1:]) * data / (1 + g[1:] * data)).sum() / 2
    area = 3 * np.log((1 + g[0] * data) / (1 + g[-1] * data)) / 2
    v = np.array([data] * 3 + [0.0] * 17) * (1 - forward.noise[-1]) + forward.noise[-1]
    start = (v - 1 - np.log(v)).sum() / 2
    assert path_kl(target, Backward(forward)) == pytest.approx(start + rectangles - area, rel=1e-9)


@pytest.mark.parametrize("steps", [9, 40, 300])
def test_only_intrinsic_dimensions_count(steps):
    """A direction without data adds the start's error, abar_T^2 / 4, and with the general rule that of every step."""
    forward = Forward(steps)
    for rule, growth in ((LowDimensional(), 0.0), (General(), None)):
        values = [path_kl(subspaces(d, 2), Backward(forward, rule)) for d in (2, 20, 200)]
        each = (values[1] - values[0]) / 18
        assert values[2] - values[1] == pytest.approx(180 * each, rel=1e-6, abs=1e-12)
        if growth is None:
            assert each > 0.05
        else:
            assert each == pytest.approx((1 - forward.noise[-1]) ** 2 / 4, rel=1e-2, abs=1e-13)


@pytest.mark.parametrize("rule", [*RULES, Narrow()])
@pytest.mark.parametrize("steps", [12, 50, 400])
@pytest.mark.parametrize("data", [0.01, 1.0, 30.0])
def test_the_ladder_of_errors(rule, steps, data):
    """TV^2 / 2 .. <= output KL <= path KL <= guarantee."""
    target, sampler = subspaces(30, 4, variance=data), Backward(Forward(steps), rule)
    tv, output, path = total_variation(target, sampler), output_kl(target, sampler), path_kl(target, sampler)
    assert 2 * tv**2 <= output * (1 + 1e-9)
    assert output <= path * (1 + 1e-9)
    assert path <= guarantee(target, sampler) * (1 + 1e-9)


@pytest.mark.parametrize("target", [points(9, count=5), subspaces(9, 2, count=3)], ids=repr)
@pytest.mark.parametrize("rule", RULES)
def test_guarantees_of_mixtures(target, rule):
    """600 paths; the bound lies above by more than five standard errors."""
    sampler = Backward(Forward(60), rule)
    found = path_kl(target, sampler, rows=600)
    assert found + 5 * found.error < guarantee(target, sampler)


@pytest.mark.parametrize("rule", RULES)
def test_drawn_paths_agree_with_the_closed_form(rule):
    """2,000 paths within five standard errors, false alarm below 1e-6; a rotated and split target is the same."""
    target, sampler = subspaces(6, 2, key=3), Backward(Forward(40), rule)
    twice = [part.expand(2, *part.shape[1:]) for part in (target.means, target.bases, target.variances)]
    half = Gaussians(*twice, torch.tensor([0.3, 0.7], dtype=torch.float64))
    exact = path_kl(target, sampler)
    assert exact.exact
    for found in (path_kl(target, sampler, score=target, rows=2000), path_kl(half, sampler, rows=2000, key=1)):
        assert not found.exact
        assert abs(found - exact) < 5 * found.error
        assert found.error < 0.1 * exact


def test_one_point_costs_only_its_start():
    target, forward = points(50, count=1), Forward(30)
    signal = 1 - forward.noise[-1]
    start = (signal - 50 * (signal + np.log1p(-signal))) / 2
    found = path_kl(target, Backward(forward), rows=50)
    assert abs(found - start) < 6 * found.error < 0.05
    assert guarantee(target, Backward(forward)) == pytest.approx(start, rel=1e-9)
    assert path_kl(target, Backward(Forward(30), General()), rows=50) > 50


def test_a_wrong_score_costs():
    target, sampler = subspaces(6, 2), Backward(Forward(40))
    worse = path_kl(target, sampler, score=lambda x, noise: 0.9 * target(x, noise), rows=500)
    assert worse > path_kl(target, sampler) + 5 * worse.error


@pytest.mark.parametrize("rule", [*RULES, Narrow()])
@pytest.mark.parametrize(("d", "k"), [(1, 1), (3, 1), (3, 2), (12, 3), (5, 0)])
def test_total_variation_by_draws(rule, d, k):
    """200,000 draws of X_1 and the two exact densities: within five standard errors, false alarm below 1e-6."""
    target, sampler = subspaces(d, k, variance=0.7), Backward(Forward(20), rule)
    from demask.information.continuous import variance

    noise = sampler.forward.noise[0]
    data = np.array([0.7] * k + [0.0] * (d - k))
    x, y = (1 - noise) * data + noise, variance(sampler, data)
    z = np.random.default_rng(0).standard_normal((200_000, d)) * np.sqrt(x)
    ratio = np.exp(((np.log(x / y) + z**2 / x - z**2 / y) / 2).sum(1))  # q / p
    terms = np.maximum(0, 1 - ratio)
    assert abs(total_variation(target, sampler) - terms.mean()) <= 5 * terms.std() / 200_000**0.5 + 1e-9
    assert output_kl(target, sampler) == pytest.approx(((x / y - 1 - np.log(x / y)) / 2).sum(), rel=1e-9, abs=1e-14)


def test_refusals():
    sampler = Backward(Forward(20), General())
    for measure in (output_kl, total_variation):
        with pytest.raises(OracleError, match="not one Gaussian of mean 0"):
            measure(points(3), sampler)
    uneven = Gaussians(
        torch.zeros(1, 3), torch.eye(3)[None], torch.tensor([[1.5, 2.0, 3.0]]), torch.ones(1)
    )  # fmt: skip
    with pytest.raises(OracleError, match="3 different ratios"):
        total_variation(uneven, sampler)
    assert output_kl(uneven, sampler) > 0
    with pytest.raises(OracleError, match="1 paths"):
        path_kl(points(3), sampler, rows=1)
