"""Particles: unbiased normaliser and target by replay, the published law as they grow, waiting, refusals."""

from math import exp

import pytest
import torch

from demask.canvas import Canvas
from demask.chance import Keyed
from demask.contracts import Law
from demask.denoisers import Tempered
from demask.errors import ParticleError
from demask.information import law
from demask.loop import sample
from demask.oracles import Chain, Table
from demask.orders import Blockwise, Confidence, LeftToRight, Random, Threshold
from demask.samplers import (
    SMC,
    Adaptive,
    Editing,
    Ended,
    Foresight,
    Normaliser,
    Parallel,
    Remasking,
    Reward,
    SelfReward,
    Speculative,
    Stable,
    Stopped,
    inside,
)
from demask.samplers.resampling import SCHEMES
from demask.schedules import PerBlock, PerRow, Plan, Unlimited, uniform

from .paths import paths

CHAIN = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=5)
PAIR = Table.dense([[0.5, 0.2], [0.05, 0.25]])
THREE = Table.random(3, 2, key=5, concentration=0.4)
XOR = Table.dense([[[0.3, 0.02], [0.03, 0.15]], [[0.01, 0.2], [0.25, 0.04]]])


def single(order=None):
    return Parallel(PerRow(uniform, steps=64), order or LeftToRight())


def ones(canvas):
    """A reward that also looks at incomplete canvases, and says more of them than it should."""
    return (canvas.tokens * ~canvas.masked).sum(1).double() * 0.8 - canvas.masked.sum(1) * 0.3


def square(table):
    logp = 2 * table.logp
    return Table(table.sequences, logp - logp.logsumexp(0), table.vocabulary)


def listed(table):
    return table.sequences.tolist(), table.logp.exp().tolist()


def estimate(oracle, sampler):
    """E[Z 1{x comes out}] for every x, by replay of everything that can happen: {x: number}."""
    shares, runs = paths(oracle, sampler, collect=[Normaliser])
    out = {}
    z = torch.cat([run.collected["log_normaliser"] for run in runs]).exp()
    for share, row, value in zip(shares, torch.cat([run.tokens for run in runs]).tolist(), z, strict=True):
        out[tuple(row)] = out.get(tuple(row), 0.0) + float(share * value)
    return out


def assert_target(oracle, sampler, weight):
    """Z times the law of what comes out is p(x) weight(x), exactly, whatever the number of particles."""
    found = estimate(oracle, sampler)
    for x, p in zip(*listed(oracle), strict=True):
        assert found.get(tuple(x), 0.0) == pytest.approx(p * weight(x, p), abs=1e-12), x


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("oracle", "particles"), [(PAIR, 2), (PAIR, 3), (THREE, 2)], ids=["2,2", "2,3", "3,2"])
def test_normaliser_and_target_are_unbiased(scheme, oracle, particles):
    """By replay: E[Z f(x)] = sum_x p(x)^2 f(x), with resampling wherever weights differ."""
    sampler = SMC(single(), SelfReward(), particles, threshold=1.0, resampling=scheme)
    assert_target(oracle, sampler, lambda x, p: p)


@pytest.mark.parametrize("threshold", [0.0, 0.7])
@pytest.mark.parametrize("order", [LeftToRight(), Random(), Confidence()], ids=repr)
def test_unbiased_whatever_triggers_and_in_any_honest_order(order, threshold):
    assert_target(
        XOR if order != Random() else PAIR, SMC(single(order), SelfReward(), 2, threshold=threshold), lambda x, p: p
    )


def test_rewards():
    """Values on incomplete canvases guide and cancel; a temperature divides."""
    weight = lambda x, p: exp(0.8 * sum(x) / 0.5)  # noqa: E731
    assert_target(THREE, SMC(single(), Reward(ones, 0.5), 2, threshold=1.0), weight)
    unwanted = Reward(lambda canvas: ((canvas.tokens == 1) & ~canvas.masked)[:, 1].double() * -50.0)
    assert_target(PAIR, SMC(single(), unwanted, 2, threshold=1.0), lambda x, p: exp(-50.0 * x[1]))


def test_ramps():
    """Increasing weight of the whole past ends at the same target; that of the increments alone does not."""
    assert_target(THREE, SMC(single(), SelfReward(), 2, threshold=1.0, ramp="total"), lambda x, p: p)

    def late(x, p):
        canvas, value = Canvas(torch.tensor([x]), torch.ones(1, 3, dtype=torch.bool)), 0.0
        for i in range(3):
            where = torch.arange(3)[None] == i
            value += (i + 1) / 3 * float(THREE(canvas, where).logits[0, x[i]])
            canvas = canvas.unmask(where, canvas.tokens)
        return exp(value)

    assert_target(THREE, SMC(single(), SelfReward(), 2, threshold=1.0, ramp="increments"), late)


def test_waiting_for_the_slowest_leaves_the_target():
    """Particles unmask one or two tokens by their confidence, and wait for each other at two of four."""
    four = Table.random(4, 2, key=2, concentration=0.3)
    inner = Parallel(Unlimited(), Threshold(Blockwise(Confidence(), 2), 0.8))
    alone = {tuple(x): float(p) for x, p in zip(*listed(law(four, inner)), strict=True)}
    assert_target(four, SMC(inner, Foresight(), 2, threshold=1.0, every=2), lambda x, p: alone[tuple(x)] / p)


def test_foresight_vanishes_in_the_end():
    """Weights cancel, so what comes out tends to p, and Z is 1 in the mean."""
    for of in ("entropy", "confidence"):
        sampler = SMC(Parallel(Plan([1] * 3), Confidence()), Foresight(of, 0.2), 2, threshold=1.0)
        assert sampler.law is Law.CONSISTENT
        assert_target(XOR, sampler, lambda x, p: 1.0)
    assert sum(estimate(PAIR, SMC(single(), Foresight(), 3, threshold=1.0)).values()) == pytest.approx(1, abs=1e-12)


def test_law_tends_to_the_square():
    """By replay with 1, 2, 3 particles on two tokens: ever nearer to p^2 / sum p^2, and one is p itself."""
    assert CHAIN.to_table().tv(square(CHAIN.to_table())) == pytest.approx(0.393108, abs=1e-6)
    target = square(PAIR)
    far = [law(PAIR, SMC(single(), SelfReward(), count)).tv(target) for count in (1, 2, 3)]
    assert law(PAIR, SMC(single(), SelfReward(), 1)).tv(PAIR) == pytest.approx(0, abs=1e-12)
    assert far[0] > 1.4 * far[1] > 1.4 * 1.2 * far[2] > 0


def test_golden_chain():
    """4,000 rows of 64 particles. TV to p^2 / Z: mean at most 0.5 sqrt(32 / 4000) = 0.045 for 32 sequences, and above it by
    0.042 with probability at most exp(-2 * 4000 * 0.042^2) = 8e-7; the rest is for the finite number of particles, 1 / 64.
    Z: the mean of 4,000 against its own standard error, 5 of them (6e-7)."""  # fmt: skip
    sampler = SMC(single(), SelfReward(), 64)
    run = sample(CHAIN, sampler, Canvas.blank(4000, 5), key=1, collect=[Normaliser()])
    z = run.collected["log_normaliser"].exp()
    assert abs(float(z.mean()) - 0.0947352) < 5 * float(z.std()) / 4000**0.5
    shares = torch.bincount((run.tokens * 2 ** torch.arange(5)).sum(1), minlength=32) / 4000
    table = CHAIN.to_table()
    p = torch.zeros(32, dtype=torch.float64)
    p[(table.sequences * 2 ** torch.arange(5)).sum(1)] = table.logp.exp()
    target = p.square() / p.square().sum()
    assert float(p.square().sum()) == pytest.approx(0.0947352, abs=1e-7)
    assert float((shares - target).abs().sum() / 2) < 0.045 + 0.042 + 1 / 64
    assert float((shares - p).abs().sum() / 2) > 0.25
    assert run.nfe.tolist() == [5 * 64] * 4000


@pytest.mark.parametrize(
    "inner",
    [
        Parallel(PerRow(uniform, 3), Random()),
        Parallel(Unlimited(), Threshold(Confidence("draft"), 0.6)),
        Remasking(8),
        Stable(Parallel(Unlimited(), Threshold(Confidence(), 0.5))),
        Speculative(3),
        Ended(Parallel(PerRow(uniform, 3), Random()), 1),
    ],
    ids=lambda inner: type(inner).__name__,
)
def test_any_sampler_inside(inner):
    """One particle draws what the sampler draws; several stay alone in their row; what was given stays."""
    table = Table.random(6, 2, key=3, concentration=0.3)
    tokens = table.sample(7, key=2)
    masked = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    masked[0] = False
    canvas = Canvas(tokens, masked)
    base, one = (sample(table, sampler, canvas, key=5) for sampler in (inner, SMC(inner, SelfReward(), 1)))
    assert (one.tokens.tolist(), one.nfe.tolist(), one.when.tolist()) == (
        base.tokens.tolist(), base.nfe.tolist(), base.when.tolist(),
    )  # fmt: skip
    assert SMC(inner, SelfReward(), 1).law is inner.law
    several = SMC(inner, SelfReward(), 3, threshold=1.0, resampling="systematic")
    run = sample(table, several, canvas, key=5)
    assert torch.equal(run.tokens[~masked], tokens[~masked])
    assert run.nfe[0] == 0
    assert bool((run.when[masked] >= 0).all())
    row = torch.tensor([4])
    alone = sample(table, several, canvas.rows(row), key=5, names=row)
    assert torch.equal(alone.tokens[0], run.tokens[4])
    assert alone.nfe[0] == run.nfe[4]
    twice = sample(table, SMC(several, Reward(ones), 2), canvas, key=5)
    assert torch.equal(twice.tokens[~masked], tokens[~masked])


def seen(denoiser, sampler, rows, length, key=0):
    class Look:
        name = "look"

        def __init__(self):
            self.infos = []

        def see(self, info):
            self.infos.append(info)

        def result(self):
            return self.infos

    look = Look()
    return sample(denoiser, sampler, Canvas.blank(rows, length), key=key, collect=[look]), look.infos


def test_when_it_resamples():
    flat = Table.uniform(torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]), 2)
    _, infos = seen(flat, SMC(single(), SelfReward(), 4, threshold=1.0), 3, 3)
    for info in infos:  # equal weights: P effective particles, and never resampled
        assert info.effective.tolist() == pytest.approx([4.0] * 3)
        assert not bool(info.resampled.any())
    dominated = Reward(lambda canvas: (canvas.tokens[:, 0] * ~canvas.masked[:, 0]) * 30.0)
    run, infos = seen(flat, SMC(single(), dominated, 8), 16, 3)
    assert bool(infos[0].resampled[infos[0].effective < 4].all())
    assert bool((infos[0].effective < 4).any())
    assert not bool(infos[1].resampled.any())  # log-weights are zero after it, and the rest has no weight
    assert float(run.tokens[:, 0].double().mean()) == 1.0


def test_totals_are_carried_along():
    """The best particle is that of the largest probability of all its tokens, also after resampling."""
    sampler = SMC(single(), SelfReward(), 4, threshold=1.0, choose="best")
    state = sampler.init(Canvas.blank(2, 5), chance := rows_chance(2))
    for turn in range(5):
        state, info = sampler.step(state, CHAIN, chance.fork("step", turn))
    assert CHAIN.log_prob(state.inner.canvas.tokens).tolist() == pytest.approx(
        state.totals.flatten().tolist(), abs=1e-9
    )
    assert CHAIN.log_prob(info.canvas.tokens).tolist() == pytest.approx(state.totals.amax(1).tolist(), abs=1e-9)
    assert float(state.log_normaliser.abs().min()) > 0


def rows_chance(rows):
    return Keyed.of(0, torch.arange(rows))


def test_untempered_confidence():
    """Draws at temperature 0 are the modes; the weight is their probability at temperature 1."""
    run = sample(Tempered(CHAIN, 0), SMC(single(), SelfReward(), 3), Canvas.blank(1, 5), key=0, collect=[Normaliser()])
    assert run.tokens.tolist() == [[0] * 5]
    assert float(run.collected["log_normaliser"].exp()) == pytest.approx(0.24576, abs=1e-9)


def test_waiting():
    """At the end of a block all particles have filled it, and none has begun the next; blocks that are full cost nothing."""
    table = Table.random(8, 2, key=1, concentration=0.05)
    inner = Parallel(Unlimited(), Threshold(Blockwise(Confidence("draft"), 4), 0.7))
    sampler = SMC(inner, SelfReward(), 3, threshold=1.0, every=4)
    state = sampler.init(Canvas.blank(20, 8), chance := rows_chance(20))
    waited, turn = 0, 0
    while not bool(sampler.done(state).all()):
        state, info = sampler.step(state, table, chance.fork("step", turn))
        unmasked = (~state.inner.canvas.masked).sum(1).view(20, 3)
        late = unmasked.amin(1) < 4
        assert bool((unmasked[late] <= 4).all())
        assert not bool(info.resampled[late].any())
        waited += int(((unmasked == 4) & late[:, None]).sum())
        turn += 1
    assert waited > 0
    for other in (inner, Parallel(PerBlock(PerRow(uniform, 2), 4), Blockwise(Random(), 4)), Speculative(3)):
        run = sample(table, SMC(other, SelfReward(), 3, threshold=1.0, every=4), Canvas.blank(20, 8), key=0)
        assert run.status.name == "FINISHED"
        assert bool((run.nfe <= 3 * 8).all())


def test_foresight_answers_the_next_step():
    """The potential asks about what the next step would: one pass per particle and canvas that has something masked."""
    run = sample(CHAIN, SMC(single(), Foresight(), 4), Canvas.blank(2, 5), key=0)
    assert run.nfe.tolist() == [4 * 5] * 2


def test_ends_inside():
    """Each particle's text ends by itself; around the particles only the shown one would."""
    for kind, options in ((Ended, (1,)), (Stopped, (1, lambda tokens: None))):
        sampler = inside(SMC(single(), SelfReward(), 2), kind, *options)
        assert isinstance(sampler, SMC)
        assert isinstance(sampler.inner, kind)
        with pytest.raises(ParticleError, match=rf"{kind.__name__} around SMC.*inside\(SMC"):
            kind(SMC(single()), *options)
    end = Table.dense([[[0.1, 0.2], [0.0, 0.2]], [[0.0, 0.0], [0.0, 0.5]]])
    run = sample(end, SMC(Ended(single(), 1), SelfReward(), 4), Canvas.blank(50, 3), key=0)
    assert end.log_prob(run.tokens).isfinite().all()
    assert int(run.nfe.min()) < 12


def test_laws():
    exact, factorised = Parallel(Plan([1] * 3), Random()), Parallel(Plan([2, 1]), Random())
    assert SMC(exact, Foresight(), 4).law is Law.CONSISTENT
    for sampler in (
        SMC(exact, SelfReward(), 4), SMC(exact, Reward(ones), 4), SMC(factorised, Foresight(), 4),
        SMC(exact, Foresight(), 4, choose="best"), SMC(exact, Foresight(), 4, ramp="increments"),
    ):  # fmt: skip
        assert sampler.law is Law.TILTED
    assert SMC(exact, Foresight(), 4, ramp="total").law is Law.CONSISTENT


def test_refusals():
    for options, message in (
        ({"particles": 0}, "particles = 0; expected an integer >= 1"),
        ({"particles": 2.0}, r"particles = 2\.0"),
        ({"threshold": 1.5}, "a threshold of 1.5"),
        (
            {"resampling": "bootstrap"},
            "'bootstrap'; expected one of 'multinomial', 'residual', 'stratified', 'systematic'",
        ),
        ({"ramp": "linear"}, "ramp = 'linear'"),
        ({"choose": "first"}, "choose = 'first'; expected one of 'draw', 'best'"),
        ({"every": 0}, "every = 0"),
    ):
        with pytest.raises(ParticleError, match=message):
            SMC(single(), SelfReward(), **options)
    for inner in (Remasking(8), Ended(Remasking(8), 1), Editing(single()), SMC(single())):
        with pytest.raises(ParticleError, match="cannot; write every=None"):
            SMC(inner, SelfReward(), every=4)
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ParticleError, match=r"expected a number > 0; .*choose='best'"):
            Reward(ones, temperature)
    with pytest.raises(ParticleError, match="foresight of 'margin'"):
        Foresight("margin")
    for function, message in (
        (lambda canvas: ones(canvas) * torch.nan, r"the reward of Canvas\(\[\[., _\]\]\) is nan"),
        (lambda canvas: ones(canvas) + torch.inf, "is inf; expected a finite number"),
        (lambda canvas: ones(canvas)[:1], r"of 4 canvases is \(1,\); expected a tensor of shape \(4,\)"),
        (lambda canvas: 1.0, "is float; expected a tensor"),
        (lambda canvas: ones(canvas) - torch.inf, "all 2 trajectories of row 0 have weight 0"),
    ):
        with pytest.raises(ParticleError, match=message):
            sample(PAIR, SMC(single(), Reward(function), 2), Canvas.blank(2, 2), key=0)

    class Lost:
        law = Law.TILTED

        def total(self, before, info, after):
            return before + torch.nan

    with pytest.raises(ParticleError, match="potential of a trajectory of row 0 is nan"):
        sample(PAIR, SMC(single(), Lost(), 2), Canvas.blank(2, 2), key=0)
    with pytest.raises(ParticleError, match="a sampler without particles"):
        sample(PAIR, single(), Canvas.blank(1, 2), key=0, collect=[Normaliser()])


def test_what_is_excluded_stays_so():
    """A reward of -inf on the way is final, whatever comes after; the others go on."""
    first = Reward(lambda canvas: torch.where((canvas.tokens[:, 0] == 1) & canvas.masked[:, 1], -torch.inf, 0.0))
    for threshold in (0.0, 1.0):
        run = sample(PAIR, SMC(single(), first, 16, threshold=threshold), Canvas.blank(200, 2), key=0)
        assert int(run.tokens[:, 0].sum()) == 0


def test_adaptive_inside_takes_the_particles_rows():
    run = sample(CHAIN, SMC(Adaptive(CHAIN, 0.5), SelfReward(), 3), Canvas.blank(4, 5), key=0)
    assert CHAIN.log_prob(run.tokens).isfinite().all()


def test_the_trap_of_drawn_tokens():
    """An order that looks at the draws is no proposal from p: its weighted particles are not p^2."""
    gaps = []
    for order in (Confidence("draft"), Confidence()):
        found = estimate(PAIR, SMC(single(order), SelfReward(), 2, threshold=1.0))
        gaps.append(max(abs(found.get(tuple(x), 0.0) - p * p) for x, p in zip(*listed(PAIR), strict=True)))
    assert gaps[0] > 0.05
    assert gaps[1] < 1e-12
