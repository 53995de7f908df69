"""The whole state of a training in one file, so that it is there or not there, never half."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from demask.denoisers.folder import read_tensors, write_tensors
from demask.denoisers.transformer import Shape
from demask.errors import CheckpointError
from demask.training.recipe import Recipe

SCHEMA: Final = "demask.training/1"
FILE: Final = "training.safetensors"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a training stands. All its randomness is a function of key and step, so no generator is part of it.

    Parameters:
        step: steps done.
        seconds: spent.
        scores: of the evaluations so far, as (step, seconds, bits per byte, its standard error).
        weights, average, optimisers: tensors by name.
    """

    step: int
    seconds: float
    scores: list[list[float]]
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimisers: dict[str, Tensor]

    def save(self, folder: Path, shape: Shape, recipe: Recipe, data: str) -> None:
        """Write it; what was there before stays until the new one is whole."""
        facts = {
            "shape": asdict(shape), "recipe": recipe.to_json(), "data": data, "step": self.step,
            "seconds": self.seconds, "scores": self.scores,
        }  # fmt: skip
        groups = {"weights": self.weights, "average": self.average, "optimisers": self.optimisers}
        tensors = {f"{group}/{name}": value for group, held in groups.items() for name, value in held.items()}
        write_tensors(folder / FILE, tensors, {"schema": SCHEMA, "state": json.dumps(facts, allow_nan=False)})

    @classmethod
    def load(cls, folder: Path, shape: Shape, recipe: Recipe, data: str) -> "Checkpoint":
        """Read it, and check that it is of this network, recipe and data.

        Raises:
            CheckpointError: none there, a damaged one, or one of another training; says what differs.
        """
        path = folder / FILE
        tensors, facts = read_tensors(path, SCHEMA)
        try:
            state: dict[str, Any] = json.loads(facts["state"])
            differing = recipe.differing(state["recipe"])
            differing += ["shape"] * (state["shape"] != asdict(shape)) + ["data"] * (state["data"] != data)
            step, seconds, scores = int(state["step"]), float(state["seconds"]), list(state["scores"])
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: not the state of a training ({error}); start again without resume"
            ) from None
        if differing:
            raise CheckpointError(
                f"{path} is of another training: {', '.join(differing)} differ; resume with the same options, or choose "
                "another --out"
            )
        groups: dict[str, dict[str, Tensor]] = {"weights": {}, "average": {}, "optimisers": {}}
        for name, value in tensors.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = value
        return cls(step, seconds, scores, groups["weights"], groups["average"], groups["optimisers"])
