"""The canvas, and what a denoiser says about it.

A `Canvas` is a batch of rows of tokens of which some are masked. A `Marginals` holds the law of each masked token that
was asked for, one packed row of logits per asked position; every reduction is computed at most once, on demand.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from demask.errors import CanvasError
from demask.inverse import SINGLE_LEVEL, invert, invert_stretches, stretches
from demask.masks import number, ranks, without
from demask.once import once
from demask.reductions import (
    Scratch,
    Source,
    by_chunk,
    by_group,
    entropies,
    first_largest,
    law,
    masses,
    powers,
    surprise,
    wide,
)

ABSENT: Final = -1  # the token of a visible position that does not exist
_FEW: Final = 32  # numbers that Python adds sooner than a tensor
_MANY: Final = 1 << 20  # logits whose law is not worth keeping


@dataclass(frozen=True)
class Canvas:
    """Tokens, and which of them are still masked.

    A visible position whose token is `ABSENT` does not exist: it fills up the shorter rows of a ragged batch.

    Parameters:
        tokens: (B, N) int64, meaningless where masked.
        masked: (B, N) bool.

    Raises:
        CanvasError: the shapes or types do not fit.

    Example:
        >>> canvas = Canvas.blank(1, 3)
        >>> canvas.unmask(torch.tensor([[True, False, True]]), torch.tensor([[7, 0, 9]]))
        Canvas([[7, _, 9]])
    """

    tokens: Tensor
    masked: Tensor

    def __post_init__(self) -> None:
        if self.tokens.ndim != 2 or self.tokens.shape != self.masked.shape:
            raise CanvasError(
                f"tokens have shape {tuple(self.tokens.shape)} and masked {tuple(self.masked.shape)}; "
                "both must be (rows, positions): for one row write tokens[None], masked[None]"
            )
        if self.tokens.dtype != torch.int64 or self.masked.dtype != torch.bool:
            raise CanvasError(
                f"tokens are {self.tokens.dtype} and masked is {self.masked.dtype}; expected int64 and bool: "
                "write Canvas(tokens.long(), masked.bool())"
            )

    @classmethod
    def blank(cls, rows: int, length: int, *, device: torch.device | str | None = None) -> "Canvas":
        """Return a canvas on which everything is masked."""
        if rows < 0 or length < 1:
            raise CanvasError(f"a canvas of {rows} rows and {length} positions; expected rows >= 0 and length >= 1")
        shape = (rows, length)
        return cls(
            torch.zeros(shape, dtype=torch.int64, device=device), torch.ones(shape, dtype=torch.bool, device=device)
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and positions, (B, N)."""
        return self.tokens.shape[0], self.tokens.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the canvas lies."""
        return self.tokens.device

    def unmask(self, where: Tensor, tokens: Tensor) -> "Canvas":
        """Show `tokens` (B, N) at the positions `where` (B, N) and leave the rest as it is."""
        return Canvas(torch.where(where, tokens, self.tokens), without(self.masked, where))

    def rows(self, keep: Tensor) -> "Canvas":
        """Keep some rows: `keep` is a (B,) bool or a list of row numbers."""
        return Canvas(self.tokens[keep], self.masked[keep])

    def __repr__(self) -> str:
        rows = [
            ["_" if m else str(t) for t, m in zip(ts, ms, strict=True)]
            for ts, ms in zip(self.tokens.tolist(), self.masked.tolist(), strict=True)
        ]
        return "Canvas([" + ", ".join("[" + ", ".join(row) + "]" for row in rows) + "])"


@dataclass(frozen=True)
class Marginals:
    """The law of each asked token, given the visible ones.

    Row m of `logits` belongs to the m-th True of `where` in row-major order. Tokens are *drawn* at `temperature` (0 is
    the mode); everything else (`mode`, `peak`, `entropy`, `margin`, `logp`) reads the untempered law, as published
    confidence rules do.

    Parameters:
        where: (B, N) bool with M True values.
        logits: (M, V) in the model's dtype; any constant may be added to a row.
        temperature: at which `draw` draws, >= 0.
        passes: forward passes per row that the answer took.

    Cost: each reduction is one pass over the logits, made once; nothing is copied to float64.

    Example:
        >>> m = Marginals(torch.tensor([[True, False]]), torch.tensor([[0.0, 1.0, 1.0]]).log())
        >>> m.entropy, m.mode
        (tensor([0.6931]), tensor([1]))
    """

    where: Tensor
    logits: Tensor
    temperature: float = 1.0
    passes: int = 1

    @property
    def vocabulary(self) -> int:
        """The number of tokens, V."""
        return self.logits.shape[-1]

    @property
    def _small(self) -> bool:
        return self.vocabulary <= SINGLE_LEVEL

    @once
    def _top_and_mass(self) -> tuple[Tensor, ...]:
        """Largest logit, and the sum of exp(logit - largest), in one pass over the logits."""
        made: tuple[Tensor, ...] | None = self._known("_top_and_mass")
        if made is not None:
            return made
        return masses(self._source, *([self.mode] if "mode" in self.__dict__ else []))

    @once
    def peak(self) -> Tensor:
        """Log-probability of the mode, (M,), nats."""
        made: Tensor | None = self._known("peak")
        if made is not None:
            return made
        if self._small:
            return by_group(lambda rows: rows.log_softmax(-1, dtype=wide(rows.dtype)).amax(-1), self.logits)
        return -self._top_and_mass[1].log()

    @once
    def logsumexp(self) -> Tensor:
        """Log of the normaliser of every row, (M,)."""
        if self._small:
            return self.logits.to(wide(self.logits.dtype)).logsumexp(-1)
        top, mass = self._top_and_mass
        return top + mass.log()

    @once
    def proper(self) -> bool:
        """Whether every row is a distribution: no nan, no +inf, not all -inf. One small copy to the host.

        Cost: nothing more once the rows were drawn from.
        """
        known: Tensor | None = self.__dict__.get("_drawn")  # the sum that `draw` found, nan where a peak is
        known = self.peak if known is None else known
        return isfinite(sum(known.tolist()) if known.is_cpu and known.shape[0] <= _FEW else float(known.sum()))

    @once
    def mode(self) -> Tensor:
        """The most probable token, (M,) int64; the first of equals."""
        made: Tensor | None = self._known("mode")
        if made is not None:
            return made
        if not self.where.is_cpu:
            return self.logits.argmax(-1)
        return by_chunk(self._source, lambda rows, scratch: (first_largest(rows),))[0]

    @once
    def entropy(self) -> Tensor:
        """Entropy of every row, (M,), nats."""
        made: Tensor | None = self._known("entropy")
        if made is not None:
            return made
        if self._small:
            if self.logits.numel() > _MANY:
                return by_chunk(self._source, lambda rows, scratch: surprise(rows, scratch)[:1])[0]
            entropy, self.__dict__["_law"] = surprise(self.logits.to(wide(self.logits.dtype)), (None, None))
            return entropy
        top, mass, entropy = entropies(self._source)
        self.__dict__["_top_and_mass"] = top, mass  # the same numbers, found on the way
        return entropy

    @once
    def margin(self) -> Tensor:
        """Probability of the mode less that of the runner-up, (M,)."""
        made: Tensor | None = self._known("margin")
        if made is not None:
            return made
        if self.vocabulary == 1:
            return torch.ones_like(self.peak)
        two = self.logits.topk(2, dim=-1).values
        return self.peak.exp() * -torch.expm1((two[:, 1] - two[:, 0]).to(self.peak.dtype))

    def logp(self, tokens: Tensor) -> Tensor:
        """Log-probability of one token per asked position: (M,) int64 -> (M,) nats."""
        return self._read(tokens[:, None])[:, 0].to(self.logsumexp.dtype) - self.logsumexp

    def draw(self, uniform: Tensor) -> Tensor:
        """Return the token at each quantile: (M,) uniforms in [0, 1) -> (M,) tokens, one draw each at `temperature`.

        Cost: one pass over the logits and a search; the cumulative sums are taken in float64, but only of one stretch
        of about sqrt(V) tokens per row, so that rare tokens keep their share without a float64 copy of the logits.
        """
        if self.temperature == 0:
            return self.mode
        if not len(uniform):
            return torch.zeros(0, dtype=torch.int64, device=self.where.device)
        if self._small:
            known = self.__dict__.get("_law") if self.temperature == 1 else None
            tokens, self.__dict__["_drawn"] = invert(
                law(self.logits, self.temperature) if known is None else known, uniform
            )
            return tokens

        def reduce(rows: Tensor, scratch: Scratch, *top: Tensor) -> tuple[Tensor, ...]:
            most = top[0][:, None] if top else rows.amax(-1, keepdim=True)
            return most, stretches(powers(rows, most, self.temperature, scratch))

        def read(places: Tensor) -> Tensor:
            return powers(self._read(places).to(top.dtype), top, self.temperature, (None, None))

        known = self.__dict__.get("_top_and_mass") or self._known("_top_and_mass")
        top, sums = by_chunk(self._source, reduce, *(known or ())[:1])
        tokens, mass = invert_stretches(sums, uniform, self.vocabulary, read)
        self.__dict__["_drawn"] = mass
        if self.temperature == 1:
            self.__dict__["_top_and_mass"] = top[:, 0], mass.to(top.dtype)  # the same numbers
        return tokens

    def only(self, where: Tensor) -> "Marginals":
        """Keep the positions `where` (B, N); what was already reduced is kept with them.

        Where these are all that were asked, nothing is copied.

        Raises:
            CanvasError: a position was not asked.
        """
        part = self.within(where)
        if part is None:
            raise CanvasError("a position to keep was not asked; expected a subset of `where`")
        return part

    def within(self, where: Tensor) -> "Marginals | None":
        """Keep the positions `where` (B, N), as `only`; None if one of them was not asked, the same answer if all are kept.

        Example:
            >>> m = Marginals(torch.tensor([[True, False]]), torch.zeros(1, 2))
            >>> m.within(torch.tensor([[True, True]])) is None
            True
        """
        index = ranks(where, self.where)
        if index is None:
            return None
        return _Kept.of(self, where, index) if len(index) < number(self.where) else self

    def rows(self, keep: Tensor) -> "Marginals":
        """Keep some rows of the batch, as `Canvas.rows`, with what was already reduced.

        Example:
            >>> m = Marginals(torch.tensor([[True, True], [True, False]]), torch.tensor([[0.0], [1.0], [2.0]]))
            >>> m.rows(torch.tensor([1, 0])).logits[:, 0]
            tensor([2., 0., 1.])
        """
        places = (self.where.flatten().cumsum(0) - 1).view(self.where.shape)[keep]
        where = self.where[keep]
        return _Kept.of(self, where, places[where])

    def _known(self, name: str) -> Any:
        """Return what a reduction gave for these rows in an answer of which they are a part, if it was made."""
        return None

    @property
    def _source(self) -> Source:
        """Logits, and which rows of them are meant; None for all."""
        return self.logits, None

    def _read(self, places: Tensor) -> Tensor:
        """Return the logits at `places` of each row, (M, S) -> (M, S)."""
        logits, index = self._source
        return logits.gather(1, places) if index is None else logits[index[:, None], places]

    def spread(self, values: Tensor, *, fill: float | int = 0) -> Tensor:
        """Lay (M,) values out on the canvas: (B, N), `fill` elsewhere."""
        return _blank(self.where.shape, fill, values.dtype, values.device).masked_scatter(self.where, values)

    def tempered(self, temperature: float) -> "Marginals":
        """Draw at `temperature` times the present one."""
        return replace(self, temperature=self.temperature * temperature)


class _Kept(Marginals):
    """Some rows of an answer: what is known there is not computed again, and its logits are copied only if asked for."""

    _whole: ClassVar[Marginals]  # of an instance: the answer,
    _index: ClassVar[Tensor]  # and which of its rows

    def __new__(cls, *parts: Any, **named: Any) -> Any:
        """Make a plain answer: whoever replaces a part of this one has one of its own."""
        return Marginals(*parts, **named)

    @classmethod
    def of(cls, whole: Marginals, where: Tensor, index: Tensor) -> "_Kept":
        """Keep the rows `index` (M,) of an answer, which are the positions `where` (B, N)."""
        kept = object.__new__(cls)
        kept.__dict__.update(
            where=where, temperature=whole.temperature, passes=whole.passes, _whole=whole, _index=index
        )
        return kept

    @once
    def logits(self) -> Tensor:
        """The rows of the logits, (M, V): a copy."""
        return self._whole.logits.index_select(0, self._index)

    @property
    def vocabulary(self) -> int:
        """The number of tokens, V."""
        return self._whole.vocabulary

    def _known(self, name: str) -> Any:
        known = self._whole.__dict__.get(name)
        known = self._whole._known(name) if known is None else known
        if isinstance(known, tuple):
            return tuple(part[self._index] for part in known)
        return None if known is None else known[self._index]

    @property
    def _source(self) -> Source:
        if self._small or not self.where.is_cpu or "logits" in self.__dict__:
            return self.logits, None
        logits, index = self._whole._source
        return logits, self._index if index is None else index[self._index]


class Weighted(Marginals):
    """Laws whose probabilities are known, up to a factor: logits are found only where somebody asks for them.

    Parameters:
        where: (B, N) bool with M True values.
        weights: (M, V) >= 0.

    Example:
        >>> Weighted(torch.tensor([[True]]), torch.tensor([[1.0, 0.0, 3.0]])).draw(torch.tensor([0.2]))
        tensor([0])
    """

    weights: Tensor

    def __init__(self, where: Tensor, weights: Tensor) -> None:
        self.__dict__.update(where=where, weights=weights, temperature=1.0, passes=1)

    @once
    def logits(self) -> Tensor:
        """Logarithms of the weights, (M, V)."""
        return self.weights.log()

    def draw(self, uniform: Tensor) -> Tensor:
        """Return the token at each quantile, (M,)."""
        return invert(self.weights, uniform)[0]


@lru_cache(maxsize=16)
def _blank(shape: tuple[int, ...], fill: float | int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a tensor of one number; not to be written to."""
    with torch.inference_mode(False):
        return torch.full(shape, fill, dtype=dtype, device=device)
