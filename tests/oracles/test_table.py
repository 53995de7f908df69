import itertools
from math import inf, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from demask.canvas import Canvas
from demask.errors import OracleError
from demask.oracles import Table

RNG = np.random.default_rng(7)


def entropy(p):
    p = np.asarray(p).ravel()
    return -float(p[p > 0] @ np.log(p[p > 0]))


def brute_curve(joint):
    """Z_j from its definition, one subset at a time."""
    n = joint.ndim
    h = {
        s: entropy(joint.sum(tuple(set(range(n)) - set(s))))
        for k in range(n + 1)
        for s in itertools.combinations(range(n), k)
    }
    return [
        np.mean(
            [
                h[tuple(sorted((*s, i)))] - h[s]
                for s in itertools.combinations(range(n), j)
                for i in range(n)
                if i not in s
            ]
        )
        for j in range(n)
    ]


def skewed(n, vocabulary, key):
    weights = np.random.default_rng(key).gamma(0.2, size=(vocabulary,) * n)
    weights[weights < np.quantile(weights, 0.3)] = 0
    return weights / weights.sum()


def test_conditionals_from_the_definition():
    joint = skewed(4, 3, key=1)
    table = Table.dense(joint)
    tokens = table.sample(50, key=1)
    masked = torch.from_numpy(RNG.random((50, 4)) < 0.6)
    got = iter(table(Canvas(tokens, masked), masked).logits.exp().numpy())
    for row, hidden in zip(tokens.tolist(), masked.tolist(), strict=True):
        given_visible = joint[tuple(slice(None) if h else slice(t, t + 1) for t, h in zip(row, hidden, strict=True))]
        for i in np.flatnonzero(hidden):
            law = given_visible.sum(tuple(set(range(4)) - {i}))
            np.testing.assert_allclose(next(got), law / law.sum(), rtol=0, atol=1e-12)
    assert next(got, None) is None


@pytest.mark.parametrize(("n", "vocabulary"), [(1, 4), (2, 5), (3, 3), (5, 2), (4, 4)])
def test_curve_from_the_definition(n, vocabulary):
    joint = skewed(n, vocabulary, key=n)
    np.testing.assert_allclose(Table.dense(joint).curve().values, brute_curve(joint), rtol=0, atol=1e-12)


def test_both_enumerations_of_subsets_agree():
    """A table with a large vocabulary is enumerated by sorting, the same one with small tokens by marginal cubes."""
    small = Table.dense(skewed(7, 3, key=4))
    large = Table(small.sequences * 40, small.logp, 100)
    np.testing.assert_allclose(large.curve().values, small.curve().values, rtol=0, atol=1e-12)
    deep = Table.random(13, 2, key=5)  # its cube is taken apart along the first axis
    sorted_deep = Table(deep.sequences * 40, deep.logp, 80)
    np.testing.assert_allclose(sorted_deep.curve().values, deep.curve().values, rtol=0, atol=1e-12)


def test_long_table_has_a_sampled_curve():
    """Standard errors cover the truth; 6 of them are exceeded once in 10^9 points."""
    key = torch.randint(2, (12, 40), generator=torch.Generator().manual_seed(0))
    table = Table.uniform(key, 2)
    curve = table.curve(samples=100, key=3)
    assert not curve.exact
    assert curve.error[0] == 0
    assert curve.values[0] == pytest.approx((table.tc() + table.entropy()) / 40, abs=1e-12)
    assert curve.entropy.interval(0.999999)[0] < log(12) < curve.entropy.interval(0.999999)[1]
    again = table.curve(samples=100, key=3)
    assert np.array_equal(curve.values, again.values)
    with pytest.raises(OracleError, match="1 samples; expected 2 or more"):
        table.curve(samples=1)


def test_tiny_probabilities_do_not_underflow():
    table = Table(torch.tensor([[0, 0], [1, 0], [1, 1]]), torch.tensor([0.0, -900.0, -1800.0]), 2)
    canvas = Canvas(torch.tensor([[1, 0], [0, 1], [0, 0]]), torch.tensor([[False, True], [True, False], [True, True]]))
    logits = table(canvas, canvas.masked).logits
    assert logits.tolist() == [[0, -900], [-torch.inf, 0], [0, -900], [0, -1800]]


def test_kl_and_tv():
    p = Table.dense([[0.5, 0.25], [0.25, 0.0]])
    q = Table.dense([[0.25, 0.25], [0.25, 0.25]])
    assert p.kl(q) == pytest.approx(0.5 * log(2))
    assert q.kl(p) == inf
    assert p.kl(p) == 0
    assert p.tv(q) == q.tv(p) == pytest.approx(0.25)
    assert p.tv(Table.uniform(torch.tensor([[1, 1]]), 2)) == pytest.approx(1)
    wide = Table.uniform(torch.arange(70).repeat(3, 1) % torch.tensor([[7], [11], [13]]), 70)  # too long to be numbered
    assert wide.kl(wide) == 0
    assert wide.log_prob(wide.sequences).tolist() == pytest.approx([-log(3)] * 3)
    assert wide.log_prob(torch.zeros(1, 70, dtype=torch.int64)).tolist() == [-inf]
    with pytest.raises(OracleError, match="tables of length 2 and 70"):
        p.kl(wide)


def test_large_support_is_handled_in_chunks():
    table = Table.random(16, 2, key=2)
    canvas = Canvas.blank(100, 16)
    where = torch.zeros(100, 16, dtype=torch.bool)
    where[99, 3] = True
    expected = torch.zeros(2).double().index_add(0, table.sequences[:, 3], table.logp.exp())
    torch.testing.assert_close(table(canvas, where).logits.exp()[0], expected)
    shown = Canvas(torch.full((100, 16), 5), where)
    with pytest.raises(OracleError, match="row 0 shows token 5 at position 0"):
        table(shown, where)


def test_the_row_of_a_later_chunk_is_named():
    table = Table.uniform(torch.arange(2**16)[:, None] // 2 ** torch.arange(17) % 2, 2)  # the last token is always 0
    tokens = torch.zeros(70, 17, dtype=torch.int64)
    tokens[67, 16] = 1
    masked = torch.zeros(70, 17, dtype=torch.bool)
    masked[:, 0] = True
    assert table.possible(Canvas(tokens, masked)).logical_not().nonzero().tolist() == [[67]]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Table(torch.tensor([[0], [1]]), torch.tensor([0.5, 0.25]).double().log(), 2),
            "sum to 0.75; expected 1",
        ),
        (lambda: Table(torch.tensor([[0], [1]]), torch.zeros(3), 2), "expected \\(S, n\\) and \\(S,\\)"),
        (lambda: Table(torch.tensor([0, 1]), torch.zeros(2), 2), "expected \\(S, n\\) and \\(S,\\)"),
        (
            lambda: Table(torch.tensor([[0], [2]]), torch.tensor([0.5, 0.5]).log(), 2),
            "tokens from 0 to 2; expected 0 to 1",
        ),
        (lambda: Table(torch.tensor([[0], [1]]), torch.tensor([0.0, -inf]), 2), "sequence 1 is not finite"),
        (lambda: Table.uniform(torch.tensor([[0], [1], [0]]), 2), "sequence 2 is listed twice"),
        (lambda: Table.dense(np.ones((2, 3)) / 6), "expected \\(V,\\) \\* n"),
        (lambda: Table.dense([0.5, -0.1]), "a probability of -0.1"),
        (lambda: Table.dense([0.0, 0.0]), "probabilities sum to 0"),
        (lambda: Table.dense([0.5, 0.6]), "sum to 1.1"),
        (lambda: Table.random(0, 2, key=0), "length 0, vocabulary 2"),
        (lambda: Table.random(30, 2, key=0), "at most 2\\*\\*24"),
    ],
)
def test_errors(build, message):
    with pytest.raises(OracleError, match=message):
        build()


def test_nearly_normalised_probabilities_are_normalised():
    table = Table(torch.tensor([[0], [1]]), torch.tensor([0.5, 0.5 + 5e-10]).double().log(), 2)
    assert float(table.logp.exp().sum()) == pytest.approx(1, abs=1e-15)


def test_random_is_reproducible_and_skewed_by_concentration():
    assert torch.equal(Table.random(3, 2, key=4).logp, Table.random(3, 2, key=4).logp)
    assert Table.random(3, 2, key=4).tv(Table.random(3, 2, key=5)) > 0.01
    assert Table.random(4, 3, key=1, concentration=0.05).entropy() < Table.random(4, 3, key=1).entropy()


def test_hub_leaf_and_distractor():
    """F4: a fair bit, three noisy copies of it, and an independent bit."""
    flip = np.array([[0.9, 0.1], [0.1, 0.9]])
    joint = np.einsum("a,ab,ac,ad,e->abcde", [0.5, 0.5], flip, flip, flip, [0.95, 0.05])
    table = Table.dense(joint)
    h = entropy([0.9, 0.1])
    assert table.entropy() == pytest.approx(log(2) + 3 * h + entropy([0.95, 0.05]))
    assert table.tc() == pytest.approx(3 * (log(2) - h))
    canvas = Canvas(torch.tensor([[0, 1, 1, 0, 0]]), torch.tensor([[True, False, False, True, True]]))
    hub, leaf, distractor = table(canvas, canvas.masked).logits.exp()
    assert float(hub[1]) == pytest.approx(0.81 / 0.82)
    assert float(leaf[1]) == pytest.approx((0.81 * 0.9 + 0.01 * 0.1) / 0.82)
    assert distractor.tolist() == pytest.approx([0.95, 0.05])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 10**6), st.sampled_from([0.02, 0.2, 1.0]))
def test_inequalities(n, vocabulary, key, concentration):
    table = Table.random(n, vocabulary, key=key, concentration=concentration)
    curve = table.curve()
    assert np.all(curve.increments >= -1e-12)
    assert table.tc() >= -1e-12
    assert table.dtc() >= -1e-12
    assert table.tc() <= (n - 1) * table.dtc() + 1e-9  # Han: both vanish together
    assert table.dtc() <= (n - 1) * table.tc() + 1e-9
    assert curve.entropy == pytest.approx(table.entropy(), abs=1e-9)
    assert table.tc() + table.dtc() == pytest.approx(n * (curve.values[0] - curve.values[-1]), abs=1e-9)
