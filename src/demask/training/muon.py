"""Muon: move each matrix along the nearest orthogonal matrix of its averaged gradient."""

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn

_QUINTIC: Final = (3.4445, -4.7750, 2.0315)
_TURNS: Final = 5


class Muon(torch.optim.Optimizer):
    """W <- (1 - rate decay) W - rate sqrt(max(1, rows / columns)) orthogonal(momentum g + average of g).

    Torch has a Muon too, which always orthogonalises in bfloat16; where a CPU has no instructions for that, its products
    are some ten times slower than in float32. This one uses bfloat16 on accelerators only, and takes all matrices of one
    shape at once.

    Parameters:
        matrices: to be learned, each with two dimensions.
        rate: of learning.
        momentum: share of the average that is kept.
        decay: weight decay.

    Cost: 15 products per matrix and step, each about min(rows, columns)^2 max(rows, columns).

    Reference: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], rate: float, *, momentum: float = 0.95, decay: float) -> None:
        super().__init__(matrices, {"lr": rate, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the matrices that have a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike.setdefault(tuple(matrix.shape), []).append(matrix)
            for matrices in alike.values():
                self._move(matrices, group)

    def _move(self, matrices: list[nn.Parameter], group: dict[str, Any]) -> None:
        averages = []
        for matrix in matrices:
            state = self.state[matrix]
            if not state:
                state["average"] = torch.zeros_like(matrix)
            averages.append(state["average"])
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, averages, group["momentum"])
        moves = orthogonal(torch.stack(tuple(ahead)))
        rows, columns = matrices[0].shape
        length = group["lr"] * max(1.0, rows / columns) ** 0.5
        weights = [matrix.data for matrix in matrices]
        torch._foreach_mul_(weights, 1 - group["lr"] * group["decay"])
        torch._foreach_add_(weights, list(moves.unbind()), alpha=-length)


def orthogonal(matrices: Tensor) -> Tensor:
    """Return roughly the nearest orthogonal matrices: (K, R, C) -> the same, singular values between 0.6 and 1.3.

    Five turns of the odd polynomial a s + b s^3 + c s^5 on the singular values s, after division by the Frobenius norm.

    Example:
        >>> scaled = torch.tensor([[[3.0, 0.0], [0.0, -2.0]]])
        >>> bool((orthogonal(scaled)[0].diagonal() * torch.tensor([1, -1]) - 1).abs().max() < 0.4)
        True
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x.to(torch.float32 if matrices.device.type == "cpu" else torch.bfloat16)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = _QUINTIC
    for _ in range(_TURNS):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    moved: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return moved
