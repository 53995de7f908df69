"""Many jumps of a token at once: the law of where it lands, and draws that rarely need it."""

from collections.abc import Callable
from functools import cached_property, lru_cache
from math import pi
from typing import Final

import torch
from torch import Tensor

from demask.canvas import Weighted
from demask.inverse import BELOW_ONE, invert
from demask.reductions import by_group

_SMALL: Final = 1024  # tokens of which a Fourier transform is a product with a matrix: to plan a fast one takes longer
_NOISE: Final = 0.05  # rates below which e^z - 1 - z is its first three terms


class Jumping(Weighted):
    """The law after Poisson many jumps of each size, modulo V, drawn at a quantile without being written down.

    The quantiles of a position are those of no jump, then those of one, then those of more: only a token that jumps more
    than once needs the law of a sum. Whoever asks for `logits`, as replay does, gets the law as a whole.

    Parameters:
        where: (B, N) bool with M True values.
        weights: (M, V) rates of a jump to each token.
        tokens: (M,) from where.
    """

    tokens: Tensor

    def __init__(self, where: Tensor, weights: Tensor, tokens: Tensor) -> None:
        super().__init__(where, weights)
        self.__dict__["tokens"] = tokens

    @cached_property
    def logits(self) -> Tensor:
        """The law of every token, (M, V)."""
        return by_group(lambda *parts: summed(*parts).log_(), self.weights, self.tokens)

    def draw(self, uniform: Tensor) -> Tensor:
        """Return the token at each quantile, (M,)."""
        total = self.weights.sum(1).double()
        none = (-total).exp()
        level, one = uniform - none, total * none
        moved, above = (level >= 0).nonzero()[:, 0], level - one
        share = torch.where(above < 0, level / one, above / (1 - none - one)).clamp_(0.0, BELOW_ONE)
        weights, several = self.weights.index_select(0, moved), (above.index_select(0, moved) >= 0).nonzero()[:, 0]
        if len(several):
            tokens = self.tokens.index_select(0, moved.index_select(0, several))
            weights.index_copy_(0, several, by_group(_several, weights.index_select(0, several), tokens))
        return self.tokens.index_copy(0, moved, invert(weights, share.index_select(0, moved))[0])


def summed(rates: Tensor, tokens: Tensor) -> Tensor:
    """Return the law after Poisson many jumps of each size, modulo V: rates (M, V) by where the first one would lead.

    Example:
        >>> summed(torch.tensor([[0.0, 2.0]]), torch.tensor([0]))  # an even number of jumps: (1 + e^-4) / 2
        tensor([[0.5092, 0.4908]])
    """
    return _by_size(rates, tokens, lambda one: torch.polar((one.real - one.real[:, :1]).exp_(), one.imag))


def _several(rates: Tensor, tokens: Tensor) -> Tensor:
    """Return the law after two or more such jumps, up to a factor: (M, V)."""

    def beyond(one: Tensor) -> Tensor:
        """Return e^z - 1 - z; its first terms where the difference would be lost in rounding."""
        found, total = torch.polar(one.real.exp(), one.imag).sub_(1).sub_(one), one.real[:, 0]
        if float(total.min()) < _NOISE:
            z = one[few := total < _NOISE]
            found[few] = z * z * (0.5 + z / 6 + z * z / 24)
        return found

    return _by_size(rates, tokens, beyond)


def _by_size(rates: Tensor, tokens: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change the Fourier transform of the rates of a jump by each size modulo V; its value at frequency 0 is their sum.

    A jump from x by c leads to x + c, so the transform by size is that by target, turned by e^(2 pi i k x / V).
    """
    rows, size = rates.shape
    if size > _SMALL:
        frequency = torch.arange(size // 2 + 1, device=rates.device)
        angle = (tokens[:, None] * frequency % size).to(rates.dtype) * (-2 * pi / size)
        turned = torch.polar(torch.ones_like(angle), angle)
        found: Tensor = torch.fft.irfft(change(torch.fft.rfft(rates) * turned.conj()) * turned, n=size)
    else:
        there, shares = _matrix(size, rates.dtype, rates.device)
        turned = torch.view_as_complex(there.index_select(0, tokens).view(rows, -1, 2))
        waves = torch.view_as_complex((rates @ there).view(rows, -1, 2))
        found = torch.view_as_real(change(waves * turned.conj()) * turned).view(rows, -1).mul_(shares) @ there.T
    return found.clamp_(min=0)


@lru_cache(maxsize=8)
def _matrix(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the transform of real rows as a matrix, real and imaginary parts in turn, and their shares in its inverse.

    One matrix serves both ways, since to read it takes longer than to multiply a few rows by it.
    """
    frequency = torch.arange(size // 2 + 1)
    angle = (torch.outer(torch.arange(size), frequency) % size).double() * (2 * pi / size)
    there = torch.stack((angle.cos(), -angle.sin()), 2).flatten(1)  # (V, 2 (V // 2 + 1))
    twice = torch.where((frequency == 0) | (2 * frequency == size), 1.0, 2.0).double().repeat_interleave(2)
    return there.to(device, dtype), (twice / size).to(device, dtype)
