"""What every oracle can be asked."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from demask.canvas import Canvas, Marginals
from demask.curve import Curve, Estimate
from demask.errors import OracleError
from demask.oracles.alphabet import Alphabet

if TYPE_CHECKING:
    from demask.oracles.table import Table

ENUMERABLE: Final = 1 << 16  # sequences that `to_table` lists
_CHUNK: Final = 1 << 22  # numbers in the marginals that one call of a Monte Carlo estimate makes


@dataclass(frozen=True, eq=False)
class Noise:
    """Which tokens of a canvas may be noise.

    Parameters:
        where: (B, N) bool.
        keep: (B,) float64, the probability that such a token was left as it is.
    """

    where: Tensor
    keep: Tensor

    def likelihood(self, right: Tensor, position: int, vocabulary: int) -> Tensor:
        """Return log p(noisy token | state) from the log-likelihood of the right one, both (B, states)."""
        keep = torch.where(self.where[:, position], self.keep, 1.0)[:, None]
        return (keep * right.exp() + (1 - keep) / vocabulary).log()


class Oracle(ABC):
    """A distribution over token sequences of fixed length that answers as a denoiser does.

    oracle(canvas, where) are the exact laws p(x_i | visible tokens) of the masked positions asked for.

    Attributes:
        length: positions, n.
        vocabulary: tokens, V.
        alphabet: what the tokens stand for, or None.
    """

    length: int
    vocabulary: int
    alphabet: Alphabet | None = None

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Return the law of every asked position given the visible tokens of its row, as log-probabilities.

        Visible tokens of probability zero have no conditional law, and a sampler that unmasks several tokens at once can
        produce them. Such a row is answered with the unconditional laws p(x_i), so that a run goes on; its `log_prob` is
        -inf in the end. KL(p || q) does not depend on it, since it only visits sequences that p can produce.

        Parameters:
            canvas: (B, n) tokens and mask.
            where: (B, n) bool, a subset of the masked positions.

        Raises:
            OracleError: shapes that do not fit, an asked position that is visible, visible tokens out of range.
        """
        self._check(canvas, where)
        local, asked = Canvas(canvas.tokens.cpu(), canvas.masked.cpu()), where.cpu()
        possible, logits = self._answer(local, asked)
        return Marginals(where, self._completed(possible, logits, asked).to(canvas.device))

    def along(self, canvas: Canvas, where: Tensor, ranks: Tensor) -> Marginals:
        """Return the law of every asked position given the visible tokens of smaller rank in its row.

        The tokens of a filling are shown, and asked for at once: sum_i log p(x_i | x_j, rank_j < rank_i) is its log p.

        Parameters:
            canvas: (B, n) tokens and mask; asked positions may be visible, and never see themselves.
            where: (B, n) bool.
            ranks: (B, n) integers, smaller first.

        Raises:
            OracleError: as for a canvas.

        Cost: that of as many rows as positions are asked for.

        Example:
            >>> from demask.oracles import parity
            >>> filled = Canvas(torch.tensor([[1, 0, 1]]), torch.zeros(1, 3, dtype=torch.bool))
            >>> parity(3).along(filled, ~filled.masked, torch.tensor([[2, 1, 0]])).logits.exp()
            tensor([[0.0000, 1.0000],
                    [0.5000, 0.5000],
                    [0.5000, 0.5000]], dtype=torch.float64)
        """
        row, position = where.nonzero(as_tuple=True)
        shown = ~canvas.masked[row] & (ranks[row] < ranks[row, position][:, None])
        alone = torch.zeros_like(shown).scatter_(1, position[:, None], True)
        return replace(self(Canvas(canvas.tokens[row], ~shown), alone), where=where)

    def noised(self, canvas: Canvas, where: Tensor, level: Tensor) -> Marginals:
        """Return the law of what stood at every asked position before noise, given all noisy and all right tokens.

        p(x_i | y, x_S), where S is what is visible and not asked for, and independently for every asked position

            y_j = x_j with probability exp(-level), otherwise uniform on the V tokens.

        A row that cannot be, such as impossible tokens at level 0, is answered with the laws p(x_i).

        Parameters:
            canvas: (B, n) tokens and mask.
            where: (B, n) bool, visible positions, whose tokens are noisy.
            level: (B,) numbers >= 0; inf says nothing about the right tokens.

        Raises:
            OracleError: as for a canvas, a masked position asked for, a level below 0, or more than 2**16 sequences where
                the class has no algorithm of its own: `Chain`, `HMM` and `Tree` have.

        Cost: that of asking for all positions of a canvas.

        Example:
            >>> from demask.oracles import repetition
            >>> canvas = Canvas(torch.tensor([[0, 0, 1]]), torch.zeros(1, 3, dtype=torch.bool))
            >>> level = torch.tensor([0.8]).log().neg()   # each token is right with probability 0.8 + 0.1
            >>> repetition(3, 2).noised(canvas, ~canvas.masked, level).logits.exp().round(decimals=3)[0].tolist()
            [0.9, 0.1]
        """
        self._check(canvas, where & canvas.masked)
        keep = (-level.cpu().to(torch.float64)).exp()
        if level.shape != (canvas.shape[0],) or not bool((keep <= 1).all()):
            raise OracleError(
                f"noise levels {level.tolist()}; expected one number >= 0 for each of {canvas.shape[0]} rows"
            )
        if bool((where & canvas.masked).any()):
            raise OracleError("a masked position is asked for; a noisy one is visible: ask for where & ~canvas.masked")
        local, asked = Canvas(canvas.tokens.cpu(), canvas.masked.cpu()), where.cpu()

        def answer(rows: Tensor) -> Tensor:
            return self._noised(local.rows(rows), Noise(asked[rows], keep[rows]))

        possible, logits = self._refusing(canvas.shape[0], answer)
        return Marginals(where, self._completed(possible, logits, asked).to(canvas.device))

    def possible(self, canvas: Canvas) -> Tensor:
        """Return which rows show tokens that occur together at all, (B,) bool."""
        self._check(canvas, canvas.masked)
        local = Canvas(canvas.tokens.cpu(), canvas.masked.cpu())
        return self._answer(local, local.masked)[0].to(canvas.device)

    def log_prob(self, tokens: Tensor) -> Tensor:
        """Return log p of every row of `tokens` (B, n): (B,) float64 nats, -inf where it is zero."""
        if tokens.ndim != 2 or tokens.shape[1] != self.length:
            raise OracleError(f"tokens of shape {tuple(tokens.shape)}; expected (rows, {self.length})")
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocabulary:
            raise OracleError(
                f"tokens from {int(tokens.min())} to {int(tokens.max())}; expected 0 to {self.vocabulary - 1}"
            )
        return self._log_prob(tokens.cpu()).to(tokens.device)

    def sample(self, count: int, *, key: int) -> Tensor:
        """Return `count` independent sequences, (count, n) int64; equal keys give equal draws."""
        if count < 0:
            raise OracleError(f"{count} samples; expected 0 or more")
        return self._sample(count, _seeded(key))

    def decode(self, tokens: Tensor) -> list[str]:
        """Return the text of every row of `tokens` (B, n)."""
        if self.alphabet is None:
            raise OracleError("this oracle has no alphabet; fit one to a text, or build it with alphabet=Alphabet(...)")
        return [self.alphabet.decode(row) for row in tokens]

    def curve(self, *, samples: int = 256, key: int = 0) -> Curve:
        """Return the information curve Z_j = mean of H(X_i | X_S) over random S, |S| = j, and i not in S.

        Exact where `V**n <= 2**16`, by enumeration, and where the class has a formula. Otherwise Monte Carlo: for every
        j, `samples` independent pairs of a sequence and a set, each averaged over all its masked positions, and the
        standard errors of the means.
        """
        exact = self._exact_curve
        return self._sampled_curve(samples, key) if exact is None else exact

    def entropy(self, *, samples: int = 1024, key: int = 0) -> Estimate:
        """Return H(X), nats: exact by enumeration or by a formula, otherwise the mean of -log p over samples."""
        if self._table is not None:
            return self._table.entropy()
        _check_samples(samples)
        return _mean(-self.log_prob(self.sample(samples, key=key)))

    def tc(self, *, samples: int = 1024, key: int = 0) -> Estimate:
        """Return the total correlation sum_i H(X_i) - H(X), nats; exact where the entropy is."""
        total = self.entropy(samples=samples, key=key)
        return Estimate(self._marginal_entropy - total, total.error)

    def dtc(self, *, samples: int = 1024, key: int = 0) -> Estimate:
        """Return the dual total correlation H(X) - sum_i H(X_i | others), nats.

        Exact by enumeration or by a formula, otherwise the mean of -log p(x) - n H(X_i | x_others) over samples of a
        sequence x and a position i.
        """
        if self._table is not None:
            return self._table.dtc()
        _check_samples(samples)
        generator = _seeded(key)
        tokens = self._sample(samples, generator)
        position = torch.randint(self.length, (samples, 1), generator=generator)
        alone = torch.arange(self.length) == position
        return _mean(-self.log_prob(tokens) - self.length * self._mean_entropy(Canvas(tokens, alone)))

    def to_table(self) -> "Table":
        """Return the same distribution as a list of sequences, by enumeration.

        Raises:
            OracleError: more than 2**16 sequences.
        """
        if self._table is None:
            raise OracleError(
                f"{self.vocabulary} tokens at {self.length} positions are more than {ENUMERABLE} sequences; "
                "a table needs a shorter length or a smaller vocabulary"
            )
        return self._table

    def __repr__(self) -> str:
        return f"{type(self).__name__}(length={self.length}, vocabulary={self.vocabulary})"

    def _answer(self, canvas: Canvas, where: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows are possible, (B,), and the log-probabilities of what is asked of those."""
        return self._refusing(canvas.shape[0], lambda rows: self._logits(canvas.rows(rows), where[rows]))

    @staticmethod
    def _refusing(count: int, answer: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Which of so many rows are possible, (B,), and the answer for those; impossible ones are left out one by one."""
        possible = torch.ones(count, dtype=torch.bool)
        while True:
            try:
                return possible, answer(possible)
            except _ImpossibleError as found:
                possible[possible.nonzero()[:, 0][found.rows]] = False

    def _completed(self, possible: Tensor, logits: Tensor, where: Tensor) -> Tensor:
        """Give impossible rows the laws of a blank canvas: (M, V)."""
        if bool(possible.all()):
            return logits
        row, position = where.nonzero(as_tuple=True)
        everything = self._prior[position]
        everything[possible[row]] = logits
        return everything

    @cached_property
    def _prior(self) -> Tensor:
        """Log-probabilities log p(x_i), (n, V)."""
        blank = Canvas.blank(1, self.length)
        return self._logits(blank, blank.masked)

    @abstractmethod
    def _logits(self, canvas: Canvas, where: Tensor) -> Tensor:
        """Log-probabilities (M, V) of the asked positions; refuses rows whose visible tokens have probability zero."""

    def _noised(self, canvas: Canvas, noise: Noise) -> Tensor:
        """Log-probabilities (M, V) of what stood at the noisy positions; refuses rows that cannot be."""
        return self.to_table()._noised(canvas, noise)

    @abstractmethod
    def _log_prob(self, tokens: Tensor) -> Tensor: ...

    @abstractmethod
    def _sample(self, count: int, generator: torch.Generator) -> Tensor: ...

    @cached_property
    def _table(self) -> "Table | None":
        """The enumeration of all sequences, or None where there are too many."""
        from demask.oracles.table import Table

        if self.vocabulary > ENUMERABLE or self.vocabulary**self.length > ENUMERABLE:
            return None
        index = torch.arange(self.vocabulary**self.length)[:, None]
        sequences = index // self.vocabulary ** torch.arange(self.length - 1, -1, -1) % self.vocabulary
        logp = self._log_prob(sequences)
        return Table(sequences[logp.isfinite()], logp[logp.isfinite()], self.vocabulary)

    @cached_property
    def _exact_curve(self) -> Curve | None:
        return None if self._table is None else self._table._exact_curve

    @cached_property
    def _marginal_entropy(self) -> float:
        """sum_i H(X_i), nats."""
        blank = Canvas.blank(1, self.length)
        return float(self(blank, blank.masked).entropy.sum())

    def _sampled_curve(self, samples: int, key: int) -> Curve:
        _check_samples(samples)
        generator = _seeded(key)
        points = []
        for visible in range(self.length):
            rows = samples if visible else 1  # the blank canvas is the same for every sequence
            tokens = self._sample(rows, generator)
            place = torch.rand(rows, self.length, generator=generator, dtype=torch.float64).argsort(1).argsort(1)
            means = self._mean_entropy(Canvas(tokens, place >= visible))
            points.append(_mean(means) if visible else Estimate(float(means)))
        return Curve(points, [point.error for point in points])

    def _mean_entropy(self, canvas: Canvas) -> Tensor:
        """Mean entropy of the masked tokens of every row, (B,) nats."""
        width = int(canvas.masked.sum(1).max()) * self.vocabulary
        means = []
        for start in range(0, canvas.shape[0], step := max(1, _CHUNK // width)):
            part = Canvas(canvas.tokens[start : start + step], canvas.masked[start : start + step])
            marginals = self(part, part.masked)
            means.append(marginals.spread(marginals.entropy).sum(1) / part.masked.sum(1))
        return torch.cat(means)

    def _check(self, canvas: Canvas, where: Tensor) -> None:
        if canvas.shape[1] != self.length:
            raise OracleError(
                f"a canvas of {canvas.shape[1]} positions; expected {self.length}: "
                f"write Canvas.blank({canvas.shape[0]}, {self.length})"
            )
        if where.shape != canvas.masked.shape or where.dtype != torch.bool:
            raise OracleError(
                f"where has shape {tuple(where.shape)} and type {where.dtype}; expected {canvas.shape} and torch.bool"
            )
        asked = where & ~canvas.masked
        if asked.any():
            row, position = asked.nonzero()[0].tolist()
            raise OracleError(
                f"position {position} of row {row} is asked for but visible; ask for where & canvas.masked"
            )
        wrong = ~canvas.masked & ((canvas.tokens < 0) | (canvas.tokens >= self.vocabulary))
        if wrong.any():
            row, position = wrong.nonzero()[0].tolist()
            raise OracleError(
                f"row {row} shows token {int(canvas.tokens[row, position])} at position {position}; "
                f"expected 0 to {self.vocabulary - 1}"
            )

    def _refuse(self, impossible: Tensor) -> None:
        """Raise where a row (B,) shows tokens that have probability zero."""
        if impossible.any():
            raise _ImpossibleError(impossible)


class _ImpossibleError(Exception):
    """Rows, from the first, that show tokens of probability zero; never leaves this module."""

    def __init__(self, impossible: Tensor) -> None:
        super().__init__()
        self.rows = impossible.nonzero()[:, 0]


def distributions(name: str, values: Any, shape: tuple[int, ...], *, over: int = 1) -> Tensor:
    """Return `values` as float64 of the given shape, checked to be distributions over the last `over` axes.

    Sums must be 1 within 1e-9, or within 1e-5 for numbers of single or half precision; then they are made so.
    """
    given = torch.as_tensor(values if isinstance(values, Tensor) else np.asarray(values))
    law = given.cpu().to(torch.float64)
    tolerance = 1e-5 if given.is_floating_point() and given.dtype != torch.float64 else 1e-9
    if tuple(law.shape) != shape:
        raise OracleError(f"{name} has shape {tuple(law.shape)}; expected {shape}")
    rows = law.reshape(*shape[: len(shape) - over], -1)
    sums = rows.sum(-1)
    wrong = ~((rows >= 0).all(-1) & ((sums - 1).abs() <= tolerance))
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        row = rows[at]
        place = name + (f"[{', '.join(map(str, at))}]" if at else "")
        problem = f"sums to {float(sums[at]):.10g}" if bool((row >= 0).all()) else f"contains {float(row.min()):.4g}"
        raise OracleError(
            f"{place} {problem}; expected probabilities >= 0 that sum to 1 within {tolerance:g}: divide by the sum"
        )
    return law / sums.reshape(*sums.shape, *[1] * over)


def draw(law: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one index from each row of probabilities (B, V): (B,) int64."""
    if not len(law):
        return torch.zeros(0, dtype=torch.int64)
    return torch.multinomial(law, 1, generator=generator)[:, 0]


def _seeded(key: int) -> torch.Generator:
    return torch.Generator().manual_seed(key)


def _check_samples(samples: int) -> None:
    if samples < 2:
        raise OracleError(f"{samples} samples; expected 2 or more, for a standard error")


def _mean(values: Tensor) -> Estimate:
    return Estimate(float(values.mean()), float(values.std()) / len(values) ** 0.5)
