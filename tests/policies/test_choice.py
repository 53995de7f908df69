"""Log-probabilities of choices: they sum to one, are those of the draws, and have the gradients they should have."""

from itertools import combinations, permutations

import pytest
import torch

from demask.chance import Keyed, Scripted, Tape
from demask.errors import OrderError
from demask.policies import Bernoulli, PlackettLuce

LOGITS = torch.tensor([[0.3, -1.2, 9.0, 1.1, -0.4]], dtype=torch.float64)
WHERE = torch.tensor([[True, True, False, True, True]])  # the largest logit may not go
PLACES = WHERE[0].nonzero()[:, 0].tolist()


def ordered():
    """Every set with its order, as ranks."""
    for size in range(1, len(PLACES) + 1):
        for order in permutations(PLACES, size):
            ranks = torch.zeros(5, dtype=torch.int64)
            ranks[list(order)] = torch.arange(1, size + 1)
            yield ranks


def sets(least):
    """Every set of at least so many, as ranks."""
    for size in range(least, len(PLACES) + 1):
        for chosen in combinations(PLACES, size):
            ranks = torch.zeros(5, dtype=torch.int64)
            ranks[list(chosen)] = 1
            yield ranks


CASES = {
    "stop": (PlackettLuce(), ordered),
    "cold stop": (PlackettLuce(0.5), ordered),
    "wait": (Bernoulli(empty="wait"), lambda: sets(0)),
    "best": (Bernoulli(), lambda: sets(1)),
    "cold": (Bernoulli(0.5), lambda: sets(1)),
    "bold": (Bernoulli(boldness=1.6), lambda: sets(1)),
    "boldest": (Bernoulli(boldness=50.0, empty="wait"), lambda: sets(0)),
}


def outcomes(name):
    choice, every = CASES[name]
    ranks = torch.stack(list(every()))
    return choice, ranks, WHERE.expand(ranks.shape), LOGITS.expand(ranks.shape)


@pytest.mark.parametrize("name", CASES)
def test_probabilities_sum_to_one(name):
    choice, ranks, where, logits = outcomes(name)
    assert len(ranks) == {"stop": 64, "cold stop": 64, "wait": 16, "boldest": 16}.get(name, 15)
    assert float(choice.logp(where, logits, ranks).exp().sum()) == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_draws_have_the_stated_probability(name):
    """Every script of the chance in turn: the probabilities of its paths, added up by outcome, are exp(logp)."""
    choice, ranks, where, logits = outcomes(name)
    found, pending = {}, [[]]
    while pending:
        tape = Tape(pending.pop())
        drawn = choice.draw(Scripted.of([tape]), WHERE, LOGITS)
        outcome = tuple(drawn[0].tolist())
        found[outcome] = found.get(outcome, 0.0) + torch.tensor(tape.logp, dtype=torch.float64).exp().item()
        for turn in range(len(tape.script), len(tape.taken)):
            pending += [[*tape.taken[:turn], other] for other in range(1, tape.widths[turn])]
    stated = dict(zip(map(tuple, ranks.tolist()), choice.logp(where, logits, ranks).exp().tolist(), strict=True))
    assert {outcome for outcome, p in stated.items() if p > 0} == set(found)
    for outcome, probability in found.items():
        assert probability == pytest.approx(stated[outcome], rel=1e-12)


@pytest.mark.parametrize("name", ["stop", "wait", "best"])
def test_keyed_draws_follow_the_law(name):
    """Pearson's statistic of 20,000 draws at a fixed key, against its value of false-alarm rate 1e-6."""
    from scipy.stats import chi2

    choice, ranks, where, logits = outcomes(name)
    expected = 20_000 * choice.logp(where, logits, ranks).exp()
    drawn = choice.draw(Keyed.of(0, torch.arange(20_000)), WHERE.expand(20_000, 5), LOGITS.expand(20_000, 5))
    counts = torch.tensor([int((drawn == each).all(1).sum()) for each in ranks])
    assert int(counts.sum()) == 20_000
    assert float(((counts - expected) ** 2 / expected).sum()) < chi2.ppf(1 - 1e-6, len(ranks) - 1)


@pytest.mark.parametrize("name", ["stop", "cold stop", "wait", "best", "cold"])
def test_gradients(name):
    """Against finite differences; and the mean of the score is zero."""
    choice, ranks, where, logits = outcomes(name)
    own = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda b: choice.logp(where, b, ranks), (own,))
    logp = choice.logp(where, own, ranks)
    (logp.detach().exp() @ logp).backward()
    assert float(own.grad.sum(0).abs().max()) < 1e-14


def test_plain_loop():
    """A batch of rows of different lengths, against a loop that takes one item at a time."""
    chance = torch.Generator().manual_seed(3)
    where = torch.rand(50, 7, generator=chance) < 0.6
    where[:, 2] = True
    logits = torch.randn(50, 7, generator=chance)
    ranks = PlackettLuce().draw(Keyed.of(1, torch.arange(50)), where, logits)
    logp = PlackettLuce().logp(where, logits, ranks)
    for row in range(50):
        left = where[row].nonzero()[:, 0].tolist()
        order = sorted((i for i in left if ranks[row, i] > 0), key=lambda i: int(ranks[row, i]))
        assert [int(ranks[row, i]) for i in order] == list(range(1, len(order) + 1))
        weight = {i: float(logits[row, i].double().exp()) for i in left}
        probability = weight[order[0]] / sum(weight.values())
        left.remove(order[0])
        for i in order[1:]:
            probability *= weight[i] / (1 + sum(weight[j] for j in left))
            left.remove(i)
        probability /= 1 + sum(weight[j] for j in left)
        assert float(logp[row].exp()) == pytest.approx(probability, rel=1e-5)


def test_rows_without_a_place():
    """A row that is done chooses nothing, whatever the law."""
    where = torch.tensor([[False, False], [True, False]])
    for choice in (PlackettLuce(), Bernoulli()):
        ranks = choice.draw(Keyed.of(0, torch.arange(2)), where, torch.zeros(2, 2))
        assert ranks.tolist() == [[0, 0], [1, 0]]


def test_errors():
    with pytest.raises(OrderError, match="temperature = 0; expected a finite number > 0"):
        Bernoulli(0)
    with pytest.raises(OrderError, match="temperature = nan"):
        PlackettLuce(float("nan"))
    with pytest.raises(OrderError, match="boldness = -1"):
        Bernoulli(boldness=-1)
    with pytest.raises(OrderError, match="expected 'best' or 'wait'"):
        Bernoulli(empty="all")
