"""A distribution given by the list of its sequences: the referee of every other oracle."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demask.canvas import Canvas
from demask.curve import Curve, Estimate
from demask.errors import OracleError
from demask.oracles.base import Noise, Oracle
from demask.oracles.semiring import LogMatrix

Floats = NDArray[np.float64]
_CHUNK: Final = 1 << 22  # entries of the rows-by-sequences weights at once
_CUBE: Final = 1 << 20  # entries of the array of all marginals at once
_SUBSETS: Final = 1 << 26  # work that an exact curve may take
_SPREAD: Final = 600.0  # nats between two sequences, beyond which a plain sum of probabilities could underflow


@dataclass(frozen=True, eq=False, repr=False)
class Table(Oracle):
    """A distribution is the list of its sequences.

    p(x_i = v | x_S) = sum of p over sequences that agree with x_S and have v at i, normalised.
    Cost: O(B S n) comparisons and O(M S V) multiplications for S sequences, B rows and M asked positions. The curve is
    exact, by enumeration of all sets of positions, where n <= 16 and `2**n S` (or `(V+1)**n`) is at most 2**26;
    otherwise Monte Carlo. Entropy, TC and DTC are always exact.

    Parameters:
        sequences: (S, n) int64, all different.
        logp: (S,) log-probabilities, finite, nats; their exponentials sum to 1 within 1e-9.
        vocabulary: number of tokens, V.

    Raises:
        OracleError: shapes that do not fit, equal sequences, tokens out of range, probabilities that do not sum to 1.

    Example:
        >>> xor = Table.uniform(torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]), 2)
        >>> canvas = Canvas(torch.tensor([[1, 1, 0]]), torch.tensor([[False, False, True]]))
        >>> xor(canvas, canvas.masked).logits.exp().tolist()
        [[1.0, 0.0]]
        >>> xor.curve().values.round(4).tolist(), round(xor.dtc(), 4)
        ([0.6931, 0.6931, 0.0], 1.3863)
    """

    sequences: Tensor
    logp: Tensor
    vocabulary: int
    length: int = field(init=False)

    def __post_init__(self) -> None:
        sequences = torch.as_tensor(self.sequences)
        logp = torch.as_tensor(self.logp, dtype=torch.float64)
        if sequences.ndim != 2 or 0 in sequences.shape or logp.shape != sequences.shape[:1]:
            raise OracleError(
                f"sequences of shape {tuple(sequences.shape)} with {tuple(logp.shape)} log-probabilities; "
                "expected (S, n) and (S,) with S, n >= 1"
            )
        low, high = int(sequences.min()), int(sequences.max())
        if low < 0 or high >= self.vocabulary:
            raise OracleError(f"sequences with tokens from {low} to {high}; expected 0 to {self.vocabulary - 1}")
        if not logp.isfinite().all():
            raise OracleError(
                f"the log-probability of sequence {int((~logp.isfinite()).nonzero()[0])} is not finite; "
                "list only sequences of positive probability"
            )
        total = torch.logsumexp(logp, 0)
        if abs(float(total.exp()) - 1) > 1e-9:
            raise OracleError(
                f"probabilities sum to {float(total.exp()):.10g}; expected 1: use logp - logp.logsumexp(0)"
            )
        (names,) = _identify(self.vocabulary, sequences)
        _, first = np.unique(names, return_index=True)
        if len(first) < len(names):
            twin = int(np.setdiff1d(np.arange(len(names)), first)[0])
            raise OracleError(f"sequence {twin} is listed twice; add the probabilities of equal sequences")
        object.__setattr__(self, "sequences", sequences.to(torch.int64))
        object.__setattr__(self, "logp", logp - total)
        object.__setattr__(self, "length", sequences.shape[1])

    @classmethod
    def dense(cls, probs: Any) -> "Table":
        """Return the distribution of an array of probabilities of shape (V,) * n; zeros are left out."""
        array = np.asarray(probs, dtype=np.float64)
        if not array.ndim or len(set(array.shape)) > 1:
            raise OracleError(f"probabilities of shape {array.shape}; expected (V,) * n")
        if not (array >= 0).all():
            raise OracleError(f"a probability of {array.min()}; expected numbers >= 0")
        support = np.argwhere(array > 0)
        if not len(support):
            raise OracleError("probabilities sum to 0; expected 1")
        return cls(torch.from_numpy(support), torch.from_numpy(np.log(array[array > 0])), array.shape[0])

    @classmethod
    def uniform(cls, sequences: Tensor, vocabulary: int) -> "Table":
        """Return the uniform distribution over the rows of `sequences`."""
        return cls(sequences, torch.zeros(len(sequences), dtype=torch.float64).log_softmax(0), vocabulary)

    @classmethod
    def random(cls, length: int, vocabulary: int = 2, *, key: int = 0, concentration: float = 1.0) -> "Table":
        """Return a random joint law: all `vocabulary**length` probabilities drawn from a symmetric Dirichlet law."""
        if length < 1 or vocabulary < 1 or concentration <= 0 or vocabulary**length > 1 << 24:
            raise OracleError(
                f"length {length}, vocabulary {vocabulary}, concentration {concentration}; expected positive numbers "
                "and at most 2**24 sequences"
            )
        weights = np.random.default_rng(key).gamma(concentration, size=(vocabulary,) * length)
        return cls.dense(weights / weights.sum())

    def kl(self, other: "Table") -> float:
        """Return KL(self || other) = sum_x p (log p - log q), nats; inf where `other` misses a sequence."""
        p, q = self._aligned(other)
        here = p > -np.inf
        return float(np.sum(np.exp(p[here]) * (p[here] - q[here])))

    def tv(self, other: "Table") -> float:
        """Return the total variation distance sum_x |p - q| / 2, in [0, 1]."""
        p, q = self._aligned(other)
        return float(np.abs(np.exp(p) - np.exp(q)).sum() / 2)

    def entropy(self, *, samples: int = 0, key: int = 0) -> Estimate:
        """Return H(X) = -sum_x p log p, nats, exact."""
        return Estimate(float(-(self.logp.exp() * self.logp).sum()))

    def dtc(self, *, samples: int = 0, key: int = 0) -> Estimate:
        """Return H(X) - sum_i (H(X) - H(X without i)), nats, exact."""
        total = self.entropy()
        probs = self.logp.exp().numpy()
        own = 0.0
        for i in range(self.length):
            (group,) = _identify(self.vocabulary, torch.cat([self.sequences[:, :i], self.sequences[:, i + 1 :]], 1))
            own += total - float(_entr(np.bincount(group, probs).astype(np.float64)).sum())
        return Estimate(total - own)

    def to_table(self) -> "Table":
        """Return itself."""
        return self

    def _logits(self, canvas: Canvas, where: Tensor) -> Tensor:
        return self._read(canvas, where, None)

    def _noised(self, canvas: Canvas, noise: Noise) -> Tensor:
        return self._read(canvas, noise.where, noise)

    def _read(self, canvas: Canvas, where: Tensor, noise: Noise | None) -> Tensor:
        out = torch.empty(int(where.sum()), self.vocabulary, dtype=torch.float64)
        start = 0
        for row in range(0, canvas.shape[0], step := max(1, _CHUNK // len(self.logp))):
            block = slice(row, row + step)
            asked = where[block]
            weights = self._agreeing(canvas.tokens[block], canvas.masked[block] | (asked if noise else False))
            if noise is not None:
                weights = weights + self._likelihood(canvas.tokens[block], Noise(asked, noise.keep[block]))
            impossible = torch.zeros(canvas.shape[0], dtype=torch.bool)
            impossible[block] = (weights == -torch.inf).all(1)
            self._refuse(impossible)
            slot = asked.flatten().cumsum(0).view(asked.shape) - 1 + start
            for i in asked.any(0).nonzero()[:, 0].tolist():
                rows = asked[:, i]
                out[slot[rows, i]] = self._readout[i].after(weights[rows])
            start += int(asked.sum())
        return out.log_softmax(-1)

    def _agreeing(self, tokens: Tensor, masked: Tensor) -> Tensor:
        """Log-probabilities (B, S) of the sequences, -inf where they differ from a visible token of the row."""
        agree = torch.ones(len(tokens), len(self.logp), dtype=torch.bool)
        for i in (~masked).any(0).nonzero()[:, 0].tolist():
            agree &= masked[:, i, None] | (tokens[:, i, None] == self.sequences[:, i])
        return torch.where(agree, self.logp, -torch.inf)

    def _likelihood(self, tokens: Tensor, noise: Noise) -> Tensor:
        """Log-probabilities (B, S) of the noisy tokens, given each sequence."""
        total = torch.zeros(len(tokens), len(self.logp), dtype=torch.float64)
        for i in noise.where.any(0).nonzero()[:, 0].tolist():
            right = (tokens[:, i, None] == self.sequences[:, i]).double().log()
            total += torch.where(noise.where[:, i, None], noise.likelihood(right, i, self.vocabulary), 0.0)
        return total

    @cached_property
    def _readout(self) -> list["_Readout"]:
        wide = float(self.logp.max() - self.logp.min()) > _SPREAD
        return [_Readout(self.sequences[:, i], self.vocabulary, wide) for i in range(self.length)]

    def _log_prob(self, tokens: Tensor) -> Tensor:
        mine, asked = _identify(self.vocabulary, self.sequences, tokens)
        table = torch.full((int(max(mine.max(), asked.max(initial=0))) + 1,), -torch.inf, dtype=torch.float64)
        table[torch.from_numpy(mine)] = self.logp
        return table[torch.from_numpy(asked)]

    def _sample(self, count: int, generator: torch.Generator) -> Tensor:
        level = torch.rand(count, generator=generator, dtype=torch.float64)
        heights = self.logp.exp().cumsum(0)
        return self.sequences[torch.searchsorted(heights, level * heights[-1], right=True).clamp(max=len(heights) - 1)]

    def _aligned(self, other: "Table") -> tuple[Floats, Floats]:
        """Log-probabilities of the union of both supports."""
        if self.length != other.length:
            raise OracleError(f"tables of length {self.length} and {other.length}; expected equal lengths")
        names = _identify(max(self.vocabulary, other.vocabulary), self.sequences, other.sequences)
        p, q = np.full((2, int(max(name.max() for name in names)) + 1), -np.inf)
        p[names[0]], q[names[1]] = self.logp.numpy(), other.logp.numpy()
        return p, q

    @cached_property
    def _table(self) -> "Table | None":
        return self

    @cached_property
    def _exact_curve(self) -> Curve | None:
        """Z_j = mean H of a random set of j + 1 positions, less that of j positions."""
        entropies = self._subset_entropies()
        if entropies is None:
            return None
        size = sum(np.arange(1 << self.length) >> i & 1 for i in range(self.length))
        return Curve(np.diff(np.bincount(size, entropies.ravel()) / np.bincount(size)))

    def _subset_entropies(self) -> Floats | None:
        """H(X_A) of all 2**n sets A, or None where there are too many."""
        n, sequences = self.length, self.sequences.numpy()
        if (self.vocabulary + 1.0) ** n <= _SUBSETS:
            dense = np.zeros((self.vocabulary,) * n)
            dense[tuple(sequences.T)] = self.logp.exp().numpy()
            return _cube_entropies(dense)
        digits = [np.unique(column, return_inverse=True)[1] for column in sequences.T]
        radix = np.cumprod([1.0, *[digit.max() + 1 for digit in digits]])
        if n > 16 or len(self.logp) << n > _SUBSETS or radix[-1] >= 2**62:
            return None
        weighted = np.stack([digit * int(weight) for digit, weight in zip(digits, radix[:-1], strict=True)])
        low, high = _subset_sums(weighted[: n // 2]), _subset_sums(weighted[n // 2 :])
        probs = self.logp.exp().numpy()
        return np.concatenate([_group_entropies(low + key, probs) for key in high])


@dataclass(frozen=True, eq=False)
class _Readout:
    """Sums the weights of the sequences that have each token at one position."""

    column: Tensor
    vocabulary: int
    wide: bool

    @cached_property
    def indicator(self) -> Tensor:
        return torch.nn.functional.one_hot(self.column, self.vocabulary).double()

    def after(self, weights: Tensor) -> Tensor:
        if self.wide:
            return LogMatrix(self.indicator.log()).after(weights)
        peak = weights.amax(-1, keepdim=True)
        return ((weights - peak).exp() @ self.indicator).log() + peak


def _identify(vocabulary: int, *sets: Tensor) -> list[NDArray[np.int64]]:
    """Number the rows of several lists of sequences, equal rows with equal numbers."""
    rows = torch.cat(sets).numpy()
    if rows.shape[1] * np.log2(max(2, vocabulary)) < 62:
        rows = rows @ np.array([vocabulary**i for i in range(rows.shape[1])], dtype=np.int64)
        names = np.unique(rows, return_inverse=True)[1]
    else:
        names = np.unique(rows, axis=0, return_inverse=True)[1]
    return cast(list[NDArray[np.int64]], np.split(names.ravel(), np.cumsum([len(part) for part in sets])[:-1]))


def _entr(p: Floats) -> Floats:
    """-p log p, and 0 at 0."""
    return -p * np.log(np.where(p > 0, p, 1.0))


def _cube_entropies(dense: Floats) -> Floats:
    """H(X_A) of every set A of axes, shape (2,) * n: 1 where an axis is in A.

    An axis with one more entry, the sum of the others, holds the law with and without its position; V + 1 entries per
    axis hold all marginals at once. Large arrays are taken apart along their first axis.
    """
    vocabulary, n = dense.shape[0], dense.ndim
    if (vocabulary + 1.0) ** n > _CUBE and n > 1:
        parts = [_cube_entropies(part) for part in dense]
        return np.stack([_cube_entropies(dense.sum(0)), np.sum(parts, axis=0)])
    for axis in range(n):
        dense = np.concatenate([dense, dense.sum(axis, keepdims=True)], axis)
    cube = _entr(dense)
    for axis in range(n):
        out, kept = cube.take([vocabulary], axis), cube.take(range(vocabulary), axis)
        cube = np.concatenate([out, kept.sum(axis, keepdims=True)], axis)
    return cube


def _subset_sums(weighted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums over every subset of the rows: (k, S) -> (2**k, S), bit i of the index for row i."""
    sums = np.zeros((1, weighted.shape[1]), dtype=np.int64)
    for row in weighted:
        sums = np.concatenate([sums, sums + row])
    return sums


def _group_entropies(keys: NDArray[np.int64], probs: Floats) -> Floats:
    """Entropy of the law of the key in every row: (C, S) keys, (S,) probabilities -> (C,)."""
    order = np.argsort(keys, axis=1)
    keys = np.take_along_axis(keys, order, 1)
    first = np.ones(keys.shape, dtype=bool)
    first[:, 1:] = keys[:, 1:] != keys[:, :-1]
    starts = np.flatnonzero(first)
    masses = np.add.reduceat(probs[order].ravel(), starts)
    return np.bincount(starts // keys.shape[1], _entr(masses), minlength=len(keys)).astype(np.float64)
