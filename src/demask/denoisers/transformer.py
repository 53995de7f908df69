"""A bidirectional transformer that answers with the law of each masked token.

Read it from top to bottom: a token (or the mask) becomes a vector, to which its place adds another; every block lets each
position look at all others (`Attention`) and then think alone (`Gate`); a last normalisation and the embedding itself,
transposed, give one logit per token. The network does not know how far the unmasking has come: the masks that it sees
say so.

Shapes at line ends: B rows, N positions, D width, H heads, V tokens, M asked positions.
"""

import copy
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from demask.canvas import ABSENT, Canvas, Marginals
from demask.errors import DenoiserError

SIZES: Final = {  # width, layers, heads, hidden
    "tiny": (128, 6, 4, 352),
    "small": (256, 6, 4, 704),
    "base": (512, 8, 8, 1408),
}
_SLOWEST: Final = 10_000.0  # radians per position: the rotations go from 1 down to 1 / this


@dataclass(frozen=True)
class Shape:
    """How large a network is.

    Parameters:
        vocabulary: tokens that can be written, V.
        context: the most positions, N.
        width: of the vector at each position, D.
        layers: blocks.
        heads: H, each of width D / H, which is even.
        hidden: width inside the gate.

    Raises:
        DenoiserError: a number below 1, or a width that the heads do not divide evenly.

    Example:
        >>> Shape.of("tiny", 300, 128).parameters
        1260800
    """

    vocabulary: int
    context: int
    width: int
    layers: int
    heads: int
    hidden: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise DenoiserError(f"{name} = {value!r}; expected an integer >= 1")
        if self.width % (2 * self.heads):
            raise DenoiserError(
                f"a width of {self.width} for {self.heads} heads; expected a multiple of {2 * self.heads}, twice the heads"
            )

    @classmethod
    def of(cls, size: str, vocabulary: int, context: int) -> "Shape":
        """Return the shape of a named size: tiny (1.2 M parameters in blocks), small (4.8 M) or base (26 M)."""
        if size not in SIZES:
            raise DenoiserError(f"size {size!r}; expected one of {', '.join(SIZES)}")
        return cls(vocabulary, context, *SIZES[size])

    @property
    def parameters(self) -> int:
        """How many numbers are learned."""
        block = 4 * self.width**2 + 3 * self.width * self.hidden + 2 * self.width
        return (self.vocabulary + 1 + self.context) * self.width + self.layers * block + self.width


class Network(nn.Module):
    """The network: token ids to features, features to logits.

    Row V of the embedding is the mask. The head uses the first V rows, so a mask is never predicted. Rotary positions see
    distances alone, and to them a row of masks is everywhere alike; so each place adds a vector of its own, zero at first.

    Cost: 2 x parameters operations per position, and 4 N D per layer and position for looking.
    """

    def __init__(self, shape: Shape, *, key: int = 0) -> None:
        super().__init__()
        self.shape = shape
        size = (shape.vocabulary + 1, shape.width)
        self.embedding = nn.Embedding(*size, _weight=torch.empty(size))
        self.places = nn.Parameter(torch.empty(shape.context, shape.width))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=1e-6)
        self.reset(key)

    def reset(self, key: int) -> None:
        """Draw every matrix anew: independent normal numbers of standard deviation 1 / sqrt(inputs); places begin at 0."""
        chance = torch.Generator().manual_seed(key)
        for matrix in self.parameters():
            if matrix.ndim == 2 and matrix is not self.places and not matrix.is_meta:
                matrix.data.normal_(0.0, matrix.shape[1] ** -0.5, generator=chance)
        self.places.data.zero_()

    def forward(
        self,
        ids: Tensor,
        *,
        documents: Tensor | None = None,
        present: Tensor | None = None,
        places: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Return the features of every position.

        Parameters:
            ids: (B, N) int64, V where masked.
            documents: (B, N) integers, increasing along a row: positions see only those of their own document, and
                count from its start. None: a row is one document.
            present: (B, N) bool, the positions that are seen, counted from the first of them. None: all of them.
            places, seen: (B, N) integers and (B, 1, N, N) bool instead of the two: where each position counts itself, and
                what it sees.
        """
        if present is not None:
            seen = present[:, None, None, :]  # (B, 1, 1, N)
            first = present.int().argmax(1)[:, None]
            places = (torch.arange(ids.shape[1], device=ids.device) - first).clamp_min(0)  # (B, N)
        if documents is not None:
            places = spots(documents)  # (B, N)
            same = (documents[:, :, None] == documents[:, None, :])[:, None]  # (B, 1, N, N)
            seen = same if seen is None else same & seen  # (B, 1, N, N)
        x: Tensor = self.embedding(ids)  # (B, N, D)
        x = x + (self.places[: ids.shape[1]] if places is None else self.places[places])  # (B, N, D)
        turn = rotation(self.shape, ids.shape[1], places, x.device, x.dtype)
        for block in self.blocks:
            x = block(x, turn, seen)  # (B, N, D)
        return x

    def logits(self, features: Tensor) -> Tensor:
        """Return one logit per token: (M, D) features of the asked positions -> (M, V)."""
        return functional.linear(self.norm(features), self.embedding.weight[: self.shape.vocabulary])


class Matrix(nn.Linear):
    """A matrix without bias, whose numbers `Network.reset` draws or a file gives."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        """Draw nothing: the numbers are replaced at once, and torch takes two seconds to prepare drawing them on "meta"."""


class Block(nn.Module):
    """Look around, then think alone; each time add what was found."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.before_attention = nn.RMSNorm(shape.width, eps=1e-6)
        self.attention = Attention(shape)
        self.before_gate = nn.RMSNorm(shape.width, eps=1e-6)
        self.gate = Gate(shape)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor | None) -> Tensor:
        """Return (B, N, D)."""
        x = x + self.attention(self.before_attention(x), turn, seen)
        return x + self.gate(self.before_gate(x))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Every position asks all positions of its document, and takes the mean of what they offer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query = Matrix(shape.width, shape.width)
        self.key = Matrix(shape.width, shape.width)
        self.value = Matrix(shape.width, shape.width)
        self.out = Matrix(shape.width, shape.width)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], seen: Tensor | None) -> Tensor:
        """Return (B, N, D); queries and keys are rotated by their position, so only distances matter."""
        split = (*x.shape[:2], self.heads, -1)
        query = rotate(self.query(x).view(split).transpose(1, 2), turn)  # (B, H, N, D/H)
        key = rotate(self.key(x).view(split).transpose(1, 2), turn)  # (B, H, N, D/H)
        value = self.value(x).view(split).transpose(1, 2)  # (B, H, N, D/H)
        mean = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)  # (B, H, N, D/H)
        return self.out(mean.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Gate(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), at each position alone."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = Matrix(shape.width, shape.hidden)
        self.up = Matrix(shape.width, shape.hidden)
        self.down = Matrix(shape.hidden, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, D)."""
        return self.down(functional.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


def rotation(
    shape: Shape, length: int, places: Tensor | None, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the cosine and sine of each position's angles: (N, D/H/2), or (B, 1, N, D/H/2) for given places."""
    cosine, sine = _angles(shape.context, shape.width // shape.heads, device, dtype)
    if places is None:
        return cosine[:length], sine[:length]
    return cosine[places][:, None], sine[places][:, None]


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (first half, second half) of a head's vector by its angle: (B, H, N, D/H) -> the same."""
    cosine, sine = turn
    left, right = x.chunk(2, -1)  # (B, H, N, D/H/2) each
    return torch.cat((left * cosine - right * sine, right * cosine + left * sine), -1).to(x.dtype)


@lru_cache(maxsize=8)
def _angles(context: int, size: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        speed = _SLOWEST ** -(torch.arange(0, size, 2, dtype=torch.float64) / size)  # (D/H/2,)
        angle = torch.arange(context, dtype=torch.float64)[:, None] * speed  # (N, D/H/2)
        return angle.cos().to(device, dtype), angle.sin().to(device, dtype)


def spots(documents: Tensor) -> Tensor:
    """Return each position's place in its document, (B, N): its distance to where the document starts."""
    count = torch.arange(documents.shape[1], device=documents.device)
    new = functional.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    return count - torch.where(new, count, 0).cummax(1).values


def read(canvas: Canvas, shape: Shape) -> tuple[Tensor, Tensor | None]:
    """Return the token ids of a canvas, V where masked, and which positions exist, None for all: (B, N) each.

    Raises:
        DenoiserError: a canvas longer than the context, or visible tokens outside 0 .. V - 1.
    """
    if canvas.shape[1] > shape.context:
        raise DenoiserError(
            f"a canvas of {canvas.shape[1]} positions for a context of {shape.context}; shorten the text or the gap"
        )
    visible = canvas.tokens.masked_fill(canvas.masked, 0)  # (B, N)
    least, most = torch.stack(visible.aminmax()).tolist() if visible.numel() else (0, 0)
    if least < ABSENT or most >= shape.vocabulary:
        raise DenoiserError(
            f"a visible token {least if least < ABSENT else most}; expected 0 .. {shape.vocabulary - 1}, or "
            f"{ABSENT} for a position that does not exist"
        )
    ids = visible.masked_fill(canvas.masked, shape.vocabulary)  # (B, N)
    if least != ABSENT:
        return ids, None
    present = ids != ABSENT  # (B, N)
    return ids.masked_fill(~present, 0), present


@dataclass(frozen=True, eq=False)
class Transformer:
    """A denoiser: the network, asked for the law of masked tokens.

    Only the asked positions are normalised and projected to the vocabulary. Visible positions with the token `ABSENT` do
    not exist: no position sees them, wherever they stand, and those around them count as if they were there.

    Raises:
        DenoiserError: a canvas longer than the context, or visible tokens outside 0 .. V - 1.

    Cost: one pass of the network; M V D more for the logits of M asked positions.

    Example:
        >>> model = Transformer(Network(Shape.of("tiny", 10, 16)))
        >>> model(Canvas.blank(2, 16), torch.arange(16).expand(2, 16) < 3).logits.shape
        torch.Size([6, 10])
    """

    network: Network

    @property
    def context(self) -> int:
        """The most positions that a canvas may have."""
        return self.network.shape.context

    @property
    def vocabulary(self) -> int:
        """How many tokens can be written, V."""
        return self.network.shape.vocabulary

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.network.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """In what precision it computes, and answers."""
        return self.network.embedding.weight.dtype

    @torch.no_grad()
    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer for the positions `where` (B, N) bool, all masked."""
        ids, present = read(canvas, self.network.shape)
        features = self.network(ids, present=present)  # (B, N, D)
        return Marginals(where, self.network.logits(features[where]))  # (M, V)

    def compiled(self) -> "Transformer":
        """Return a copy whose network is compiled for speed: a minute at the first call, for any shape of canvas."""
        network = copy.deepcopy(self.network)
        network.compile(dynamic=True)
        return Transformer(network)
