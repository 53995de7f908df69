"""The network: a history of items becomes vectors, to which the digits of the next identifier attend.

Read it from top to bottom: every item of the history becomes one vector, made of its digits, and a layer lets the items
look at each other; then the n digits of the next item, masked or shown, look at each other and at the history, layer by
layer. The digits have no positions: each has a mask and codes of its own, which say where it stands. The logits of a digit
are the products of its vector with the vectors of its codes.

Shapes at line ends: B histories of L items, Q canvases each, n digits of C codes, D width, H heads.
"""

from dataclasses import asdict, dataclass
from math import isfinite
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from demask.errors import RecommendError


@dataclass(frozen=True)
class Dimensions:
    """How large a network is; defaults as published for the smaller data sets.

    Parameters:
        digits: of an identifier, n.
        codes: per digit, C.
        width: D, a multiple of the heads.
        layers: of the decoder.
        heads: H.
        hidden: width between the two matrices of a layer.
        history: items that are looked back, at most.
        history_layers: of the encoder.
        dropout: share, in [0, 1).

    Raises:
        RecommendError: a number out of its range.
    """

    digits: int = 4
    codes: int = 256
    width: int = 256
    layers: int = 4
    heads: int = 4
    hidden: int = 1024
    history: int = 50
    history_layers: int = 1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "dropout" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise RecommendError(f"{name} = {value!r}; expected an integer >= 1")
        if self.width % self.heads:
            raise RecommendError(f"a width of {self.width} for {self.heads} heads; expected a multiple of the heads")
        if not (isfinite(self.dropout) and 0 <= self.dropout < 1):
            raise RecommendError(f"dropout = {self.dropout!r}; expected a share in [0, 1)")


@dataclass(frozen=True, eq=False)
class Memory:
    """What the decoder sees of histories: keys and values of every layer, made once.

    Parameters:
        offered: per layer, keys and values, (B, H, L, D/H) each.
        seen: (B, 1, 1, L) bool, False where a history is shorter.
    """

    offered: tuple[tuple[Tensor, Tensor], ...]
    seen: Tensor

    def rows(self, index: Tensor) -> "Memory":
        """Return some histories, by their numbers."""
        return Memory(tuple((key[index], value[index]) for key, value in self.offered), self.seen[index])


class Network(nn.Module):
    """History encoder and decoder of masked identifiers.

    Items are counted back from the latest one, and only the last `history` are seen.

    Cost: the encoder once per history; the decoder n positions per canvas, and n L products for looking back.
    """

    def __init__(self, dimensions: Dimensions, *, key: int = 0) -> None:
        super().__init__()
        self.dimensions = size = dimensions
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key)
            scale = size.width**-0.5
            self.codes = nn.Parameter(torch.randn(size.digits, size.codes, size.width) * scale)
            self.masks = nn.Parameter(torch.randn(size.digits, size.width) * scale)
            self.places = nn.Parameter(torch.randn(size.history, size.width) * scale)
            self.join = nn.Sequential(
                nn.Linear(size.digits * size.width, size.width), nn.ReLU(), nn.Linear(size.width, size.width)
            )
            self.encoder = nn.ModuleList(Layer(size, looks_back=False) for _ in range(size.history_layers))
            self.decoder = nn.ModuleList(Layer(size, looks_back=True) for _ in range(size.layers))
            self.remembered = nn.LayerNorm(size.width)
            self.norm = nn.LayerNorm(size.width)
            self.dropout = nn.Dropout(size.dropout)

    def encode(self, history: Tensor) -> Memory:
        """Return what the decoder sees: (B, L, n) digits, oldest first, -1 before the first item; each has one at least."""
        history = history[:, -self.dimensions.history :]
        present = (history >= 0).all(2)  # (B, L)
        if not bool(present.any(1).all()):
            raise RecommendError("a history is empty; expected one item at least: rank by popularity instead")
        digits = torch.arange(self.dimensions.digits, device=history.device)
        x = self.join(self.codes[digits, history.clamp_min(0)].flatten(2))  # (B, L, D)
        back = torch.arange(history.shape[1] - 1, -1, -1, device=history.device)
        x = self.dropout(x + self.places[back]) * present[:, :, None]  # (B, L, D)
        seen = present[:, None, None, :]  # (B, 1, 1, L)
        for layer in self.encoder:
            x = layer(x, seen)  # (B, L, D)
        x = self.remembered(x)
        return Memory(tuple(cast(Layer, layer).look.offer(x) for layer in self.decoder), seen)

    def decode(self, memory: Memory, digits: Tensor, masked: Tensor) -> Tensor:
        """Return all logits, (B, Q, n, C), of Q canvases per history: (B, Q, n) digits, and which are masked."""
        size = self.dimensions
        place = torch.arange(size.digits, device=digits.device)
        shown = self.codes[place, digits.masked_fill(masked, 0)]  # (B, Q, n, D)
        x = self.dropout(torch.where(masked[..., None], self.masks, shown))  # (B, Q, n, D)
        for number, layer in enumerate(self.decoder):
            x = layer(x.flatten(0, 1), None, memory, number, digits.shape).view(*digits.shape, size.width)
        return torch.einsum("bqnd,ncd->bqnc", self.norm(x), self.codes)


class Layer(nn.Module):
    """Look around, look back where there is a history, think alone; each time add what was found."""

    def __init__(self, size: Dimensions, *, looks_back: bool) -> None:
        super().__init__()
        self.before = nn.LayerNorm(size.width)
        self.around = Attention(size)
        if looks_back:
            self.before_look = nn.LayerNorm(size.width)
            self.look = Attention(size)
        self.before_think = nn.LayerNorm(size.width)
        self.think = nn.Sequential(nn.Linear(size.width, size.hidden), nn.ReLU(), nn.Linear(size.hidden, size.width))
        self.dropout = nn.Dropout(size.dropout)

    def forward(
        self,
        x: Tensor,
        seen: Tensor | None,
        memory: Memory | None = None,
        number: int = 0,
        grouped: torch.Size | None = None,
    ) -> Tensor:
        """Return (rows, positions, D); `memory` belongs to `grouped` = (B, Q, n) canvases, B Q = rows."""
        y = self.before(x)
        x = x + self.dropout(self.around(y, self.around.offer(y), seen))
        if memory is not None and grouped is not None:
            together = (
                grouped[0],
                grouped[1] * grouped[2],
                x.shape[-1],
            )  # the canvases of a history look back together
            y = self.before_look(x).reshape(together)
            found = self.look(y, memory.offered[number], memory.seen)
            x = x + self.dropout(found.view(x.shape))
        return x + self.dropout(self.think(self.before_think(x)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Every position takes the mean of what others offer, weighted by how well their keys answer its query."""

    def __init__(self, size: Dimensions) -> None:
        super().__init__()
        self.heads = size.heads
        self.query = nn.Linear(size.width, size.width)
        self.key = nn.Linear(size.width, size.width)
        self.value = nn.Linear(size.width, size.width)
        self.out = nn.Linear(size.width, size.width)

    def offer(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, (B, H, L, D/H) each."""
        return self._split(self.key(y)), self._split(self.value(y))

    def forward(self, x: Tensor, offered: tuple[Tensor, Tensor], seen: Tensor | None) -> Tensor:
        """Return (B, N, D)."""
        mean = functional.scaled_dot_product_attention(self._split(self.query(x)), *offered, attn_mask=seen)
        return self.out(mean.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)
