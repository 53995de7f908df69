"""Any-subset speculative decoding: draft several tokens, keep as many as the joint law allows, repair the next one."""

from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor

from demask.canvas import ABSENT, Canvas, Marginals, Weighted
from demask.contracts import Chance, Denoiser, Info, Law, Order, Ranked, Step, ranked
from demask.errors import OrderError
from demask.masks import empty, without
from demask.orders.scores import LeftToRight
from demask.samplers.parallel import largest

DRAFTS: Final = ("network", "context")
_LAST: Final = torch.iinfo(torch.int64).max


@dataclass(frozen=True, eq=False)
class Ordered:
    """What the next step of `Speculative` needs.

    Parameters:
        canvas, start, origin: those of `Parallel`.
        ranks: (B, N) int64, 0 where a token was given, then 1, 2, .. as they come.
    """

    canvas: Canvas
    start: Tensor
    origin: Chance
    ranks: Tensor


@dataclass(frozen=True)
class Speculative:
    """Draft the next `size` tokens of an order at once, and keep the longest part that the joint law lets pass.

    For the drafted i in their order, with p_i the law they were drawn from and q_i = p(x_i | all that come before, drafted
    ones included), from one pass over the filling:

        keep x_i with probability min(1, q_i(x_i) / p_i(x_i)); at the first one that falls draw x_i ~ (q_i - p_i)_+ and stop.

    The first q_i is p_i where the network drafts, so it is kept unseen, and the last masked token needs no second pass: a
    row never takes more passes than it has masked tokens. The order is fixed when the run begins.

    Law: EXACT: prod_i q_i along the order; for an oracle its own joint law in every order, for a network that of
        `Permutation.log_prob` in this order.
    Cost: two NFE per step and row, one where a single token is left or where the context drafts; at most as many as masked
        tokens. O(size V) more, and O(size N) where the context drafts.

    Parameters:
        size: >= 2, how many are drafted. Drafting one at a time would spend two passes on each token and gain nothing.
        order: one that is known before the network is asked: LeftToRight() or Random().
        draft: "network", or "context": pairs and single tokens counted in what is visible, no pass for the draft.

    Raises:
        OrderError: a size below 2, an unknown draft, an order that asks the network or leaves positions out.
        DenoiserError: while sampling, a denoiser that cannot answer along an order.

    Example:
        >>> from demask import oracles, sample
        >>> run = sample(oracles.repetition(5, 2), Speculative(5), Canvas.blank(2, 5), key=0)
        >>> run.tokens.amin(1).equal(run.tokens.amax(1)), int(run.nfe.max()) <= 5
        (True, True)

    Reference: Guo and Ermon, Reviving any-subset autoregressive models, 2025, arXiv 2504.20456, algorithm 1.
    """

    size: int = 5
    order: Order = field(default_factory=LeftToRight)
    draft: str = "network"

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 2:
            raise OrderError(
                f"{self.size!r} tokens drafted at once; expected an integer >= 2: a single one is always kept, but it would "
                "be checked by a second pass, so that m tokens take 2m - 1; for one token a pass write "
                "Parallel(uniform(length, length), order)"
            )
        if self.draft not in DRAFTS:
            raise OrderError(f"drafts by {self.draft!r}; expected one of {', '.join(DRAFTS)}")

    @property
    def law(self) -> Law:
        """EXACT, unless the order is TILTED."""
        return Law.TILTED if self.order.law is Law.TILTED else Law.EXACT

    def init(self, canvas: Canvas, chance: Chance) -> Ordered:
        """Return the state of a run that begins with `canvas`, and rank its positions."""
        scores = self.order.score(Step(canvas, canvas.masked, canvas.masked, _early, chance, chance))
        if bool((canvas.masked & (scores == -torch.inf)).any()):
            raise OrderError(
                f"{self.order!r} leaves masked positions for later; speculative decoding needs an order of all of them at "
                "the beginning: LeftToRight() or Random()"
            )
        ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(1) + 1
        return Ordered(canvas, canvas.masked, chance, ranks.masked_fill(~canvas.masked, 0))

    def step(self, state: Ordered, denoiser: Denoiser, chance: Chance) -> tuple[Ordered, Info]:
        """Return the state after one draft and its verification."""
        network, ranks = ranked(denoiser), state.ranks
        step = Step(state.canvas, state.start, state.start, _Along(network, ranks), chance, state.origin)
        scores = (-ranks).to(torch.float64).masked_fill(~step.open, -torch.inf)
        chosen = largest(scores, torch.full_like(ranks[:, 0], self.size))
        if self.draft == "network":
            tokens, laws = step.draft(chosen), step.marginals(chosen)
            first = ranks.masked_fill(~chosen, _LAST).amin(1, keepdim=True)
            checked = chosen & (ranks > first)
            drafted = drawn_law(laws.only(checked))
        else:
            tokens, drafted = _from_context(state.canvas, chosen, ranks, network.vocabulary, chance)
            checked = chosen
        kept = chosen
        if bool(checked.any()):
            filled = state.canvas.unmask(chosen, tokens)
            answer = network.along(filled, checked, ranks)
            kept, tokens = _verified(tokens, chosen, drafted, answer, ranks, chance)
        info = step.unmasked(kept, tokens)
        return replace(state, canvas=info.canvas), info

    def done(self, state: Ordered) -> Tensor:
        """Return the rows with nothing masked, (B,) bool."""
        return empty(state.canvas.masked)

    def __repr__(self) -> str:
        draft = "" if self.draft == "network" else f", draft={self.draft!r}"
        return f"Speculative({self.size}, {self.order!r}{draft})"


def _verified(
    tokens: Tensor, chosen: Tensor, p: Tensor, answer: Marginals, ranks: Tensor, chance: Chance
) -> tuple[Tensor, Tensor]:
    """Return which of the chosen are kept, (B, N), and the tokens, of which one per row may be a repaired one.

    `p` are the probabilities (M, V) by which those of `answer.where` were drafted.
    """
    checked, q = answer.where, drawn_law(answer)
    token = tokens[checked][:, None]
    share = (q.gather(1, token) / p.gather(1, token))[:, 0].clamp(max=1.0)
    passed = chance.fork("accept").bernoulli(checked, answer.spread(share))
    fallen = without(checked, passed)
    limit = ranks.masked_fill(~fallen, _LAST).amin(1, keepdim=True)
    fallen = fallen & (ranks == limit)
    places = fallen[checked].nonzero()[:, 0]
    q = q[places]
    rest = (q - p[places]).clamp_(min=0)
    rest = torch.where(rest.sum(1, keepdim=True) > 0, rest, q)  # equal but for rounding: a coin of 1 - 1e-8 fell
    repaired = chance.fork("repair").categorical(Weighted(fallen, rest))
    return chosen & (ranks <= limit), tokens.masked_scatter(fallen, repaired)


def drawn_law(marginals: Marginals) -> Tensor:
    """Return the probabilities that tokens are drawn with, temperature included: (M, V), single precision or better.

    Example:
        >>> drawn_law(Marginals(torch.tensor([[True]]), torch.tensor([[0.0, 1.0]]), 0.0))
        tensor([[0., 1.]])
    """
    return tempered(marginals.logits, marginals.temperature)


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Return the probabilities of logits (M, V) at a temperature >= 0, newly made, single precision or better.

    Example:
        >>> tempered(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), 0.0)
        tensor([[1., 0.],
                [0., 1.]])
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if temperature == 0:
        return torch.zeros_like(logits, dtype=dtype).scatter_(1, logits.argmax(-1, keepdim=True), 1.0)
    return (logits if temperature == 1 else logits / temperature).softmax(-1, dtype=dtype)


def _from_context(
    canvas: Canvas, chosen: Tensor, ranks: Tensor, vocabulary: int, chance: Chance
) -> tuple[Tensor, Tensor]:
    """Draft the chosen one by one from counts in the visible text: (B, N) tokens, and the laws they were drawn from, (M, V).

    p(v | u) = (pairs uv + p(v)) / (pairs u. + 1) where the left neighbour u is known, drafted ones included, and
    p(v) = (count of v + 1/V) / (visible tokens + 1) elsewhere: a token that was never seen keeps a little probability.
    """
    visible = without(canvas.tokens != ABSENT, canvas.masked)
    shown = canvas.tokens.masked_fill(~visible, 0)
    pairs = visible[:, :-1] & visible[:, 1:]

    def count(column: Tensor, weights: Tensor) -> Tensor:
        zeros = torch.zeros(len(shown), vocabulary, dtype=torch.float64, device=shown.device)
        return zeros.scatter_add_(1, column, weights.double())

    alone = count(shown, visible)
    alone = (alone + 1.0 / vocabulary) / (visible.sum(1, keepdim=True) + 1)  # (B, V)
    ranks, places = ranks.masked_fill(~chosen, _LAST).sort(dim=1)
    index = torch.arange(max(shown.shape), device=shown.device)
    turns = torch.empty_like(places).scatter_(1, places, index[: shown.shape[1]].expand_as(places))
    turns = turns.masked_fill_(~chosen, -1)  # (B, N) when each is drafted
    before, inner = (places - 1).clamp_(min=0), places > 0
    sizes, chance = chosen.sum(1).tolist(), chance.fork("context")
    tokens, known, laws = canvas.tokens, visible, []
    for turn in range(max([1, *sizes])):  # a first law also where nothing is left to draft
        left = before[:, turn : turn + 1]
        follows = inner[:, turn : turn + 1] & known.gather(1, left)
        same = (tokens[:, :-1] == tokens.gather(1, left)) & pairs & follows
        found = count(shown[:, 1:], same)  # (B, V)
        laws.append((found + alone) / (found.sum(1, keepdim=True) + 1))
        here = turns == turn  # one per unfinished row
        some = here.any(1) if min(sizes, default=0) <= turn else slice(None)
        tokens = tokens.masked_scatter(here, chance.categorical(Weighted(here, laws[-1][some])))
        known = known | here
    row = chosen.nonzero()[:, 0]
    return tokens, torch.stack(laws)[turns[chosen], row]


@dataclass(frozen=True, eq=False)
class _Along:
    """A denoiser that answers along ranks that are known."""

    inner: Ranked
    ranks: Tensor

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        return self.inner.along(canvas, where, self.ranks)


def _early(canvas: Canvas, where: Tensor) -> Marginals:
    raise OrderError(
        "this order asks the network where to go next; speculative decoding needs one that is known at the beginning: "
        "LeftToRight() or Random()"
    )
