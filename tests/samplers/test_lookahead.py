"""Looking one pass ahead: analytic values, the hub, exact choice by replay, passes, reuse."""

from itertools import permutations
from math import exp

import pytest
import torch

from demask.canvas import Canvas, Marginals
from demask.chance import Keyed
from demask.contracts import Law, Step
from demask.denoisers import Tempered
from demask.errors import OrderError, ParticleError
from demask.information import law
from demask.loop import sample
from demask.oracles import Table
from demask.orders import Confidence, LeftToRight, Noisy, Pooled, Random, Threshold
from demask.samplers import (
    SMC,
    Ended,
    Foresight,
    Lookahead,
    Parallel,
    Remasking,
    Reward,
    SelfReward,
    Speculative,
    Stable,
    inside,
)
from demask.samplers.particles import copies, split
from demask.schedules import PerRow, Plan, Unlimited, uniform

from .paths import paths


def hub():
    """Position 0 is a fair bit, 1 to 3 copy it with errors of 0.1, 4 is nearly sure and tells nothing."""
    probs = torch.zeros((2,) * 5, dtype=torch.float64)
    for x in torch.cartesian_prod(*[torch.arange(2)] * 5).tolist():
        flips = sum(x[i] != x[0] for i in (1, 2, 3))
        probs[tuple(x)] = 0.5 * 0.1**flips * 0.9 ** (3 - flips) * (0.95 if x[4] == 0 else 0.05)
    return Table.dense(probs.numpy())


HUB = hub()
TABLE = Table.random(4, 2, key=5, concentration=0.4)


def worth(oracle, tokens, masked, potential):
    canvas = Canvas(torch.tensor([tokens]), torch.tensor([masked]))
    chance = Keyed.of(0, torch.arange(1))
    step = Step(canvas, torch.ones_like(canvas.masked), torch.ones_like(canvas.masked), oracle, chance, chance)
    return float(potential.total(torch.zeros(1, dtype=torch.float64), None, step))


def test_certainty_sees_one_thing_and_foresight_another():
    """Golden values: the likeliest modes are at position 4; the least entropy of the rest is left by position 0."""
    blank = Canvas.blank(1, 5)
    peaks = HUB(blank, blank.masked).peak.exp().tolist()
    assert peaks == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.95], abs=1e-9)
    for place, mean in ((0, 0.293441), (1, 0.366596), (2, 0.366596), (3, 0.366596), (4, 0.693147)):
        masked = [i != place for i in range(5)]
        p = HUB(blank, blank.masked).logits.exp()[place]
        entropy = sum(float(p[v]) * -worth(HUB, [v] * 5, masked, Foresight(temperature=1.0)) for v in (0, 1))
        assert entropy == pytest.approx(mean, abs=1e-6)


def test_foresight_is_the_analytic_value():
    """On a table, by its own conditionals; 0 where nothing is masked; a temperature divides."""
    masked = [True, False, True, True]
    laws = TABLE(Canvas(torch.tensor([[0, 1, 0, 0]]), torch.tensor([masked])), torch.tensor([masked])).logits.exp()
    entropy = float(-(laws * laws.log()).nan_to_num().sum(1).mean())
    assert worth(TABLE, [0, 1, 0, 0], masked, Foresight(temperature=0.5)) == pytest.approx(-2 * entropy, abs=1e-9)
    peak = float(laws.amax(1).mean()) - 1
    assert worth(TABLE, [0, 1, 0, 0], masked, Foresight("confidence", 1.0)) == pytest.approx(peak, abs=1e-9)
    assert worth(TABLE, [0, 1, 0, 0], [False] * 4, Foresight()) == 0


def first(sampler, oracle=HUB):
    """The probability of each position to go first, by replay of one step."""
    shares, runs = paths(oracle, sampler, max_steps=1)
    when = torch.cat([run.when for run in runs])
    assert float(shares.sum()) == pytest.approx(1, abs=1e-12)
    return (shares[:, None] * (when == 0)).sum(0).tolist()


class Rounded(Confidence):
    """Confidence in which equals are equal, so that the leftmost goes first."""

    def score(self, step):
        return super().score(step).round(decimals=6)


TWO = Parallel(Plan([1] * 5), Pooled(Rounded(), 2))


def test_the_hub_goes_first():
    """Each of k paths tries one of the two surest positions, 4 and 0 (of equals the leftmost); 0 wins where it is tried."""
    assert first(TWO) == pytest.approx([0.5, 0, 0, 0, 0.5])
    assert first(Lookahead(TWO, Foresight(), 2)) == pytest.approx([0.75, 0, 0, 0, 0.25], abs=1e-9)
    assert first(Lookahead(TWO, Foresight(), 3)) == pytest.approx([0.875, 0, 0, 0, 0.125], abs=1e-9)
    assert first(Lookahead(Parallel(Plan([1] * 5), Confidence()), Foresight(), 3)) == pytest.approx([0, 0, 0, 0, 1])


def test_drawn_by_worth():
    """Two paths that differ are chosen by exp(r / temperature); a large temperature is uniform, a small one the best."""
    for temperature, odds in ((0.4, exp((0.693147 - 0.293441) / 0.4)), (1e9, 1.0), (1e-3, float("inf"))):
        share = 1.0 if odds == float("inf") else odds / (1 + odds)
        expected = 0.25 + 0.5 * share
        found = first(Lookahead(TWO, Foresight(temperature=temperature), 2, choose="draw"))
        assert found == pytest.approx([expected, 0, 0, 0, 1 - expected], abs=1e-6)


def test_choice_is_equivariant():
    """Whatever worth stands in whatever slot: the chosen path is that of the largest, with its own canvas and tokens."""
    for worths in permutations([0.1, 2.0, 0.7]):

        class Given:
            law = Law.TILTED

            def total(self, before, info, after, worths=worths):
                return torch.tensor(worths, dtype=torch.float64).repeat(len(before) // 3)

        sampler = Lookahead(Parallel(Plan([1] * 4), Noisy(Confidence(), 1.0)), Given(), 3)
        chance = Keyed.of(1, torch.arange(6))
        state = sampler.init(Canvas.blank(6, 4), chance)
        after, info = sampler.step(state, TABLE, chance)
        best = worths.index(2.0)
        tried = sampler.inner.init(
            Canvas.blank(6, 4).rows(each := copies(6, 3, torch.device("cpu"))), chance.rows(each)
        )
        lone, _ = sampler.inner.step(tried, TABLE, split(chance, 6, 3, torch.device("cpu")))
        assert repr(after.canvas) == repr(lone.canvas.rows(torch.arange(6) * 3 + best))
        assert after.total.tolist() == [2.0] * 6
        assert torch.equal(info.kept, ~after.canvas.masked)


@pytest.mark.parametrize("choose", ["best", "draw"])
@pytest.mark.parametrize(
    "potential",
    [Foresight(), SelfReward(), Reward(lambda canvas: canvas.tokens.sum(1))],
    ids=lambda potential: type(potential).__name__,  # the repr of a function is another one in every process
)
def test_one_path_is_the_inner_sampler(potential, choose):
    for inner in (
        Parallel(PerRow(uniform, 3), Random()),
        Remasking(6),
        Speculative(3),
        Parallel(Unlimited(), Confidence()),
    ):
        canvas = Canvas.blank(5, 4)
        base, one = (sample(TABLE, s, canvas, key=2) for s in (inner, Lookahead(inner, potential, 1, choose=choose)))
        assert torch.equal(base.tokens, one.tokens)
        assert torch.equal(base.when, one.when)
        assert torch.equal(base.nfe, one.nfe)
        assert one.law is base.law


@pytest.mark.parametrize("paths", [2, 4])
@pytest.mark.parametrize("steps", [2, 3, 6])
def test_passes(paths, steps):
    """1 + k (steps - 1): the winner's answer is reused, and the last step has nothing to look at."""
    oracle = Table.random(6, 3, key=1, concentration=0.3)
    for of in ("entropy", "confidence"):
        sampler = Lookahead(Parallel(uniform(6, steps), Pooled(Confidence(), 5)), Foresight(of), paths)
        run = sample(oracle, sampler, Canvas.blank(3, 6), key=0)
        assert run.nfe.tolist() == [1 + paths * (steps - 1)] * 3
    rewarded = Lookahead(sampler.inner, Reward(lambda canvas: canvas.tokens.sum(1)), paths)
    assert sample(oracle, rewarded, Canvas.blank(3, 6), key=0).nfe.tolist() == [steps] * 3  # one canvas, asked once


def test_calls_are_batched_and_reuse_is_the_truth():
    """One call per step, about k canvases a row; the answers reused are what would be answered."""
    calls = []

    def counted(canvas, where):
        calls.append(len(where))
        return TABLE(canvas, where)

    sampler = Lookahead(Parallel(Plan([1] * 4), Pooled(Confidence(), 3)), Foresight(), 3)
    run = sample(counted, sampler, Canvas.blank(2, 4), key=0)
    assert calls == [2, 6, 6, 6]

    class Forgetful:
        law, potential = Law.TILTED, Foresight()

        def total(self, before, info, after):
            again = Step(after.canvas, after.start, after.start, TABLE, after.chance, after.origin)
            return self.potential.total(before, info, again)

    plain = sample(TABLE, Lookahead(sampler.inner, Forgetful(), 3), Canvas.blank(2, 4), key=0)
    assert torch.equal(plain.tokens, run.tokens)


@pytest.mark.parametrize(
    "inner",
    [
        Parallel(PerRow(uniform, 3), Pooled(Confidence(), 4)),
        Remasking(8),
        Stable(Parallel(Unlimited(), Threshold(Confidence(), 0.5))),
        Speculative(3),
        SMC(Parallel(PerRow(uniform, 3), Random()), SelfReward(), 2),
    ],
    ids=lambda inner: type(inner).__name__,
)
@pytest.mark.parametrize("choose", ["best", "draw"])
def test_any_sampler_inside(inner, choose):
    table = Table.random(6, 2, key=3, concentration=0.3)
    tokens = table.sample(7, key=2)
    masked = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    masked[0] = False
    canvas = Canvas(tokens, masked)
    for sampler in (
        Lookahead(inner, Foresight(), 3, choose=choose),
        SMC(Lookahead(inner, Foresight(), 2), SelfReward(), 2),
    ):
        run = sample(table, sampler, canvas, key=5)
        assert run.status.name == "FINISHED"
        assert torch.equal(run.tokens[~masked], tokens[~masked])
        row = torch.tensor([4])
        alone = sample(table, sampler, canvas.rows(row), key=5, names=row)
        assert torch.equal(alone.tokens[0], run.tokens[4])
        assert alone.nfe[0] == run.nfe[4]
    assert sampler.law is Law.TILTED


def test_waiting_inside_particles():
    inner = Lookahead(Parallel(Unlimited(), Threshold(Confidence("draft"), 0.7)), Foresight(), 2)
    oracle = Table.random(8, 2, key=1, concentration=0.05)
    run = sample(oracle, SMC(inner, SelfReward(), 3, threshold=1.0, every=3), Canvas.blank(20, 8), key=0)
    assert run.status.name == "FINISHED"
    assert oracle.log_prob(run.tokens).shape == (20,)


def test_pool():
    """Uniform among the best, in the law of the inner order; one per step it is exact, and a pool of all is random."""
    scores = torch.tensor([[0.1, 0.9, 0.3, 0.9, 0.5]])

    class Given:
        law, unit = Law.FACTORISED, "nats"

        def score(self, step):
            return scores.expand(step.open.shape).masked_fill(~step.open, -torch.inf)

    uniform_logits = lambda canvas, where: Marginals(where, torch.zeros(int(where.sum()), 1))  # noqa: E731
    chance = Keyed.of(0, torch.arange(3000))
    canvas = Canvas.blank(3000, 5)
    step = Step(canvas, canvas.masked, canvas.masked, uniform_logits, chance, chance)
    found = Pooled(Given(), 3).score(step)
    assert ((found > -torch.inf).sum(0) > 0).tolist() == [False, True, False, True, True]
    # 3,000 draws of three equally likely: 5 standard errors of 26 each, false alarm 2e-6
    assert all(abs(count - 1000) < 130 for count in torch.bincount(found.argmax(1), minlength=5)[[1, 3, 4]].tolist())
    assert Pooled(Confidence("draft"), 3).law is Law.TILTED
    joint = Table.random(3, 2, key=5, concentration=0.4)
    one = Parallel(Plan([1] * 3), Pooled(Confidence(), 2))
    assert joint.kl(law(joint, one)) == pytest.approx(0, abs=1e-9)
    with pytest.raises(OrderError, match="a pool of 0 positions; expected an integer >= 1"):
        Pooled(Random(), 0)
    with pytest.raises(OrderError, match="unit \\(priority\\)"):
        Threshold(Pooled(Confidence(), 2), 0.9)


def test_ends_inside():
    with pytest.raises(ParticleError, match=r"Ended around Lookahead .*inside\(Lookahead"):
        Ended(Lookahead(Parallel(Unlimited(), Random())), 1)
    end = Table.dense([[[0.1, 0.2], [0.0, 0.2]], [[0.0, 0.0], [0.0, 0.5]]])
    sampler = inside(Lookahead(Parallel(Plan([1] * 3), LeftToRight()), Foresight(), 2), Ended, 1)
    run = sample(end, sampler, Canvas.blank(20, 3), key=0)
    assert end.log_prob(run.tokens).isfinite().all()
    assert int(run.nfe.min()) == 1  # the first token was the end, along both paths
    assert int(run.nfe.max()) <= 5
    modes = sample(Tempered(end, 0), sampler, Canvas.blank(1, 3), key=0)
    assert modes.nfe.tolist() == [5]  # nothing ends along the modes: 1 + 2 * 2


def test_refusals():
    inner = Parallel(Unlimited(), Random())
    for count in (0, 1.5, True):
        with pytest.raises(ParticleError, match="expected an integer >= 1, such as 2"):
            Lookahead(inner, Foresight(), count)
    with pytest.raises(ParticleError, match="choose = 'worst'"):
        Lookahead(inner, choose="worst")
    for value, message in ((float("nan"), "is nan; expected a finite"), (-float("inf"), "all 2 trajectories of row 0")):
        reward = Reward(lambda canvas, value=value: torch.full((len(canvas.tokens),), value))
        with pytest.raises(ParticleError, match=message):
            sample(TABLE, Lookahead(inner, reward, 2), Canvas.blank(2, 4), key=0)
