"""Adaptive parallel decoding: agreement under shared noise, published expectations, and what each claim of law says."""

from itertools import pairwise

import pytest
import torch

from demask.canvas import Canvas, Marginals
from demask.contracts import Law
from demask.denoisers import Continued, Tempered
from demask.errors import DenoiserError, OrderError
from demask.information import law
from demask.loop import sample
from demask.oracles import Chain, Table
from demask.orders import LeftToRight
from demask.samplers import Adaptive, Ended, Parallel, VerifierPasses
from demask.samplers.adaptive import agree
from demask.schedules import Plan

from .paths import paths

CHAIN = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=5)
SKEWED = Table.random(4, 3, key=5, concentration=0.4)


def laws(key, rows, vocabulary):
    p = torch.distributions.Dirichlet(torch.full((vocabulary,), 0.7))
    with torch.random.fork_rng():
        torch.manual_seed(key)
        return p.sample((rows,)).double().log().log_softmax(1)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_agreement_is_that_of_shared_gumbel_noise(ratio, temperature):
    """Joint frequencies of 200 000 draws; each of 12 within 4.6 standard errors: a false alarm once in 2 000 runs of all."""
    logp, loga = laws(1, 1, 3), laws(2, 1, 3)
    where = torch.tensor([[True]])
    noise = -(-torch.rand(200_000, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64).log()).log()
    x = (logp / temperature + noise).argmax(1)
    y = ((ratio * logp + (1 - ratio) * loga) / temperature + noise).argmax(1)
    drawn = (logp[0] / temperature).softmax(0)
    for v in range(3):
        same = agree(Marginals(where, logp, temperature), Marginals(where, loga), torch.tensor([v]), ratio=ratio)
        expected = float(drawn[v] * same)
        frequency = float(((x == v) & (y == v)).double().mean())
        assert abs(frequency - expected) <= 4.6 * (expected * (1 - expected) / 200_000) ** 0.5 + 1e-12


def test_agreement_is_bounded_by_the_distance_and_grows_with_the_ratio():
    where = torch.ones(1, 64, dtype=torch.bool)
    p, a = Marginals(where, laws(3, 64, 5)), Marginals(where, laws(4, 64, 5))
    before = torch.zeros(64, 5, dtype=torch.float64)
    for ratio in (0.0, 0.2, 0.5, 0.9, 1.0):
        mixed = (ratio * p.logits + (1 - ratio) * a.logits).softmax(1)
        each = torch.stack([agree(p, a, torch.full((64,), v), ratio=ratio) for v in range(5)], 1)
        total, tv = (p.logits.exp() * each).sum(1), (p.logits.exp() - mixed).abs().sum(1) / 2
        assert (total <= 1 - tv + 1e-12).all()
        assert (total >= (1 - tv) / (1 + tv) - 1e-12).all()
        assert (each >= before - 1e-12).all()
        before = each
    assert before == pytest.approx(1.0, abs=1e-12)


def test_laws_with_zeros():
    where = torch.tensor([[True, True]])
    p = Marginals(where, torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log())
    a = Marginals(where, torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.0, 1.0]]).log())
    for ratio in (0.0, 0.5):
        assert agree(p, a, torch.tensor([0, 0]), ratio=ratio).tolist() == [0.0, 0.0]
    assert agree(p, a, torch.tensor([1, 0]), ratio=0.0).tolist() == pytest.approx([2 / 3, 0.0])
    assert agree(p, a, torch.tensor([1, 0]), ratio=0.5).tolist() == pytest.approx([1.0, 0.0])
    assert agree(p, a, torch.tensor([0, 0]), ratio=1.0).tolist() == [1.0, 1.0]
    cold = p.tempered(0.0)
    assert agree(cold, a, torch.tensor([0, 0]), ratio=0.5).tolist() == [0.0, 1.0]  # all -inf: the first of equals


@pytest.mark.parametrize(("ratio", "kept"), [(0, 3.122), (0.25, 3.45631), (0.5, 3.876728), (0.75, 4.391156), (1, 5)])
def test_tokens_of_the_first_step(ratio, kept):
    shares, runs = paths(CHAIN, Adaptive(CHAIN, ratio), max_steps=1)
    count = torch.cat([(run.when == 0).sum(1) for run in runs])
    assert float(shares.sum()) == pytest.approx(1, abs=1e-9)
    assert float(shares @ count.double()) == pytest.approx(kept, abs=1e-6)
    assert int(count.min()) >= 1


def test_the_first_token_of_a_step_has_the_law_of_the_denoiser():
    """Given what the first step left, the next token has p_D's law; the whole is not the model's, also where R = 0."""
    chain = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=3)
    shares, runs = paths(chain, Adaptive(chain, 0.0))
    when, tokens = (torch.cat([getattr(run, name) for run in runs]) for name in ("when", "tokens"))
    second = (when[:, 1] == 1) & (tokens[:, 0] == 0)  # position 1 was not kept at first, and begins the second step
    ones = shares[second] @ (tokens[second, 1] == 1).double()
    assert float(ones / shares[second].sum()) == pytest.approx(0.2, abs=1e-9)
    assert chain.to_table().kl(law(chain, Adaptive(chain, 0.0))) > 0.001


def test_claims():
    whole = law(SKEWED, Parallel(Plan((4,)), LeftToRight()))
    assert Adaptive(SKEWED, 1.0).law is Law.FACTORISED
    assert whole.kl(law(SKEWED, Adaptive(SKEWED, 1.0))) == pytest.approx(0, abs=1e-9)
    assert Adaptive(SKEWED, 0.4, 1).law is Law.EXACT
    alone = Continued(SKEWED, 4)
    output = law(alone, Adaptive(SKEWED, 0.4, 1), canvas=Canvas.blank(1, 4), vocabulary=3)
    assert SKEWED.kl(output) == pytest.approx(0, abs=1e-9)
    assert Adaptive(SKEWED, 0.4).law is Law.TILTED


def test_more_trust_keeps_no_less():
    """The same draws and coins at every ratio, so the first step keeps no less of the same draft."""
    counts = []
    for ratio in (0.0, 0.25, 0.5, 0.75, 1.0):
        run = sample(CHAIN, Adaptive(CHAIN, ratio), Canvas.blank(100, 5), key=1)
        counts.append((run.when == 0).sum(1))
    assert all((low <= high).all() for low, high in pairwise(counts))
    assert (counts[0] < counts[-1]).any()


def test_lookahead_hides_the_masks_behind():
    seen = []

    def watching(canvas, where):
        seen.append(
            (canvas.masked.sum(1).tolist(), canvas.shape[1], (canvas.tokens[~canvas.masked] == -1).sum().item())
        )
        return Continued(CHAIN, 5)(canvas, where)

    canvas = Canvas(torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]), torch.tensor([[True] * 4 + [False], [True] * 5]))
    run = sample(watching, Adaptive(CHAIN, 1.0, 2), canvas, key=0)
    assert seen == [([2, 2], 5, 2 + 3), ([2, 2], 5, 0 + 1), ([1], 5, 0)]
    assert run.when.tolist() == [[0, 0, 1, 1, -1], [0, 0, 1, 1, 2]]
    seen.clear()
    sample(watching, Adaptive(CHAIN, 1.0, 2), Canvas.blank(1, 5), key=0)
    assert [width for _, width, _ in seen] == [2, 4, 5]


def test_all_within_the_lookahead_is_as_without():
    free = sample(CHAIN, Adaptive(CHAIN, 0.3), Canvas.blank(40, 5), key=3)
    capped = sample(CHAIN, Adaptive(CHAIN, 0.3, 9), Canvas.blank(40, 5), key=3)
    assert torch.equal(free.tokens, capped.tokens)
    assert torch.equal(free.when, capped.when)


def test_modes():
    run = sample(Tempered(CHAIN, 0), Adaptive(CHAIN, 0.5), Canvas.blank(2, 5), key=3)
    assert run.tokens.tolist() == [[0] * 5] * 2


def test_refusals():
    with pytest.raises(OrderError, match=r"expected a weight in \[0, 1\]"):
        Adaptive(CHAIN, 1.2)
    with pytest.raises(OrderError, match="expected an integer >= 1"):
        Adaptive(CHAIN, 0.5, 0)
    with pytest.raises(DenoiserError, match="a verifier of 3 tokens for a denoiser of 2"):
        sample(CHAIN, Adaptive(Table.random(5, 3), 0.5), Canvas.blank(1, 5), key=0)


def test_a_vocabulary_beyond_the_cache_is_compared_by_groups(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    where = torch.ones(1, 9, dtype=torch.bool)
    p, a = (Marginals(where, torch.randn(9, 50, generator=generator)) for _ in range(2))
    tokens = torch.randint(50, (9,), generator=generator)
    for draft in (p, p.tempered(0.7), p.tempered(0.0)):
        whole = agree(draft, a, tokens, ratio=0.6)
        with monkeypatch.context() as patched:
            patched.setattr("demask.reductions._CHUNK", 100)
            assert torch.equal(agree(draft, a, tokens, ratio=0.6), whole)
        if draft.temperature:
            law = (0.6 * draft.logits + 0.4 * a.logits.log_softmax(-1)).double()
            law, own = (law / draft.temperature).softmax(-1), (p.logits / draft.temperature).double().softmax(-1)
            rates = law / law.gather(1, tokens[:, None]), own / own.gather(1, tokens[:, None])
            expected = 1 / torch.maximum(*rates).sum(1) / own.gather(1, tokens[:, None])[:, 0]
            assert torch.allclose(whole.double(), expected, rtol=1e-4)


def test_passes_of_the_verifier_are_counted():
    """Each step asks it once for the rows that drafted more than one token, and not at all at ratio 1."""
    asked = []

    class Watched(Table):
        def along(self, canvas, where, ranks):
            asked.append(len(where))
            return super().along(canvas, where, ranks)

    table = Table.random(5, 3, key=5, concentration=0.4)
    verifier = Watched(table.sequences, table.logp, 3)
    for sampler in (Adaptive(verifier, 0.3), Ended(Adaptive(verifier, 0.3), 0)):
        asked.clear()
        run = sample(table, sampler, Canvas.blank(30, 5), key=1, collect=[VerifierPasses()])
        passes = run.collected["verifier"]
        assert int(passes.sum()) == sum(asked) > 0
        assert bool(((run.nfe - passes >= 0) & (run.nfe - passes <= 1)).all())  # a last token alone is not checked
        assert bool((passes < run.nfe).any())
    for sampler in (Adaptive(verifier, 1.0), Parallel(Plan((5,)), LeftToRight())):
        run = sample(table, sampler, Canvas.blank(2, 5), key=1, collect=[VerifierPasses()])
        assert int(run.collected["verifier"].sum()) == 0
