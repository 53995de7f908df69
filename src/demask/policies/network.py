"""What a policy sees of a canvas, and the small network that gives every masked position one number.

A position's confidence becomes a vector; one block lets the positions look at each other and think alone, and how strongly
it does so at each position is set by whether that position is masked and by how many steps have passed (adaptive
normalisation). A last number per position, its logit, says how gladly it goes now; `demask.policies.choice` makes a
random set of them.

Shapes at line ends: B rows, N positions, D width.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from demask.canvas import ABSENT
from demask.contracts import Step
from demask.denoisers.transformer import Attention, Shape, rotation
from demask.errors import OrderError

SHAPE: Final = Shape(vocabulary=2, context=4096, width=128, layers=1, heads=2, hidden=512)
FEATURES: Final = ("confidence", "masked", "time")  # in a folder, so that a policy of others is refused
MASK: Final = "1 where masked"
_BIAS: Final = -2.0  # a coin of sigmoid(-2) = 0.12 to begin with


@dataclass(frozen=True, eq=False)
class Features:
    """What a policy sees: nothing that depends on a token's own draw.

    Parameters:
        confidence: (B, N), probability of the mode; 1 where a token is visible.
        masked: (B, N) bool.
        time: (B,), steps taken over the number of positions that were masked at the beginning.
        present: (B, N) bool, positions that exist.
    """

    confidence: Tensor
    masked: Tensor
    time: Tensor
    present: Tensor

    @classmethod
    def of(cls, step: Step, taken: int) -> "Features":
        """Return what is seen at a step after `taken` steps. Cost: the step's pass, with every masked position asked."""
        masked = step.open
        if bool(masked.any()):
            marginals = step.marginals(masked)
            confidence = marginals.spread(marginals.peak.exp(), fill=1.0)
        else:
            confidence = torch.ones_like(masked, dtype=torch.float32)
        time = taken / step.start.sum(1).clamp(min=1)
        return cls(confidence, masked, time, step.canvas.masked | (step.canvas.tokens != ABSENT))

    def rows(self, keep: Tensor) -> "Features":
        """Keep some rows, a (B,) bool or row numbers."""
        return Features(self.confidence[keep], self.masked[keep], self.time[keep], self.present[keep])

    @classmethod
    def join(cls, parts: "list[Features]") -> "Features":
        """Return the rows of all parts, one after the other."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


class Network(nn.Module):
    """The policy's network: features to one logit per position.

    In the beginning every logit is -2: the block adds nothing, and the last matrix is zero.

    Parameters:
        shape: `vocabulary` is 2, the values of a mask bit; one block.
        key: of the numbers that are drawn.

    Raises:
        OrderError: another number of layers or mask bits.

    Cost: 0.3 million multiplications per position, whatever the vocabulary.

    Example:
        >>> sum(p.numel() for p in Network().parameters())
        313857
    """

    def __init__(self, shape: Shape = SHAPE, *, key: int = 0) -> None:
        super().__init__()
        if (shape.vocabulary, shape.layers) != (2, 1):
            raise OrderError(f"a policy of shape {shape}; expected vocabulary=2, a mask bit, and layers=1")
        self.shape = shape
        width = shape.width
        self.confidence = Affine(1, width)
        self.bit = Affine(2, width, bias=False)
        self.time = nn.ModuleList((Affine(2, width), Affine(width, width)))
        self.adapt = Affine(width, 6 * width)
        self.attention = Attention(shape)
        self.inner = nn.ModuleList((Affine(width, shape.hidden), Affine(shape.hidden, width)))
        self.out = Affine(width, 1)
        self.reset(key)

    def reset(self, key: int) -> None:
        """Draw the matrices anew, of standard deviation 1 / sqrt(inputs); nothing is adapted and nothing preferred."""
        chance = torch.Generator().manual_seed(key)
        value: Tensor
        for name, value in self.named_parameters():
            if value.is_meta:
                continue
            if value.ndim == 2 or name == "confidence.bias":  # without a bias the norm would forget the confidence
                value.data.normal_(0.0, value.shape[-1] ** -0.5 if value.ndim == 2 else 1.0, generator=chance)
            else:
                value.data.zero_()
        if not self.out.weight.is_meta:
            for value in (self.adapt.weight, self.out.weight):
                value.data.zero_()
            self.out.bias.data.fill_(_BIAS)

    def forward(self, features: Features) -> Tensor:
        """Return the logits, (B, N); meaningless where nothing is masked."""
        length = features.masked.shape[1]
        if length > self.shape.context:
            raise OrderError(f"a canvas of {length} positions for a policy of at most {self.shape.context}")
        dtype = self.out.weight.dtype
        x = self.confidence(features.confidence[..., None].to(dtype))  # (B, N, D)
        angle = torch.stack((features.time.cos(), features.time.sin()), 1).to(dtype)  # (B, 2)
        time = self.time[1](functional.silu(self.time[0](angle)))  # (B, D)
        shown, hidden = self.adapt(self.bit.weight.T + time[:, None])[:, :, None].unbind(1)  # (B, 1, 6 D) each
        adapted = torch.where(features.masked[..., None], hidden, shown)  # (B, N, 6 D)
        shift, scale, gate, shift_2, scale_2, gate_2 = adapted.chunk(6, -1)
        seen = features.present[:, None, None, :] | ~features.present.any(1)[:, None, None, None]  # (B, 1, 1, N)
        turn = rotation(self.shape, length, None, x.device, x.dtype)
        x = x + gate * self.attention(_norm(x) * (1 + scale) + shift, turn, seen)
        x = x + gate_2 * self.inner[1](functional.gelu(self.inner[0](_norm(x) * (1 + scale_2) + shift_2)))
        return self.out(_norm(x))[..., 0]  # type: ignore[no-any-return]


class Affine(nn.Linear):
    """A matrix whose numbers `Network.reset` draws or a file gives, so that nothing else's chance is touched."""

    def reset_parameters(self) -> None:
        """Draw nothing."""


def _norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])
