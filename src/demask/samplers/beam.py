"""Beam search over tokens and places at once: the most probable fillings of a canvas."""

from dataclasses import dataclass, field
from typing import ClassVar, Final

import torch
from torch import Tensor

from demask.canvas import Canvas, Marginals
from demask.contracts import Chance, Denoiser, Info, Law, Order, Step
from demask.errors import CanvasError, DenoiserError
from demask.samplers.parallel import largest

COPIES: Final = ("kept", "merged")
LAST: Final = ("mode", "all")


@dataclass(frozen=True, eq=False)
class Branches:
    """What the next step of `Beam` needs.

    Parameters:
        canvas: as it stands; `width` neighbouring rows are the branches of one search.
        start: (R, N) bool, what was masked at the beginning.
        origin: the run's chance.
        logp: (R,) float64, of what each branch has written, nats; -inf where a row holds no branch.
        turn: steps done.
    """

    canvas: Canvas
    start: Tensor
    origin: Chance
    logp: Tensor
    turn: int


@dataclass(frozen=True)
class Scored(Info):
    """A step of a beam, with the score of every row after it.

    Parameters:
        logp: (R,) float64 nats, -inf where a row holds no branch.
    """

    logp: Tensor


@dataclass
class Logp:
    """Keep the score of every row of a `Beam`, (R,) float64 nats, -inf where it holds no branch.

    Example:
        >>> Logp().name
        'logp'
    """

    name: ClassVar[str] = "logp"
    _last: Tensor | None = field(default=None, repr=False)

    def see(self, info: Info) -> None:
        """Take the scores of the step, where it has any."""
        if isinstance(info, Scored):
            self._last = info.logp

    def result(self) -> Tensor:
        """Return the scores after the last step."""
        return torch.zeros(0, dtype=torch.float64) if self._last is None else self._last


@dataclass(frozen=True)
class Beam:
    """Keep the `width` most probable partial fillings, extending each by every token at every masked place.

    score(branch) = sum over its unmaskings of log p(x_i = v | what stood on the branch then); each step ranks all (branch,
    place, token) together. By the chain rule a complete branch scores log p(x), whatever its order, if the denoiser's
    conditionals are those of one joint law; then an unlimited beam with merged copies and all last tokens finds the most
    probable fillings in their order. A small one may miss them.

    A batch of R = G * width rows holds G searches: give every canvas `width` times, by `repeat_interleave`. A search ends
    with its rows in falling order of score; rows without a branch stay masked. `Logp` collects the scores.

    Law: TILTED (it looks for modes, and draws nothing).   Cost: one NFE per step and branch; memory O(R N V).

    Parameters:
        width: branches that are kept, per search.
        copies: "kept", as published: one partial filling reached in several orders takes as many places; or "merged": it
            takes one, with the best of their scores.
        last: "mode", as published: a branch's last token is its mode, so a filling that completes no branch as its mode is
            never found; or "all".
        order: None: all places compete; or an order, which names the one place that each branch extends, such as
            LeftToRight(), the beam search of autoregressive models.

    Raises:
        CanvasError: a width below 1; rows that are no multiple of it, or differ within a search.
        DenoiserError: another word for copies or last; an answer that is no set of distributions.

    Example:
        >>> from demask import oracles, sample
        >>> laws = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64).log()
        >>> words = oracles.Table(torch.tensor([[0, 1, 1], [1, 1, 0]]), laws, 2)
        >>> run = sample(words, Beam(4, copies="merged", last="all"), Canvas.blank(4, 3), key=0, collect=[Logp()])
        >>> run.tokens[:2].tolist(), run.collected["logp"].exp().tolist()
        ([[0, 1, 1], [1, 1, 0]], [0.666..., 0.333..., 0.0, 0.0])

    Reference: Liu et al., DiffGRM, 2025, arXiv 2510.21805 (confidence-guided parallel denoising).
    """

    width: int
    copies: str = "kept"
    last: str = "mode"
    order: Order | None = None
    law: ClassVar[Law] = Law.TILTED

    def __post_init__(self) -> None:
        if isinstance(self.width, bool) or not isinstance(self.width, int) or self.width < 1:
            raise CanvasError(f"a beam of width {self.width!r}; expected an integer >= 1, such as Beam(256)")
        for name, allowed in (("copies", COPIES), ("last", LAST)):
            if getattr(self, name) not in allowed:
                raise DenoiserError(f"{name} {getattr(self, name)!r} of a beam; expected one of {', '.join(allowed)}")

    def init(self, canvas: Canvas, chance: Chance) -> Branches:
        """Return the state of a run that begins with `canvas`: the first row of every search is its only branch."""
        rows, width = canvas.shape[0], self.width
        if rows % width:
            raise CanvasError(
                f"{rows} rows for a beam of {width}; expected a multiple: give every canvas {width} times, by "
                f"tokens.repeat_interleave({width}, 0)"
            )
        shown = canvas.tokens.masked_fill(canvas.masked, torch.iinfo(torch.int64).min).view(-1, width, canvas.shape[1])
        if bool((shown != shown[:, :1]).any()):
            raise CanvasError(f"rows of one search differ; give every canvas {width} times in a row: repeat_interleave")
        logp = torch.full((rows,), -torch.inf, dtype=torch.float64, device=canvas.device)
        logp[::width] = 0.0
        return Branches(canvas, canvas.masked, chance, logp, 0)

    def step(self, state: Branches, denoiser: Denoiser, chance: Chance) -> tuple[Branches, Info]:
        """Return the state after every branch was extended by one token, and what happened."""
        live = state.start & (state.logp > -torch.inf)[:, None]
        step = Step(state.canvas, state.start, live, denoiser, chance, state.origin)
        where = step.open
        if self.order is not None:
            where = largest(self.order.score(step), where.any(1).long())
        marginals = step.marginals(where)
        if not marginals.proper:
            raise DenoiserError(
                "the denoiser's logits are no distribution (nan, +inf, or all -inf); "
                "demask.testing.check_denoiser(denoiser, canvas) looks at every row"
            )
        gains = self._gains(marginals, step.open, first=state.turn == 0)  # (R, N, V)
        canvas, logp = self._extend(state, gains)
        busy = step.open.view(-1, self.width * step.open.shape[1]).any(1).repeat_interleave(self.width)
        masked = torch.where(busy[:, None], canvas.masked, state.canvas.masked)
        tokens = torch.where(busy[:, None], canvas.tokens, state.canvas.tokens)
        after = Branches(
            Canvas(tokens, masked), state.start, state.origin, torch.where(busy, logp, state.logp), state.turn + 1
        )
        return after, Scored(step, state.canvas.masked & ~masked, after.canvas, after.logp)

    def done(self, state: Branches) -> Tensor:
        """Return the rows whose whole search is complete, (R,) bool."""
        left = (state.canvas.masked & (state.logp > -torch.inf)[:, None]).any(1)
        return ~left.view(-1, self.width).any(1).repeat_interleave(self.width)

    def _gains(self, marginals: Marginals, open: Tensor, *, first: bool) -> Tensor:
        """Return what every (place, token) would add to a branch, -inf where it may not go: (R, N, V)."""
        laws = marginals.logits - marginals.logsumexp[:, None]
        if self.last == "mode" and not first:
            final = (open.sum(1) == 1)[marginals.where.nonzero()[:, 0]]
            others = torch.ones_like(laws, dtype=torch.bool).scatter_(1, marginals.mode[:, None], False)
            laws = laws.masked_fill(others & final[:, None], -torch.inf)
        gains = laws.new_full((*open.shape, laws.shape[1]), -torch.inf)
        gains[marginals.where] = laws
        return gains

    def _extend(self, state: Branches, gains: Tensor) -> tuple[Canvas, Tensor]:
        """Return the best extensions of every search, best first, and their scores."""
        width, length, vocabulary = self.width, gains.shape[1], gains.shape[2]
        span = width * length * vocabulary
        most = (
            width * (state.turn + 1) if self.copies == "merged" else width
        )  # a state of s tokens has at most s parents
        totals = (gains + state.logp.to(gains.dtype)[:, None, None]).view(-1, span)  # (G, W N V)
        values, flat = totals.topk(min(most, span), dim=1)
        groups, candidates = values.shape
        base = torch.arange(groups, device=values.device)[:, None] * width
        parent = (base + flat.div(length * vocabulary, rounding_mode="floor")).flatten()
        place = flat.div(vocabulary, rounding_mode="floor").remainder(length).flatten()
        token = flat.remainder(vocabulary).flatten()
        each = torch.arange(len(parent), device=values.device)
        tokens, masked = state.canvas.tokens[parent], state.canvas.masked[parent]
        tokens[each, place] = token
        masked[each, place] = False
        logp = state.logp[parent] + gains[parent, place, token]
        keep = values.flatten() > -torch.inf
        if self.copies == "merged":
            group = each.div(candidates, rounding_mode="floor")
            named = torch.cat((group[:, None], tokens.masked_fill(masked, torch.iinfo(torch.int64).min)), 1)
            _, same = named.unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
            first = torch.full_like(each, len(each)).scatter_reduce(0, same, each, "amin")  # the best-scored copy
            keep = keep & (first[same] == each)
        best = (~keep).view(groups, candidates).sort(dim=1, stable=True).indices[:, :width]
        index = (best + torch.arange(groups, device=best.device)[:, None] * candidates).flatten()
        kept = keep[index]
        masked = torch.where(kept[:, None], masked[index], state.start)
        return Canvas(tokens[index], masked), logp[index].masked_fill(~kept, -torch.inf)
