"""The canvas, and what a denoiser says about it.

A `Canvas` is a batch of rows of tokens of which some are masked. A `Marginals` holds the law of each masked token that
was asked for, one packed row of logits per asked position; every reduction is computed at most once, on demand.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from math import e, isfinite, log2
from typing import Final

import torch
from torch import Tensor

from demask.errors import CanvasError

ABSENT: Final = -1  # the token of a visible position that does not exist
_LOG2_E: Final = log2(e)
_CHUNK: Final = 1 << 20  # numbers handled at once on a CPU, so that temporaries stay in the cache
_SINGLE_LEVEL: Final = 2048  # below this vocabulary one cumulative sum finds a token


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

    @cached_property
    def _peak_and_mass(self) -> tuple[Tensor, Tensor]:
        """Largest logit, and the sum of exp(logit - largest), in one pass over the logits."""

        def reduce(chunk: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
            top, powers = _powers(chunk, 1.0, scratch)
            return top, powers.sum(-1)

        top, mass = _by_chunk(self.logits, reduce)
        return top, mass

    @property
    def peak(self) -> Tensor:
        """Log-probability of the mode, (M,), nats."""
        return -self._peak_and_mass[1].log()

    @property
    def logsumexp(self) -> Tensor:
        """Log of the normaliser of every row, (M,)."""
        top, mass = self._peak_and_mass
        return top + mass.log()

    @property
    def proper(self) -> bool:
        """Whether every row is a distribution: no nan, no +inf, not all -inf. One small copy to the host."""
        return isfinite(float(self._peak_and_mass[1].sum()))  # a mass is in [1, V], or nan

    @cached_property
    def mode(self) -> Tensor:
        """The most probable token, (M,) int64; the first of equals."""
        return self.logits.argmax(-1)

    @cached_property
    def entropy(self) -> Tensor:
        """Entropy of every row, (M,), nats."""

        def reduce(chunk: Tensor, scratch: Tensor) -> tuple[Tensor]:
            top, powers = _powers(chunk, 1.0, scratch)
            mass = powers.sum(-1)
            floor = (
                -800.0 if chunk.dtype == torch.float64 else -120.0
            )  # below it powers are 0, and 0 * -inf would be nan
            mean = powers.mul_((chunk - top[:, None]).clamp_(min=floor)).sum(-1) / mass
            return (mass.log() - mean,)

        return _by_chunk(self.logits, reduce)[0]

    @cached_property
    def margin(self) -> Tensor:
        """Probability of the mode less that of the runner-up, (M,)."""
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
        if not len(self.logits):
            return torch.zeros(0, dtype=torch.int64, device=self.logits.device)

        def reduce(chunk: Tensor, scratch: Tensor, level: Tensor) -> tuple[Tensor]:
            return (_invert(_powers(chunk, self.temperature, scratch)[1], level),)

        return _by_chunk(self.logits, reduce, uniform)[0]

    def only(self, where: Tensor) -> "Marginals":
        """Keep the positions `where` (B, N), a subset of those asked; what was already reduced is kept with them.

        Where these are all that were asked, nothing is copied.
        """
        index = where[self.where].nonzero()[:, 0]
        return self._kept(where, index if len(index) < len(self.logits) else slice(None))

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

    def _kept(self, where: Tensor, index: Tensor | slice) -> "Marginals":
        kept = Marginals(where, self.logits[index], self.temperature, self.passes)
        for name in ("_peak_and_mass", "mode", "entropy", "margin"):
            if name in self.__dict__:
                value = self.__dict__[name]
                kept.__dict__[name] = tuple(v[index] for v in value) if isinstance(value, tuple) else value[index]
        return kept

    def spread(self, values: Tensor, *, fill: float | int = 0) -> Tensor:
        """Lay (M,) values out on the canvas: (B, N), `fill` elsewhere."""
        out = torch.full(self.where.shape, fill, dtype=values.dtype, device=values.device)
        out[self.where] = values
        return out

    def tempered(self, temperature: float) -> "Marginals":
        """Draw at `temperature` times the present one."""
        return replace(self, temperature=self.temperature * temperature)


def without(where: Tensor, other: Tensor) -> Tensor:
    """Return `where` and not `other`, both bool, in one pass.

    Example:
        >>> without(torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False]))
        tensor([False,  True, False, False])
    """
    return where > other


def _invert(weights: Tensor, level: Tensor) -> Tensor:
    """Return the first index at which the running share of `weights` (M, V) exceeds `level` (M,): the inverse CDF."""
    width = weights.shape[-1]
    if width <= _SINGLE_LEVEL:
        return _search(weights, level * weights.sum(-1, dtype=torch.float64))
    stretch = 1 << (width.bit_length() // 2)
    pad = -width % stretch
    tiled = torch.nn.functional.pad(weights, (0, pad)).view(len(weights), -1, stretch)
    masses = tiled.sum(-1)
    level = level * masses.sum(-1, dtype=torch.float64)
    tile = _search(masses, level)
    before = masses.cumsum(-1, dtype=torch.float64).gather(-1, tile[:, None])[:, 0]
    rows = torch.arange(len(weights), device=weights.device)
    within = (level - before + masses[rows, tile]).clamp_(min=0.0)
    return tile * stretch + _search(tiled[rows, tile], within)


def _search(weights: Tensor, level: Tensor) -> Tensor:
    """Return the first index whose cumulative weight exceeds `level`, >= 0, never one of weight 0."""
    total = weights.cumsum(-1, dtype=torch.float64)
    index = torch.searchsorted(total, level[:, None], right=True)[:, 0]
    last = (total < total[:, -1:]).sum(-1)  # the last index of positive weight, where rounding may have to end
    return torch.minimum(index, last)


def _powers(chunk: Tensor, temperature: float, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest logit of every row, and exp((logit - largest) / temperature), written to `scratch`.

    exp2 costs half of exp on most CPUs, and the scaling is fused with the subtraction.
    """
    top, scale = chunk.amax(-1, keepdim=True), _LOG2_E / temperature
    powers = torch.add(top * -scale, chunk, alpha=scale, out=scratch)
    return top[:, 0], powers.exp2_()


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


def _by_chunk(logits: Tensor, reduce: Callable[..., tuple[Tensor, ...]], *extra: Tensor) -> tuple[Tensor, ...]:
    """Apply a row-wise reduction to cache-sized groups of rows, sharing one scratch buffer, and join the answers."""
    rows, width = logits.shape
    size = max(1, rows if logits.device.type != "cpu" else min(rows, _CHUNK // max(1, width)))
    dtype = torch.float32 if logits.dtype in (torch.float16, torch.bfloat16) else logits.dtype
    scratch = torch.empty(size, width, dtype=dtype, device=logits.device)
    if size >= rows:
        return reduce(logits.to(dtype), scratch[:rows], *extra)
    parts = [
        reduce(
            logits[start : start + size].to(dtype),
            scratch[: rows - start],
            *(x[start : start + size] for x in extra),
        )
        for start in range(0, rows, size)
    ]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))
