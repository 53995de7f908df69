"""How a network is trained: one value that holds every choice, and the optimisers that it asks for."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from math import cos, isfinite, pi
from typing import Any, Final

import torch
from torch import Tensor, nn

from demask.denoisers.folder import NETWORKS
from demask.errors import TrainingError
from demask.training.masked import Masks
from demask.training.muon import Muon

OPTIMISERS: Final = ("adamw", "muon")
PRECISIONS: Final = ("fp32", "bf16")
_BETAS: Final = (0.9, 0.98)
_FREE: Final = ("steps", "seconds", "evaluate_every", "save_every", "windows", "accumulate", "compiled")


@dataclass(frozen=True)
class Recipe:
    """Every choice of a training.

    The learning rate rises linearly to its peak over `warmup` of the training and falls to zero by a cosine. How much of
    the training has passed is steps done / `steps`, or seconds spent / `seconds` (evaluation and saving included): a run
    by seconds ends when it should on any machine, but its rates follow the clock. So a killed run continues bit for bit
    if it is counted in steps; counted in seconds it continues from the same state, at rates that the clock gives.

    Parameters:
        steps: of the optimiser, or None.
        seconds: to spend, or None; exactly one of the two.
        batch: rows per step, over all processes.
        optimiser: "muon" (for the matrices inside blocks; AdamW for the rest) or "adamw".
        rate: peak learning rate of AdamW.
        muon_rate: peak learning rate of Muon.
        decay: weight decay of matrices.
        warmup: share of the training.
        average: decay of the exponential moving average of the weights, which is what is evaluated and kept.
        clip: largest norm of the gradient.
        accumulate: parts that a batch is cut into, to save memory.
        precision: "fp32", or "bf16" for matrix products with the weights kept in fp32.
        compiled: compile the network first: about a minute, then faster.
        masks: which shares are masked.
        network: "transformer"; or "permutation", which learns the masked tokens of a row in a random order, each given those
            before it, all in one pass of two streams.
        key: of every random choice.
        evaluate_every: seconds between evaluations.
        save_every: seconds between checkpoints.
        windows: held-out windows of an evaluation.

    Raises:
        TrainingError: a number out of its range; neither or both of steps and seconds.
    """

    steps: int | None = None
    seconds: float | None = None
    batch: int = 16
    optimiser: str = "muon"
    rate: float = 1e-3
    muon_rate: float = 0.005
    decay: float = 0.01
    warmup: float = 0.02
    average: float = 0.998
    clip: float = 1.0
    accumulate: int = 1
    precision: str = "fp32"
    compiled: bool = False
    masks: Masks = field(default_factory=Masks)
    network: str = "transformer"
    key: int = 0
    evaluate_every: float = 60.0
    save_every: float = 120.0
    windows: int = 256

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise TrainingError(f"steps = {self.steps} and seconds = {self.seconds}; give exactly one: seconds=600")
        for name in ("steps", "batch", "accumulate", "windows"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise TrainingError(f"{name} = {value!r}; expected an integer >= 1")
        for name in ("seconds", "rate", "muon_rate", "clip", "evaluate_every", "save_every"):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value > 0):
                raise TrainingError(f"{name} = {value!r}; expected a finite number > 0")
        if not (0 <= self.warmup < 1 and 0 <= self.average < 1 and 0 <= self.decay < float("inf")):
            raise TrainingError(
                f"warmup {self.warmup}, average {self.average}, decay {self.decay}; expected 0 <= warmup, average < 1 "
                "and decay >= 0"
            )
        for name, allowed in (("optimiser", OPTIMISERS), ("precision", PRECISIONS), ("network", NETWORKS)):
            if getattr(self, name) not in allowed:
                raise TrainingError(f"{name} {getattr(self, name)!r}; expected one of {', '.join(allowed)}")

    def height(self, progress: float) -> float:
        """Return the learning rate as a share of its peak.

        Example:
            >>> [round(Recipe(steps=9, warmup=0.2).height(p), 3) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
            [0.0, 0.5, 1.0, 0.5, 0.0]
        """
        return warmed(progress, self.warmup)

    def to_json(self) -> dict[str, Any]:
        """Return the choices as plain values."""
        return asdict(self)

    def differing(self, other: dict[str, Any]) -> list[str]:
        """Return the choices that differ from those of a checkpoint and would change its training."""
        mine = self.to_json()
        other = {"network": "transformer"} | other  # which checkpoints did not use to say
        return [name for name in mine if name not in _FREE and mine[name] != other.get(name)]


def warmed(progress: float, warmup: float) -> float:
    """Return a linear rise from 0 to 1 over the share `warmup`, then a cosine to 0.

    Example:
        >>> warmed(0.1, 0.2), warmed(0.2, 0.2), warmed(1.0, 0.2)
        (0.5, 1.0, 0.0)
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 + 0.5 * cos(pi * min(1.0, (progress - warmup) / (1 - warmup)))


class Optimisers:
    """The optimisers of a network, one or two, as if they were one."""

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        inner = [p for name, p in network.named_parameters() if p.ndim == 2 and name.startswith("blocks.")]
        chosen = {id(p) for p in inner}
        outer = [p for p in network.parameters() if id(p) not in chosen]
        rest: list[dict[str, Any]] = [{"params": outer, "weight_decay": 0.0}]
        self.all: list[torch.optim.Optimizer] = []
        if recipe.optimiser == "muon":
            self.all.append(Muon(inner, recipe.muon_rate, decay=recipe.decay))
        else:
            rest.append({"params": inner, "weight_decay": recipe.decay})
        self.all.append(torch.optim.AdamW(rest, lr=recipe.rate, betas=_BETAS, fused=True))
        self._peaks = [[group["lr"] for group in optimiser.param_groups] for optimiser in self.all]

    def step(self, height: float) -> None:
        """Move the weights, at `height` times the peak rates, and forget the gradients."""
        for optimiser, peaks in zip(self.all, self._peaks, strict=True):
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * height
            optimiser.step()
            optimiser.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """Return the whole state by name."""
        return {
            f"{index}.{number}.{name}": value
            for index, optimiser in enumerate(self.all)
            for number, state in optimiser.state_dict()["state"].items()
            for name, value in state.items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up a state that `tensors` returned."""
        for index, optimiser in enumerate(self.all):
            state: dict[int, dict[str, Tensor]] = {}
            for number, name, value in _of(tensors, index):
                state.setdefault(number, {})[name] = value.clone()
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _of(tensors: dict[str, Tensor], index: int) -> Iterator[tuple[int, str, Tensor]]:
    for path, value in tensors.items():
        mine, number, name = path.split(".", 2)
        if int(mine) == index:
            yield int(number), name, value
