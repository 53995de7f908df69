from itertools import combinations
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from demask.canvas import Canvas
from demask.errors import OracleError
from demask.oracles import LinearCode, parity, reed_solomon, repetition


def codewords(code):
    """All codewords, by all messages."""
    k = len(code.generator)
    messages = np.indices((code.q,) * k).reshape(k, -1).T
    return {tuple(row) for row in (messages @ code.generator.numpy() % code.q).tolist()}


def test_the_law_is_uniform_over_codewords():
    code = LinearCode(torch.tensor([[1, 2, 0, 4], [3, 1, 0, 2], [0, 0, 0, 5]]), 5)
    words = codewords(code)
    table = code.to_table()
    assert {tuple(row) for row in table.sequences.tolist()} == words
    assert table.logp.tolist() == pytest.approx([-log(len(words))] * len(words))
    assert code.entropy() == pytest.approx(log(len(words)))
    assert code.dimension == round(log(len(words), 5))


def test_repeated_bit():
    """F3: one visible bit fixes all others."""
    code = repetition(6)
    assert code.curve().values.tolist() == pytest.approx([log(2), 0, 0, 0, 0, 0])
    assert (code.tc(), code.dtc()) == (pytest.approx(5 * log(2)), pytest.approx(log(2)))
    canvas = Canvas(torch.tensor([[0, 0, 1, 0, 0, 0]]), torch.tensor([[True, True, False, True, True, True]]))
    assert code(canvas, canvas.masked).mode.tolist() == [1] * 5
    assert codewords(code) == {(0,) * 6, (1,) * 6}


def test_parity():
    """F5: three bits are independent and fix the fourth."""
    code = parity(4)
    assert code.curve().values.tolist() == pytest.approx([log(2)] * 3 + [0])
    assert (code.tc(), code.dtc()) == (pytest.approx(log(2)), pytest.approx(3 * log(2)))
    assert codewords(code) == {w for w in np.ndindex(2, 2, 2, 2) if sum(w) % 2 == 0}
    assert all(sum(w) % 7 == 0 for w in codewords(parity(3, 7)))
    canvas = Canvas(
        torch.tensor([[1, 0, 0, 0], [1, 1, 0, 1]]),
        torch.tensor([[False, False, True, True], [False, False, True, False]]),
    )
    assert code(canvas, canvas.masked).logits.exp().tolist() == [[0.5, 0.5], [0.5, 0.5], [0.0, 1.0]]


@pytest.mark.parametrize(("n", "k", "q"), [(5, 2, None), (7, 4, 7), (6, 3, 11), (4, 4, 5), (3, 1, None)])
def test_any_k_symbols_of_reed_solomon_are_independent(n, k, q):
    code = reed_solomon(n, k, q)
    assert code.q >= n
    words = np.array(sorted(codewords(code)))
    assert len(words) == code.q**k
    for chosen in combinations(range(n), k):
        assert len(np.unique(words[:, chosen], axis=0)) == code.q**k
    plain = LinearCode(code.generator, code.q)  # without the closed form: all subsets are enumerated
    np.testing.assert_allclose(code.curve().values, plain.curve().values, rtol=0, atol=1e-12)
    np.testing.assert_allclose(code.curve().values, [log(code.q)] * k + [0] * (n - k))


def test_a_long_code():
    code = reed_solomon(256, 128)
    assert code.q == 257
    tokens = code.sample(4, key=0)
    generator = torch.Generator().manual_seed(1)
    place = torch.rand(4, 256, generator=generator).argsort(1).argsort(1)
    masked = place >= torch.tensor([[128], [127], [200], [0]])
    canvas = Canvas(torch.where(masked, -1, tokens), masked)
    got = code(canvas, masked)
    free = got.entropy > 1
    assert free.tolist() == [False] * 128 + [True] * 129 + [False] * 56 + [True] * 256
    assert torch.equal(got.mode[~free], tokens[masked][~free])
    assert got.logits[free].eq(-log(257)).all()
    assert code.dtc() == pytest.approx(128 * log(257))


def test_a_sampled_curve_of_ranks():
    """A random code of length 20 is too long to enumerate; false-alarm rate below 1e-5, and the key is fixed."""
    generator = torch.randint(0, 2, (6, 20), generator=torch.Generator().manual_seed(2))
    code = LinearCode(generator, 2)
    curve = code.curve(samples=200, key=1)
    assert not curve.exact
    low, high = curve.entropy.interval(0.99999)
    assert low < code.entropy() < high
    assert curve.values[0] == pytest.approx((code.tc() + code.entropy()) / 20)


def test_rows_beyond_the_first_chunk_are_named():
    code = repetition(1 << 16)
    tokens = torch.zeros(70, 1 << 16, dtype=torch.int64)
    tokens[66, 5] = 1
    masked = torch.zeros_like(tokens, dtype=torch.bool)
    masked[:, 0] = True
    assert code.possible(Canvas(tokens, masked)).logical_not().nonzero().tolist() == [[66]]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: LinearCode(torch.ones(1, 3, dtype=torch.int64), 4),
            "a field of 4 symbols; expected a prime, the next is 5",
        ),
        (lambda: repetition(3, 1), "a field of 1 symbols; expected a prime, the next is 2"),
        (lambda: LinearCode(torch.ones(3, dtype=torch.int64), 3), r"a generator of shape \(3,\)"),
        (lambda: LinearCode(torch.ones(1, 3), 3), "type torch.float32; expected .* integers"),
        (lambda: reed_solomon(6, 2, 5), "a field of 5 symbols at length 6; expected a prime >= length, such as 7"),
        (lambda: reed_solomon(6, 2, 9), "a field of 9 symbols; expected a prime, the next is 11"),
        (lambda: reed_solomon(4, 5), "dimension 5 at length 4"),
        (lambda: reed_solomon(0, 0), "a length of 0"),
        (lambda: repetition(0), "a length of 0"),
        (lambda: parity(1), "a parity code of length 1; expected 2 or more"),
    ],
)
def test_errors(build, message):
    with pytest.raises(OracleError, match=message):
        build()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.sampled_from([2, 3, 7]), st.integers(0, 10**6))
def test_inequalities(n, k, q, key):
    code = LinearCode(torch.randint(0, q, (k, n), generator=torch.Generator().manual_seed(key)), q)
    curve = code.curve()
    assert curve.monotone
    assert code.tc() >= -1e-12
    assert code.dtc() >= -1e-12
    assert curve.entropy == pytest.approx(code.entropy(), abs=1e-10)
    assert curve.dtc == pytest.approx(code.dtc(), abs=1e-10)
    assert code.log_prob(code.sample(10, key=key)).tolist() == pytest.approx([-code.entropy()] * 10)
