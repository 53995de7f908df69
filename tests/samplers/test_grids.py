from itertools import pairwise
from math import exp, inf, log

import pytest

from demask.errors import PlanError
from demask.registry import build
from demask.samplers import Constant, ExponentialThenConstant, Linear

GRIDS = [
    Linear(1), Linear(7), Constant(1), Constant(9, 3.0), ExponentialThenConstant(1), ExponentialThenConstant(2),
    ExponentialThenConstant(20), ExponentialThenConstant(40, 8.0, 1e-5), ExponentialThenConstant(5, 0.5, 0.1),
]  # fmt: skip


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_levels_fall_to_zero(grid):
    levels = grid.levels
    assert len(levels) == grid.steps + 1
    assert all(a > b for a, b in pairwise(levels))
    assert levels[-1] == 0
    assert build(repr(grid), "grid") == grid


@pytest.mark.parametrize(("steps", "least"), [(2, 1e-3), (10, 1e-3), (20, 1e-3), (33, 1e-5), (400, 1e-3)])
def test_every_step_takes_what_kappa_allows(steps, least):
    grid = ExponentialThenConstant(steps, 8.0, least)
    levels, kappa = grid.levels, grid.kappa
    assert levels[0] == 8.0
    assert levels[-2] == least
    shares = [(a - b) / min(1, b) for a, b in pairwise(levels[:-1])]
    assert max(shares) == pytest.approx(kappa)
    assert min(shares) == pytest.approx(kappa, rel=1e-6)  # and none takes less: no other grid has a smaller kappa


def test_the_published_count_of_steps():
    """T / kappa + log(1 / delta) / log(1 + kappa), to within the turn from one to the other."""
    grid = ExponentialThenConstant(100, 8.0, 1e-3)
    count = (8 - 1) / grid.kappa + log(1e3) / log(1 + grid.kappa)
    assert abs(count - 99) < 1


def test_linear_shares():
    assert [exp(-level) for level in Linear(4).levels] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert Linear(4).levels[0] == inf
    assert Constant(4).kappa == pytest.approx(2.0)


def test_refusals():
    for steps in (0, 2.5, True):
        with pytest.raises(PlanError, match="an integer >= 1"):
            Linear(steps)
    with pytest.raises(PlanError, match="a horizon of"):
        Constant(4, 0.0)
    with pytest.raises(PlanError, match="least < horizon"):
        ExponentialThenConstant(4, 1.0, 2.0)
