from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from demask.canvas import Canvas
from demask.errors import OracleError
from demask.oracles import HMM, Alphabet, Chain
from demask.oracles import chain as module

F1 = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=5)


def random_chain(vocabulary, length, key, *, sharp=6):
    rng = np.random.default_rng(key)
    law = rng.random((vocabulary + 1, vocabulary)) ** sharp
    law /= law.sum(1, keepdims=True)
    return Chain.markov(law[0], law[1:], length)


def by_messages(chain, monkeypatch):
    """The same chain, on which powers are not kept."""
    other = replace(chain)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_ENTRIES", 0)
        assert other._powers is None
    return other


def test_golden_numbers_of_two_states():
    """F1."""
    assert F1.entropy() == pytest.approx(2.851360, abs=5e-7)
    assert F1.tc() == pytest.approx(0.513698, abs=5e-7)
    assert F1.dtc() == pytest.approx(0.419985, abs=5e-7)
    table = F1.to_table()
    best = int(table.logp.argmax())
    assert table.sequences[best].tolist() == [0] * 5
    assert float(table.logp[best].exp()) == pytest.approx(0.24576, abs=1e-12)
    assert float((2 * table.logp).exp().sum()) == pytest.approx(0.0947352, abs=5e-8)
    blank = Canvas.blank(1, 5)
    one_step = F1(blank, blank.masked).logits
    product = one_step[torch.arange(5), table.sequences].sum(1).exp()
    assert float((product - table.logp.exp()).abs().sum()) / 2 == pytest.approx(0.411000, abs=5e-7)


@pytest.mark.parametrize(("vocabulary", "length"), [(2, 40), (5, 33), (27, 100)])
def test_both_engines_agree(vocabulary, length, monkeypatch):
    chain = random_chain(vocabulary, length, key=vocabulary)
    slow = by_messages(chain, monkeypatch)
    for key, hidden in enumerate([0.3, 0.9, 0.99, 1.0]):
        generator = torch.Generator().manual_seed(key)
        masked = torch.rand(6, length, generator=generator) < hidden
        canvas = Canvas(chain.sample(6, key=key), masked)
        torch.testing.assert_close(chain(canvas, masked).logits, slow(canvas, masked).logits, rtol=0, atol=1e-10)
    tokens = chain.sample(1, key=0)
    tokens[:] = torch.arange(length) % 2  # may be improbable, never impossible
    masked = torch.zeros_like(tokens, dtype=torch.bool)
    masked[:, 3:7] = True
    canvas = Canvas(tokens, masked)
    torch.testing.assert_close(chain(canvas, masked).logits, slow(canvas, masked).logits, rtol=0, atol=1e-10)


def reference(chain, tokens, masked):
    """The law of every hidden token by products of plain matrices over one stretch between visible tokens."""
    step, n = chain.transition.numpy(), chain.length
    laws = {}
    for i in np.flatnonzero(masked):
        left = next((k for k in range(i, -1, -1) if not masked[k]), None)
        right = next((k for k in range(i, n) if not masked[k]), None)
        if left is None:
            law = chain.initial.numpy() @ np.linalg.matrix_power(step, i)
        else:
            law = np.linalg.matrix_power(step, i - left)[tokens[left]]
        if right is not None:
            law = law * np.linalg.matrix_power(step, right - i)[:, tokens[right]]
        laws[i] = law / law.sum()
    return laws


@pytest.mark.parametrize("share", [0.5, 0.97, 0.999])
def test_a_thousand_tokens(share, monkeypatch):
    chain = random_chain(7, 1000, key=3)
    tokens = chain.sample(3, key=1)
    masked = torch.rand(3, 1000, generator=torch.Generator().manual_seed(5)) < share
    canvas = Canvas(tokens, masked)
    expected = [law for row in range(3) for law in reference(chain, tokens[row].numpy(), masked[row].numpy()).values()]
    for engine in (chain, by_messages(chain, monkeypatch)):
        np.testing.assert_allclose(engine(canvas, masked).logits.exp().numpy(), expected, rtol=1e-9, atol=1e-300)


def test_nearly_deterministic_steps_do_not_underflow(monkeypatch):
    """Switching has probability 1e-200: two switches have 1e-400, below the least double."""
    tiny, n = 1e-200, 1000
    chain = Chain.markov([1.0, 0.0, 0.0], [[1.0, tiny, 0.0], [0.0, 1.0, tiny], [tiny, 0.0, 1.0]], n)
    tokens = torch.zeros(1, n, dtype=torch.int64)
    masked = torch.ones_like(tokens, dtype=torch.bool)
    masked[0, 500] = False
    tokens[0, 500] = 2
    canvas = Canvas(tokens, masked)
    for engine in (chain, by_messages(chain, monkeypatch)):
        logits = engine(canvas, masked).logits
        i = np.arange(500)
        pairs = 500 * 499 / 2  # two switches among the steps 1 .. 500, all pairs equally probable
        zero = (500 - i) * (499 - i) / 2 / pairs  # no switch yet
        two = i * (i - 1) / 2 / pairs
        got = logits[:500].exp().numpy()
        np.testing.assert_allclose(got[:, 0], zero, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(got[:, 2], two, rtol=1e-9, atol=1e-12)
        assert logits[0].tolist() == [pytest.approx(0, abs=1e-11), -torch.inf, -torch.inf]
        # After 500, one switch in d steps leads to 0, two lead to 1.
        d = np.array([1, 10, 499])
        after = logits[499 + d].numpy()
        np.testing.assert_allclose(after[:, 0], np.log(d) + np.log(tiny), rtol=1e-12)
        np.testing.assert_allclose(after[1:, 1], np.log([45, 499 * 249]) + 2 * np.log(tiny), rtol=1e-12)
        assert after[0, 1] == -np.inf


def test_powers_stop_growing_when_they_no_longer_change():
    chain = random_chain(4, 5000, key=2, sharp=1)
    masked = torch.ones(1, 5000, dtype=torch.bool)
    masked[0, [0, -1]] = False
    canvas = Canvas(chain.sample(1, key=0), masked)
    logits = chain(canvas, masked).logits
    assert chain._powers._reach < 200
    stationary = np.linalg.matrix_power(chain.transition.numpy(), 2000)[0]
    np.testing.assert_allclose(logits[2500].exp().numpy(), stationary, rtol=1e-11)


@pytest.mark.parametrize("period", [2, 3])
def test_powers_of_a_periodic_chain_never_settle(period):
    chain = Chain.markov(np.eye(period)[0], np.roll(np.eye(period), 1, axis=1), 301)
    masked = torch.ones(1, 301, dtype=torch.bool)
    masked[0, 0] = False
    canvas = Canvas(torch.zeros(1, 301, dtype=torch.int64), masked)
    assert chain(canvas, masked).mode.tolist() == [i % period for i in range(1, 301)]


def test_powers_are_built_only_as_far_as_asked():
    chain = random_chain(3, 400, key=9)
    masked = torch.ones(2, 400, dtype=torch.bool)
    chain(Canvas.blank(2, 400), masked)
    assert chain._powers._reach == 1
    masked[:, 100:] = False
    masked[:, 200:205] = True
    chain(Canvas(chain.sample(2, key=0), masked), masked & (torch.arange(400) > 150))
    assert chain._powers._reach == 8


@pytest.mark.parametrize(("vocabulary", "length", "key"), [(2, 9, 0), (3, 8, 1), (4, 6, 2), (2, 14, 3)])
def test_curve_against_enumeration(vocabulary, length, key):
    chain = random_chain(vocabulary, length, key=key)
    expected = chain.to_table().curve().values
    np.testing.assert_allclose(chain.curve().values, expected, rtol=0, atol=1e-10)


def test_a_long_curve_adds_up():
    chain = random_chain(5, 600, key=6)
    curve = chain.curve()
    assert curve.entropy == pytest.approx(chain.entropy(), rel=1e-10)
    assert curve.tc == pytest.approx(chain.tc(), rel=1e-9)
    assert curve.dtc == pytest.approx(chain.dtc(), rel=1e-9)
    assert curve.monotone
    assert chain.curve() is curve


def test_the_sampled_curve_covers_the_exact_one():
    """Every z-score of 40 points is below 5; false-alarm rate 3e-5, and the key is fixed."""
    chain = random_chain(3, 40, key=8)
    hidden = HMM(chain.initial, chain.transition, np.eye(3), 40)  # the same law, of which it has no formula
    curve = hidden.curve(samples=60, key=1)
    assert not curve.exact
    z = (curve.values - chain.curve().values)[1:] / curve.error[1:]
    assert np.abs(z).max() < 5
    assert np.abs(z).std() > 0.1
    assert curve.values[0] == pytest.approx(chain.curve().values[0], abs=1e-12)
    for mine, exact in [
        (hidden.entropy(samples=400, key=2), chain.entropy()),
        (hidden.tc(samples=400, key=3), chain.tc()),
        (hidden.dtc(samples=400, key=4), chain.dtc()),
    ]:
        assert not mine.exact
        assert abs(mine - exact) < 5 * mine.error
        assert mine.error < 0.15 * exact


def test_an_order_two_chain_may_forget_its_second_token():
    chain = random_chain(3, 30, key=4)
    joint = chain.initial[:, None] * chain.transition
    double = Chain(joint, chain.transition.expand(3, 3, 3), 30, order=2)
    tokens = chain.sample(5, key=0)
    masked = torch.rand(5, 30, generator=torch.Generator().manual_seed(1)) < 0.8
    canvas = Canvas(tokens, masked)
    torch.testing.assert_close(double(canvas, masked).logits, chain(canvas, masked).logits, rtol=0, atol=1e-10)
    torch.testing.assert_close(double.log_prob(tokens), chain.log_prob(tokens), rtol=0, atol=1e-11)
    entropy = double.entropy(samples=300, key=1)
    assert abs(entropy - chain.entropy()) < 5 * entropy.error
    with pytest.raises(OracleError, match=r"3 tokens at 30 positions are more than 65536 sequences"):
        double.to_table()


def test_a_chain_that_does_not_start_at_its_stationary_law():
    chain = Chain.markov([0.0, 1.0], [[0.9, 0.1], [0.2, 0.8]], 4)
    blank = Canvas.blank(1, 4)
    got = chain(blank, blank.masked).logits.exp()[:, 1].tolist()
    assert got == pytest.approx([1.0, 0.8, 0.66, 0.562])


def test_alphabet():
    chain = Chain([0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]], 3, alphabet=Alphabet("xy"))
    assert sorted(set(chain.decode(chain.sample(30, key=0)))) == ["xyx", "yxy"]
    assert float(chain.log_prob(chain.alphabet.encode("xyx")[None])) == pytest.approx(np.log(0.5))


def test_single_precision_laws_are_accepted():
    chain = Chain.markov(torch.full((3,), 1 / 3), torch.rand(3, 3).softmax(1), 4)
    assert chain.transition.dtype == torch.float64
    assert float((chain.transition.sum(1) - 1).abs().max()) < 1e-15


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Chain.markov([0.5, 0.5], [[0.5, 0.5], [0.5, 0.4]], 3), r"transition\[1\] sums to 0.9; expected"),
        (lambda: Chain.markov([0.5, 0.5], [[1.5, -0.5], [0.5, 0.5]], 3), r"transition\[0\] contains -0.5"),
        (lambda: Chain.markov([0.5, 0.4], np.eye(2), 3), "initial sums to 0.9"),
        (lambda: Chain.markov([0.5, np.nan], np.eye(2), 3), "initial contains nan|initial sums to nan"),
        (lambda: Chain.markov([1.0], np.eye(2), 3), r"initial has shape \(1,\); expected \(2,\)"),
        (lambda: Chain.markov([0.5, 0.5], [0.5, 0.5], 3), r"transition has shape \(2,\); expected \(2, 2\)"),
        (lambda: Chain.markov([0.5, 0.5], np.eye(2), 0), "a length of 0; expected 1 or more"),
        (lambda: Chain([[0.25] * 2] * 2, [[[0.5] * 2] * 2] * 2, 1, order=2), "order 2 at length 1"),
        (lambda: Chain([0.5, 0.5], np.eye(2), 3, order=0), "order 0 at length 3"),
        (lambda: Chain([1.0], torch.zeros(1, 300), 9, order=2), r"order 2 over 300 tokens needs 300\*\*3 = 27000000"),
        (lambda: Chain([0.5, 0.5], np.eye(2), 3, alphabet=Alphabet("abc")), "an alphabet of 3 symbols for 2 tokens"),
    ],
)
def test_errors(build, message):
    with pytest.raises(OracleError, match=message):
        build()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 10**6), st.integers(1, 12))
def test_inequalities(vocabulary, length, key, sharp):
    chain = random_chain(vocabulary, length, key=key, sharp=sharp)
    curve = chain.curve()
    assert np.all(curve.increments >= -1e-10)
    assert chain.tc() >= -1e-10
    assert chain.dtc() >= -1e-10
    assert curve.entropy == pytest.approx(chain.entropy(), abs=1e-9)
    assert curve.dtc == pytest.approx(chain.dtc(), abs=1e-8)
