"""Remasking against the published posterior, by enumeration of the whole chain of canvases."""

from itertools import product

import numpy as np
import pytest
import torch

from demask.canvas import Canvas
from demask.contracts import Law
from demask.errors import PlanError
from demask.information import law
from demask.loop import sample
from demask.oracles import Chain, Table
from demask.orders import Random
from demask.samplers import Ended, Parallel
from demask.samplers.remasking import Cap, Confident, Loop, Remasking, Rescale
from demask.schedules import binomial

JOINT = np.array([[0.45, 0.05], [0.1, 0.4]])
TABLE = Table.dense(JOINT.tolist())
M = 2  # the mask, in the transcription


def clocks(strategy, steps):
    """alpha_t, alpha_s, sigma of every step, from the paper."""
    for k in range(steps):
        t, s = 1 - k / steps, 1 - (k + 1) / steps
        if isinstance(strategy, Loop):

            def alpha(time):
                if time > strategy.on:
                    return strategy.level * (1 - time) / (1 - strategy.on)
                if time > strategy.off:
                    return strategy.level
                return strategy.level + (1 - strategy.level) * (strategy.off - time) / strategy.off

            a, b = alpha(t), alpha(s)
            sigma = min(strategy.eta, (1 - b) / a) if strategy.off < t <= strategy.on else 0.0
        else:
            a, b = 1 - t, 1 - s
            most = min(1.0, (1 - b) / a) if a > 0 else 1.0
            sigma = min(strategy.eta, most) if isinstance(strategy, Cap) else strategy.eta * most
        yield a, b, sigma


def by_hand(strategy, steps, *, jointly=False):
    """The law of two binary tokens after all steps; the state holds each token and how probable it was when drawn.

    With `jointly` two tokens of the same step are drawn from their joint law, which no denoiser can do.
    """
    inner, confident = (strategy.strategy, True) if isinstance(strategy, Confident) else (strategy, False)
    states = {((M, 0.0), (M, 0.0)): 1.0}
    for a, b, sigma in clocks(inner, steps):
        following = {}
        for state, share in states.items():
            weights = [np.exp(-p) if x != M else 0.0 for x, p in state]
            options = []
            for i, (x, p) in enumerate(state):
                if x == M:
                    other = state[1 - i][0]
                    given = JOINT.sum(1 - i) if other == M else np.take(JOINT, other, 1 - i)
                    given = given / given.sum()
                    rate = 0.0 if confident else sigma
                    go = (b - (1 - rate) * a) / (1 - a)
                    options.append([((M, 0.0), 1 - go), *(((v, round(given[v], 12)), go * given[v]) for v in (0, 1))])
                else:
                    rate = sigma * weights[i] / sum(weights) if confident else sigma
                    options.append([((M, 0.0), rate), ((x, p), 1 - rate)])
            for (one, p), (two, q) in product(*options):
                odds = share * p * q
                if jointly and state[0][0] == state[1][0] == M and M not in (one[0], two[0]):
                    odds *= JOINT[one[0], two[0]] / (JOINT.sum(1)[one[0]] * JOINT.sum(0)[two[0]])
                following[one, two] = following.get((one, two), 0.0) + odds
        states = following
    out = np.zeros((2, 2))
    for ((x, _), (y, _)), share in states.items():
        if share > 1e-15:
            out[x, y] += share
    return out


STRATEGIES = [
    Cap(0.3),
    Cap(1.0),
    Rescale(0.5),
    Rescale(1.0),
    Loop(0.1, 0.7, 0.2, 0.6),
    Confident(Rescale(1.0)),
    Confident(Cap(0.4)),
]


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_the_law_is_the_published_posterior(strategy, steps):
    found = np.zeros((2, 2))
    out = law(TABLE, Remasking(steps, strategy), limit=1_000_000)
    for (x, y), p in zip(out.sequences.tolist(), out.logp.exp().tolist(), strict=True):
        found[x, y] = p
    assert np.allclose(found, by_hand(strategy, steps), atol=1e-9)


@pytest.mark.parametrize("steps", [4, 40])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_only_tokens_of_the_same_step_are_wrong_unless_it_looks_at_what_was_drawn(strategy, steps):
    """What FACTORISED claims, and TILTED does not, on the transcription that the replay confirms."""
    gap = float(np.abs(by_hand(strategy, steps, jointly=True) - JOINT).sum() / 2)
    if isinstance(strategy, Confident):
        assert Remasking(steps, strategy).law is Law.TILTED
        assert gap > 1e-5
    else:
        assert Remasking(steps, strategy).law is Law.FACTORISED
        assert gap < 1e-12
    assert float(np.abs(by_hand(strategy, steps) - JOINT).sum() / 2) > 1e-3


def test_a_product_law_is_exact_whatever_is_remasked_blindly():
    table = Table.dense([[0.42, 0.28], [0.18, 0.12]])
    assert abs(table.to_table().kl(law(table, Remasking(3, Cap(0.5)), limit=1_000_000))) < 1e-9


def test_without_remasking_it_is_ancestral_sampling():
    table = Table.random(2, 3, key=3, concentration=0.5)
    ancestral = law(table, Parallel(binomial(2, 3), Random()))
    assert ancestral.tv(law(table, Remasking(3, Rescale(0.0)))) < 1e-9


def test_when_is_the_time_of_the_last_writing():
    """Followed by hand over the canvases of a run, with a prompt that is never touched."""
    chain = Chain.random(8, 4, key=1)
    tokens = chain.sample(5, key=2)
    masked = torch.ones(5, 8, dtype=torch.bool)
    masked[:, 2] = False
    masked[4] = False
    seen = []

    class Watching:
        name = "watching"

        def see(self, info):
            seen.append((info.step.canvas.masked.tolist(), info.canvas.masked.tolist()))

        def result(self):
            return None

    canvas = Canvas(tokens, masked)
    run = sample(chain, Remasking(30, Cap(0.2)), canvas, key=5, collect=[Watching()])
    expected, again = torch.where(masked, -2, -1).tolist(), 0
    for turn, (before, after) in enumerate(seen):
        for row in range(5):
            for place in range(8):
                if before[row][place] and not after[row][place]:
                    expected[row][place] = turn
                if after[row][place] and not before[row][place]:
                    expected[row][place], again = -2, again + 1
    assert again > 20
    assert run.when.tolist() == expected
    assert (run.when[masked] >= 0).all()
    assert torch.equal(run.tokens[~masked], tokens[~masked])
    assert run.nfe[4] == run.steps[4] == 0
    assert (run.nfe <= run.steps).all()


@pytest.mark.parametrize("strategy", [Cap(0.1), Confident()], ids=repr)
def test_a_row_does_not_depend_on_its_batch(strategy):
    chain, names = Chain.random(6, 3, key=1), torch.tensor([3, 141, 5, 92])
    together = sample(chain, Remasking(12, strategy), Canvas.blank(4, 6), key=7, names=names)
    for row in range(4):
        alone = sample(chain, Remasking(12, strategy), Canvas.blank(1, 6), key=7, names=names[row : row + 1])
        for name in ("tokens", "when", "nfe"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[row])


def test_an_end_around_it():
    chain = Chain.markov([0.5, 0.3, 0.2], [[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.0, 0.0, 1.0]], length=6)
    run = sample(chain, Ended(Remasking(20, Cap(0.2)), 2), Canvas.blank(64, 6), key=1)
    assert (run.tokens[(run.tokens == 2).cumsum(1) > 0] == 2).all()
    assert (run.when >= 0).all()


def test_refusals():
    for bad in (lambda: Cap(-0.1), lambda: Rescale(1.1), lambda: Loop(2.0)):
        with pytest.raises(PlanError, match="eta = "):
            bad()
    with pytest.raises(PlanError, match="off < on"):
        Loop(0.02, 0.1, 0.5)
    with pytest.raises(PlanError, match="expected Cap"):
        Confident(Confident())
    for steps in (0, 2.5, True):
        with pytest.raises(PlanError, match="an integer >= 1"):
            Remasking(steps)
