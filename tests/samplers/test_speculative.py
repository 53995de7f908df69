"""Speculative decoding, by replay: the exact law in every order, passes bounded by tokens, published expectations."""

from itertools import permutations

import pytest
import torch

from demask.canvas import Canvas
from demask.chance import Keyed
from demask.contracts import Law
from demask.denoisers import Nucleus, Tempered
from demask.errors import DenoiserError, OrderError
from demask.information import law
from demask.loop import sample
from demask.oracles import Chain, Table
from demask.orders import Blockwise, Confidence, LeftToRight, Random
from demask.samplers import Ended, Parallel, Speculative
from demask.schedules import Plan
from demask.testing import check_law

from .paths import paths

SKEWED = Table.random(3, 3, key=5, concentration=0.4)
XOR = Table.dense([[[0.3, 0.02], [0.0, 0.18]], [[0.0, 0.21], [0.25, 0.04]]])
CHAIN = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=5)


class Fixed:
    law, unit = Law.FACTORISED, "priority"

    def __init__(self, places):
        self.places = places

    def score(self, step):
        rank = torch.tensor([self.places.index(i) for i in range(len(self.places))])
        return torch.where(step.open, -rank.double(), -torch.inf)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("oracle", [SKEWED, XOR], ids=["skewed", "xor"])
def test_law_is_exact_in_every_order(oracle, size):
    for places in permutations(range(3)):
        check_law(Speculative(size, Fixed(places)), oracle)
    check_law(Speculative(size, Random()), oracle)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("order", [LeftToRight(), Fixed((2, 0, 1)), Random()], ids=["left", "fixed", "random"])
def test_law_is_exact_when_the_context_drafts(order, size):
    check_law(Speculative(size, order, "context"), XOR)
    if size == 2:
        check_law(Speculative(size, order, "context"), Table.random(3, 3, key=2, concentration=0.3))


@pytest.mark.parametrize("draft", ["network", "context"])
def test_law_given_a_prompt(draft):
    joint = Table.random(4, 2, key=7, concentration=0.4)
    canvas = Canvas(torch.tensor([[0, 1, 0, 0]]), torch.tensor([[True, False, True, True]]))
    given = joint.sequences[:, 1] == 1
    logp = joint.logp[given]
    expected = Table(joint.sequences[given], logp - logp.logsumexp(0), 2)
    for order in (LeftToRight(), Random()):
        assert expected.kl(law(joint, Speculative(3, order, draft), canvas=canvas)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("wrap", [lambda o: Tempered(o, 0.6), lambda o: Nucleus(o, 0.8)], ids=["tempered", "nucleus"])
def test_wrapped_laws_are_those_of_one_token_a_step(wrap):
    """A temperature changes the law into one that depends on the order; drafting leaves it as it is."""
    denoiser, canvas = wrap(SKEWED), Canvas.blank(1, 3)
    one = law(denoiser, Parallel(Plan((1, 1, 1)), LeftToRight()), canvas=canvas, vocabulary=3)
    assert SKEWED.kl(one) > 0.01 or one.kl(SKEWED) > 0.01
    for draft in ("network", "context"):
        several = law(denoiser, Speculative(3, draft=draft), canvas=canvas, vocabulary=3)
        assert one.kl(several) == pytest.approx(0, abs=1e-9)


def test_mode_at_temperature_zero():
    runs = [
        sample(Tempered(SKEWED, 0), sampler, Canvas.blank(1, 3), key=0).tokens.tolist()
        for sampler in (Parallel(Plan((1, 1, 1)), LeftToRight()), Speculative(2), Speculative(3, draft="context"))
    ]
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize(("size", "mean"), [(2, 5.0), (3, 4.0444), (4, 3.4644), (5, 3.0212)])
def test_passes_of_a_chain(size, mean):
    shares, runs = paths(CHAIN, Speculative(size))
    passes = torch.cat([run.nfe for run in runs])
    assert float(shares.sum()) == pytest.approx(1, abs=1e-9)
    assert float(shares @ passes.double()) == pytest.approx(mean, abs=5e-5)
    assert int(passes.max()) == 5


@pytest.mark.parametrize("draft", ["network", "context"])
@pytest.mark.parametrize("order", [LeftToRight(), Random()], ids=repr)
@pytest.mark.parametrize("size", [2, 3, 7])
def test_never_more_passes_than_masked_tokens(size, order, draft):
    oracle = Table.random(7, 3, key=1, concentration=0.1)
    tokens = oracle.sample(200, key=2)
    masked = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) < 0.7
    run = sample(oracle, Speculative(size, order, draft), Canvas(tokens, masked), key=4)
    assert (run.nfe <= masked.sum(1)).all()
    assert bool((run.nfe < masked.sum(1)).any()) == (size > 2 or draft == "context")  # two passes for two tokens
    assert oracle.log_prob(run.tokens).isfinite().all()
    assert torch.equal(run.tokens[~masked], tokens[~masked])
    assert ((run.when == -1) == ~masked).all()


def test_rows_are_alone():
    oracle, canvas = Table.random(6, 3, key=1, concentration=0.2), Canvas.blank(5, 6)
    for draft in ("network", "context"):
        sampler = Speculative(3, Random(), draft)
        run = sample(oracle, sampler, canvas, key=9)
        alone = sample(oracle, sampler, Canvas.blank(1, 6), key=9, names=torch.tensor([3]))
        assert torch.equal(run.tokens[3:4], alone.tokens)
        assert run.nfe[3] == alone.nfe[0]


def test_ends_early():
    """Everything behind the end token is known: law of the text up to it unchanged."""
    end = Table.dense([[[0.1, 0.2], [0.0, 0.2]], [[0.0, 0.0], [0.0, 0.5]]])
    assert end.kl(law(end, Ended(Speculative(3), 1))) == pytest.approx(0, abs=1e-9)


def test_refusals():
    with pytest.raises(OrderError, match=r"1 tokens drafted.* 2m - 1.*Parallel\(uniform"):
        Speculative(1)
    with pytest.raises(OrderError, match="expected one of network, context"):
        Speculative(3, draft="bigram")
    with pytest.raises(OrderError, match="asks the network where to go"):
        sample(SKEWED, Speculative(2, Confidence()), Canvas.blank(1, 3), key=0)
    with pytest.raises(OrderError, match="leaves masked positions for later"):
        sample(SKEWED, Speculative(2, Blockwise(LeftToRight(), 2)), Canvas.blank(1, 3), key=0)
    with pytest.raises(DenoiserError, match="demask train --network permutation"):
        sample(lambda canvas, where: SKEWED(canvas, where), Speculative(2), Canvas.blank(1, 3), key=0)
    assert Speculative(2, Confidence("draft")).law is Law.TILTED


@pytest.mark.parametrize("draft", ["network", "context"])
def test_a_step_with_nothing_left_changes_nothing(draft):
    tokens = torch.tensor([[0, 1, 0], [1, 1, 1]])
    canvas, chance = Canvas(tokens, torch.zeros_like(tokens).bool()), Keyed.of(0, torch.arange(2))
    sampler = Speculative(2, draft=draft)
    state, info = sampler.step(sampler.init(canvas, chance), Table.random(3, 2, key=0), chance)
    assert torch.equal(state.canvas.tokens, tokens)
    assert not info.kept.any()
    assert sampler.done(state).all()
