"""Markov chains fitted to real texts."""

from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from demask.errors import OracleError
from demask.oracles.alphabet import Alphabet, units
from demask.oracles.chain import Chain, check_size

_CHANGE: Final = 1e-14
_ITERATIONS: Final = 100_000


def fit(
    text: str | bytes,
    *,
    length: int,
    order: int = 1,
    unit: Literal["characters", "bytes"] = "characters",
    smoothing: float = 0.0,
) -> Chain:
    """Fit a stationary Markov chain to a text.

    transition[w, v] = (count of v after the window w + smoothing) / sum over v of the same, counted on the circular text
    (its end is followed by its start). Without smoothing the window frequencies of the text are then exactly stationary;
    windows that never occur have probability zero, and uniform rows. With smoothing the stationary law is found by power
    iteration from these frequencies, until it moves by less than 1e-14.
    Cost: O(length of the text + V^(order+1)).

    Parameters:
        text: str, or bytes in UTF-8 (any bytes with unit="bytes").
        length: positions of the chain, n >= order.
        order: tokens that the next one depends on, m >= 1.
        unit: what a token is.
        smoothing: added to every count, >= 0.

    Raises:
        OracleError: a text shorter than order + 1, bytes that are not UTF-8, negative smoothing, too large an order.

    Example:
        >>> chain = fit("abracadabra", length=4)
        >>> chain.alphabet
        Alphabet(symbols='abcdr')
        >>> (chain.transition[0] * 5).round().tolist()  # what follows an a: itself (around the end), b, c or d
        [1.0, 2.0, 1.0, 1.0, 0.0]
        >>> chain.decode(torch.tensor([[4, 0, 2, 0]]))
        ['raca']
    """
    if unit not in ("characters", "bytes"):
        raise OracleError(f'unit {unit!r}; expected "characters" or "bytes"')
    if not (0 <= smoothing < np.inf):
        raise OracleError(f"smoothing of {smoothing}; expected a number >= 0")
    codes = units(text, str if unit == "characters" else bytes)
    if order < 1 or len(codes) < max(2, order + 1):
        raise OracleError(
            f"a text of {len(codes)} {unit} for a chain of order {order}; expected order >= 1 and at least "
            f"{max(2, order + 1)} {unit}"
        )
    seen = np.bincount(codes) > 0
    symbols = np.flatnonzero(seen)
    vocabulary = len(symbols)
    check_size(vocabulary, order)
    tokens = (np.cumsum(seen) - 1)[codes]

    window = np.zeros_like(tokens)
    for k in range(order + 1):
        window = window * vocabulary + np.roll(tokens, -k)
    counts = np.bincount(window, minlength=vocabulary ** (order + 1)).reshape(-1, vocabulary) + smoothing
    sums = counts.sum(1, keepdims=True)
    rows = np.where(sums > 0, counts / np.where(sums > 0, sums, 1), 1 / vocabulary)
    law = _stationary(sums[:, 0] / sums.sum(), rows)
    return Chain(
        initial=torch.from_numpy(law.reshape((vocabulary,) * order)),
        transition=torch.from_numpy(rows.reshape((vocabulary,) * (order + 1))),
        length=length,
        order=order,
        alphabet=Alphabet("".join(map(chr, symbols)) if unit == "characters" else bytes(symbols.tolist())),
    )


def _stationary(law: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the stationary law of windows, by power iteration from `law` (V**m,) with next-token laws `rows` (V**m, V)."""
    vocabulary = rows.shape[1]
    for _ in range(_ITERATIONS):
        after = (law[:, None] * rows).reshape(vocabulary, -1, vocabulary).sum(0).ravel()
        change = float(np.abs(after - law).sum())
        law = after / after.sum()
        if change <= _CHANGE:
            return law
    raise OracleError(
        f"no stationary law after {_ITERATIONS} steps (the last moved it by {change:.1e}); raise the smoothing"
    )
