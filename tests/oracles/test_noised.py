"""What the oracles say about tokens that may be noise, against Bayes' rule over all sequences."""

from itertools import product

import numpy as np
import pytest
import torch

from demask.canvas import Canvas
from demask.denoisers import Tempered
from demask.errors import DenoiserError, OracleError
from demask.oracles import HMM, Chain, Table, Tree, fit, parity

RNG = np.random.default_rng(5)


def simplex(*shape):
    weights = RNG.gamma(0.5, size=shape)
    return weights / weights.sum(-1, keepdims=True)


ORACLES = {
    "table": Table.random(4, 3, key=2, concentration=0.4),
    "chain": Chain.markov(simplex(3), simplex(3, 3), 4),
    "order two": Chain(simplex(9).reshape(3, 3), simplex(3, 3, 3), 4, order=2),
    "hidden": HMM(simplex(2), simplex(2, 2), simplex(2, 3), 4),
    "sure hidden": HMM(simplex(2), simplex(2, 2), [[0.6, 0.4, 0.0], [0.0, 0.3, 0.7]], 4),
    "tree": Tree([2, 0, -1, 2], simplex(3), simplex(4, 3, 3)),
    "code": parity(4),
}


def by_bayes(oracle, tokens, masked, where, keep):
    """p(x_i | y) for the asked positions of one row."""
    V, n = oracle.vocabulary, oracle.length
    out = np.zeros((n, V))
    for x in product(range(V), repeat=n):
        p = float(oracle.log_prob(torch.tensor([x])).exp())
        for i in range(n):
            if where[i]:
                p *= keep * (x[i] == tokens[i]) + (1 - keep) / V
            elif not masked[i]:
                p *= x[i] == tokens[i]
        for i in range(n):
            out[i, x[i]] += p
    return (out / out.sum(1, keepdims=True))[where]


@pytest.mark.parametrize("name", ORACLES)
def test_the_posterior_is_that_of_bayes(name):
    oracle = ORACLES[name]
    tokens = oracle.sample(4, key=1)
    noisy = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 1, 1], [1, 1, 0, 0]]).bool()
    masked = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    wrong = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0]])  # some noise, where it may be
    tokens = (tokens + wrong) % oracle.vocabulary
    keep = torch.tensor([0.7, 0.2, 0.95, 0.4], dtype=torch.float64)
    answer = oracle.noised(Canvas(tokens, masked), noisy, -keep.log()).logits.softmax(-1).numpy()
    start = 0
    for row in range(4):
        size = int(noisy[row].sum())
        expected = by_bayes(oracle, tokens[row].tolist(), masked[row].numpy(), noisy[row].numpy(), float(keep[row]))
        np.testing.assert_allclose(answer[start : start + size], expected, atol=1e-10)
        start += size


@pytest.mark.parametrize("name", ORACLES)
def test_pure_noise_says_nothing_and_no_noise_says_all(name):
    oracle = ORACLES[name]
    tokens, blank = oracle.sample(3, key=4), Canvas.blank(3, 4)
    everywhere, seen = blank.masked, Canvas(tokens, ~blank.masked)
    free = oracle.noised(seen, everywhere, torch.full((3,), torch.inf)).logits.softmax(-1)
    assert torch.allclose(free, oracle(blank, everywhere).logits.softmax(-1), atol=1e-10)
    sure = oracle.noised(seen, everywhere, torch.zeros(3)).logits.softmax(-1)
    assert torch.allclose(sure, torch.nn.functional.one_hot(tokens.flatten(), oracle.vocabulary).double(), atol=1e-10)


def test_what_cannot_be_is_answered_with_the_prior():
    odd = Canvas(torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]]), torch.zeros(2, 4, dtype=torch.bool))
    answer = parity(4).noised(odd, ~odd.masked, torch.zeros(2)).logits.exp()
    assert torch.allclose(answer[:4], torch.full((4, 2), 0.5, dtype=torch.float64))
    assert answer[4:].argmax(1).tolist() == [1, 1, 0, 0]


def test_long_chains():
    """256 characters: what a noisy token is, from 255 others, is a law; nothing underflows."""
    chain = fit("the cat sat on the mat and the dog sat on the cat " * 20, length=256)
    tokens = torch.randint(chain.vocabulary, (2, 256), generator=torch.Generator().manual_seed(0))
    canvas = Canvas(tokens, torch.zeros_like(tokens).bool())
    answer = chain.noised(canvas, ~canvas.masked, torch.tensor([3.0, 0.05]))
    assert answer.proper
    assert answer.logits.shape == (512, chain.vocabulary)


def test_refusals():
    oracle, canvas = ORACLES["table"], Canvas(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.bool))
    where = ~canvas.masked
    with pytest.raises(OracleError, match="noise levels"):
        oracle.noised(canvas, where, torch.tensor([-0.1]))
    with pytest.raises(OracleError, match="noise levels"):
        oracle.noised(canvas, where, torch.tensor([0.1, 0.2]))
    blank = Canvas.blank(1, 4)
    with pytest.raises(OracleError, match="a masked position is asked for"):
        oracle.noised(blank, blank.masked, torch.tensor([0.1]))
    assert Tempered(oracle, 0.5).noised(canvas, where, torch.tensor([0.1])).temperature == 0.5
    with pytest.raises(DenoiserError, match="made for masks"):
        Tempered(lambda canvas, where: None, 0.5).noised(canvas, where, torch.tensor([0.1]))
