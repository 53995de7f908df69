"""Plans from few passes: the shape of the curve from movements, and when it is not believed."""

from dataclasses import replace
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch

from demask import Canvas, measure, optimal, oracles, plan
from demask.canvas import Marginals
from demask.errors import PlanError
from demask.information.measure import increments, per_block
from demask.information.shape import effective_numbers, falls
from demask.oracles import Chain, parity


@pytest.fixture(scope="module")
def text():
    return oracles.fit("".join(topics.values()), length=256)


def test_a_smooth_slope_is_recovered():
    grid, n = np.array([0, 10, 37, 79, 127, 176, 218, 245, 255]), 256
    slope = np.exp(-2.0 * (np.arange(1, n) - 0.5) / n)
    cells = np.add.reduceat(slope, grid[:-1])
    found = falls(grid, n, cells, np.full(8, 1e4))
    np.testing.assert_allclose(found, slope, rtol=0.05)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.3, 8))
    rough = np.repeat(cells * noise / np.diff(grid), np.diff(grid))
    smooth = falls(grid, n, cells * noise, np.full(8, 1 / 0.3**2))
    assert np.abs(np.log(smooth / slope)).mean() < 0.7 * np.abs(np.log(rough / slope)).mean()


def test_a_step_is_left_as_it_is():
    """Parity falls at its last token only; no smooth slope does."""
    grid = np.array([0, 8, 16, 24, 30, 31])
    found = falls(grid, 32, np.array([0.0, 0, 0, 0, np.log(2)]), np.full(5, 50.0))
    np.testing.assert_array_equal(found[:-1], 0.0)
    assert found[-1] == np.log(2)


def test_relative_errors_scale_with_the_passes():
    grid, movement = np.array([0, 4, 8, 15]), np.array([0.3, 0.2, 0.1])
    few, many = (effective_numbers(grid, 16, np.full(4, p), movement, np.zeros(3)) for p in (10, 40))
    np.testing.assert_allclose(many / few, 4 * (16 + 40) / (16 + 10))  # more tokens, and more trust in no spread
    noisy = effective_numbers(grid, 16, np.full(4, 10), movement, movement)
    assert np.all(noisy < few)


def test_sixty_four_passes_are_enough_for_a_plan(text):
    """The 16-step plan costs at most 2 % more than the best one, on the text chain at n = 256."""
    curve = text.curve()
    best = optimal(curve, 16).cost(curve)
    for key in range(4):
        found = increments(text, text.sample(16, key=1000 + key), passes=64, key=key)
        assert found.passes.sum() <= 64 + found.passes[0]  # the blank canvas is asked once
        assert plan(found, steps=16).schedule.cost(curve) <= 1.02 * best


class Overconfident:
    """Answers with another chain's laws: its predictions move where the data's do not."""

    def __init__(self, inner):
        self.inner, self.length = inner, inner.length

    def __call__(self, canvas, where):
        answer = self.inner(canvas, where)
        return Marginals(where, answer.logits)


def test_losses_overrule_movements_that_they_contradict():
    """Enough passes show that a model's movement is not what its loss does; the curve is then that of the losses."""
    sticky = Chain.markov([0.5, 0.5], [[0.95, 0.05], [0.05, 0.95]], length=24)
    loose = Chain.markov([0.5, 0.5], [[0.55, 0.45], [0.45, 0.55]], length=24)
    found = increments(Overconfident(sticky), loose.sample(400, key=1), passes=4000, key=1)
    np.testing.assert_array_equal(found.curve().values[found.grid], found.projected())
    honest = increments(sticky, sticky.sample(400, key=1), passes=4000, key=1)
    assert np.any(honest.curve().values[honest.grid] != honest.projected())
    np.testing.assert_allclose(honest.curve().increments, sticky.curve().increments, atol=0.02)


def test_a_factor_is_allowed_for():
    """Twice the movement with the same losses: the shape stays, scaled down to what the loss does."""
    chain = Chain.markov([0.5, 0.5], [[0.9, 0.1], [0.1, 0.9]], length=24)
    found = increments(chain, chain.sample(400, key=1), passes=4000, key=1)
    twice = replace(found, movement=2 * found.movement, movement_error=2 * found.movement_error)
    one, two = found.curve(), twice.curve()
    np.testing.assert_allclose(two.increments / two.increments.sum(), one.increments / one.increments.sum(), rtol=1e-9)
    assert abs(two.increments.sum() / one.increments.sum() - 1) < 0.1


def test_without_dependence_the_curve_is_flat():
    fair = Chain.markov([0.5, 0.5], [[0.5, 0.5], [0.5, 0.5]], length=12)
    found = increments(fair, fair.sample(20, key=0), passes=200)
    np.testing.assert_allclose(found.curve().values, np.log(2))


def test_the_height_is_the_nelbo():
    chain = Chain.random(12, 3, key=2)
    found = increments(chain, chain.sample(64, key=0), passes=800)
    assert found.curve().entropy == pytest.approx(found.nelbo)


def test_blocks_resume_where_they_stopped(tmp_path):
    """Every block is kept in its own file; a killed run goes on, to the last bit."""
    chain = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=12)
    data = chain.sample(40, key=1)
    whole = per_block(chain, data, size=8, passes=200)
    save, seen = tmp_path / "blocks.json", []

    def kill(block, blocks, sofar):
        seen.append((block, blocks))
        if block == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        per_block(chain, data, size=8, passes=200, save=save, progress=kill)
    assert seen[0] == (0, 2)
    assert seen[-1] == (1, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocks.0.json", "blocks.8.json"]
    again = per_block(chain, data, size=8, passes=200, save=save)
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one.loss, other.loss)
        assert one.nelbo == other.nelbo


def test_a_planned_run_carries_its_certificate():
    chain = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=12)
    planned = plan(measure(chain, chain.sample(50, key=0), passes=600), steps=4)
    run = planned.sample(chain, Canvas.blank(3, 12), key=0)
    assert run.certificate is planned.certificate
    assert run.nfe.tolist() == [4, 4, 4]
    masked = torch.ones(2, 12, dtype=torch.bool)
    masked[1, 0] = False
    with pytest.raises(PlanError, match="row 1 has 11 masked positions, the plan is certified for 12"):
        planned.sample(chain, Canvas(torch.zeros(2, 12, dtype=torch.int64), masked), key=0)
    with pytest.raises(PlanError, match=r"fingerprint is .*the certificate is for"):
        planned.sample(parity(12), Canvas.blank(1, 12), key=0)
