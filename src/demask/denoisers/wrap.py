"""Denoisers around denoisers: what changes the conditional law itself."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from demask.canvas import ABSENT, Canvas, Marginals
from demask.contracts import Denoiser, noised, ranked, vocabulary
from demask.errors import DenoiserError
from demask.masks import without


class Changed(ABC):
    """A denoiser that changes the laws of another, each by itself, however it was asked."""

    inner: Denoiser

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer with the inner denoiser's laws, changed."""
        return self.changed(self.inner(canvas, where))

    def along(self, canvas: Canvas, where: Tensor, ranks: Tensor) -> Marginals:
        """Answer along an order with the inner denoiser's laws, changed."""
        return self.changed(ranked(self.inner).along(canvas, where, ranks))

    def noised(self, canvas: Canvas, where: Tensor, level: Tensor) -> Marginals:
        """Answer about noisy tokens with the inner denoiser's laws, changed."""
        return self.changed(noised(self.inner).noised(canvas, where, level))

    @property
    def vocabulary(self) -> int:
        """How many tokens can be written, V."""
        return vocabulary(self.inner)

    @abstractmethod
    def changed(self, answer: Marginals) -> Marginals:
        """Return the laws as they are to be."""


@dataclass(frozen=True)
class Tempered(Changed):
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

    def changed(self, answer: Marginals) -> Marginals:
        """Return the laws, to be drawn from at `temperature`."""
        return answer.tempered(self.temperature)


@dataclass(frozen=True)
class Nucleus(Changed):
    """Keep the fewest tokens that together have probability at least p, and renormalise.

    The law that is cut is the one that tokens are drawn from, so a temperature goes inside: Nucleus(Tempered(model, t), p).
    Orders read the cut law.

    Parameters:
        inner: any denoiser.
        p: in (0, 1]; 1 keeps every token. Of equally probable tokens the one with the smaller id is kept first.

    Raises:
        DenoiserError: a p outside (0, 1].

    Cost: a sort of the asked logits, O(M V log V), and three temporaries of their size.

    Example:
        >>> law = torch.tensor([[0.1, 0.5, 0.4]]).log()
        >>> one = torch.tensor([[True]])
        >>> Nucleus(lambda canvas, where: Marginals(where, law), 0.8)(Canvas.blank(1, 1), one).logits.exp()
        tensor([[0.0000, 0.5000, 0.4000]])

    Reference: Holtzman et al., The curious case of neural text degeneration, 2020, arXiv 1904.09751.
    """

    inner: Denoiser
    p: float

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise DenoiserError(f"top-p of {self.p}; expected a probability in (0, 1]: 1 keeps every token")

    def changed(self, answer: Marginals) -> Marginals:
        """Return the laws, cut to their nucleus."""
        if self.p == 1 or answer.temperature == 0:
            return answer
        ranked, index = answer.logits.sort(dim=-1, descending=True, stable=True)
        share = (ranked / answer.temperature).softmax(-1, dtype=torch.promote_types(ranked.dtype, torch.float32))
        beyond = share.cumsum(-1) - share >= self.p
        return replace(answer, logits=answer.logits.masked_fill(beyond.scatter(-1, index, beyond), -torch.inf))


@dataclass(frozen=True, eq=False)
class Restricted(Changed):
    """Allow some tokens only, everywhere or at some positions, and renormalise.

    Parameters:
        inner: any denoiser.
        allowed: (V,) bool.
        places: the positions that this is about; None for all.

    Raises:
        DenoiserError: nothing is allowed.

    Cost: a copy of the asked logits.

    Example:
        >>> from demask.oracles import parity
        >>> Restricted(parity(4), torch.tensor([True, False])).places is None
        True
    """

    inner: Denoiser
    allowed: Tensor
    places: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.allowed.ndim != 1 or self.allowed.dtype != torch.bool or not bool(self.allowed.any()):
            raise DenoiserError(
                f"allowed tokens of shape {tuple(self.allowed.shape)}, {self.allowed.dtype}, {int(self.allowed.sum())} of "
                "them; expected (V,) torch.bool with one True or more"
            )

    def changed(self, answer: Marginals) -> Marginals:
        """Return the laws, without the other tokens."""
        barred, where = ~self.allowed, answer.where
        if self.places is not None:
            here = torch.zeros(where.shape[1], dtype=torch.bool, device=where.device)
            here[list(self.places)] = True
            barred = here.expand_as(where)[where][:, None] & barred
        return replace(answer, logits=answer.logits.masked_fill(barred, -torch.inf))


@dataclass(frozen=True)
class Continued:
    """Continue every row to `window` positions of which nothing is known.

    A model that was trained on windows of that many tokens takes the end of a shorter canvas for something it never saw. So
    the canvas is asked with masked positions after its own, and in the place of absent ones at its right: what is masked
    is what may be anything, and the answer is the law given the visible tokens alone.

    Raises:
        DenoiserError: a canvas longer than the window.

    Cost: that of a pass over the whole window.

    Example:
        >>> from demask.oracles import Chain
        >>> short = Canvas.blank(1, 2)
        >>> Continued(Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=9), 9)(short, short.masked).logits.exp()
        tensor([[0.6000, 0.4000],
                [0.6000, 0.4000]], dtype=torch.float64)
    """

    inner: Denoiser
    window: int

    def on(self, canvas: Canvas) -> Denoiser:
        """Return what answers about a canvas, and about all that come of it: the inner denoiser where nothing is added."""
        return self.inner if self._continued(canvas) is None else self

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer with the inner denoiser's laws on the longer canvas."""
        longer = self._continued(canvas)
        if longer is None:
            return self.inner(canvas, where)
        return replace(self.inner(longer, self._beside(where)), where=where)

    def along(self, canvas: Canvas, where: Tensor, ranks: Tensor) -> Marginals:
        """Answer along an order with the inner denoiser's laws on the longer canvas."""
        inner, longer = ranked(self.inner), self._continued(canvas)
        if longer is None:
            return inner.along(canvas, where, ranks)
        return replace(inner.along(longer, self._beside(where), self._beside(ranks)), where=where)

    @property
    def vocabulary(self) -> int:
        """How many tokens can be written, V."""
        return ranked(self.inner).vocabulary

    def _continued(self, canvas: Canvas) -> Canvas | None:
        """Return the longer canvas; None where it is the same."""
        more = self.window - canvas.shape[1]
        if more < 0:
            raise DenoiserError(
                f"a canvas of {canvas.shape[1]} positions for a window of {self.window}; shorten the text"
            )
        absent = canvas.tokens == ABSENT
        if not more and not bool(absent.any()):
            return None
        absent = without(absent, canvas.masked)  # what stands under a mask means nothing
        tokens = pad(canvas.tokens.masked_fill(absent, 0), (0, more))
        return Canvas(tokens, pad(canvas.masked | absent, (0, more), value=True))

    def _beside(self, values: Tensor) -> Tensor:
        """Return (B, N) values with zeros for what is added."""
        return pad(values, (0, self.window - values.shape[1]))
