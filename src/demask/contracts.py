"""The contracts: what each noun promises, and what the one loop needs of it.

A denoiser gives the law of each masked token, a schedule says how many go at this step, an order which, a verifier
which of the drafted tokens are kept; a sampler is what the loop turns. Everything is called with a `Step`, which shows
the canvas and asks the denoiser on demand.
"""

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal, Protocol, Self, TypeVar, cast, get_args

import torch
from torch import Tensor

from demask.canvas import ABSENT, Canvas, Marginals
from demask.errors import DenoiserError, OrderError
from demask.masks import both, counts, inside, number, without
from demask.once import once

Over = Literal["masked", "row"]


class Law(Enum):
    """What a component claims about the distribution of its output, given the denoiser's conditionals."""

    EXACT = "the model's own joint law"
    FACTORISED = "honest conditionals, drawn independently within a step"
    CONSISTENT = "the model's own joint law as the number of particles grows"
    TILTED = "no claim"


class Later(Exception):  # noqa: N818
    """Raised by a denoiser whose answer is not there yet: the loop shows the run as it stands, and takes the step again.

    A step is a function of its state, its chance and the answers, so beginning it again changes nothing. That is how the
    asks of many runs are answered by one pass. The denoiser remembers what it has answered within the step.
    """


class Denoiser(Protocol):
    """The law of each masked token, given the visible ones."""

    def __call__(self, canvas: Canvas, where: Tensor) -> Marginals:
        """Answer for the positions `where` (B, N) bool, all masked, and compute no other row.

        Rows of the batch are independent, and every row has at least one asked position. A sampler that edits asks about
        visible positions too: what should stand there, given all that is visible, what stands there included.
        """
        ...


class Ranked(Protocol):
    """A denoiser that also answers along an order, for any filling in one pass.

    The product of its answers over an order is a joint law, known exactly:
    log p(x) = sum_i log p(x_i | x_j, rank_j < rank_i).
    """

    @property
    def vocabulary(self) -> int:
        """How many tokens can be written, V."""
        ...

    def along(self, canvas: Canvas, where: Tensor, ranks: Tensor) -> Marginals:
        """Answer for the positions `where` (B, N), each given the visible tokens of smaller rank (B, N) int64 alone.

        An asked position may itself be visible: its token is seen by those behind it, never by itself. Equal ranks are
        given together, as a prompt is. Every row has at least one asked position.
        """
        ...


def ranked(denoiser: object) -> Ranked:
    """Return the denoiser, if it can answer along an order.

    Raises:
        DenoiserError: it cannot.

    Example:
        >>> from demask.oracles import parity
        >>> ranked(parity(3)).vocabulary
        2
    """
    if not callable(getattr(denoiser, "along", None)):
        raise DenoiserError(
            f"{type(denoiser).__name__} does not give the law of a whole filling in one pass; expected a method "
            "along(canvas, where, ranks), which oracles and denoisers.Permutation have: train one by "
            "demask train --network permutation"
        )
    return cast(Ranked, denoiser)


class Noised(Protocol):
    """A denoiser that also answers where no token is masked, but each may be noise (uniform-state diffusion).

    Noise of level l leaves a token as it is with probability exp(-l), and otherwise puts one of all V in its place, each
    with the same probability, the right one included.
    """

    @property
    def vocabulary(self) -> int:
        """How many tokens can be written, V."""
        ...

    def noised(self, canvas: Canvas, where: Tensor, level: Tensor) -> Marginals:
        """Answer for the visible positions `where` (B, N): what stood there before noise of `level` (B,), infinite or not.

        The asked tokens are the noisy ones, and what stands there is evidence too; all other visible tokens are right. A
        network may guess the level from the canvas, and need not read it.
        """
        ...


def noised(denoiser: object) -> Noised:
    """Return the denoiser, if it can answer about noisy tokens.

    Raises:
        DenoiserError: it cannot.

    Example:
        >>> from demask.oracles import parity
        >>> noised(parity(3)).vocabulary
        2
    """
    if not callable(getattr(denoiser, "noised", None)):
        raise DenoiserError(
            f"{type(denoiser).__name__} was made for masks and says nothing about tokens that may be noise; expected a "
            "method noised(canvas, where, level), which the oracles have; or sample by masks: Absorbing(..), Parallel(..)"
        )
    return cast(Noised, denoiser)


def vocabulary(denoiser: object) -> int:
    """Return how many tokens a denoiser can write, if it answers along an order or about noisy tokens.

    Raises:
        DenoiserError: it does neither.

    Example:
        >>> from demask.oracles import parity
        >>> vocabulary(parity(3))
        2
    """
    if not (hasattr(denoiser, "noised") or hasattr(denoiser, "along")):
        raise DenoiserError(
            f"{type(denoiser).__name__} was made for masks: it answers neither along an order nor about tokens that may be "
            "noise, as the oracles do; sample by Parallel(..) or Absorbing(..)"
        )
    return cast(Noised, denoiser).vocabulary


class Chance(Protocol):
    """All randomness: finite draws, so that a small problem can be enumerated.

    Every method draws for all rows at once; a row's draws never depend on the other rows. The same method of the same
    chance called twice gives the same answer: fork for fresh draws.
    """

    def fork(self, *labels: str | int | Tensor | tuple[int, ...]) -> Self:
        """Independent chance under the given labels; a (B,) int64 tensor labels every row by its own number.

        B integers do so too: each row then draws as if its integer were the label of all.
        """
        ...

    def rows(self, keep: Tensor) -> Self:
        """Restrict to some rows (a (B,) bool or row numbers, also repeated), whose draws stay what they were."""
        ...

    def level(self, breaks: Tensor) -> Tensor:
        """A number uniform on [0, 1) per row, (B,) float64, of which only the cell between `breaks` matters.

        Rows are stratified: the levels of consecutive rows spread evenly, and each one is uniform.
        """
        ...

    def categorical(self, marginals: Marginals) -> Tensor:
        """One token per asked position, (M,) int64."""
        ...

    def outcome(self, probabilities: Tensor) -> Tensor:
        """One of finitely many outcomes per row: (B, A) probabilities -> (B,) int64."""
        ...

    def multinomial(self, total: Tensor, probabilities: Tensor) -> Tensor:
        """How many of `total` (B,) tokens fall in each class of (A,) probabilities: (B, A) int64."""
        ...

    def bernoulli(self, where: Tensor, probability: Tensor) -> Tensor:
        """Independent coins: (B, N) bool, True with `probability` (B, N) and only inside `where`."""
        ...

    def permutation(self, where: Tensor, logits: Tensor | None = None) -> Tensor:
        """A random ranking of `where`: (B, N) priorities, larger first, -inf outside.

        Uniform, or Plackett-Luce: the next one is drawn with probability proportional to exp(logits) (B, N).
        """
        ...

    def subset(self, where: Tensor, size: Tensor) -> Tensor:
        """A uniformly random set of `size` (B,) positions inside `where`: (B, N) bool."""
        ...


@dataclass
class _Memory:
    """What one step has already asked and drawn, shared by its narrowed views."""

    marginals: Marginals | None = None
    drawn: Tensor | None = None
    tokens: Tensor | None = None
    draws: Tensor | None = None  # packed
    after: Canvas | None = None  # as a step left it that told all it changed
    written: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """One pass of the loop, as an order, schedule or verifier sees it.

    Parameters:
        canvas: as it stands.
        start: (B, N) bool, what was masked when the run began.
        region: (B, N) bool, the part of `start` that this view is about (a block, say).
        denoiser: asked through `marginals`, which remembers.
        chance: this step's draws.
        origin: the run's draws, the same at every step; a block has its own.
    """

    canvas: Canvas
    start: Tensor
    region: Tensor
    denoiser: Denoiser
    chance: Chance
    origin: Chance
    _memory: _Memory = field(default_factory=_Memory, repr=False)

    @once
    def open(self) -> Tensor:
        """Positions of the region that are still masked, (B, N) bool."""
        return both(self.region, self.canvas.masked)

    @once
    def progress(self) -> tuple[list[int], list[int]]:
        """How many positions of the region each row has unmasked, and how many it has in all; on the host."""
        if self.open.is_cpu:  # where a copy to the host costs nothing, stacking costs more than counting
            totals, left = counts(self.region), counts(self.open)
        else:
            totals, left = torch.stack((self.region, self.open)).sum(2).tolist()
        return [total - rest for total, rest in zip(totals, left, strict=True)], totals

    def within(self, region: Tensor) -> "Step":
        """View the same step, narrowed to the positions `region` (B, N)."""
        return replace(self, region=self.region & region)

    def block(self, size: int, over: Over = "masked") -> "Step":
        """View the first unfinished block of every row; see `blocks` for how they are counted."""
        if (size, over) not in self._blocks:
            self._blocks[size, over] = self._block(size, over)
        return self._blocks[size, over]

    @once
    def _blocks(self) -> dict[tuple[int, Over], "Step"]:
        return {}

    def _block(self, size: int, over: Over) -> "Step":
        index = blocks(self.canvas, self.start, size, over)
        current = index.masked_fill(~self.canvas.masked, torch.iinfo(torch.int64).max).amin(1)
        narrowed = self.within(self.start & (index == current[:, None]))
        return replace(narrowed, origin=self.origin.fork("block", current))

    def marginals(self, where: Tensor) -> Marginals:
        """Ask the denoiser, or answer from what it has already said in this step."""
        known = self._memory.marginals
        return known if known is not None and known.where is where else self._answer(where)

    def draft(self, where: Tensor) -> Tensor:
        """Draw a token for each position of `where`: (B, N) int64, meaningless elsewhere; each position once a step."""
        memory = self._memory
        if memory.tokens is not None and memory.drawn is not None and inside(where, memory.drawn):
            return memory.tokens
        if not number(where):
            return self.canvas.tokens
        marginals = self._answer(where)
        drawn = self.chance.fork("draft").categorical(marginals)
        if not marginals.proper:
            raise DenoiserError(_not_a_law(marginals))
        memory.drawn, memory.draws, memory.tokens = where, drawn, self.canvas.tokens.masked_scatter(where, drawn)
        return memory.tokens

    def unmasked(self, kept: Tensor, tokens: Tensor) -> "Info":
        """Return what a step tells that writes `tokens` (B, N) at the masked positions `kept` (B, N), and does no more."""
        memory = self._memory
        if memory.drawn is kept and memory.tokens is tokens:  # a draft shows the canvas elsewhere
            return self.changed(kept, Canvas(tokens, without(self.canvas.masked, kept)), memory.draws)
        return self.changed(kept, self.canvas.unmask(kept, tokens))

    def changed(self, kept: Tensor, canvas: Canvas, written: Tensor | None = None) -> "Info":
        """Return what a step tells that changes nothing but the positions `kept` (B, N), all of which it leaves visible.

        Parameters:
            kept: written by the step; at the first one all that was masked and is not.
            canvas: as the step leaves it.
            written: its tokens at `kept`, packed, where they are at hand.
        """
        self._memory.after, self._memory.written = canvas, written
        return Info(self, kept, canvas)

    def _answer(self, where: Tensor) -> Marginals:
        """Return the laws of the positions `where`: a part of what is known, or a new answer."""
        if (known := self._memory.marginals) is not None:
            part = known.within(where)
            if part is not None:
                return part
        answer = self.denoiser(self.canvas, where)
        _check(answer, where)
        self._memory.marginals = answer
        return answer if answer.where is where else answer.only(where)

    def rows(self, keep: Tensor) -> "Step":
        """Restrict to some rows, with what was asked and drawn for them: a (B,) bool, or row numbers, also repeated."""
        memory = self._memory
        return Step(
            self.canvas.rows(keep),
            self.start[keep],
            self.region[keep],
            self.denoiser,
            self.chance.rows(keep),
            self.origin.rows(keep),
            _Memory(
                None if memory.marginals is None else memory.marginals.rows(keep),
                None if memory.drawn is None else memory.drawn[keep],
                None if memory.tokens is None else memory.tokens[keep],
            ),
        )

    @property
    def known(self) -> Marginals | None:
        """What the denoiser has already said in this step."""
        return self._memory.marginals


def blocks(canvas: Canvas, start: Tensor, size: int, over: Over) -> Tensor:
    """Return the number of the block that each position is in, (B, N) int64, from 0; meaningless outside `start`.

    Blocks are runs of `size` positions, counted from the left, the last one possibly shorter.

    Parameters:
        canvas: as it stands.
        start: (B, N) bool, what was masked when the run began.
        size: positions of a block.
        over: which positions count. "masked": those of `start`, so that a prompt, padding and gaps need no care. "row": all
            that exist, the prompt included, as block-diffusion networks were trained; a prompt may end within a block.

    Example:
        >>> start = torch.tensor([[False, True, True, True, True]])
        >>> canvas = Canvas(torch.zeros(1, 5).long(), start)
        >>> blocks(canvas, start, 2, "masked")[start].tolist(), blocks(canvas, start, 2, "row")[start].tolist()
        ([0, 0, 1, 1], [0, 1, 1, 2])
    """
    counted = start if over == "masked" else canvas.masked | (canvas.tokens != ABSENT)
    return (counted.cumsum(1) - 1).div(size, rounding_mode="floor")


def check_blocks(size: object, over: object) -> None:
    """Raise an OrderError unless these are positions of a block, and how they are counted."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise OrderError(f"a block of {size!r} positions; expected an integer >= 1")
    if over not in get_args(Over):
        raise OrderError(f"blocks counted over {over!r}; expected 'masked' or 'row'")


class Schedule(Protocol):
    """How many tokens are unmasked at this step."""

    def count(self, step: Step, scores: Tensor) -> Tensor:
        """At most this many per row, (B,) int64, of those whose score (B, N) is not -inf."""
        ...


class Order(Protocol):
    """Which positions go first."""

    @property
    def law(self) -> Law:
        """FACTORISED: ranks by nothing that depends on a token's own draw. TILTED: otherwise."""
        ...

    @property
    def unit(self) -> str:
        """What a score is: "log-probability", "nats", "probability", "position" or "priority"."""
        ...

    def score(self, step: Step) -> Tensor:
        """(B, N) floats, larger first; -inf where a position may not go, and outside `step.open`.

        The masks of a step are remembered: whoever changes one in place writes to a clone.
        """
        ...


class Verifier(Protocol):
    """Which of the drafted tokens are kept."""

    @property
    def law(self) -> Law:
        """EXACT: keeps the law of the draft, or repairs it."""
        ...

    def verify(self, step: Step, chosen: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Of the `chosen` (B, N), the kept ones (B, N) bool, and the tokens (B, N) to write there."""
        ...


@dataclass(frozen=True)
class Info:
    """What a human may want to know of a step.

    Parameters:
        step: the step as it began; asking it for marginals that it already has costs nothing.
        kept: (B, N) bool, positions unmasked.
        canvas: as the step left it.
    """

    step: Step
    kept: Tensor
    canvas: Canvas

    @property
    def alone(self) -> bool:
        """Whether the step has told that nothing has changed but the positions `kept`; the canvas is what it left."""
        return self.canvas is self.step._memory.after

    @property
    def written(self) -> Tensor | None:
        """The tokens at the positions `kept`, packed, where nothing else has changed and they are at hand."""
        return self.step._memory.written if self.alone else None


S = TypeVar("S")


class Sampler(Protocol[S]):
    """What the loop turns: a state, a step, and when a row is done."""

    @property
    def law(self) -> Law:
        """What is claimed about the output."""
        ...

    def init(self, canvas: Canvas, chance: Chance) -> S:
        """What the first step needs."""
        ...

    def step(self, state: S, denoiser: Denoiser, chance: Chance) -> tuple[S, Info]:
        """One pass."""
        ...

    def done(self, state: S) -> Tensor:
        """(B,) bool; finished rows cost nothing more."""
        ...


class Collector(Protocol):
    """What is looked at: called after every step, never part of the loop."""

    @property
    def name(self) -> str:
        """The key under which `Run.collected` holds the result."""
        ...

    def see(self, info: Info) -> None:
        """Look at one step."""
        ...

    def result(self) -> Any:
        """What was seen."""
        ...


def _check(marginals: Marginals, where: Tensor) -> None:
    shape = tuple(marginals.logits.shape)
    if len(shape) != 2 or marginals.where.shape != where.shape:
        raise DenoiserError(
            f"the denoiser answered logits of shape {shape} for a canvas of shape {tuple(where.shape)}; "
            "expected one packed row per asked position: Marginals(where, logits[where])"
        )


def _not_a_law(marginals: Marginals) -> str:
    first = int((~marginals.logsumexp.isfinite()).nonzero()[0])
    row, position = marginals.where.nonzero()[first].tolist()
    return (
        f"the denoiser's logits at row {row}, position {position} are no distribution (nan, +inf, or all -inf); "
        "demask.testing.check_denoiser(denoiser, canvas) looks at every row"
    )
