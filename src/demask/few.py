"""Few numbers on the host: Python is sooner at them than torch.

Right behind a pass of a network the code of every kernel has to come from memory again, while the interpreter's is in use.
"""

from array import array
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

FEW: Final = 1024  # numbers
_HOST: Final = torch.device("cpu")


def few(numbers: Tensor) -> bool:
    """Return whether Python is sooner at a tensor than torch.

    Example:
        >>> few(torch.zeros(2, 3)), few(torch.zeros(10**6))
        (True, False)
    """
    return numbers.is_cpu and numbers.numel() <= FEW


def integers(values: Sequence[int], device: torch.device = _HOST) -> Tensor:
    """Return an int64 tensor.

    Example:
        >>> integers([3, 1])
        tensor([3, 1])
    """
    made = torch.frombuffer(array("q", values), dtype=torch.int64) if values else torch.empty(0, dtype=torch.int64)
    return made if device.type == "cpu" else made.to(device)


def fractions(values: Sequence[float]) -> Tensor:
    """Return a float64 tensor on the host.

    Example:
        >>> fractions([0.5])
        tensor([0.5000], dtype=torch.float64)
    """
    return torch.frombuffer(array("d", values), dtype=torch.float64) if values else torch.empty(0, dtype=torch.float64)
