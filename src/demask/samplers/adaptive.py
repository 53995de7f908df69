"""Adaptive parallel decoding: from the left, as many tokens at once as an autoregressive model would have drawn too."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from demask.canvas import ABSENT, Canvas, Marginals
from demask.contracts import Chance, Denoiser, Info, Law, Ranked, Step
from demask.errors import DenoiserError, OrderError
from demask.masks import empty
from demask.reductions import by_group
from demask.samplers.parallel import State
from demask.samplers.speculative import tempered


@dataclass(frozen=True)
class Checked(Info):
    """A step of which a verifier was asked.

    Parameters:
        passes: (B,) int64, its forward passes.
    """

    passes: Tensor


@dataclass
class VerifierPasses:
    """Count the forward passes of the verifier of `Adaptive`, per row, (B,) int64; `Run.nfe` has those of the denoiser.

    Example:
        >>> from demask import Chain, sample
        >>> chain = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=6)
        >>> run = sample(chain, Adaptive(chain, 0.3), Canvas.blank(3, 6), key=0, collect=[VerifierPasses()])
        >>> run.nfe.tolist(), run.collected["verifier"].tolist()
        ([1, 1, 3], [1, 1, 3])
    """

    name: ClassVar[str] = "verifier"
    _sum: Tensor | None = field(default=None, repr=False)

    def see(self, info: Info) -> None:
        """Add the passes of the step, where there were any."""
        if isinstance(info, Checked):
            self._sum = info.passes if self._sum is None else self._sum + info.passes

    def result(self) -> Tensor:
        """Return the sums."""
        return torch.zeros(0, dtype=torch.int64) if self._sum is None else self._sum


@dataclass(frozen=True)
class Adaptive:
    """Draft all masked tokens from the left, and keep those on which a product with an autoregressive law agrees.

    With p_i the denoiser's law, a_i the verifier's law given all tokens to the left, drafted ones included, and R = ratio,

        t_i(v) proportional to p_i(v)^R a_i(v)^(1 - R),   x_i = argmax log p_i + g_i,   y_i = argmax log t_i + g_i,

    where g_i is one Gumbel noise for both; the longest beginning with x = y is kept, and the first token always. Nothing but
    x and whether y agrees is used, and given x_i = v they agree with probability

        1 / sum_j max( p_i(j), p_i(v) t_i(j) / t_i(v) ),

    so x_i is drawn from p_i and a coin is tossed: the same law, in finitely many outcomes. The coins of a key are the same
    for every R, so for the same draft a larger R keeps no less.

    Law: TILTED: the first token of a step has the law p_i, those behind it are kept where the two agree. FACTORISED at
        ratio 1, where everything is kept; EXACT with ahead = 1, a token per step.
    Cost: one NFE and one pass of the verifier per step, over all positions up to the last drafted one; with `ahead`, the
        denoiser's pass is as short, but for tokens given behind; on `denoisers.Recomputed(checkpoint, W)`, the paper's
        recompute window, it leaves out what stands W before the frontier (W is endless without it). O(M V). The verifier is
        not asked about a single drafted token, and never at ratio 1; `VerifierPasses` counts its passes.

    Parameters:
        verifier: answers along an order from the left: `denoisers.Causal`, an oracle, `denoisers.Permutation`. Its
            temperature shapes a_i; the denoiser's, T, draws x_i from p_i^(1/T) and y_i from t_i^(1/T).
        ratio: in [0, 1], R; 0.7 is fast and 0.6 careful in the paper.
        ahead: >= 1, the lookahead: how many masked positions are drafted. Those behind do not exist for the
            network, which an oracle of fixed length understands as `Continued(oracle, length)`. None: all.

    Raises:
        OrderError: a ratio outside [0, 1], or ahead below 1.
        DenoiserError: while sampling, a verifier with another vocabulary.

    Example:
        >>> from demask import Chain, sample
        >>> chain = Chain.markov([0.6, 0.4], [[0.8, 0.2], [0.3, 0.7]], length=6)
        >>> sample(chain, Adaptive(chain, 1.0), Canvas.blank(1, 6), key=0).nfe.tolist()
        [1]
        >>> sample(chain, Adaptive(chain, 0.3), Canvas.blank(3, 6), key=0).nfe.tolist()
        [1, 1, 3]

    Reference: Israel, Van den Broeck and Grover, Accelerating diffusion LLMs via adaptive parallel decoding, 2025,
    arXiv 2506.00413, algorithm 1.
    """

    verifier: Ranked
    ratio: float = 0.7
    ahead: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise OrderError(
                f"a ratio of {self.ratio}; expected a weight in [0, 1]: 1 trusts the denoiser, 0 the verifier"
            )
        if self.ahead is not None and (not isinstance(self.ahead, int) or self.ahead < 1):
            raise OrderError(f"ahead = {self.ahead!r}; expected an integer >= 1, such as 100, or None for all")

    @property
    def law(self) -> Law:
        """What is kept decides: one token, all of them, or those that agree."""
        if self.ahead == 1:
            return Law.EXACT
        return Law.FACTORISED if self.ratio == 1 else Law.TILTED

    def init(self, canvas: Canvas, chance: Chance) -> State:
        """Return the state of a run that begins with `canvas`."""
        return State(canvas, canvas.masked, chance)

    def step(self, state: State, denoiser: Denoiser, chance: Chance) -> tuple[State, Info]:
        """Return the state after one draft and what was kept of it."""
        canvas = state.canvas
        asked = denoiser if self.ahead is None else _Ahead(denoiser)
        step = Step(canvas, state.start, state.start, asked, chance, state.origin)
        place = step.open.cumsum(1)
        chosen = step.open & (place <= (self.ahead or canvas.shape[1]))
        tokens, draft = step.draft(chosen), step.marginals(chosen)
        kept = chosen
        checked = chosen & (place > 1)
        passes = checked.any(1).long() * (self.ratio < 1)
        if bool(passes.any()):
            agreed = chance.fork("agree").bernoulli(checked, self._agreement(canvas, tokens, chosen, checked, draft))
            broken = (checked & ~agreed).cumsum(1) > 0
            kept = chosen & ~broken
        canvas = step.unmasked(kept, tokens).canvas
        return State(canvas, state.start, state.origin), Checked(step, kept, canvas, passes)

    def done(self, state: State) -> Tensor:
        """Return the rows with nothing masked, (B,) bool."""
        return empty(state.canvas.masked)

    def __repr__(self) -> str:
        ahead = "" if self.ahead is None else f", {self.ahead}"
        return f"Adaptive({self.verifier!r}, {self.ratio!r}{ahead})"

    def _agreement(self, canvas: Canvas, tokens: Tensor, chosen: Tensor, checked: Tensor, draft: Marginals) -> Tensor:
        """Return the probability that the product draws what the draft drew, (B, N)."""
        if self.verifier.vocabulary != draft.vocabulary:
            raise DenoiserError(
                f"a verifier of {self.verifier.vocabulary} tokens for a denoiser of {draft.vocabulary}; expected one with "
                "the same tokenizer, so that equal numbers are equal tokens"
            )
        rows = checked.any(1)
        filled = canvas.unmask(chosen, tokens).rows(rows)
        left = torch.arange(canvas.shape[1], device=canvas.device).expand(filled.shape)
        answer = self.verifier.along(filled, checked[rows], left)
        p = draft.only(checked)
        agreement = agree(p, answer, tokens[checked], ratio=self.ratio)
        return p.spread(agreement)


def agree(draft: Marginals, verifier: Marginals, tokens: Tensor, *, ratio: float) -> Tensor:
    """Return P(y = v | x = v) for the drafted v: argmax of both laws under one Gumbel noise, (M,).

    Example:
        >>> where = torch.tensor([[True]])
        >>> p, a = (Marginals(where, torch.tensor([law]).log()) for law in ((0.5, 0.5), (0.8, 0.2)))
        >>> agree(p, a, torch.tensor([1]), ratio=0.0)
        tensor([0.4000])
    """

    def some(drafted: Tensor, verified: Tensor, tokens: Tensor) -> Tensor:
        p = tempered(drafted, draft.temperature)
        mixed = torch.zeros_like(p, dtype=torch.promote_types(p.dtype, verified.dtype))
        if ratio > 0:  # 0 times -inf would be nan
            mixed.add_(drafted, alpha=ratio)
        if ratio < 1:
            mixed.add_(tempered(verified, verifier.temperature).log_(), alpha=1 - ratio)
        at = tokens[:, None]
        if draft.temperature == 0:
            return (mixed.argmax(-1) == tokens).to(p)
        own = mixed.gather(1, at)
        gap = mixed.sub_(own).div_(draft.temperature).exp_()  # t(j) / t(v)
        rivals = torch.maximum(p, gap.mul_(p.gather(1, at)), out=gap).sum(-1)
        return torch.where(own[:, 0] == -torch.inf, 0.0, (1 / rivals).clamp(max=1.0))

    return by_group(some, draft.logits, verifier.logits, tokens)


@dataclass(frozen=True, eq=False)
class _Ahead:
    """A denoiser for which masked positions behind the last asked one of a row do not exist."""

    inner: Denoiser

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        beyond = canvas.masked & (where.flip(1).cumsum(1).flip(1) == 0)
        used = where.any(1, keepdim=True) & ~beyond & (canvas.masked | (canvas.tokens != ABSENT))
        end = int(used.any(0).nonzero()[-1]) + 1
        short = Canvas(canvas.tokens.masked_fill(beyond, ABSENT)[:, :end], (canvas.masked & ~beyond)[:, :end])
        return replace(self.inner(short, where[:, :end]), where=where)
