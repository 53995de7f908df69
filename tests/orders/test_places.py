"""Spaced orders against their descriptions, by hand and by enumeration."""

import numpy as np
import pytest
import torch

from demask.canvas import Canvas
from demask.chance import Keyed
from demask.contracts import Step
from demask.denoisers import Tempered
from demask.errors import OrderError
from demask.information import law
from demask.loop import sample
from demask.oracles import Table, parity
from demask.orders import Blockwise, Confidence, Dilated, Entropy, Hierarchical, Threshold
from demask.samplers import Parallel
from demask.schedules import Plan, Unlimited, uniform
from demask.testing import check_law, check_order

SKEWED = Table.random(4, 2, key=5, concentration=0.4)
START, MOVE = np.array([0.6, 0.4]), np.array([[0.8, 0.2], [0.3, 0.7]])
CHAIN = Table.dense(np.einsum("a,ab,bc,cd->abcd", START, MOVE, MOVE, MOVE))


def levels(length, base):
    """Which step each position goes at: multiples of ever smaller spacings, straight from the description."""
    when, spacing, turn = [-1] * length, length, 0
    while -1 in when:
        spacing = max(1, spacing // base)
        fresh = [i for i in range(0, length, spacing) if when[i] < 0]
        for i in fresh:
            when[i] = turn
        turn += bool(fresh)
    return when


@pytest.mark.parametrize("base", [2, 3])
@pytest.mark.parametrize("length", [2, 5, 8, 13])
def test_levels(length, base):
    run = sample(parity(length), Parallel(Unlimited(), Dilated(base)), Canvas.blank(1, length), key=0)
    assert run.when.tolist() == [levels(length, base)]


def test_levels_of_blocks_and_prompts():
    masked = torch.ones(1, 11, dtype=torch.bool)
    masked[0, 2] = False
    canvas = Canvas(torch.zeros(1, 11, dtype=torch.int64), masked)
    run = sample(parity(11), Parallel(Unlimited(), Blockwise(Dilated(), 4)), canvas, key=0)
    assert run.when.tolist() == [[0, 1, -1, 0, 1, 2, 3, 2, 3, 4, 4]]


def test_a_spread_out_pair_costs_less_than_neighbours():
    """On a chain, (0, 2) then (1, 3) loses less than (0, 1) then (2, 3), by exact replay."""
    dilated = CHAIN.kl(law(CHAIN, Parallel(Unlimited(), Dilated())))
    neighbours = CHAIN.kl(law(CHAIN, Parallel(Unlimited(), Blockwise(Confidence(), 2))))
    assert dilated < neighbours / 2


def test_hierarchical_is_its_transcription():
    generator = torch.Generator().manual_seed(0)
    masked = torch.rand(200, 9, generator=generator) < 0.6
    masked[:, 0] |= ~masked.any(1)
    scores = ((torch.rand(200, 9, generator=generator) * 12).floor() / 12 + 0.01).log().masked_fill(~masked, -torch.inf)

    class Given:
        law, unit = Confidence().law, "log-probability"

        def score(self, step):
            return scores

    canvas = Canvas(torch.zeros(200, 9, dtype=torch.int64), masked)
    chance = Keyed.of(0, torch.arange(200))
    step = Step(canvas, masked, masked, SKEWED, chance, chance)
    found = Hierarchical(Given(), 0.85, 0.5).score(step) > -torch.inf
    for row in range(200):
        p = scores[row].exp().tolist()
        expected = {i for i in range(9) if p[i] >= 0.85} | {max(range(9), key=lambda i: p[i])}
        start = 0
        while start < 9:
            end = start
            while end < 9 and masked[row, end]:
                end += 1
            if end > start and max(p[start:end]) >= 0.5:
                expected.add(max(range(start, end), key=lambda i: p[i]))
            start = max(end, start + 1)
        assert set(found[row].nonzero()[:, 0].tolist()) == expected, row


def test_hierarchical_between_its_limits():
    """With floor = least it is the threshold; with floor = 0 a blank row takes one token, and gaps halve from then on."""
    canvas = Canvas.blank(16, 4)
    for least in (0.6, 0.9):
        orders = Hierarchical(Confidence(), least, least), Threshold(Confidence(), least)
        runs = [sample(SKEWED, Parallel(Unlimited(), order), canvas, key=2) for order in orders]
        assert torch.equal(runs[0].when, runs[1].when)
        assert torch.equal(runs[0].tokens, runs[1].tokens)
    run = sample(Tempered(SKEWED, 0), Parallel(Unlimited(), Hierarchical(Confidence(), 1.0, 0.0)), canvas, key=2)
    assert (run.when == 0).sum(1).tolist() == [1] * 16
    assert (run.steps < 4).all()


@pytest.mark.parametrize("order", [Dilated(), Dilated(3), Hierarchical(Confidence(), 0.9, 0.4)], ids=repr)
def test_conformance(order):
    for oracle in (SKEWED, CHAIN):
        check_order(order, oracle)
        check_order(Blockwise(order, 2) if isinstance(order, Dilated) else order, oracle)
        check_law(Parallel(Plan([1] * 4), order), oracle)
        check_law(Parallel(uniform(4, 2), order), oracle)


def test_errors():
    with pytest.raises(OrderError, match="an integer >= 2"):
        Dilated(1)
    with pytest.raises(OrderError, match="compares probabilities"):
        Hierarchical(Entropy(), 0.9, 0.4)
    with pytest.raises(OrderError, match=r"such as 0\.9 and 0\.4"):
        Hierarchical(Confidence(), 0.4, 0.9)
