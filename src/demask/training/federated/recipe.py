"""Every choice of a decentralised training in one value."""

from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Final

from demask.denoisers.folder import NETWORKS
from demask.errors import TrainingError
from demask.training.federated.methods import DFedADMM, Method
from demask.training.masked import Masks
from demask.training.recipe import PRECISIONS, warmed

_FREE: Final = ("evaluate_every", "save_every", "windows")


@dataclass(frozen=True)
class FederatedRecipe:
    """Every choice of a decentralised training, the same for all peers.

    Parameters:
        rounds: exchanges; each peer takes `method.steps` gradients before each.
        method: what peers do and send.
        batch: rows per gradient and peer.
        clip: largest norm of a gradient.
        warmup: share of the rounds in which the rate rises; then it falls to zero by a cosine.
        masks: which shares are masked.
        network: "transformer" or "permutation".
        precision: "fp32", or "bf16" for matrix products.
        key: of every random choice.
        evaluate_every: rounds between evaluations of the mean model.
        save_every: rounds between saves.
        windows: held-out windows of an evaluation.

    Raises:
        TrainingError: a number out of its range.
    """

    rounds: int
    method: Method = field(default_factory=DFedADMM)
    batch: int = 16
    clip: float = 1.0
    warmup: float = 0.02
    masks: Masks = field(default_factory=Masks)
    network: str = "transformer"
    precision: str = "fp32"
    key: int = 0
    evaluate_every: int = 50
    save_every: int = 20
    windows: int = 256

    def __post_init__(self) -> None:
        for name in ("rounds", "batch", "evaluate_every", "save_every", "windows"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise TrainingError(f"{name} = {value!r}; expected an integer >= 1")
        if not (isfinite(self.clip) and self.clip > 0 and 0 <= self.warmup < 1):
            raise TrainingError(f"clip {self.clip}, warmup {self.warmup}; expected clip > 0 and 0 <= warmup < 1")
        for name, allowed in (("precision", PRECISIONS), ("network", NETWORKS)):
            if getattr(self, name) not in allowed:
                raise TrainingError(f"{name} {getattr(self, name)!r}; expected one of {', '.join(allowed)}")

    def height(self, turn: int) -> float:
        """Return the rate of a round as a share of its peak.

        Example:
            >>> [round(FederatedRecipe(rounds=4, warmup=0.5).height(turn), 3) for turn in range(4)]
            [0.25, 0.75, 0.854, 0.146]
        """
        return warmed((turn + 0.5) / self.rounds, self.warmup)

    def to_json(self) -> dict[str, Any]:
        """Return the choices that decide what is learned, as plain values."""
        values = {**asdict(self), "method": repr(self.method)}
        return {name: value for name, value in values.items() if name not in _FREE}
