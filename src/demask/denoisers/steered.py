"""Denoisers that are steered: repeated tokens penalised, some tokens never drawn, some not yet."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from demask.canvas import ABSENT, Canvas, Marginals
from demask.contracts import Denoiser
from demask.errors import DenoiserError


@dataclass(frozen=True)
class Penalised:
    """Make the tokens that are visible in the row less probable.

    logit_v / penalty where it is positive, logit_v * penalty where it is negative, for every v that stands at a visible
    position of the row, before or behind. This is the published rule, and it is about logits: unlike everything else here it
    depends on the constant that a row of logits carries. Tokens drawn at one step do not see each other. An asked position
    that is itself visible does not count its own token.

    Parameters:
        inner: any denoiser.
        penalty: > 0; 1 changes nothing, below 1 repeats more.

    Raises:
        DenoiserError: a penalty that is not > 0 and finite.

    Cost: O(B V + M V), a copy of the asked logits.

    Example:
        >>> law = Marginals(torch.tensor([[False, True]]), torch.tensor([[-1.0, 2.0, 3.0]]))
        >>> row = Canvas(torch.tensor([[1, 0]]), torch.tensor([[False, True]]))
        >>> Penalised(lambda canvas, where: law, 2.0)(row, row.masked).logits
        tensor([[-1.,  1.,  3.]])

    Reference: Keskar et al., CTRL, 2019, arXiv 1909.05858.
    """

    inner: Denoiser
    penalty: float

    def __post_init__(self) -> None:
        if not 0 < self.penalty < float("inf"):
            raise DenoiserError(f"a repetition penalty of {self.penalty}; expected a number > 0, such as 1.1")

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer with the inner denoiser's laws, visible tokens penalised."""
        answer = self.inner(canvas, where)
        if self.penalty == 1:
            return answer
        logits, vocabulary = answer.logits, answer.vocabulary
        hidden = canvas.masked | (canvas.tokens == ABSENT)
        ids = canvas.tokens.masked_fill(hidden, vocabulary)
        count = torch.zeros(len(ids), vocabulary + 1, dtype=torch.int32, device=ids.device)
        count.scatter_add_(1, ids, torch.ones_like(ids, dtype=torch.int32))
        rows, mine = where.nonzero()[:, 0], ids[where]
        seen = (count > 0)[rows]
        seen.scatter_(1, mine[:, None], (count[rows, mine] > 1)[:, None])  # its own token, if it is visible itself
        harder = torch.where(logits > 0, logits / self.penalty, logits * self.penalty)
        return replace(answer, logits=torch.where(seen[:, :-1], harder, logits))


@dataclass(frozen=True)
class Forbidden:
    """Never draw some tokens, at any temperature, and renormalise.

    Parameters:
        inner: any denoiser.
        tokens: their ids.

    Raises:
        DenoiserError: ids that are no tokens, or an asked position at which nothing else has any probability.

    Cost: a copy of the asked logits and a pass over them; one small copy to the host.

    Example:
        >>> from demask.oracles import Chain
        >>> chain = Chain.markov([0.2, 0.3, 0.5], [[0.2, 0.3, 0.5]] * 3, length=1)
        >>> Forbidden(chain, (2,))(Canvas.blank(1, 1), torch.tensor([[True]])).logits.softmax(-1)
        tensor([[0.4000, 0.6000, 0.0000]], dtype=torch.float64)

    Reference: Nie et al., LLaDA, 2025, arXiv 2502.09992 (the end token, `logits_eos_inf`).
    """

    inner: Denoiser
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        _check(self.tokens, "forbidden")

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer with the inner denoiser's laws, without these tokens."""
        return _barred(self.inner(canvas, where), self.tokens, None)


@dataclass(frozen=True)
class Delayed:
    """Draw some tokens only where everything before them is unmasked, and renormalise elsewhere.

    An end token that is delayed cannot cut off what has not been written yet. Where the network is sure of the end far
    behind, it must write something else there if the order wants that position: combine it with an order from the left, or
    with blocks. `Deferred` leaves the laws as they are and lets such positions go last instead.

    Parameters:
        inner: any denoiser.
        tokens: their ids, the end of the text say.

    Raises:
        DenoiserError: ids that are no tokens, or an asked position at which nothing else has any probability.

    Cost: a copy of the asked logits and a pass over them; one small copy to the host.

    Example:
        >>> from demask.oracles import Chain
        >>> chain = Chain.markov([0.2, 0.3, 0.5], [[0.2, 0.3, 0.5]] * 3, length=2)
        >>> Delayed(chain, (2,))(Canvas.blank(1, 2), torch.tensor([[True, True]])).logits.softmax(-1)
        tensor([[0.2000, 0.3000, 0.5000],
                [0.4000, 0.6000, 0.0000]], dtype=torch.float64)
    """

    inner: Denoiser
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        _check(self.tokens, "delayed")

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer with the inner denoiser's laws, without these tokens where something before is masked."""
        early = canvas.masked.cumsum(1) > canvas.masked.long()
        return _barred(self.inner(canvas, where), self.tokens, early[where])


def _check(tokens: tuple[int, ...], what: str) -> None:
    if not tokens or any(isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in tokens):
        raise DenoiserError(f"{what} tokens {tokens!r}; expected one or more token ids >= 0, such as (2,)")


def _barred(answer: Marginals, tokens: tuple[int, ...], where: Tensor | None) -> Marginals:
    """Give these tokens no probability, in all asked rows or in some, (M,) bool."""
    if max(tokens) >= answer.vocabulary:
        raise DenoiserError(f"token {max(tokens)} cannot be forbidden; expected 0 .. {answer.vocabulary - 1}")
    barred = torch.zeros(answer.vocabulary, dtype=torch.bool, device=answer.logits.device)
    barred[list(tokens)] = True
    logits = answer.logits.masked_fill(barred if where is None else where[:, None] & barred, -torch.inf)
    none = logits.amax(-1) == -torch.inf
    if bool(none.any()):
        row, position = answer.where.nonzero()[int(none.nonzero()[0])].tolist()
        raise DenoiserError(
            f"without the tokens {tokens} nothing has any probability at row {row}, position {position}; forbid fewer"
        )
    return replace(answer, logits=logits)
