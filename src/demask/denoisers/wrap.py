"""Denoisers around denoisers: what changes the conditional law itself."""

from dataclasses import dataclass

from torch import Tensor

from demask.canvas import Canvas, Marginals
from demask.contracts import Denoiser
from demask.errors import DenoiserError


@dataclass(frozen=True)
class Tempered:
    """Draw tokens at a temperature: p(v) to the power 1 / temperature, renormalised; 0 is the mode.

    Orders go on reading the untempered law, as published confidence rules do. A tempered set of conditionals has in
    general no joint law, so laws are then claimed of the conditionals alone.

    Raises:
        DenoiserError: a temperature below 0 or not finite.

    Cost: none; the logits are not touched.

    Example:
        >>> Tempered(lambda canvas, where: None, 0.7).temperature
        0.7
    """

    inner: Denoiser
    temperature: float

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise DenoiserError(
                f"a temperature of {self.temperature}; expected a number >= 0: 0 is the mode, 1 the law"
            )

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer with the inner denoiser's laws, to be drawn from at `temperature`."""
        return self.inner(canvas, where).tempered(self.temperature)
