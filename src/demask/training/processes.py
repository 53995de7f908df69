"""One process or several: the same gradients and the same decisions in each."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them this is.

    Every process draws the same whole batch, learns from its own part of the rows and sums the gradients with the others,
    so that any number of processes takes the same steps, but for rounding.

    Parameters:
        rank: of this process, from 0.
        count: of all.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> "Processes":
        """Join the processes that torchrun has started, if it has: gloo on CPUs, nccl on GPUs."""
        if "WORLD_SIZE" not in os.environ:
            return cls()
        if not distributed.is_initialized():
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.rank == 0

    def part(self, rows: int) -> slice:
        """Return the rows of a batch that are this process's."""
        return slice(rows * self.rank // self.count, rows * (self.rank + 1) // self.count)

    def add(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over all processes, in one message."""
        if self.count == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        place = 0
        for gradient in gradients:
            gradient.copy_(flat[place : place + gradient.numel()].view_as(gradient))
            place += gradient.numel()

    def sum(self, value: Tensor) -> Tensor:
        """Return a number summed over all processes."""
        if self.count > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value

    def agree(self, *values: float, device: torch.device) -> list[float]:
        """Return what process 0 says."""
        if self.count == 1:
            return list(values)
        said = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.broadcast(said, 0)
        return [float(value) for value in said.tolist()]
