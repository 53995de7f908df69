"""Nested visible sets along random orders, and the losses of one path through them."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Final

import numpy as np
import torch
from torch import Tensor

from demask.canvas import Canvas, Marginals
from demask.contracts import Denoiser
from demask.errors import CurveError, DenoiserError
from demask.information.measurement import Floats, Ints, interpolation

_CHUNK: Final = 1 << 20  # numbers of two laws that are compared at once


@dataclass(frozen=True, eq=False)
class Problem:
    """Sequences (S, N), what is always shown, and the n free positions per sequence that are asked for."""

    tokens: Tensor
    shown: Tensor
    free: Tensor

    @classmethod
    def of(cls, data: Tensor, prompt: Tensor | None) -> "Problem":
        """Check the data (S, N) and the prompt, (N,) or (S, N) bool or None."""
        if not isinstance(data, Tensor) or data.ndim != 2 or data.dtype != torch.int64:
            given = f"{tuple(data.shape)} {data.dtype}" if isinstance(data, Tensor) else type(data).__name__
            raise CurveError(f"data are {given}; expected (sequences, positions) torch.int64: write data.long()")
        if data.shape[0] < 2 or data.shape[1] < 1:
            raise CurveError(
                f"data of shape {tuple(data.shape)}; expected 2 or more sequences of 1 or more positions, since "
                "standard errors are over sequences: cut the text into more windows"
            )
        if int(data.min()) < 0:
            row, place = (data < 0).nonzero()[0].tolist()
            raise CurveError(f"sequence {row} has token {int(data[row, place])} at position {place}; expected >= 0")
        if prompt is None:
            prompt = torch.zeros(data.shape[1], dtype=torch.bool)
        if prompt.dtype != torch.bool or prompt.shape not in (data.shape, data.shape[1:]):
            raise CurveError(
                f"a prompt of {tuple(prompt.shape)} {prompt.dtype}; expected {tuple(data.shape[1:])} or "
                f"{tuple(data.shape)} torch.bool, True where the token is visible"
            )
        shown = prompt.cpu().expand_as(data)
        left = (~shown).sum(1)
        odd = (left != left[0]).nonzero()[:, 0].tolist()
        if odd:
            raise CurveError(
                f"the prompt leaves {int(left[0])} masked positions in sequence 0 but {int(left[odd[0]])} in sequence "
                f"{odd[0]} (sequences {', '.join(map(str, odd[:8]))}{', ..' if len(odd) > 8 else ''}); one curve has "
                "one length: measure sequences of equal count together"
            )
        if not int(left[0]):
            raise CurveError("the prompt shows every position; expected some left to predict")
        return cls(data, shown, ~shown)

    @cached_property
    def length(self) -> int:
        """Free positions per sequence, n."""
        return int(self.free[0].sum())

    @cached_property
    def blank(self) -> bool:
        """Whether the canvas with nothing but the prompt is the same for every sequence."""
        return not bool(self.shown.any())

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the tokens and masks."""
        hashed = blake2b(repr(tuple(self.tokens.shape)).encode(), digest_size=8)
        for part in (self.tokens, self.shown, self.free):
            hashed.update(part.cpu().contiguous().numpy().tobytes())
        return hashed.hexdigest()


@dataclass(frozen=True, eq=False)
class _Laws:
    """An answer, and where on the canvas each of its rows stands: (B, N) row numbers."""

    logits: Tensor
    index: Tensor


@dataclass(frozen=True, eq=False)
class Paths:
    """The passes of a path, and the numbers that one path gives."""

    denoiser: Denoiser
    problem: Problem
    grid: Ints
    ends: int
    moves: bool

    @cached_property
    def between(self) -> Ints:
        """The counts off the grid."""
        return np.setdiff1d(np.arange(self.problem.length), self.grid)

    @cached_property
    def weights(self) -> Floats:
        """Interpolation from the grid to all counts, (n, G)."""
        return interpolation(self.grid, self.problem.length)

    @property
    def tails(self) -> int:
        """Leave-one-out passes beyond the grid's."""
        return min(self.ends, self.problem.length - 1)

    @property
    def cost(self) -> int:
        """Passes per path."""
        return len(self.grid) - self.problem.blank + self.tails + bool(len(self.between))

    @property
    def columns(self) -> int:
        """Numbers per path: G losses, the NELBO, and G - 1 movements."""
        return len(self.grid) + 1 + (len(self.grid) - 1) * self.moves

    @cached_property
    def start(self) -> Marginals:
        """The answer on the canvas without anything shown."""
        canvas = Canvas.blank(1, self.problem.tokens.shape[1], device=self.problem.tokens.device)
        return ask(self.denoiser, canvas, self.problem.free[:1].to(canvas.device))

    def rows(self, sequence: Tensor, ranks: Tensor, off: Ints) -> Floats:
        """Walk one path per row: (B,) sequences, (B, N) place of each position in the order, (B,) counts off the grid.

        Returns:
            (B, columns) float64.
        """
        size, length = len(sequence), self.problem.length
        out = np.zeros((size, self.columns))
        before: _Laws | None = None
        final: _Laws | None = None  # the answer at the last count but one
        for k, count in enumerate(self.grid.tolist()):
            loss, laws = self._prefix(sequence, ranks, torch.full((size, 1), count))
            out[:, k] = loss
            if self.moves and before is not None:
                out[:, len(self.grid) + k] = self._moved(before, laws, sequence, ranks >= count)
            if self.moves:
                before, final = laws, before
        tails, moved = [out[:, len(self.grid) - 1]], [out[:, -1]]
        for rank in range(length - 2, length - 2 - self.tails, -1):
            asked = self.problem.free[sequence] & (ranks == rank)
            loss, laws = self._pass(sequence, asked)
            tails.append(loss)
            if self.moves and final is not None and rank >= self.grid[-2]:
                moved.append(self._moved(final, laws, sequence, asked))
        out[:, len(self.grid) - 1] = np.mean(tails, axis=0)
        if self.moves and len(self.grid) > 1:
            out[:, -1] = np.mean(moved, axis=0)
        losses = out[:, : len(self.grid)]
        nelbo = losses @ self.weights.sum(0)
        if len(self.between):
            loss, _ = self._prefix(sequence, ranks, torch.from_numpy(off)[:, None])
            nelbo = nelbo + len(self.between) * (loss - (losses * self.weights[off]).sum(1))
        out[:, len(self.grid)] = nelbo
        return out

    def _prefix(self, sequence: Tensor, ranks: Tensor, count: Tensor) -> tuple[Floats, _Laws]:
        """Show the first `count` (B, 1) of every order and score all the others."""
        asked = self.problem.free[sequence] & (ranks >= count)
        if self.problem.blank and not bool(count.any()):
            index = (self.problem.free[:1].cumsum(1) - 1).expand_as(ranks)
            tokens = self.problem.tokens[sequence].cpu()[asked].to(self.start.logits.device)
            rows = index[asked].to(tokens.device)
            logp = self.start.logits[rows, tokens].to(self.start.logsumexp.dtype) - self.start.logsumexp[rows]
            return self._mean(-logp, sequence, asked), _Laws(self.start.logits, index)
        return self._pass(sequence, asked)

    def _pass(self, sequence: Tensor, asked: Tensor) -> tuple[Floats, _Laws]:
        """Mask what is asked for, and what is neither prompt nor free; show everything else, and score."""
        tokens = self.problem.tokens[sequence]
        never = ~(self.problem.shown[sequence] | self.problem.free[sequence])
        masked, where = (asked | never).to(tokens.device), asked.to(tokens.device)
        answer = ask(self.denoiser, Canvas(tokens.masked_fill(masked, 0), masked), where, sequence)
        loss = self._mean(-answer.logp(tokens[where].to(answer.logits.device)), sequence, asked)
        return loss, _Laws(answer.logits, asked.view(-1).cumsum(0).view_as(asked) - 1)

    def _mean(self, loss: Tensor, sequence: Tensor, asked: Tensor) -> Floats:
        """Average the losses (M,) of the asked tokens of every row: (B,)."""
        loss = loss.double().cpu()
        if not bool(loss.isfinite().all()):
            row, place = asked.nonzero()[int((~loss.isfinite()).nonzero()[0])].tolist()
            name = int(sequence[row])
            raise CurveError(
                f"the denoiser gives probability 0 to token {int(self.problem.tokens[name, place])} at position {place} "
                f"of sequence {name}, so the loss is infinite; give every token some probability (an oracle fitted with "
                "smoothing), or measure on data that the model can produce"
            )
        return _means(loss, asked)

    def _moved(self, before: _Laws, after: _Laws, sequence: Tensor, asked: Tensor) -> Floats:
        """Mean over the asked positions of KL(after || before), (B,) nats."""
        asked = asked & self.problem.free[sequence]
        old, new = before.index[asked], after.index[asked]
        parts, wide = [], torch.promote_types(before.logits.dtype, torch.float32)
        for start in range(0, len(old), step := max(1, _CHUNK // before.logits.shape[1])):
            device = before.logits.device
            q = before.logits[old[start : start + step].to(device)].to(wide).log_softmax(-1)
            p = after.logits[new[start : start + step].to(device)].to(wide).log_softmax(-1)
            parts.append(torch.where(p == -torch.inf, 0.0, p.exp() * (p - q)).sum(-1, dtype=torch.float64))
        moved = torch.cat(parts).cpu().clamp(min=0.0)  # rounding of a 0
        if not bool(moved.isfinite().all()):
            row, place = asked.nonzero()[int((~moved.isfinite()).nonzero()[0])].tolist()
            raise CurveError(
                f"at position {place} of sequence {int(sequence[row])} the denoiser allows a token that it gave "
                "probability 0 when less was visible, so the movement is infinite; use measure(), or smooth the denoiser"
            )
        return _means(moved, asked)


def default_grid(length: int) -> list[int]:
    """Return the counts 0, 1, 2, 4, .. and n-1, n-2, n-4, .., to the middle, and 3/8, 1/2 and 5/8 of n.

    Example:
        >>> default_grid(12)
        [0, 1, 2, 4, 6, 8, 10, 11]
    """
    powers = [1 << k for k in range(length.bit_length()) if 1 << k <= length // 2]
    left = {0, length // 2, 3 * length // 8, *powers}
    return sorted(left | {length - count for count in left if count} | {length - 1})


def short_grid(length: int) -> list[int]:
    """Return nine Chebyshev points from 0 to n - 1, for few paths: dense at the ends, where curves bend.

    Example:
        >>> short_grid(256)
        [0, 10, 37, 79, 127, 176, 218, 245, 255]
    """
    angle = np.pi * np.arange(9) / 8
    return sorted({int(count) for count in np.round((length - 1) * (1 - np.cos(angle)) / 2)})


def ask(denoiser: Denoiser, canvas: Canvas, where: Tensor, sequence: Tensor | None = None) -> Marginals:
    """Ask, and check that what comes back is one distribution per asked position."""
    answer = denoiser(canvas, where)
    asked = int(where.sum())
    if answer.logits.ndim != 2 or len(answer.logits) != asked:
        raise DenoiserError(
            f"logits of shape {tuple(answer.logits.shape)} for {asked} positions; expected ({asked}, V)"
        )
    finite = answer.logsumexp.isfinite()
    if not bool(finite.all()):
        row, place = where.nonzero()[int((~finite).nonzero()[0])].tolist()
        title = f"row {row}" if sequence is None else f"sequence {int(sequence[row])} (row {row} of the batch)"
        raise DenoiserError(
            f"the logits at position {place} of {title} have no finite normaliser, with {int((~where[row]).sum())} other "
            "positions not asked for: they hold nan or inf, or only -inf; call testing.check_denoiser(denoiser, canvas)"
        )
    return answer


def _means(values: Tensor, asked: Tensor) -> Floats:
    """Average (M,) values over the asked positions of every row, (B,)."""
    total = torch.zeros(asked.shape, dtype=torch.float64).masked_scatter_(asked, values)
    return np.asarray(total.sum(1) / asked.sum(1))
