"""Edit what has been unmasked: a token gives way where the network is sure of another one."""

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from torch import Tensor

from demask.canvas import Canvas
from demask.contracts import Chance, Denoiser, Info, Law, Over, blocks, check_blocks
from demask.errors import OrderError
from demask.masks import without
from demask.samplers.parallel import Asked, Parallel, State


@dataclass(frozen=True, eq=False)
class Edited:
    """What the next step of `Editing` needs.

    Parameters:
        canvas, start, origin: those of `Parallel`.
        settled: (B, N) bool, what will not be edited again.
        left: the canvas as this sampler left it; what differs was written by a sampler around it.
        extra: (B,) int64, steps since the current block was filled.
    """

    canvas: Canvas
    start: Tensor
    origin: Chance
    settled: Tensor
    left: Canvas
    extra: Tensor

    @property
    def pending(self) -> Tensor:
        """What is masked or may yet be edited, (B, N) bool."""
        canvas, left = self.canvas, self.left
        foreign = without(left.masked | (canvas.tokens != left.tokens), canvas.masked)
        return without(self.start, self.settled | foreign)


@dataclass(frozen=True)
class Editing:
    """Let the inner sampler unmask, and at the same step replace visible tokens that the denoiser is sure are others.

    A visible position of the block that was masked at the start becomes its mode v if

        v is not the token there, and p(v | all visible tokens) >= least.

    The denoiser is asked about visible positions too, in the same pass. Only a network that was trained to correct has
    something to say there: one trained on masks alone was never asked, and the oracles refuse. A block is finished by steps
    that only edit, until one of them edits nothing, `post` of them at most; then the next one begins, and it is not edited
    again. What was given, or written by a sampler around this one, never is.

    LLaDA2.1 is `Editing(Parallel(Unlimited(), Threshold(Confidence("draft"), 0.95)), 0.9, block=32, over="row")`: the inner
    sampler has one threshold for mask to token, this one another for token to token.

    Law: TILTED; what stands depends on thresholds.
    Cost: one NFE per step, and at least one more per block if post > 0, which finds nothing left to edit.

    Parameters:
        inner: says how many are unmasked, in which order; it sees one block at a time.
        least: a probability in (0, 1].
        block: positions of a block; None for one block.
        over: how they are counted, "masked": over those masked at the start; "row": over the row, the prompt included.
        post: >= 0, most steps that only edit, per block.

    Raises:
        OrderError: a number out of range.

    Example:
        >>> from demask import LeftToRight, Marginals, Tempered, sample, uniform
        >>> def network(canvas, where):  # sure of a 1, until another 1 is visible before: then it is sure of a 0
        ...     one = canvas.tokens.masked_fill(canvas.masked, 0)
        ...     p = torch.where((one.cumsum(1) > one)[..., None], torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.8]))
        ...     return Marginals(where, p.log()[where])
        >>> plain = Parallel(uniform(3, 1), LeftToRight())
        >>> for sampler in (plain, Editing(plain, 0.85)):
        ...     run = sample(Tempered(network, 0), sampler, Canvas.blank(1, 3), key=0)
        ...     print(run.tokens.tolist(), run.when.tolist(), run.nfe.tolist())
        [[1, 1, 1]] [[0, 0, 0]] [1]
        [[1, 0, 0]] [[0, 1, 1]] [3]

    Reference: LLaDA2.1 (inclusionAI, 2026), `threshold` and `editing_threshold` of its released sampler.
    """

    law: ClassVar[Law] = Law.TILTED
    inner: Parallel
    least: float = 0.9
    block: int | None = None
    post: int = 16
    over: Over = "masked"

    def __post_init__(self) -> None:
        if not 0 < self.least <= 1:
            raise OrderError(f"an editing threshold of {self.least}; expected a probability in (0, 1], such as 0.9")
        check_blocks(1 if self.block is None else self.block, self.over)
        if isinstance(self.post, bool) or not isinstance(self.post, int) or self.post < 0:
            raise OrderError(f"at most {self.post!r} steps that only edit; expected an integer >= 0, such as 16")

    def init(self, canvas: Canvas, chance: Chance) -> Edited:
        """Return the state of a run that begins with `canvas`."""
        start, rows = canvas.masked, torch.zeros(len(canvas.masked), dtype=torch.int64, device=canvas.device)
        return Edited(canvas, start, chance, torch.zeros_like(start), canvas, rows)

    def step(self, state: Edited, denoiser: Denoiser, chance: Chance) -> tuple[Edited, Info]:
        """Return the state after one step of the inner sampler in the current block, and the edits there."""
        canvas, pending = state.canvas, state.pending
        block, origin = self._block(state, pending)
        region = block & pending
        filled = region.any(1) & ~(region & canvas.masked).any(1)

        answer = denoiser(canvas, region)
        inner = State(canvas, block, origin)
        info = self.inner.step(inner, Asked(canvas, answer, denoiser), chance)[1]

        shown = without(region, canvas.masked)
        visible = answer.only(shown)
        mode = visible.spread(visible.mode)
        sure = visible.spread(visible.peak >= log(self.least), fill=False)
        edits = shown & sure & (mode != canvas.tokens)
        after = Canvas(torch.where(edits, mode, info.canvas.tokens), info.canvas.masked)

        extra = state.extra + filled
        ended = filled & (~edits.any(1) | (extra >= self.post))
        if self.post == 0:
            ended = ~(region & after.masked).any(1)
        settled = without(state.start, pending) | (region & ended[:, None])
        rest = extra.masked_fill(ended, 0)
        return Edited(after, state.start, state.origin, settled, after, rest), Info(info.step, info.kept, after)

    def done(self, state: Edited) -> Tensor:
        """Return the rows in which nothing is masked and nothing will be edited again, (B,) bool."""
        return ~state.pending.any(1)

    def _block(self, state: Edited, pending: Tensor) -> tuple[Tensor, Chance]:
        """Return each row's first block in which something is pending, (B, N) bool, and that block's chance."""
        if self.block is None:
            return state.start, state.origin
        index = blocks(state.canvas, state.start, self.block, self.over)
        current = index.masked_fill(~pending, torch.iinfo(torch.int64).max).amin(1)
        return state.start & (index == current[:, None]), state.origin.fork("block", current)
