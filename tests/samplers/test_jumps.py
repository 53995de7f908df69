"""Jumps modulo V: draws at a quantile against the law, and the law against its series."""

from math import exp, factorial

import pytest
import torch

from demask.samplers import jumps
from demask.samplers.jumps import Jumping, summed


def rates_of(total, rows=1, size=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(size, (rows,), generator=generator)
    rates = torch.rand(rows, size, generator=generator, dtype=dtype).scatter(1, tokens[:, None], 0.0)
    return rates / rates.sum(1, keepdim=True) * total, tokens


def series(rates, token, begin):
    """Sum over the number of jumps, from `begin` on, by convolutions one after the other."""
    size = len(rates)
    by_size = rates.roll(-int(token))
    times = torch.eye(1, size, dtype=rates.dtype)[0]
    out = torch.zeros_like(times)
    for count in range(60):
        if count >= begin:
            out += times / float(factorial(count))
        times = sum(times[jump] * by_size.roll(jump) for jump in range(size))
    return exp(-float(rates.sum())) * out.roll(int(token))


@pytest.mark.parametrize("total", [0.001, 0.3, 2.0, 9.0])
def test_quantiles_have_the_shares_of_the_law(total):
    count = 200_000
    rates, tokens = rates_of(total)
    where = torch.ones(1, count, dtype=torch.bool)
    law = Jumping(where, rates.expand(count, -1).contiguous(), tokens.expand(count))
    found = law.draw((torch.arange(count, dtype=torch.float64) + 0.5) / count).bincount(minlength=5) / count
    expected = series(rates[0], tokens[0], 0)
    assert (found - expected).abs().max() <= 3 / count  # a token's quantiles are three intervals at most
    assert torch.allclose(law.logits[0].exp(), expected, atol=1e-12)


@pytest.mark.parametrize("small", [0, 1024])
@pytest.mark.parametrize("size", [2, 7, 8])
def test_both_transforms_are_the_series(small, size, monkeypatch):
    monkeypatch.setattr(jumps, "_SMALL", small)
    rates, tokens = rates_of(1.7, rows=6, size=size)
    for row in range(6):
        expected = series(rates[row], tokens[row], 0)
        assert torch.allclose(summed(rates, tokens)[row], expected, atol=1e-12)
        several = jumps._several(rates, tokens)[row]
        beyond = series(rates[row], tokens[row], 2)
        assert torch.allclose(several / several.sum(), beyond / beyond.sum(), atol=1e-12)


@pytest.mark.parametrize("total", [1e-7, 1e-4, 0.049, 0.051])
def test_two_jumps_are_not_lost_in_rounding(total):
    """In single precision e^z - 1 - z of a small z is noise."""
    rates, tokens = rates_of(total, dtype=torch.float32)
    several = jumps._several(rates, tokens)[0].double()
    beyond = series(rates[0].double(), tokens[0], 2)
    assert torch.allclose(several / several.sum(), beyond / beyond.sum(), atol=1e-5 if total < 0.05 else 1e-4)


def test_who_does_not_jump_stays():
    law = Jumping(torch.tensor([[True, True]]), torch.zeros(2, 3), torch.tensor([2, 0]))
    assert law.draw(torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)).tolist() == [2, 0]
