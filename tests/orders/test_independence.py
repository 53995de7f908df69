"""PUNT against a plain transcription, by enumeration: where it is exact, how far off it is elsewhere, what it costs."""

from itertools import product
from math import inf, log, prod

import numpy as np
import pytest
import torch

from demask.canvas import Canvas
from demask.chance import Keyed
from demask.contracts import Law, Step
from demask.errors import OrderError
from demask.information import law
from demask.loop import sample
from demask.oracles import Table, parity, repetition
from demask.orders import Blockwise, Confidence, Entropy, Independent, Margin
from demask.samplers import Parallel
from demask.schedules import Unlimited, uniform
from demask.testing import check_law, check_order

START, MOVE = np.array([0.6, 0.4]), np.array([[0.8, 0.2], [0.3, 0.7]])
FIVE = np.einsum("a,ab,bc,cd,de->abcde", START, MOVE, MOVE, MOVE, MOVE)
CHAIN = FIVE.sum(4)
RNG = np.random.default_rng(0)
PAIRS = [RNG.dirichlet([1.0] * 4).reshape(2, 2) for _ in range(2)]
GROUPS = np.einsum("ac,bd->abcd", *PAIRS)  # two dependent pairs, interleaved
HUB = np.einsum("a,ab,ac,d->abcd", [0.5, 0.5], *[np.array([[0.9, 0.1], [0.1, 0.9]])] * 2, [0.95, 0.05])


class Ranked:
    """Confidence, with ties that rounding would break left as ties, or broken by `first`: who of equals is ranked first."""

    law, unit = Law.FACTORISED, "log-probability"

    def __init__(self, first=()):
        self.first = first

    def score(self, step):
        rounded = (Confidence().score(step) * 1e9).round() / 1e9
        if self.first:
            rounded -= 1e-11 * torch.tensor([self.first.index(i) for i in range(len(self.first))])
        return rounded


def output(joint, epsilon, of="draft", inner=None):
    return law(Table.dense(joint), Parallel(Unlimited(), Independent(inner or Ranked(), epsilon, of)))


def transcribed(joint, epsilon, of):
    """The exact law of the published rule, one row and one set of candidates at a time."""

    def conditional(i, seen):
        hidden = [k for k in range(joint.ndim) if k not in seen]
        part = joint[tuple(seen.get(k, slice(None)) for k in range(joint.ndim))]
        part = part.sum(axis=tuple(axis for axis, k in enumerate(hidden) if k != i))
        return part / part.sum()

    def kl(p, q):
        return sum(a * (log(a / b) if b > 0 else inf) for a, b in zip(p, q, strict=True) if a > 0)

    out = np.zeros_like(joint)

    def go(seen, weight):
        hidden = [k for k in range(joint.ndim) if k not in seen]
        if not hidden:
            out[tuple(seen[k] for k in range(joint.ndim))] += weight
            return
        laws = {i: conditional(i, seen) for i in hidden}
        ranked = sorted(hidden, key=lambda i: (-round(max(laws[i]), 9), i))
        for tokens in product(range(joint.shape[0]), repeat=len(hidden)):
            drawn = dict(zip(hidden, tokens, strict=True))
            left = list(ranked)
            for bit in reversed(range((len(hidden) - 1).bit_length())):
                early = [i for i in left if not ranked.index(i) >> bit & 1]
                late = [i for i in left if ranked.index(i) >> bit & 1]
                filled = {i: drawn[i] if of == "draft" else int(np.argmax(laws[i])) for i in early}
                for j in late if early else []:
                    if kl(laws[j], conditional(j, seen | filled)) > epsilon:
                        left.remove(j)
            go(seen | {i: drawn[i] for i in left}, weight * prod(laws[i][drawn[i]] for i in hidden))

    go({}, 1.0)
    return Table.dense(out / out.sum())


@pytest.mark.parametrize("of", ["draft", "mode"])
@pytest.mark.parametrize("epsilon", [0.01, 0.04, 0.16])
@pytest.mark.parametrize("joint", [CHAIN, HUB, GROUPS], ids=["chain", "hub", "groups"])
def test_the_law_is_that_of_the_transcription(joint, epsilon, of):
    assert transcribed(joint, epsilon, of).tv(output(joint, epsilon, of)) < 1e-12


@pytest.mark.parametrize(
    ("of", "epsilon", "tv", "kl"), [("draft", 0.04, 0.109537, 0.031654), ("mode", 0.16, 0.274903, 0.209944)]
)
def test_how_far_off_on_a_chain(of, epsilon, tv, kl):
    chain, found = Table.dense(FIVE), output(FIVE, epsilon, of)
    assert (chain.tv(found), chain.kl(found)) == pytest.approx((tv, kl), abs=2e-6)


@pytest.mark.parametrize(
    ("epsilon", "tv", "kl"), [(0.01, 0.12, 0.037026), (0.04, 0.181509, 0.118798), (0.16, 0.287333, 0.232987)]
)
def test_figures_of_an_independent_enumeration(epsilon, tv, kl):
    """The chain begins in equilibrium: at first all five confidences are equal, and who of equals is ranked first decides.

    These reference figures are those of equals ranked 2, 0, 1, 3, 4 (or in the mirrored order), as rounded marginals
    ranked them; ranked by index the same rule gives the figures of the test above. Of 120 orders of equals these two alone
    give all three, with the most significant bit first, survivors filled in, and KL( before || after ) in nats.
    """
    chain, found = Table.dense(FIVE), output(FIVE, epsilon, inner=Ranked((2, 0, 1, 3, 4)))
    assert (chain.tv(found), chain.kl(found)) == pytest.approx((tv, kl), abs=1e-6)


@pytest.mark.parametrize("inner", [Confidence(), Margin(), Entropy()], ids=repr)
@pytest.mark.parametrize("of", ["draft", "mode"])
@pytest.mark.parametrize("joint", [CHAIN, GROUPS, HUB], ids=["chain", "groups", "hub"])
def test_exact_where_epsilon_is_nothing(joint, of, inner):
    assert Table.dense(joint).tv(output(joint, 1e-9, of, inner)) < 1e-9


@pytest.mark.parametrize("of", ["draft", "mode"])
def test_negative_control_parity_is_half_wrong(of):
    even = parity(4).to_table()
    found = law(even, Parallel(Unlimited(), Independent(Confidence(), 0.0, of)))
    assert even.tv(found) == pytest.approx(0.5, abs=1e-12)


def test_everything_passes_an_infinite_epsilon():
    chain = Table.dense(CHAIN)
    found = output(CHAIN, inf)
    assert chain.kl(found) == pytest.approx(chain.tc(), abs=1e-9)


def drafts(oracle):
    """One step per draft of all positions, with the draft's probability, (S,), and the tokens, (S, N)."""
    tokens = torch.tensor(list(product(range(oracle.vocabulary), repeat=oracle.length)))
    canvas = Canvas.blank(len(tokens), oracle.length)
    chance = Keyed.of(0, torch.arange(len(tokens)))
    step = Step(canvas, canvas.masked, canvas.masked, oracle, chance, chance)
    step._memory.drawn, step._memory.tokens = canvas.masked, tokens
    laws = step.marginals(canvas.masked)
    return step, laws.spread(laws.logp(tokens[canvas.masked])).sum(1).exp(), tokens


@pytest.mark.parametrize(("of", "gap"), [("draft", 0.278571), ("mode", 0.0)])
def test_why_the_draft_is_tilted(of, gap):
    """Of what goes at the first step, the law of a token given that it goes, against its own law."""
    step, weights, tokens = drafts(Table.dense(FIVE))
    rule = Independent(Ranked(), 0.16, of)
    goes = rule.test(step).accepted * weights[:, None]
    zero = ((tokens == 0) * goes).sum(0) / goes.sum(0)
    assert float((zero - 0.6).abs().nan_to_num().max()) == pytest.approx(gap, abs=1e-6)
    assert rule.law is (Law.TILTED if of == "draft" else Law.FACTORISED)
    assert Independent(Confidence("draft"), 0.1, "mode").law is Law.TILTED


def test_accepted_sets_and_divergences_show():
    """In the groups (0, 2) and (1, 3) one of each goes, and a divergence is that of the law once its partner is known."""
    step, _, tokens = drafts(Table.dense(GROUPS))
    tests = Independent(Confidence(), 1e-9).test(step)
    assert (tests.accepted[:, [0, 2]].sum(1) == 1).all()
    assert (tests.accepted[:, [1, 3]].sum(1) == 1).all()
    assert (tests.divergence[tests.accepted] < 1e-9).all()
    assert (tests.divergence[~tests.accepted] > 1e-5).all()
    for group, (one, two) in zip(PAIRS, ((0, 2), (1, 3)), strict=True):
        for row, seen in enumerate(tokens.tolist()):
            dropped, kept = (one, two) if tests.accepted[row, two] else (two, one)
            pair = group if dropped == two else group.T
            prior, after = pair.sum(0), pair[seen[kept]] / pair[seen[kept]].sum()
            expected = float((prior * np.log(prior / after)).sum())
            assert float(tests.divergence[row, dropped]) == pytest.approx(expected, abs=1e-9)


def test_one_of_every_group_of_equal_bits_and_it_is_the_best_ranked():
    bits = np.zeros((2,) * 6)
    for a, b in product((0, 1), repeat=2):
        bits[a, b, a, b, a, b] = 0.25
    step, weights, _ = drafts(Table.dense(bits))
    assert weights.sum() == pytest.approx(1.0)
    consistent = torch.tensor([len({t[0], t[2], t[4]}) == len({t[1], t[3], t[5]}) == 1 for t in drafts_of(6)])
    accepted = Independent(Ranked(), 1e-9).test(step).accepted[consistent]
    assert (accepted == torch.tensor([True, True, False, False, False, False])).all()


def drafts_of(length):
    return list(product((0, 1), repeat=length))


def test_independent_positions_go_at_once_and_passes_are_counted():
    coins = Table.dense(np.einsum("a,b,c,d,e->abcde", *RNG.dirichlet([1.0, 1.0], size=5)))
    run = sample(coins, Parallel(Unlimited(), Independent(Confidence(), 1e-9)), Canvas.blank(3, 5), key=0)
    assert run.steps.tolist() == [1, 1, 1]
    assert run.nfe.tolist() == [1 + 3] * 3  # three bits number five positions
    chain = Table.dense(FIVE)
    one_by_one = sample(chain, Parallel(Unlimited(), Independent(Confidence(), 0.0)), Canvas.blank(1, 5), key=0)
    assert one_by_one.nfe.tolist() == [(1 + 3) + (1 + 2) + (1 + 2) + (1 + 1) + 1]


def test_rows_do_not_depend_on_their_batch():
    tokens, masked = torch.zeros(3, 5, dtype=torch.int64), torch.ones(3, 5, dtype=torch.bool)
    masked[1, :3], masked[2, 1:] = False, False
    canvas, names = Canvas(tokens, masked), torch.tensor([4, 9, 2])
    sampler = Parallel(Unlimited(), Blockwise(Independent(Confidence(), 0.05), 4))
    together = sample(Table.dense(FIVE), sampler, canvas, key=3, names=names)
    for row in range(3):
        alone = sample(Table.dense(FIVE), sampler, canvas.rows([row]), key=3, names=names[row : row + 1])
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert alone.nfe[0] == together.nfe[row]


def test_a_schedule_caps_what_goes():
    coins = Table.dense(np.einsum("a,b,c,d->abcd", *RNG.dirichlet([1.0, 1.0], size=4)))
    run = sample(coins, Parallel(uniform(4, 2), Independent(Confidence(), 1e-9)), Canvas.blank(2, 4), key=0)
    assert (run.when == 0).sum(1).tolist() == [2, 2]


@pytest.mark.parametrize("of", ["draft", "mode"])
def test_conformance(of):
    oracle = Table.random(4, 2, key=5, concentration=0.4)
    check_order(Independent(Confidence(), 0.04, of), oracle)
    check_law(Parallel(uniform(4, 4), Independent(Confidence(), 0.04, of)), oracle)


@pytest.mark.parametrize("epsilon", [-0.01, float("nan")])
def test_errors(epsilon):
    with pytest.raises(OrderError, match=r"expected a number >= 0, such as 0\.04"):
        Independent(Confidence(), epsilon)
    with pytest.raises(OrderError, match="expected 'draft'"):
        Independent(Confidence(), 0.1, "argmax")


def test_candidates_that_contradict_each_other_hide_dependence():
    """Two unequal candidates for copies of one bit say nothing of the third copy, which passes for independent."""
    copies = repetition(3, 2).to_table()
    found = law(copies, Parallel(Unlimited(), Independent(Confidence(), 1e-9)))
    assert copies.tv(found) == pytest.approx(0.25, abs=1e-9)
