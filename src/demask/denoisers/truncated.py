"""Denoisers whose laws are cut: the k best tokens, or those not much less probable than the mode."""

from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor

from demask.canvas import Canvas, Marginals
from demask.contracts import Denoiser
from demask.errors import DenoiserError


@dataclass(frozen=True)
class TopK:
    """Keep the k most probable tokens, and renormalise.

    Orders read the cut law. At temperature 0 only the mode is drawn, and nothing is cut.

    Parameters:
        inner: any denoiser.
        k: >= 1; the vocabulary's size or more keeps every token. Of equally probable tokens the one with the smaller id is
            kept first.

    Raises:
        DenoiserError: a k that is no integer >= 1.

    Cost: a sort of the asked logits, O(M V log V), and two temporaries of their size.

    Example:
        >>> law = torch.tensor([[0.1, 0.5, 0.4]]).log()
        >>> one = torch.tensor([[True]])
        >>> TopK(lambda canvas, where: Marginals(where, law), 2)(Canvas.blank(1, 1), one).logits.exp()
        tensor([[0.0000, 0.5000, 0.4000]])

    Reference: Fan et al., Hierarchical neural story generation, 2018, arXiv 1805.04833.
    """

    inner: Denoiser
    k: int

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise DenoiserError(f"top-k of {self.k!r}; expected an integer >= 1, such as 50")

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer with the inner denoiser's laws, cut to k tokens."""
        answer = self.inner(canvas, where)
        if self.k >= answer.vocabulary or answer.temperature == 0:
            return answer
        # topk does not say which of several equals it takes; a stable sort does.
        index = answer.logits.sort(dim=-1, descending=True, stable=True).indices[:, self.k :]
        return replace(answer, logits=answer.logits.scatter(-1, index, -torch.inf))


@dataclass(frozen=True)
class MinP:
    """Keep the tokens whose probability is at least `p` times that of the mode, and renormalise.

    The law that is cut is the one that tokens are drawn from, so a temperature goes inside: MinP(Tempered(model, t), p).
    Orders read the cut law.

    Parameters:
        inner: any denoiser.
        p: in [0, 1]; 0 keeps every token, 1 the mode and its equals.

    Raises:
        DenoiserError: a p outside [0, 1].

    Cost: two passes over the asked logits and one temporary of their size; no sort.

    Example:
        >>> law = torch.tensor([[0.1, 0.5, 0.4]]).log()
        >>> one = torch.tensor([[True]])
        >>> MinP(lambda canvas, where: Marginals(where, law), 0.3)(Canvas.blank(1, 1), one).logits.exp()
        tensor([[0.0000, 0.5000, 0.4000]])

    Reference: Nguyen et al., Turning up the heat: min-p sampling, 2024, arXiv 2407.01082.
    """

    inner: Denoiser
    p: float

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise DenoiserError(f"min-p of {self.p}; expected a share of the mode's probability in [0, 1]: 0 keeps all")

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer with the inner denoiser's laws, without the improbable tokens."""
        answer = self.inner(canvas, where)
        if self.p == 0 or answer.temperature == 0:
            return answer
        least = answer.logits.amax(-1, keepdim=True) + answer.temperature * log(self.p)
        return replace(answer, logits=answer.logits.masked_fill(answer.logits < least, -torch.inf))
