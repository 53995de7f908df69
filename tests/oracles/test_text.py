from collections import Counter

import numpy as np
import pytest
import torch

from demask.errors import OracleError
from demask.oracles import Alphabet, fit

TEXT = "the quick brown fox jumps over the lazy dog; she sells sea shells by the sea shore. "


@pytest.mark.parametrize("order", [1, 2, 3])
def test_counts_of_the_circular_text(order):
    chain = fit(TEXT, length=5, order=order)
    symbols = sorted(set(TEXT))
    assert chain.alphabet == Alphabet("".join(symbols))
    circular = TEXT + TEXT[:order]
    windows = Counter(circular[i : i + order + 1] for i in range(len(TEXT)))
    contexts = Counter(circular[i : i + order] for i in range(len(TEXT)))
    for window, count in windows.items():
        place = tuple(symbols.index(c) for c in window)
        assert float(chain.transition[place]) == pytest.approx(count / contexts[window[:-1]], abs=1e-12)
    for context, count in contexts.items():
        assert float(chain.initial[tuple(symbols.index(c) for c in context)]) == pytest.approx(
            count / len(TEXT), abs=1e-12
        )
    assert float(chain.initial.sum()) == pytest.approx(1)


@pytest.mark.parametrize(("order", "smoothing"), [(1, 0.0), (1, 0.5), (2, 0.0), (2, 0.1)])
def test_the_law_is_stationary(order, smoothing):
    chain = fit("abracadabra arbadacarba", length=6, order=order, smoothing=smoothing)
    after = (chain.initial[..., None] * chain.transition).sum(0)
    torch.testing.assert_close(after, chain.initial, rtol=0, atol=1e-13)
    assert bool((chain.initial > 0).all()) == (smoothing > 0 or order == 1)


def test_smoothing_is_added_to_every_count():
    chain = fit("aab", length=2, smoothing=1.0)
    assert chain.transition.tolist() == [pytest.approx([0.5, 0.5]), pytest.approx([2 / 3, 1 / 3])]


def test_samples_read_like_the_text():
    chain = fit(TEXT, length=40, order=3)
    sample = chain.decode(chain.sample(3, key=1))
    circular = TEXT + TEXT
    assert all(row[i : i + 4] in circular for row in sample for i in range(37))


def test_bytes_and_characters():
    text = "naïve café"
    characters, octets = fit(text, length=3), fit(text, length=3, unit="bytes")
    assert characters.vocabulary == len(set(text))
    assert octets.vocabulary == len(set(text.encode()))
    assert octets.alphabet.symbols == bytes(sorted(set(text.encode())))
    assert octets.alphabet.decode(octets.alphabet.encode(text)) == text
    assert fit(text.encode(), length=3).alphabet == characters.alphabet
    assert torch.equal(fit(text.encode(), length=3).transition, characters.transition)
    assert fit(b"\xff\x00\xff", length=2, unit="bytes").alphabet.decode(torch.tensor([1, 0])) == "\ufffd\x00"


def test_a_megabyte_is_fitted_at_once():
    shares = [0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.05, 0.03, 0.02]
    symbols = np.frombuffer(b"abcdefgh ", dtype=np.uint8)
    text = np.random.default_rng(0).choice(symbols, size=10**6, p=shares).tobytes()
    chain = fit(text, length=8)
    assert chain.initial[1].item() == pytest.approx(0.3, abs=0.003)  # the space sorts before the letters
    assert chain.tc() < 1e-3


def test_alphabet_round_trip():
    alphabet = Alphabet("xyzé")
    assert len(alphabet) == 4
    assert alphabet.encode("zéx").tolist() == [2, 3, 0]
    assert alphabet.encode("zéx".encode()).tolist() == [2, 3, 0]
    assert alphabet.decode(alphabet.encode("éyx")) == "éyx"
    assert alphabet.encode("").tolist() == []
    assert alphabet.decode(torch.zeros(0, dtype=torch.int64)) == ""
    assert Alphabet(b"\x00\xff").encode(b"\xff\x00").tolist() == [1, 0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fit("", length=3), "a text of 0 characters for a chain of order 1; .* at least 2 characters"),
        (lambda: fit("a", length=3), "a text of 1 characters"),
        (lambda: fit("ab", length=3, order=2), "a text of 2 characters for a chain of order 2; .* at least 3"),
        (lambda: fit("abc", length=3, order=0), "a chain of order 0; expected order >= 1"),
        (lambda: fit("abc", length=3, unit="words"), 'unit \'words\'; expected "characters" or "bytes"'),
        (lambda: fit("abc", length=3, smoothing=-1), "smoothing of -1"),
        (lambda: fit("abc", length=3, smoothing=np.inf), "smoothing of inf"),
        (lambda: fit(b"abc\xffd", length=3), 'byte 0xff at offset 3 is not UTF-8.*unit="bytes"'),
        (lambda: fit("".join(map(chr, range(300))), length=3, order=2), r"300\*\*3 = 27000000"),
        (lambda: fit("abc", length=0), "a length of 0"),
        (lambda: Alphabet(""), "an alphabet without symbols"),
        (lambda: Alphabet("abca"), "1 repeated symbols"),
        (lambda: Alphabet("abc").encode("abxc"), "'x' at position 2 is not one of the 3 symbols 'abc'"),
        (lambda: Alphabet("abc").encode("ab\u2603"), "'\u2603' at position 2"),
        (lambda: Alphabet(b"ab").encode(b"a\xff"), r"b'\\xff' at position 1"),
        (lambda: Alphabet("abc").decode(torch.tensor([0, 3])), "integers from 0 to 2"),
        (lambda: Alphabet("abc").decode(torch.tensor([[0]])), "decode a batch row by row"),
    ],
)
def test_errors(build, message):
    with pytest.raises(OracleError, match=message):
        build()
