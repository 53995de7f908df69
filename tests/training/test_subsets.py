from itertools import combinations, permutations, product
from math import prod

import numpy as np
import pytest
import torch

from demask.chance import Keyed
from demask.training.subsets import draw, gradient, log_prob, top

PATTERNS = [(1, 3), (1, 4), (2, 4), (2, 5), (3, 5), (4, 6), (5, 8)]


def sets(kept, of):
    """All sets, as (C, M) bool."""
    rows = [[k in chosen for k in range(of)] for chosen in combinations(range(of), kept)]
    return torch.tensor(rows)


def logits(of, key=0, scale=1.5):
    return torch.randn(of, generator=torch.Generator().manual_seed(key), dtype=torch.float64) * scale


def by_orders(z, chosen):
    """The sum over all orders of a set, as it is defined."""
    p = z.softmax(0).tolist()
    total = 0.0
    for order in permutations(chosen.nonzero()[:, 0].tolist()):
        total += prod(p[k] / (1 - sum(p[l] for l in order[:j])) for j, k in enumerate(order))  # noqa: E741
    return total


@pytest.mark.parametrize(("kept", "of"), PATTERNS)
def test_the_law_sums_to_1_and_is_the_sum_over_orders(kept, of):
    every, z = sets(kept, of), logits(of)
    found = log_prob(z.expand(len(every), -1), every).exp()
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)
    if kept < 5:
        assert found.tolist() == pytest.approx([by_orders(z, chosen) for chosen in every], abs=1e-12)


def test_the_published_closed_form_of_two_of_four():
    z, every = logits(4, key=3), sets(2, 4)
    p = z.softmax(0)
    for chosen, found, slope in zip(
        every, log_prob(z.expand(6, -1), every).exp(), gradient(z.expand(6, -1), every), strict=True
    ):
        i, j = chosen.nonzero()[:, 0]
        assert float(found) == pytest.approx(float(p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j]))), abs=1e-14)
        rest = 1 / (1 / (1 - p[chosen])).sum()
        g = chosen * (1 / p + rest / (1 - p) ** 2)
        assert slope.tolist() == pytest.approx((p * (g - g @ p)).tolist(), abs=1e-12)


@pytest.mark.parametrize(("kept", "of"), PATTERNS)
def test_the_gradient_is_that_of_finite_differences(kept, of):
    every, z, step = sets(kept, of), logits(of, key=1), 1e-5
    found = gradient(z.expand(len(every), -1), every)
    for k in range(of):
        moved = [
            log_prob((z + sign * step * torch.eye(of)[k].double()).expand(len(every), -1), every) for sign in (1, -1)
        ]
        assert torch.allclose((moved[0] - moved[1]) / (2 * step), found[:, k], atol=5e-9)


@pytest.mark.parametrize(("kept", "of"), PATTERNS)
def test_the_mean_of_the_score_is_0(kept, of):
    every, z = sets(kept, of), logits(of, key=2)
    wide = z.expand(len(every), -1)
    assert float((log_prob(wide, every).exp()[:, None] * gradient(wide, every)).sum(0).abs().max()) < 1e-14


@pytest.mark.parametrize(("kept", "of"), [(1, 4), (2, 4), (3, 6)])
def test_the_policy_gradient_is_unbiased_by_enumeration(kept, of):
    """Two blocks, a quadratic that couples them: sum over all masks of P f grad log P = grad E f, whatever the baseline."""
    every = sets(kept, of)
    pairs = torch.stack([torch.stack(pair) for pair in product(every, repeat=2)])  # (C^2, 2, M)
    form = torch.randn(2 * of, 2 * of, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    values = ((~pairs).double().flatten(1) @ form).square().sum(1)  # (C^2,)
    z = torch.stack([logits(of, key=7), logits(of, key=8)])

    def by_block(z, function):
        """Apply a function of logits and sets to every block of every pair."""
        return function(z.repeat(len(pairs), 1), pairs.flatten(0, 1)).view(len(pairs), 2, -1)

    def mean(z):
        return float(by_block(z, log_prob).sum((1, 2)).exp() @ values)

    def estimate(baseline):
        weight = by_block(z, log_prob).sum((1, 2)).exp() * (values - baseline)
        return (weight[:, None, None] * by_block(z, gradient)).sum(0)

    truth = torch.zeros_like(z)
    for place in product(range(2), range(of)):
        step = torch.zeros_like(z)
        step[place] = 1e-5
        truth[place] = (mean(z + step) - mean(z - step)) / 2e-5
    assert torch.allclose(estimate(0.0), truth, atol=1e-6)
    assert torch.allclose(estimate(0.0), estimate(3.7), atol=1e-10)


@pytest.mark.parametrize(("kept", "of"), [(2, 4), (3, 5)])
def test_what_is_drawn_has_the_law(kept, of):
    """40,000 draws, the largest of 6 or 10 deviations below 5 sigma: a false alarm in 100,000 keys."""
    count, every, z = 40_000, sets(kept, of), logits(of, key=4, scale=1.0)
    drawn = draw(z.expand(count, -1), kept, Keyed.of(0, torch.arange(count)))
    assert (drawn.sum(1) == kept).all()
    expected = log_prob(z.expand(len(every), -1), every).exp().numpy()
    seen = np.array([int((drawn == chosen).all(1).sum()) for chosen in every])
    assert (np.abs(seen - count * expected) / np.sqrt(count * expected * (1 - expected))).max() < 5


@pytest.mark.parametrize("kept", [2, 3])
def test_far_apart_logits_stay_finite(kept):
    """Where 1 - p is 0 in any precision: the published form divides by it."""
    z = torch.tensor([[200.0, 0.0, -150.0, 1.0, 0.5]])
    for chosen in sets(kept, 5):
        assert bool(log_prob(z, chosen[None]).isfinite().all())
        slope = gradient(z, chosen[None])
        assert bool(slope.isfinite().all())
        assert float(slope.sum()) == pytest.approx(0, abs=1e-3)  # float32


def test_blocks_are_apart_and_chunks_change_nothing(monkeypatch):
    z = torch.randn(50, 6, dtype=torch.float64)
    chosen = top(torch.rand(50, 6), 3)
    whole = gradient(z, chosen), log_prob(z, chosen)
    monkeypatch.setattr("demask.training.subsets._SPACE", 200)
    assert torch.equal(gradient(z, chosen), whole[0])
    assert torch.equal(log_prob(z, chosen), whole[1])
    assert torch.allclose(gradient(z[7:8], chosen[7:8]), whole[0][7:8])


def test_ties_keep_exactly_as_many():
    assert top(torch.zeros(9, 8), 3).sum(1).tolist() == [3] * 9
