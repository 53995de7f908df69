"""Classifier-free guidance: away from what would be said without the prompt."""

from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import Tensor

from demask.canvas import ABSENT, Canvas, Marginals
from demask.contracts import Denoiser
from demask.errors import DenoiserError


@dataclass(frozen=True)
class Guided:
    """Answer with logits pushed away from those of the same canvas with its prompt masked.

    logits = un + (scale + 1) (cond - un),   un the logits where the prompt's positions are masked too.

    A token that the prompt excludes stays excluded. Guided conditionals have in general no joint law, so laws are then
    claimed of the conditionals alone.

    Parameters:
        inner: any denoiser.
        prompt: the prompt's positions, the same in every row.
        scale: >= 0; 0 is the inner denoiser.

    Raises:
        DenoiserError: no position, a scale that is not >= 0 and finite, or a token that is possible only with the prompt.

    Cost: two forward passes per row, counted, as one call on a batch of twice the rows.

    Example:
        >>> from demask.oracles import Chain
        >>> chain = Chain.markov([0.5, 0.5], [[0.8, 0.2], [0.2, 0.8]], length=2)
        >>> row = Canvas(torch.tensor([[0, 0]]), torch.tensor([[False, True]]))
        >>> answer = Guided(chain, (0,), 1.0)(row, row.masked)
        >>> answer.logits.softmax(-1), answer.passes  # 0.8 ** 2 / 0.5 against 0.2 ** 2 / 0.5
        (tensor([[0.9412, 0.0588]], dtype=torch.float64), 2)

    Reference: Nie et al., Scaling up masked diffusion models on text, 2024, arXiv 2410.18514.
    """

    inner: Denoiser
    prompt: tuple[int, ...]
    scale: float

    def __post_init__(self) -> None:
        if not (self.scale >= 0 and isfinite(self.scale)):
            raise DenoiserError(f"a guidance of {self.scale}; expected a number >= 0: 0 is none")
        if not self.prompt:
            raise DenoiserError(
                "guidance without a prompt; expected the positions of one token or more, such as (0, 1)"
            )

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer with the guided logits."""
        if self.scale == 0:
            return self.inner(canvas, where)
        prompt = torch.zeros(canvas.shape[1], dtype=torch.bool, device=canvas.device)
        prompt[list(self.prompt)] = True
        hidden = canvas.masked | (prompt & (canvas.tokens != ABSENT))
        both = Canvas(canvas.tokens.repeat(2, 1), torch.cat((canvas.masked, hidden)))
        answer = self.inner(both, where.repeat(2, 1))
        given, free = answer.logits.chunk(2)
        # Written so that scale = 0 would be `given` to the last bit; -inf - -inf is no number, and means impossible.
        logits = (given + self.scale * (given - free)).masked_fill_(given == -torch.inf, -torch.inf)
        if not bool((logits.amax(-1) < torch.inf).all()):
            raise DenoiserError(
                "a token that is possible with the prompt has no probability without it, so no scale can weigh the two; "
                "guide a network, whose probabilities are all positive"
            )
        return replace(answer, where=where, logits=logits, passes=2 * answer.passes)
