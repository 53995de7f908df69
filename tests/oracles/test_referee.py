"""Every engine against enumeration: the same laws, totals, curves and samples as its own table."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from demask.canvas import Canvas
from demask.errors import OracleError
from demask.oracles import HMM, Chain, LinearCode, Table, Tree, fit, insert, parity, reed_solomon, repetition, replace

RNG = np.random.default_rng(20260220)


def simplex(*shape, over=1):
    weights = RNG.gamma(0.4, size=shape)  # skewed: some entries near 0, some near 1
    return weights / weights.sum(axis=tuple(range(len(shape) - over, len(shape))), keepdims=True)


def sparse(rows):
    """A transition matrix with structural zeros that is not reversible."""
    law = np.roll(np.eye(rows), 1, axis=1) * 0.7 + np.roll(np.eye(rows), 2, axis=1) * 0.3
    law[0] = np.eye(rows)[1]
    return law


ORACLES = {
    "table": Table.random(5, 3, key=1, concentration=0.3),
    "xor": Table.dense(np.array([[[0.4, 0.0], [0.0, 0.3]], [[0.0, 0.2], [0.1, 0.0]]])),
    "chain": Chain.markov(simplex(3), simplex(3, 3), 6),
    "chain-binary": Chain.markov([0.9, 0.1], [[0.2, 0.8], [0.65, 0.35]], 8),
    "chain-sparse": Chain.markov([0.0, 0.5, 0.5, 0.0], sparse(4), 6),
    "chain-one": Chain.markov(simplex(4), simplex(4, 4), 1),
    "chain-two": Chain.markov(simplex(4), simplex(4, 4), 2),
    "chain-periodic": Chain.markov([0.3, 0.5, 0.2], np.roll(np.eye(3), 1, axis=1), 7),
    "order-2": Chain(simplex(3, 3, over=2), simplex(3, 3, 3), 6, order=2),
    "order-2-xor": Chain([[0.5, 0.2], [0.2, 0.1]], [[[0.9, 0.1], [0.1, 0.9]], [[0.2, 0.8], [1.0, 0.0]]], 7, order=2),
    "order-3": Chain(simplex(2, 2, 2, over=3), simplex(2, 2, 2, 2), 6, order=3),
    "order-is-length": Chain(simplex(3, 3, over=2), simplex(3, 3, 3), 2, order=2),
    "fitted": fit("abracadabra", length=4, order=2),
    "hmm": HMM(simplex(4), simplex(4, 4), simplex(4, 3), 5),
    "hmm-zeros": HMM([1.0, 0.0], [[0.5, 0.5], [0.0, 1.0]], [[0.7, 0.3, 0.0], [0.0, 0.4, 0.6]], 5),
    "tree-shared": Tree([2, 0, 4, 2, -1, 2, 4], simplex(3), simplex(3, 3)),
    "tree-own": Tree([-1, 0, 0, 0, 2, 2], simplex(3), simplex(6, 3, 3)),
    "tree-sparse": Tree([1, -1, 1, 0, 0], [0.2, 0.5, 0.3, 0.0], sparse(4)),
    "code": LinearCode(torch.tensor([[1, 0, 2, 1, 0, 0], [0, 1, 1, 1, 0, 2]]), 3),
    "code-dependent": LinearCode(torch.tensor([[1, 0, 2, 1, 0], [2, 0, 4, 2, 0], [0, 0, 1, 3, 2]]), 5),
    "repetition": repetition(5, 3),
    "parity": parity(5, 3),
    "reed-solomon": reed_solomon(5, 3),
    "insert": insert(4),
    "replace": replace(4),
}


@pytest.fixture(params=ORACLES)
def oracle(request):
    return ORACLES[request.param]


@pytest.fixture
def table(oracle):
    """The same distribution as a plain list, which has none of the oracle's own formulas."""
    grid = np.indices((oracle.vocabulary,) * oracle.length).reshape(oracle.length, -1).T
    sequences = torch.from_numpy(np.ascontiguousarray(grid))
    logp = oracle.log_prob(sequences)
    support = logp > -torch.inf
    return Table(sequences[support], logp[support], oracle.vocabulary)


def random_canvas(oracle, rows, key):
    generator = torch.Generator().manual_seed(key)
    tokens = oracle.sample(rows, key=key)
    share = torch.rand(rows, 1, generator=generator)
    share[0] = 2.0  # a blank row
    masked = torch.rand(rows, oracle.length, generator=generator) < share
    where = masked & (torch.rand(rows, oracle.length, generator=generator) < 0.7)
    where[1] = False  # a row with nothing asked
    return Canvas(torch.where(masked, -7, tokens), masked), where


def test_conditionals(oracle, table):
    canvas, where = random_canvas(oracle, 60, key=3)
    mine, reference = oracle(canvas, where), table(canvas, where)
    assert mine.logits.dtype == torch.float64
    assert mine.logits.shape == (int(where.sum()), oracle.vocabulary)
    torch.testing.assert_close(mine.logits, reference.logits, rtol=0, atol=1e-10)
    torch.testing.assert_close(mine.logits.exp().sum(1), torch.ones(len(mine.logits)).double(), rtol=0, atol=1e-11)


def test_conditionals_of_one_hidden_token(oracle):
    """p(x_i | others) is proportional to the joint: a check that uses no table."""
    tokens = oracle.sample(20, key=5)
    for i in range(oracle.length):
        masked = torch.zeros_like(tokens, dtype=torch.bool)
        masked[:, i] = True
        variants = tokens[:, None].repeat(1, oracle.vocabulary, 1)
        variants[:, :, i] = torch.arange(oracle.vocabulary)
        joint = oracle.log_prob(variants.flatten(0, 1)).view(20, -1).log_softmax(1)
        torch.testing.assert_close(oracle(Canvas(tokens, masked), masked).logits, joint, rtol=0, atol=1e-10)


def test_totals(oracle, table):
    n, p = oracle.length, table.logp.exp().numpy()
    entropy = -float(p @ table.logp.numpy())
    marginals = [np.bincount(table.sequences[:, i].numpy(), p) for i in range(n)]
    tc = sum(-float(m[m > 0] @ np.log(m[m > 0])) for m in marginals) - entropy
    for own, expected in [(oracle.entropy(), entropy), (oracle.tc(), tc), (oracle.dtc(), table.dtc())]:
        assert own == pytest.approx(expected, abs=1e-10)
        assert own.exact


def test_curve(oracle, table):
    curve, n = oracle.curve(), oracle.length
    np.testing.assert_allclose(curve.values, table.curve().values, rtol=0, atol=1e-9)
    assert curve.exact
    assert curve.monotone
    assert curve.entropy == pytest.approx(oracle.entropy(), abs=1e-9)
    assert curve.tc == pytest.approx(oracle.tc(), abs=1e-9)
    assert curve.dtc == pytest.approx(oracle.dtc(), abs=1e-9)
    assert oracle.tc() + oracle.dtc() == pytest.approx(n * (curve.values[0] - curve.values[-1]), abs=1e-9)


def test_sample_frequencies(oracle, table):
    """Pearson's test of 20000 samples; false-alarm rate 1e-6 per oracle, and the key is fixed."""
    counts = torch.zeros(len(table.logp), dtype=torch.float64)
    samples = oracle.sample(20_000, key=11)
    assert samples.dtype == torch.int64
    position = {tuple(row): i for i, row in enumerate(table.sequences.tolist())}
    for row in samples.tolist():
        counts[position[tuple(row)]] += 1
    expected = 20_000 * table.logp.exp()
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    wanted = torch.cat([expected[common], expected[~common].sum()[None]])
    kept = wanted > 0
    statistic = float(((observed - wanted)[kept] ** 2 / wanted[kept]).sum())
    assert chi2.sf(statistic, max(1, int(kept.sum()) - 1)) > 1e-6


def test_equal_keys_give_equal_samples(oracle):
    assert torch.equal(oracle.sample(8, key=2), oracle.sample(8, key=2))
    assert oracle.sample(0, key=2).shape == (0, oracle.length)


def test_rows_do_not_depend_on_their_batch(oracle):
    canvas, where = random_canvas(oracle, 12, key=8)
    together = oracle(canvas, where).logits
    row_of = where.nonzero()[:, 0]
    for row in range(12):
        alone = oracle(canvas.rows(slice(row, row + 1)), where[row : row + 1]).logits
        torch.testing.assert_close(alone, together[row_of == row], rtol=0, atol=1e-12)


def test_an_empty_batch(oracle):
    canvas = Canvas.blank(0, oracle.length)
    assert oracle(canvas, canvas.masked).logits.shape == (0, oracle.vocabulary)


def test_impossible_tokens_leave_the_unconditional_law(oracle, table):
    n = oracle.length
    blank = Canvas.blank(1, n)
    prior = oracle(blank, blank.masked).logits
    everything = {tuple(row) for row in table.sequences.tolist()}
    grid = np.indices((oracle.vocabulary,) * n).reshape(n, -1).T
    missing = [row for row in grid.tolist() if tuple(row) not in everything]
    assert missing or len(everything) == oracle.vocabulary**n
    for bad in missing[:: max(1, len(missing) // 5)]:
        tokens = oracle.sample(4, key=0)
        tokens[2] = torch.tensor(bad)
        masked = torch.zeros_like(tokens, dtype=torch.bool)
        assert oracle.possible(Canvas(tokens, masked)).tolist() == [True, True, False, True]
        masked[:, 0] = True  # the rest may be possible or not
        canvas = Canvas(tokens, masked)
        alone = oracle(canvas.rows(torch.tensor([1])), masked[:1]).logits
        answer = oracle(canvas, masked).logits
        torch.testing.assert_close(answer[1:2], alone, rtol=0, atol=1e-12)
        if not oracle.possible(canvas)[2]:
            torch.testing.assert_close(answer[2], prior[0], rtol=0, atol=1e-12)


def test_misuse_is_refused(oracle):
    n, vocabulary = oracle.length, oracle.vocabulary
    blank = Canvas.blank(2, n)
    with pytest.raises(OracleError, match=rf"a canvas of {n + 1} positions; expected {n}"):
        oracle(Canvas.blank(1, n + 1), torch.ones(1, n + 1, dtype=torch.bool))
    with pytest.raises(OracleError, match="where has shape"):
        oracle(blank, blank.masked[:1])
    with pytest.raises(OracleError, match="where has shape"):
        oracle(blank, blank.masked.long())
    seen = Canvas(oracle.sample(2, key=0), torch.zeros(2, n, dtype=torch.bool))
    with pytest.raises(OracleError, match="position 0 of row 0 is asked for but visible"):
        oracle(seen, blank.masked)
    seen.tokens[1, 0] = vocabulary
    with pytest.raises(OracleError, match=f"row 1 shows token {vocabulary} at position 0"):
        oracle(seen, seen.masked)
    with pytest.raises(OracleError, match="expected \\(rows,"):
        oracle.log_prob(torch.zeros(2, n + 1, dtype=torch.int64))
    with pytest.raises(OracleError, match=f"tokens from -1 to -1; expected 0 to {vocabulary - 1}"):
        oracle.log_prob(torch.full((1, n), -1))
    with pytest.raises(OracleError, match="-1 samples"):
        oracle.sample(-1, key=0)
    with pytest.raises(OracleError, match="no alphabet" if oracle.alphabet is None else "decode a batch row by row"):
        oracle.decode(torch.full((1, n), vocabulary))


def test_representation_names_length_and_vocabulary(oracle):
    assert repr(oracle).endswith(f"(length={oracle.length}, vocabulary={oracle.vocabulary})")


def test_to_table_is_the_same_law(oracle, table):
    assert oracle.to_table().kl(table) == pytest.approx(0, abs=1e-12)
    assert oracle.to_table().tv(table) == pytest.approx(0, abs=1e-12)
