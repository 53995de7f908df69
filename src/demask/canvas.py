"""The canvas, and what a denoiser says about it.

A `Canvas` is a batch of rows of tokens of which some are masked. A `Marginals` holds the law of each masked token that
was asked for, one packed row of logits per asked position; every reduction is computed at most once, on demand.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite
from typing import ClassVar, Final

import torch
from torch import Tensor

from demask.errors import CanvasError
from demask.inverse import SINGLE_LEVEL, invert, invert_stretches, stretches
from demask.masks import ranks, without
from demask.once import once

ABSENT: Final = -1  # the token of a visible position that does not exist
_CHUNK: Final = 1 << 20  # numbers handled at once on a CPU, so that temporaries stay in the cache
_COLD: Final = 1e-3  # a temperature below which logits, divided by it, may be too large for a number
_FEW: Final = 32  # numbers that Python adds sooner than a tensor
Scratch = tuple[Tensor, Tensor] | tuple[None, None]


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
        return self.logits.shape[-1] <= SINGLE_LEVEL

    @once
    def _top_and_mass(self) -> tuple[Tensor, ...]:
        """Largest logit, and the sum of exp(logit - largest), in one pass over the logits."""
        if self._whole is not None and "_top_and_mass" in self._whole.__dict__:
            return tuple(part[self._index] for part in self._whole._top_and_mass)

        def reduce(chunk: Tensor, scratch: Scratch, *mode: Tensor) -> tuple[Tensor, ...]:
            top = chunk.gather(-1, mode[0][:, None]) if mode else chunk.amax(-1, keepdim=True)
            return top, _sums(_powers(chunk, top, 1.0, scratch))

        top, mass = _by_chunk(self.logits, reduce, *([self.mode] if "mode" in self.__dict__ else []))
        return top[:, 0], mass

    @once
    def peak(self) -> Tensor:
        """Log-probability of the mode, (M,), nats."""
        if (made := self._known("peak")) is not None:
            return made
        if self._small:
            if self.logits.numel() <= _CHUNK:
                return _logs(self.logits.to(_wide(self.logits.dtype))).amax(-1)
            return _by_chunk(self.logits, lambda chunk, scratch: (_logs(chunk, scratch[0]).amax(-1),))[0]
        return -self._top_and_mass[1].log()

    @once
    def logsumexp(self) -> Tensor:
        """Log of the normaliser of every row, (M,)."""
        if self._small:
            return self.logits.to(_wide(self.logits.dtype)).logsumexp(-1)
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
        if (made := self._known("mode")) is not None:
            return made
        return _first_largest(self.logits)

    @once
    def entropy(self) -> Tensor:
        """Entropy of every row, (M,), nats."""
        if (made := self._known("entropy")) is not None:
            return made
        if self._small:
            if self.logits.numel() > _CHUNK:
                return _by_chunk(self.logits, lambda chunk, scratch: _entropy(chunk, scratch)[:1])[0]
            entropy, self.__dict__["_powers"] = _entropy(self.logits.to(_wide(self.logits.dtype)), (None, None))
            return entropy

        def reduce(chunk: Tensor, scratch: Scratch) -> tuple[Tensor, ...]:
            top = chunk.amax(-1, keepdim=True)
            below = torch.sub(chunk, top, out=scratch[0])
            powers = torch.exp(below, out=scratch[1])
            return top, _sums(powers), _products(powers, below, alone)

        alone = self.logits.is_cpu and _near() < 2 * self.vocabulary  # whether each row is a group, in every batch

        top, mass, products = _by_chunk(self.logits, reduce)
        self.__dict__["_top_and_mass"] = top[:, 0], mass  # the same numbers, found on the way
        return mass.log() - products / mass

    @once
    def margin(self) -> Tensor:
        """Probability of the mode less that of the runner-up, (M,)."""
        if (made := self._known("margin")) is not None:
            return made
        if self.vocabulary == 1:
            return torch.ones_like(self.peak)
        two = self.logits.topk(2, dim=-1).values
        return self.peak.exp() * -torch.expm1((two[:, 1] - two[:, 0]).to(self.peak.dtype))

    def logp(self, tokens: Tensor) -> Tensor:
        """Log-probability of one token per asked position: (M,) int64 -> (M,) nats."""
        return self.logits.gather(-1, tokens[:, None])[:, 0].to(self.logsumexp.dtype) - self.logsumexp

    def draw(self, uniform: Tensor) -> Tensor:
        """Return the token at each quantile: (M,) uniforms in [0, 1) -> (M,) tokens, one draw each at `temperature`.

        Cost: one pass over the logits and a search; the cumulative sums are taken in float64, but only of one stretch
        of about sqrt(V) tokens per row, so that rare tokens keep their share without a float64 copy of the logits.
        """
        if self.temperature == 0:
            return self.mode
        if not self.logits.shape[0]:
            return torch.zeros(0, dtype=torch.int64, device=self.logits.device)
        if self._small:
            law = self.__dict__.get("_powers") if self.temperature == 1 else None
            law = _law(self.logits, self.temperature) if law is None else law
            tokens, self.__dict__["_drawn"] = invert(law, uniform)
            return tokens

        def reduce(chunk: Tensor, scratch: Scratch) -> tuple[Tensor, ...]:
            top = chunk.amax(-1, keepdim=True)
            return top, stretches(_powers(chunk, top, self.temperature, scratch))

        def read(places: Tensor) -> Tensor:
            logits = self.logits.gather(1, places).to(top.dtype)
            return _powers(logits, top, self.temperature, (None, None))

        top, sums = _by_chunk(self.logits, reduce)
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
        return self._kept(where, index) if len(index) < len(self.logits) else self

    def rows(self, keep: Tensor) -> "Marginals":
        """Keep some rows of the batch, as `Canvas.rows`, with what was already reduced.

        Example:
            >>> m = Marginals(torch.tensor([[True, True], [True, False]]), torch.tensor([[0.0], [1.0], [2.0]]))
            >>> m.rows(torch.tensor([1, 0])).logits[:, 0]
            tensor([2., 0., 1.])
        """
        places = (self.where.flatten().cumsum(0) - 1).view(self.where.shape)[keep]
        where = self.where[keep]
        return self._kept(where, places[where])

    def _kept(self, where: Tensor, index: Tensor) -> "Marginals":
        kept = Marginals(where, self.logits.index_select(0, index), self.temperature, self.passes)
        kept.__dict__.update(_whole=self, _index=index)
        return kept

    _whole: ClassVar["Marginals | None"] = None  # an instance may have the answer of which it keeps some rows,
    _index: ClassVar[Tensor]  # and which ones: what is known there is not computed again

    def _known(self, name: str) -> Tensor | None:
        """Return what a reduction of the whole answer gave for these rows, if it was made."""
        if self._whole is None:
            return None
        known: Tensor | None = self._whole.__dict__.get(name)
        known = self._whole._known(name) if known is None else known
        return None if known is None else known[self._index]

    def spread(self, values: Tensor, *, fill: float | int = 0) -> Tensor:
        """Lay (M,) values out on the canvas: (B, N), `fill` elsewhere."""
        return _blank(self.where.shape, fill, values.dtype, values.device).masked_scatter(self.where, values)

    def tempered(self, temperature: float) -> "Marginals":
        """Draw at `temperature` times the present one."""
        return replace(self, temperature=self.temperature * temperature)


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


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the precision of sums: float32 for logits of less."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _law(logits: Tensor, temperature: float) -> Tensor:
    """Return the probabilities at a temperature."""
    if temperature == 1:
        return logits.softmax(-1, dtype=_wide(logits.dtype))
    if temperature > _COLD:
        return logits.to(_wide(logits.dtype)).mul(1 / temperature).softmax(-1)
    return logits.log_softmax(-1, dtype=_wide(logits.dtype)).mul_(1 / temperature).softmax(-1)


def _logs(chunk: Tensor, out: Tensor | None = None) -> Tensor:
    """Return log-probabilities in one call: of a small vocabulary the calls cost more than the numbers."""
    return torch.log_softmax(chunk, -1, out=out)


def _entropy(chunk: Tensor, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """Return the entropy of every row of a small vocabulary, and its probabilities."""
    logs = _logs(chunk, scratch[0])
    powers = torch.exp(logs, out=scratch[1])
    return torch.linalg.vecdot(powers, logs.clamp_(min=_floor(logs.dtype))).neg_(), powers


def _near() -> int:
    """Return how many numbers are handled at once where two buffers are read again.

    A row of a large vocabulary; several threads need more, or they spend it on meeting at its end.
    """
    return 1 << (17 if torch.get_num_threads() == 1 else 18)


def _sums(rows: Tensor) -> Tensor:
    """Return the sum of each row, rounded alike in every batch: torch would split a single row among its threads."""
    return rows.sum(-1) if len(rows) > 1 else rows.expand(2, -1).sum(-1)[:1]


def _products(powers: Tensor, below: Tensor, alone: bool) -> Tensor:
    """Return the sum of each row's products, 0 for 0 times -inf; both may be written to. A row alone has its own call."""
    below.clamp_(min=_floor(below.dtype))
    return torch.dot(powers[0], below[0])[None] if alone else _sums(powers.mul_(below))


def _floor(dtype: torch.dtype) -> float:
    """Return a number below which powers are 0; 0 times -inf would be nan."""
    return -800.0 if dtype == torch.float64 else -120.0


def _first_largest(rows: Tensor) -> Tensor:
    """Return the index of the first largest number of each row (M, V), as `argmax`.

    On a CPU numpy's: it compares many numbers at once, torch's one after the other.
    """
    if not rows.is_cpu:
        return rows.argmax(-1)
    return _by_chunk(rows, lambda chunk, scratch: (torch.from_numpy(chunk.detach().numpy().argmax(-1)),))[0]


def _powers(chunk: Tensor, top: Tensor, temperature: float, scratch: Scratch) -> Tensor:
    """Return exp((logit - largest) / temperature), written to `scratch`."""
    powers = torch.sub(chunk, top, out=scratch[0])
    return (powers if temperature == 1 else powers.mul_(1 / temperature)).exp_()


def by_group(function: Callable[..., Tensor], *parts: Tensor) -> Tensor:
    """Apply a row-wise function of (M, V) and (M,) tensors to cache-sized groups of rows on a CPU, and join the answers.

    Example:
        >>> by_group(lambda rows, index: rows.gather(1, index[:, None])[:, 0], torch.eye(3), torch.tensor([0, 2, 2]))
        tensor([1., 0., 1.])
    """
    rows, width = parts[0].shape
    size = max(1, rows if parts[0].device.type != "cpu" else _CHUNK // max(1, width))
    if rows <= size:
        return function(*parts)
    out: Tensor | None = None
    for begin in range(0, rows, size):
        found = function(*(part[begin : begin + size] for part in parts))
        out = found.new_empty((rows, *found.shape[1:])) if out is None else out
        out[begin : begin + size] = found
    assert out is not None
    return out


def _by_chunk(
    logits: Tensor, reduce: Callable[..., tuple[Tensor, ...]], *extra: Tensor, numbers: int | None = None
) -> tuple[Tensor, ...]:
    """Apply a row-wise reduction to groups of so many `numbers` that stay in a CPU's cache, and join the answers.

    The groups share two buffers, since memory that is new to a process costs more than the arithmetic in it.
    """
    rows, width = logits.shape
    size = rows if logits.device.type != "cpu" else max(1, (numbers or _near()) // max(1, width))
    dtype = _wide(logits.dtype)
    if rows <= size:
        return reduce(logits.to(dtype), (None, None), *extra)
    one, two = torch.empty(2, size, width, dtype=dtype)
    parts = []
    for chunk, *more in zip(torch.split(logits, size), *(torch.split(part, size) for part in extra), strict=True):
        count = len(chunk)
        scratch = (one, two) if count == size else (one[:count], two[:count])
        parts.append(reduce(chunk if chunk.dtype == dtype else chunk.to(dtype), scratch, *more))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))
