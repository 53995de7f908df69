"""Linear codes over prime fields."""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from math import isqrt, log
from typing import Final

import numpy as np
import torch
from torch import Tensor

from demask.canvas import Canvas
from demask.curve import Curve, Estimate
from demask.errors import OracleError
from demask.oracles.base import Oracle
from demask.oracles.graphs import check_length

_CHUNK: Final = 1 << 22  # entries of the batch of generator matrices that are eliminated at once
_SUBSETS: Final = 14  # positions of which all subsets are enumerated


@dataclass(frozen=True, eq=False, repr=False)
class LinearCode(Oracle):
    """A uniformly random codeword is u G for a uniformly random message u.

    A masked symbol is determined by the visible ones if its column of G lies in the span of theirs, and otherwise uniform
    on GF(q); so H(X_i | X_S) = log q (rank G_{S+i} - rank G_S).
    Cost: O(B k^2 n) integer operations, by elimination on the visible columns of every row. The curve is exact for
    `repetition`, `parity` and `reed_solomon` (maximum distance separable: rank G_S = min(k, |S|)) and for n <= 14 (all
    subsets), otherwise Monte Carlo over sequences and sets. Entropy, TC and DTC are exact.

    Parameters:
        generator: (k, n) integers, taken modulo q; its rows need not be independent.
        q: prime size of the field, and the vocabulary.

    Raises:
        OracleError: a generator that is no matrix, or a `q` that is not prime.

    Example:
        >>> code = LinearCode(torch.tensor([[1, 0, 1], [0, 1, 2]]), q=3)
        >>> canvas = Canvas(torch.tensor([[2, 0, 1]]), torch.tensor([[False, True, False]]))
        >>> code(canvas, canvas.masked).logits.exp().tolist()
        [[0.0, 1.0, 0.0]]
        >>> code.curve().values.round(4).tolist()
        [1.0986, 1.0986, 0.0]

    Reference: MacWilliams and Sloane, 1977, The Theory of Error-Correcting Codes, chapters 1 and 11.
    """

    generator: Tensor
    q: int
    length: int = field(init=False)
    vocabulary: int = field(init=False)

    def __post_init__(self) -> None:
        if not _is_prime(self.q):
            raise OracleError(f"a field of {self.q} symbols; expected a prime, the next is {_next_prime(self.q)}")
        generator = torch.as_tensor(self.generator)
        if generator.ndim != 2 or 0 in generator.shape or generator.is_floating_point():
            raise OracleError(
                f"a generator of shape {tuple(generator.shape)} and type {generator.dtype}; expected (k, n) integers"
            )
        object.__setattr__(self, "generator", generator.to(torch.int64) % self.q)
        object.__setattr__(self, "length", generator.shape[1])
        object.__setattr__(self, "vocabulary", self.q)

    @property
    def dimension(self) -> int:
        """Rank of the generator, k."""
        return len(self._systematic[0])

    def entropy(self, *, samples: int = 0, key: int = 0) -> Estimate:
        """Return H(X) = rank G log q, nats, exact."""
        return Estimate(self.dimension * log(self.q))

    def dtc(self, *, samples: int = 0, key: int = 0) -> Estimate:
        """Return (rank G - number of symbols free of all others) log q, nats, exact."""
        _, reduced = self._systematic
        free = int(((reduced != 0).sum(1) == 1).sum())  # rows of the reduced generator with a pivot and nothing else
        return Estimate((self.dimension - free) * log(self.q))

    def _logits(self, canvas: Canvas, where: Tensor) -> Tensor:
        rows = max(1, _CHUNK // self.generator.numel())
        parts = [
            self._eliminated(canvas.tokens[start : start + rows], canvas.masked[start : start + rows], start)
            for start in range(0, canvas.shape[0], rows)
        ]
        free = torch.cat([part[0] for part in parts])[where] if parts else torch.zeros(0, dtype=torch.bool)
        value = torch.cat([part[1] for part in parts])[where] if parts else torch.zeros(0, dtype=torch.int64)
        out = torch.full((len(free), self.q), -log(self.q), dtype=torch.float64)
        out[~free] = torch.eye(self.q, dtype=torch.float64).log()[value[~free]]
        return out

    def _eliminated(self, tokens: Tensor, masked: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Whether every symbol is free of the visible ones, and its value where it is not: both (B, n)."""
        reduced, pivot = _eliminate(self.generator, ~masked, self.q)
        used = pivot >= 0
        free = ((reduced != 0) & ~used[:, :, None]).any(1)
        message = torch.where(used, tokens.gather(1, pivot.clamp(min=0)), 0)
        value = (message[:, :, None] * reduced).sum(1) % self.q
        wrong = (~masked & (value != tokens)).any(1)
        self._refuse(torch.nn.functional.pad(wrong, (start, 0)))
        return free, value

    @cached_property
    def _systematic(self) -> tuple[Tensor, Tensor]:
        """Positions of the message in a codeword, (k,), and the generator that puts it there, (k, n)."""
        reduced, pivot = _eliminate(self.generator, torch.ones(1, self.length, dtype=torch.bool), self.q)
        return pivot[pivot >= 0], reduced[pivot >= 0]

    def _log_prob(self, tokens: Tensor) -> Tensor:
        pivots, reduced = self._systematic
        inside = (tokens[:, pivots] @ reduced % self.q == tokens).all(1)
        return torch.where(inside, 0.0, -torch.inf).double() - self.dimension * log(self.q)

    def _sample(self, count: int, generator: torch.Generator) -> Tensor:
        pivots, reduced = self._systematic
        return torch.randint(self.q, (count, len(pivots)), generator=generator) @ reduced % self.q

    @cached_property
    def _marginal_entropy(self) -> float:
        return int((self.generator != 0).any(0).sum()) * log(self.q)

    @cached_property
    def _exact_curve(self) -> Curve | None:
        """Z_j = log q (mean rank of j + 1 columns, less that of j columns)."""
        n = self.length
        if n > _SUBSETS:
            return None
        sets = (torch.arange(1 << n)[:, None] >> torch.arange(n) & 1).bool()
        parts = torch.split(sets, max(1, _CHUNK // self.generator.numel()))
        ranks = torch.cat([(_eliminate(self.generator, part, self.q)[1] >= 0).sum(1) for part in parts])
        size = sets.sum(1).numpy()
        return Curve(np.diff(np.bincount(size, ranks.numpy()) / np.bincount(size)) * log(self.q))


def repetition(length: int, q: int = 2) -> LinearCode:
    """Return the code in which every symbol is the same.

    Example:
        >>> repetition(4).curve().values.round(4).tolist()
        [0.6931, 0.0, 0.0, 0.0]
    """
    check_length(length)
    return _separable(LinearCode(torch.ones(1, length, dtype=torch.int64), q))


def parity(length: int, q: int = 2) -> LinearCode:
    """Return the code in which the symbols sum to 0: any n - 1 of them are independent.

    Example:
        >>> parity(4).curve().values.round(4).tolist()
        [0.6931, 0.6931, 0.6931, 0.0]
    """
    if length < 2:
        raise OracleError(f"a parity code of length {length}; expected 2 or more")
    identity = torch.eye(length - 1, dtype=torch.int64)
    return _separable(LinearCode(torch.cat([identity, -torch.ones_like(identity[:, :1])], 1), q))


def reed_solomon(length: int, dimension: int, q: int | None = None) -> LinearCode:
    """Return the values of a random polynomial of degree < `dimension` at 0 .. length - 1.

    Any `dimension` symbols are independent and fix all others: the curve is a single step, the extreme case of every
    bound. `q` is a prime >= length, by default the smallest.

    Example:
        >>> reed_solomon(4, 2).curve().values.round(4).tolist()
        [1.6094, 1.6094, 0.0, 0.0]

    Reference: Reed and Solomon, 1960, Journal of SIAM 8.
    """
    check_length(length)
    if not 1 <= dimension <= length:
        raise OracleError(f"dimension {dimension} at length {length}; expected 1 <= dimension <= length")
    smallest = _next_prime(length - 1)
    q = smallest if q is None else q
    if q < length:
        raise OracleError(f"a field of {q} symbols at length {length}; expected a prime >= length, such as {smallest}")
    rows = [torch.ones(length, dtype=torch.int64)]
    for _ in range(1, dimension):
        rows.append(rows[-1] * torch.arange(length) % q)
    return _separable(LinearCode(torch.stack(rows), q))


def _separable(code: LinearCode) -> LinearCode:
    """Give a code of which any k columns are independent its curve: log q for j < k, then 0."""
    curve = Curve(np.where(np.arange(code.length) < len(code.generator), log(code.q), 0.0))
    code.__dict__["_exact_curve"] = curve
    return code


def _eliminate(generator: Tensor, visible: Tensor, q: int) -> tuple[Tensor, Tensor]:
    """Reduce the generator on its visible columns, separately for every row of `visible` (B, n).

    Returns (B, k, n), whose row r is a unit vector at its pivot among the pivots of all rows, and the pivots (B, k): -1
    where the visible columns of a row are all zero. So the visible columns have rank (pivots >= 0).sum(1).
    """
    batch = torch.arange(len(visible))
    matrix = generator.repeat(len(visible), 1, 1)
    pivots = torch.empty(matrix.shape[:2], dtype=torch.int64)
    inverse = _inverses(q)
    for r in range(len(generator)):
        candidates = (matrix[:, r] != 0) & visible
        pivot = candidates.to(torch.uint8).argmax(1)
        found = candidates[batch, pivot]
        pivots[:, r] = torch.where(found, pivot, -1)
        row = matrix[:, r] * torch.where(found, inverse[matrix[batch, r, pivot]], 1)[:, None] % q
        factor = torch.where(found[:, None], matrix[batch, :, pivot], 0)
        factor[:, r] = 0
        matrix[:, r] = row
        matrix.sub_(factor[:, :, None] * row[:, None, :]).remainder_(q)
    return matrix, pivots


def _inverses(q: int) -> Tensor:
    """Inverses of 1 .. q-1 modulo q, and 0 at 0."""
    return torch.tensor([0, *[pow(a, -1, q) for a in range(1, q)]])


def _is_prime(number: int) -> bool:
    return number >= 2 and all(number % d for d in range(2, isqrt(number) + 1))


def _next_prime(number: int) -> int:
    return next(p for p in count(number + 1) if _is_prime(p))
