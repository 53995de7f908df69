"""Tau-leaping against its published forms, by enumeration: scores, generators, the laws that come out."""

from itertools import pairwise, product
from math import comb, exp, expm1, log

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from demask.canvas import Canvas, Marginals
from demask.contracts import Law
from demask.errors import DenoiserError, OrderError, PlanError
from demask.information import law
from demask.information.totals import effective_tc
from demask.loop import sample
from demask.oracles import Chain, Table, repetition
from demask.orders import Random
from demask.samplers import Absorbing, Constant, Ended, ExponentialThenConstant, Linear, Parallel, Stopped, UniformState
from demask.samplers.ctmc import without_own
from demask.schedules import binomial

F1 = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=5)
RULES = ("leave-one-out", "truncated", "modulo")


def dense(table):
    """The probabilities of all sequences, in a row."""
    sequences = torch.tensor(list(product(range(table.vocabulary), repeat=table.length)))
    return sequences, table.log_prob(sequences).exp().numpy()


# --- the masked process -----------------------------------------------------------------------------------------------


def unmasked_law(oracle, sampler):
    """The law after all steps, over canvases: each step unmasks a binomial set, its tokens drawn independently."""
    n, V = oracle.length, oracle.vocabulary
    states = {(V,) * n: 1.0}
    for turn in range(sampler.grid.steps):
        stays, after = sampler.stays(turn), {}
        rows = list(states)
        tokens = torch.tensor(rows)
        canvas = Canvas(tokens.masked_fill(tokens == V, 0), tokens == V)
        answer = oracle(canvas, canvas.masked)
        laws = answer.logits.softmax(-1).numpy()
        begin = 0
        for row in rows:
            places = [i for i in range(n) if row[i] == V]
            mine = laws[begin : begin + len(places)]
            begin += len(places)
            options = [[(V, stays), *((v, (1 - stays) * p) for v, p in enumerate(one))] for one in mine]
            for choice in product(*options):
                odds = states[row] * np.prod([p for _, p in choice])
                if odds > 0:
                    filled = list(row)
                    for i, (v, _) in zip(places, choice, strict=True):
                        filled[i] = v
                    after[tuple(filled)] = after.get(tuple(filled), 0.0) + odds
        states = after
    return np.array([states.get(tuple(x), 0.0) for x in product(range(V), repeat=n)])


def kl(p, q):
    here = p > 0
    return float((p[here] * np.log(p[here] / q[here])).sum())


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, 0.513698), (2, 0.130061), (4, 0.034766), (8, 0.009208), (16, 0.002391), (64, 0.000155)]
)
def test_published_divergences_of_a_chain(steps, expected):
    p = dense(F1)[1]
    assert kl(p, unmasked_law(F1, Absorbing(Linear(steps)))) == pytest.approx(expected, abs=1.5e-6)


@pytest.mark.parametrize("grid", [Linear(2), Constant(2, 1.5), ExponentialThenConstant(3, 8.0, 0.1)], ids=repr)
@pytest.mark.parametrize("rule", ["modified", "truncated"])
def test_the_replay_is_that_law(grid, rule):
    if rule == "truncated" and isinstance(grid, Linear):
        return
    table = Table.random(3, 2, key=3, concentration=0.5)
    expected = unmasked_law(table, Absorbing(grid, rule))
    found = law(table, Absorbing(grid, rule), limit=1_000_000)
    assert np.allclose(found.log_prob(dense(table)[0]).exp().numpy(), expected, atol=1e-10)


def test_on_the_linear_grid_it_is_ancestral_sampling():
    table = Table.random(3, 2, key=3, concentration=0.5)
    ancestral = law(table, Parallel(binomial(3, 3), Random()))
    assert ancestral.tv(law(table, Absorbing(Linear(3)), limit=1_000_000)) < 1e-9


@pytest.mark.parametrize("rule", ["modified", "truncated"])
def test_independent_tokens_are_exact_after_one_step(rule):
    table = Table.dense(np.einsum("a,b,c->abc", [0.9, 0.1], [0.3, 0.7], [0.5, 0.5]))
    for steps in (1, 2):
        assert abs(table.kl(law(table, Absorbing(Constant(steps), rule)))) < 1e-9
    assert Absorbing(Constant(2), rule).law is Law.FACTORISED


@pytest.mark.parametrize("grid", [Constant(5, 3.0), ExponentialThenConstant(9)], ids=repr)
def test_score_form_and_posterior_form_agree(grid):
    """Algorithm 1 of the paper, with scores from the enumerated law of masked sequences."""
    sampler, table = Absorbing(grid), Table.random(3, 2, key=1, concentration=0.6)
    sequences, p = dense(table)
    visible = (0, 2, 2)  # position 0 shows a 0; 2 is the mask
    horizon = grid.levels[0]

    def probability(x, level):
        """P(X_level = x): every token masked with probability 1 - e^-level."""
        total = 0.0
        for clean, one in zip(sequences.tolist(), p, strict=True):
            for a, b in zip(clean, x, strict=True):
                one = one * ((1 - exp(-level)) if b == 2 else exp(-level) * (a == b))
            total += one
        return total

    canvas = Canvas(torch.tensor([[0, 0, 0]]), torch.tensor([[False, True, True]]))
    posterior = table(canvas, canvas.masked).logits.softmax(-1).numpy()
    for turn, (level, after) in enumerate(zip(grid.levels[:-2], grid.levels[1:-1], strict=True)):
        time, later = horizon - level, horizon - after
        for slot, i in enumerate((1, 2)):
            q = np.array([probability((*visible[:i], a, *visible[i + 1 :]), level) for a in (0, 1)])
            q = q / probability(visible, level)
            assert q.sum() == pytest.approx(1 / expm1(level))
            assert q / q.sum() == pytest.approx(posterior[slot])
            delta = expm1(level) * log((exp(horizon) - exp(time)) / (exp(horizon) - exp(later)))
            assert exp(-q.sum() * delta) == pytest.approx(sampler.stays(turn))
            frozen = Absorbing(grid, "truncated").stays(turn)
            assert exp(-q.sum() * (level - after)) == pytest.approx(frozen)


def test_the_clock_telescopes():
    sampler = Absorbing(ExponentialThenConstant(12))
    left = 1.0
    for turn, after in enumerate(sampler.grid.levels[1:-1]):
        left *= sampler.stays(turn)
        assert left == pytest.approx(expm1(-after) / expm1(-8.0))
    assert sampler.stays(11) == 0.0


def path_kl(curve, sampler):
    """sum over steps of E[ sum of H(i | A) - H(B | A) ], positions random, from the curve."""
    n, total, visible = len(curve), 0.0, {0: 1.0}
    for turn in range(sampler.grid.steps):
        goes, after = 1 - sampler.stays(turn), {}
        for t, share in visible.items():
            for s in range(n - t + 1):
                odds = share * comb(n - t, s) * goes**s * (1 - goes) ** (n - t - s)
                total += odds * (s * curve.values[t] - curve.values[t : t + s].sum() if s else 0.0)
                after[t + s] = after.get(t + s, 0.0) + odds
        visible = after
    return total


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, 0.513698), (2, 0.245196), (4, 0.119658), (8, 0.059092), (64, 0.007306)]
)
def test_published_path_divergences_of_a_chain(steps, expected):
    assert path_kl(F1.curve(), Absorbing(Linear(steps))) == pytest.approx(expected, abs=1e-6)


def test_the_guarantee():
    """Output KL <= path KL <= kappa D, here with the constant 1, and a refined grid never costs more."""
    for oracle in (Table.random(4, 2, key=8), F1, repetition(5, 2)):
        curve, costs = oracle.curve(), []
        for steps in (8, 16, 32, 64):
            sampler = Absorbing(ExponentialThenConstant(steps))
            cost = path_kl(curve, sampler)
            assert cost <= sampler.grid.kappa * effective_tc(curve)
            costs.append(cost)
        assert costs == sorted(costs, reverse=True)
    table = Table.random(4, 2, key=8)
    sampler = Absorbing(ExponentialThenConstant(6))
    assert kl(dense(table)[1], unmasked_law(table, sampler)) <= path_kl(table.curve(), sampler)


def test_dimension_free_on_repeated_bits():
    """The published plateau: about 0.206 nats on the path, whatever the length."""
    costs = [path_kl(repetition(d, 2).curve(), Absorbing(Constant(16))) for d in (4, 6, 8, 10)]
    assert costs == pytest.approx([0.206] * 4, abs=0.012)


def test_a_frozen_rate_costs_more():
    curve = Chain.random(24, 3, key=1, concentration=0.3).curve()
    for steps in (8, 16, 32):
        grid = Constant(steps, 4.0)
        assert path_kl(curve, Absorbing(grid, "truncated")) > path_kl(curve, Absorbing(grid))


# --- the uniform process ----------------------------------------------------------------------------------------------


def channel(size, level):
    return exp(-level) * np.eye(size) + (1 - exp(-level)) / size


def kernel(oracle, sampler, level, after):
    """The transition matrix of a step between all sequences, with exact posteriors."""
    sequences = torch.tensor(list(product(range(oracle.vocabulary), repeat=oracle.length)))
    canvas = Canvas(sequences, torch.zeros_like(sequences).bool())
    answer = oracle.noised(canvas, ~canvas.masked, torch.full((len(sequences),), level))
    posterior = answer.logits.softmax(-1)
    laws = sampler.transition(posterior, sequences.flatten(), level, after).numpy()
    laws = laws.reshape(len(sequences), oracle.length, -1)
    return np.stack([np.prod([laws[:, i, x[i]] for i in range(oracle.length)], axis=0) for x in sequences.tolist()], 1)


def rewritten_law(oracle, sampler, levels=None):
    size = oracle.vocabulary**oracle.length
    out = np.full(size, 1 / size)
    for level, after in pairwise(levels or sampler.grid.levels):
        out = out @ kernel(oracle, sampler, level, after)
    return out


def noisy(p, n, size, level):
    """The law of noisy sequences, as an array of n axes."""
    out = p.reshape((size,) * n)
    for axis in range(n):
        out = np.moveaxis(np.tensordot(out, channel(size, level), (axis, 0)), -1, axis)
    return out


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_its_definition(rule):
    """Against the enumerated reverse process: exact marginals, and generators with scores of the enumerated noisy law."""
    table, (level, after) = Table.random(3, 3, key=4, concentration=0.4), (0.9, 0.35)
    sequences, p = dense(table)
    sampler, h, V = UniformState(Constant(4), rule), level - after, 3
    canvas = Canvas(sequences, torch.zeros_like(sequences).bool())
    posterior = table.noised(canvas, ~canvas.masked, torch.full((27,), level)).logits.softmax(-1)
    found = sampler.transition(posterior, sequences.flatten(), level, after).numpy().reshape(27, 3, 3)
    before, later, step = noisy(p, 3, 3, level), noisy(p, 3, 3, after), channel(V, h)
    for row, x in enumerate(sequences.tolist()):
        joint = later * np.einsum("a,b,c->abc", *(step[:, v] for v in x)) / before[tuple(x)]  # p(x_after | x_level)
        for i in range(3):
            if rule == "leave-one-out":
                expected = joint.sum(tuple(j for j in range(3) if j != i))
            else:
                score = np.array([before[tuple(b if j == i else v for j, v in enumerate(x))] for b in range(V)])
                score = score / before[tuple(x)]
                generator = np.zeros((V, V))
                for a in range(V):
                    for b in range(V):
                        if rule == "modulo" and a != b:
                            generator[a, b] = score[(x[i] + b - a) % V] / V
                        if rule == "truncated" and a == x[i] != b:
                            generator[a, b] = score[b] / V
                generator -= np.diag(generator.sum(1))
                expected = expm(h * generator)[x[i]]
            np.testing.assert_allclose(found[row, i], expected, atol=1e-10)


@pytest.mark.parametrize("rule", RULES)
def test_the_replay_is_the_product_of_steps(rule):
    table = Table.random(2, 2, key=3, concentration=0.5)
    sampler = UniformState(Constant(3, 2.0), rule)
    found = law(table, sampler, limit=1_000_000)
    expected = rewritten_law(table, sampler)
    assert np.allclose(found.log_prob(dense(table)[0]).exp().numpy(), expected, atol=1e-10)


def test_only_tokens_of_the_same_step_are_wrong_if_one_is_left_out():
    """What FACTORISED claims: drawn jointly, and begun right, the same steps end in the truth."""
    table = Table.random(2, 3, key=6, concentration=0.5)
    sequences, p = dense(table)
    levels = Constant(4, 2.0).levels
    state = noisy(p, 2, 3, levels[0]).ravel()
    for level, after in pairwise(levels):
        before, later, step = noisy(p, 2, 3, level), noisy(p, 2, 3, after), channel(3, level - after)
        joint = np.stack(
            [
                (later * np.einsum("a,b->ab", step[:, x], step[:, y]) / before[x, y]).ravel()
                for x, y in sequences.tolist()
            ]
        )
        marginals = kernel(table, UniformState(Constant(4, 2.0)), level, after).reshape(9, 3, 3)
        for i in (1, 2):
            np.testing.assert_allclose(marginals.sum(i), joint.reshape(9, 3, 3).sum(i), atol=1e-10)
        state = state @ joint
    assert np.allclose(state, p, atol=1e-10)


def independent(d):
    out = np.ones(())
    for _ in range(d):
        out = np.multiply.outer(out, [0.9, 0.1])
    return Table.dense(out)


PUBLISHED = ExponentialThenConstant(21).levels[:-1]  # 20 steps that end at level 0.001, and are held to the law there


def published_kl(oracle, rule):
    size = (oracle.length, oracle.vocabulary)
    return kl(
        noisy(dense(oracle.to_table())[1], *size, PUBLISHED[-1]).ravel(),
        rewritten_law(oracle, UniformState(rule=rule), PUBLISHED),
    )


@pytest.mark.parametrize(("rule", "each", "whole"), [("truncated", 0.0150, 0.00745), ("modulo", 0.0371, 0.01847)])
def test_a_frozen_score_pays_for_every_independent_token(rule, each, whole):
    found = [published_kl(independent(d), rule) for d in (1, 2, 3)]
    assert found == pytest.approx([found[0] * d for d in (1, 2, 3)], rel=1e-9)
    assert 2 * found[0] == pytest.approx(each, abs=6e-5)
    sampler = UniformState(ExponentialThenConstant(21), rule)
    assert kl(dense(independent(1))[1], rewritten_law(independent(1), sampler)) == pytest.approx(whole, abs=6e-6)
    assert sampler.law is Law.TILTED


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_leave_one_out_is_exact_on_independent_tokens(steps):
    """But for the beginning: noise at level T instead of noisy tokens, and nothing at an infinite level."""
    table = independent(3)
    for grid, most in ((ExponentialThenConstant(steps), 3 * log(2) * exp(-8)), (Linear(steps), 1e-12)):
        assert kl(dense(table)[1], rewritten_law(table, UniformState(grid))) <= most
    assert UniformState().law is Law.FACTORISED


@pytest.mark.parametrize(
    ("rule", "two", "seven"),
    [("modulo", 0.0115, 0.0559), ("truncated", 0.0072, 0.0154), ("leave-one-out", 0.0036, 0.0003)],
)
def test_published_divergences_of_repeated_bits(rule, two, seven):
    assert published_kl(repetition(2, 2), rule) == pytest.approx(two, abs=6e-5)
    assert published_kl(repetition(7, 2), rule) == pytest.approx(seven, abs=6e-5)


@pytest.mark.parametrize("rule", ["leave-one-out", "truncated", "modulo"])
@pytest.mark.parametrize(("level", "after"), [(8.0, 5.5), (0.7, 0.2), (0.2, 0.0)])
def test_a_transition_is_its_formula(rule, level, after):
    """Written over one buffer, with one entry of each row apart: what the formula says with a one-hot row of each token."""
    generator = torch.Generator().manual_seed(0)
    posterior = torch.rand(40, 7, generator=generator, dtype=torch.float64).softmax(-1)
    given, tokens = posterior.clone(), torch.randint(7, (40,), generator=generator)
    here = torch.nn.functional.one_hot(tokens, 7).double()

    def mixed(law, noise):
        return exp(-noise) * law - expm1(-noise) / 7

    others = posterior / mixed(here, level)
    others = others / others.sum(1, keepdim=True)
    if rule == "leave-one-out":
        law = mixed(here, level - after) * mixed(others, after)
        expected = law / law.sum(1, keepdim=True)
    else:
        noisy = mixed(others, level)
        rates = noisy / (noisy * here).sum(1, keepdim=True) / 7 * (1 - here) * (level - after)
        total = rates.sum(1, keepdim=True)
        expected = rates * (1 - (-total).exp()) / total + here * (-total).exp()
        if rule == "modulo":  # Poisson many jumps of each size, by powers of the circulant law of one
            size = (torch.arange(7)[None, :] - torch.arange(7)[:, None]) % 7
            by_size = rates.gather(1, (tokens[:, None] + torch.arange(7)) % 7)
            circulant = torch.matrix_exp(by_size[:, size] - torch.diag_embed(total.expand(-1, 7)))
            expected = circulant[torch.arange(40), tokens]
    found = UniformState(Constant(2), rule).transition(posterior, tokens, level, after)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-14)
    assert torch.equal(posterior, given)


def test_posterior_and_score_say_the_same():
    """(1 - e^-l) / V s(b) = m_l(b) (1 - e^-l) / V m_l(x): the score of a posterior, and the posterior of a score."""
    posterior = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    here, level = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64), 0.7
    others = without_own(posterior, torch.tensor([1]), level)
    right = exp(-level) * here + (1 - exp(-level)) / 3
    back = others * right
    assert torch.allclose(back / back.sum(), posterior)
    noised = exp(-level) * others + (1 - exp(-level)) / 3
    score = noised / noised[0, 1]
    again = (score * noised[0, 1] - (1 - exp(-level)) / 3) / exp(-level)
    assert torch.allclose(again, others)


# --- both, as samplers ------------------------------------------------------------------------------------------------

SAMPLERS = [Absorbing(Constant(6)), Absorbing(Constant(6), "truncated"), *(UniformState(Constant(6), r) for r in RULES)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_prompts_stay_and_rows_are_alone(sampler):
    chain, names = Chain.random(6, 3, key=1), torch.tensor([3, 141, 5, 92])
    tokens, masked = chain.sample(4, key=2), torch.ones(4, 6, dtype=torch.bool)
    masked[:, 2], masked[3] = False, False
    canvas = Canvas(tokens, masked)
    together = sample(chain, sampler, canvas, key=7, names=names)
    assert torch.equal(together.tokens[~masked], tokens[~masked])
    assert int(together.nfe[3]) == int(together.steps[3]) == 0
    assert (together.when[masked] >= 0).all()
    for row in range(3):
        alone = sample(chain, sampler, canvas.rows(torch.tensor([row])), key=7, names=names[row : row + 1])
        for name in ("tokens", "when", "nfe"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[row])


def test_a_prompt_is_known_to_be_right():
    """Given the first bit of a repetition the others follow, at every level of noise."""
    canvas = Canvas(torch.tensor([[1, 0, 0, 0]]), torch.tensor([[False, True, True, True]]))
    run = sample(repetition(4, 2), UniformState(ExponentialThenConstant(4)), canvas, key=0)
    assert run.tokens.tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize("rule", RULES)
def test_half_precision_networks(rule):
    class Half:
        vocabulary = 5

        def noised(self, canvas, where, level):
            return Marginals(where, torch.zeros(int(where.sum()), 5, dtype=torch.bfloat16))

    run = sample(Half(), UniformState(Constant(3), rule), Canvas.blank(2, 4), key=0)
    assert run.tokens.max() < 5


def test_single_token_vocabulary():
    one = Table.uniform(torch.zeros(1, 3, dtype=torch.int64), 1)
    for rule in RULES:
        assert sample(one, UniformState(Constant(3), rule), Canvas.blank(1, 3), key=0).tokens.tolist() == [[0, 0, 0]]


def test_refusals():
    with pytest.raises(PlanError, match="expected one of modified, truncated"):
        Absorbing(Constant(3), "leave-one-out")
    with pytest.raises(PlanError, match="expected one of leave-one-out, truncated, modulo"):
        UniformState(Constant(3), "poisson")
    for bad in (lambda: Absorbing(Linear(3), "truncated"), lambda: UniformState(Linear(3), "modulo")):
        with pytest.raises(PlanError, match=r"infinite level; write Constant\(3\)"):
            bad()
    with pytest.raises(DenoiserError, match=r"made for masks.*Absorbing"):
        sample(lambda c, w: F1(c, w), UniformState(), Canvas.blank(1, 5), key=0)
    with pytest.raises(OrderError, match="writes over every token"):
        Ended(UniformState(), 1)
    with pytest.raises(OrderError, match="writes over every token"):
        Stopped(UniformState(), 1, lambda tokens: None)
    Ended(Absorbing(), 1)
