"""Learn which N of every M weights a network keeps, by forward passes alone.

The weights never change, and no gradient passes through the network: a block's logits move by how much better or worse a
whole drawn mask was than the one begun with.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp, isfinite, sqrt
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from demask.canvas import ABSENT, Canvas
from demask.chance import Keyed
from demask.contracts import Denoiser
from demask.denoisers.sparse import Layers, Pattern, WeightMasks, check, masked
from demask.errors import TrainingError
from demask.training.masked import Masked, draw
from demask.training.stopping import stoppable
from demask.training.subsets import draw as draw_subsets
from demask.training.subsets import gradient, top
from demask.training.train import Status

_CHUNK: Final = 1 << 16  # blocks that are moved at once
_FIRST: Final = 8  # residuals that are seen before a rate is fitted to them
_NOISE: Final = 0.25  # of the first distance of logits: what a fitted rate lets noise alone move them by
STARTS: Final = ("wanda", "magnitude")


class Losses(Protocol):
    """The loss of a network as it now stands, on each of a fixed number of minibatches."""

    def __len__(self) -> int:
        """Return how many minibatches there are."""
        ...

    def __call__(self, index: int) -> float:
        """Return the loss on one of them, by forward passes."""
        ...


@dataclass(frozen=True, eq=False)
class Calibration:
    """Minibatches of rows whose masked positions are drawn once: the mean loss of a masked token, per row, in nats.

    n times the mean over rows is unbiased for the NELBO of a row of n tokens. The positions of a minibatch stay the same, so
    that two weight masks are compared on equal questions.

    Parameters:
        denoiser: any, on the device of the tokens.
        tokens: (S, N) int64, `ABSENT` where a row has ended.
        hidden: which positions are masked.
        batch: rows of a minibatch; the last may have fewer.

    Example:
        >>> from demask.oracles import Chain
        >>> chain = Chain.random(length=6, vocabulary=3, key=1)
        >>> losses = Calibration.of(chain, chain.sample(10, key=2), batch=4)
        >>> len(losses), losses(0) == losses(0)
        (3, True)
    """

    denoiser: Denoiser
    tokens: Tensor
    hidden: Masked
    batch: int

    @classmethod
    def of(cls, denoiser: Denoiser, tokens: Tensor, *, batch: int = 32, key: int = 0) -> "Calibration":
        """Draw the masked positions; a TrainingError without rows, or for a batch below 1."""
        if batch < 1 or len(tokens) < 1:
            raise TrainingError(f"{len(tokens)} rows in batches of {batch}; expected one or more of each")
        chance = Keyed.of(key, torch.arange(len(tokens), device=tokens.device)).fork("calibration")
        return cls(denoiser, tokens, draw(tokens != ABSENT, chance), batch)

    def __len__(self) -> int:
        return -(-len(self.tokens) // self.batch)

    @torch.no_grad()
    def __call__(self, index: int) -> float:
        """Return the mean over the rows of minibatch `index`."""
        rows = slice(index * self.batch, (index + 1) * self.batch)
        tokens, hidden = self.tokens[rows], self.hidden.rows(rows)
        answer = self.denoiser(Canvas(tokens.masked_fill(hidden.where, 0), hidden.where), hidden.where)
        return float(hidden.sum(-answer.logp(tokens[hidden.where])) / len(tokens))


def magnitude(layers: Layers, pattern: Pattern) -> dict[str, Tensor]:
    """Keep the weights of largest absolute value in each block.

    Example:
        >>> layer = nn.Linear(4, 1)
        >>> layer.weight.data = torch.tensor([[0.1, -3.0, 2.0, 0.5]])
        >>> magnitude({"only": layer}, Pattern(2, 4))["only"].tolist()
        [[False, True, True, False]]

    Reference: Mishra et al., Accelerating sparse deep neural networks, 2021, arXiv 2104.08378.
    """
    return {name: _largest(layer.weight.detach().abs(), pattern) for name, layer in layers.items()}


def wanda(layers: Layers, pattern: Pattern, losses: Losses) -> dict[str, Tensor]:
    """Keep the weights of largest |weight| * (root of the sum of squares of its input) in each block.

    Parameters:
        layers: of a dense network.
        pattern: N:M.
        losses: whose forward passes show the inputs, each minibatch once.

    Cost: one pass per minibatch; one float per input of every layer.

    Reference: Sun et al., A simple and effective pruning approach for large language models, 2023, arXiv 2306.11695.
    """
    squares = {name: torch.zeros(layer.in_features, device=layer.weight.device) for name, layer in layers.items()}

    def watch(total: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def see(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            total.add_(given[0].detach().float().square().flatten(0, -2).sum(0))

        return see

    handles = [layer.register_forward_pre_hook(watch(squares[name])) for name, layer in layers.items()]
    try:
        for index in range(len(losses)):
            losses(index)
    finally:
        for handle in handles:
            handle.remove()
    scores = {name: layer.weight.detach().float().abs() * squares[name].sqrt() for name, layer in layers.items()}
    if broken := [name for name, score in scores.items() if not bool(score.isfinite().all())]:
        raise TrainingError(f"{broken[0]}: inputs that are not finite; the dense network is broken on these texts")
    return {name: _largest(score, pattern) for name, score in scores.items()}


@dataclass(frozen=True)
class SparsityRecipe:
    """Every choice of the learning of weight masks. Published values in brackets where ours differ.

    Parameters:
        steps: minibatches, or None.
        seconds: to spend, or None; exactly one of the two.
        pattern: N:M.
        rate: of the logits [50]; None: fitted to the noise, see `MaskLearner.rate`.
        scale: logits of the weights kept at first; the others begin at 0 [10].
        memory: of the tracker, the running mean that is subtracted from residuals.
        key: of every random choice.
        save_every: seconds between calls of `keep`.

    Raises:
        TrainingError: a number out of its range, neither or both of steps and seconds.
    """

    steps: int | None = None
    seconds: float | None = None
    pattern: Pattern = field(default_factory=Pattern)
    rate: float | None = None
    scale: float = 3.0
    memory: float = 0.99
    key: int = 0
    save_every: float = 60.0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise TrainingError(f"steps = {self.steps} and seconds = {self.seconds}; give exactly one: seconds=600")
        if self.steps is not None and (
            isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1
        ):
            raise TrainingError(f"steps = {self.steps!r}; expected an integer >= 1")
        for name in ("seconds", "rate", "save_every"):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value > 0):
                raise TrainingError(f"{name} = {value!r}; expected a finite number > 0")
        if not (isfinite(self.scale) and self.scale >= 0 and 0 <= self.memory < 1):
            raise TrainingError(f"scale {self.scale}, memory {self.memory}; expected scale >= 0 and 0 <= memory < 1")
        if self.rate is None and self.scale == 0:
            raise TrainingError("scale 0 and no rate; a rate is fitted to the scale: give scale=3, or rate=1")


@dataclass(frozen=True)
class Turn:
    """What a human may want to know of a step.

    Parameters:
        step: how many are done.
        progress: share of the learning that has passed.
        seconds: spent.
        loss: of the drawn masks on this minibatch.
        residual: the loss less that of the masks begun with.
        tracker: the running mean of residuals.
        rate: of the logits in this step.
    """

    step: int
    progress: float
    seconds: float
    loss: float
    residual: float
    tracker: float
    rate: float


@dataclass(frozen=True, eq=False)
class LearnedMasks:
    """What came out: the weight masks, how many steps in how long, and how the learning ended."""

    masks: WeightMasks
    steps: int
    seconds: float
    status: Status


class MaskLearner:
    """Logits of every weight, the weight masks drawn from them, and the step that moves both.

    Parameters:
        start: the masks begun with, m_0.
        losses: of the network under `kept`; see `masked`.
        recipe: every choice.

    Attributes:
        logits: one float32 per weight.
        kept: the masks now drawn, changed in place.
        tracker: the running mean of the residuals of drawn masks so far, delta.
        rate: what the last residual less the tracker was multiplied by. Fitted, it is the one at which noise alone, over
            all T steps, moves a logit by a quarter of the scale s: 0.25 s / (sqrt(T exp(-s)) std r), and 0 in the first
            few steps. A weight's score has a mean square of about exp(-s).
        steps: done.

    Cost: of memory, one float32 and one bool per weight.
    """

    def __init__(self, start: WeightMasks, losses: Losses, recipe: SparsityRecipe) -> None:
        self.losses, self.recipe = losses, recipe
        self.logits = {name: mask * recipe.scale for name, mask in start.items()}
        self.kept = {name: mask.clone() for name, mask in start.items()}
        self.tracker = self.rate = self._squares = 0.0
        self.steps = 0
        self._before: list[float] = []

    def begin(self) -> None:
        """Take the losses of the masks begun with, once per minibatch; a TrainingError if one is not finite."""
        self._before = [self._finite(index) for index in range(len(self.losses))]

    def step(self, total: float) -> tuple[float, float]:
        """Take one step of a learning that has `total`; return the loss of the masks that were drawn before it, and r.

        r = f(m) - f(m_0),   z <- z - rate (r - delta) d log P(m) / d z,   m drawn anew,   delta <- delta + w (r - delta),

        with w = (1 - a) / (1 - a^t): the running mean, in which early residuals are not mixed with a zero. The first step
        meets m_0 itself, moves nothing and is not counted in t.
        """
        index = self.steps % len(self.losses)
        loss = self._finite(index)
        residual = loss - self._before[index]
        self.rate = self._fitted(total) if self.recipe.rate is None else self.recipe.rate
        self.move(self.rate * (residual - self.tracker))
        if self.steps:
            share = (1 - self.recipe.memory) / (1 - self.recipe.memory**self.steps)
            self.tracker += share * (residual - self.tracker)
            self._squares += share * (residual**2 - self._squares)
        self.steps += 1
        return loss, residual

    def _fitted(self, total: float) -> float:
        variance = self._squares - self.tracker**2
        if self.steps <= _FIRST or variance <= 0:
            return 0.0
        return _NOISE * self.recipe.scale / sqrt(max(total, 1.0) * exp(-self.recipe.scale) * variance)

    @torch.no_grad()
    def move(self, size: float) -> None:
        """Make the drawn masks less likely: move logits against the gradient by `size` of it, and draw new masks."""
        pattern = self.recipe.pattern
        for number, (name, kept) in enumerate(self.kept.items()):
            logits, chosen = pattern.blocks(self.logits[name]), pattern.blocks(kept)
            for first in range(0, len(logits), _CHUNK):
                part = slice(first, min(first + _CHUNK, len(logits)))
                logits[part].sub_(gradient(logits[part], chosen[part]), alpha=size)
                names = torch.arange(part.start, part.stop, device=logits.device)
                chance = Keyed.of(self.recipe.key, names).fork("weights", self.steps, number)
                chosen[part] = draw_subsets(logits[part], pattern.kept, chance)

    def best(self) -> dict[str, Tensor]:
        """Return the masks of the N largest logits of every block."""
        return {name: _largest(logits, self.recipe.pattern) for name, logits in self.logits.items()}

    def _finite(self, index: int) -> float:
        loss = self.losses(index)
        if not isfinite(loss):
            raise TrainingError(
                f"the loss of minibatch {index} is {loss} at step {self.steps}; the masks of the steps before are kept: "
                f"take those, or learn again at a lower rate (now {self.rate:g})"
            )
        return loss


def learn_masks(
    layers: Layers,
    start: WeightMasks,
    losses: Losses,
    recipe: SparsityRecipe,
    *,
    keep: Callable[[WeightMasks], None] = lambda masks: None,
    watch: Callable[[Turn], None] = lambda turn: None,
) -> LearnedMasks:
    """Learn which N of every M weights of the layers to keep, so that the losses are small: MaskPro.

    Minimises E f(m * w) over the law of masks whose blocks are drawn without replacement from softmax of their logits, by
    the residual policy gradient with a tracker. Minibatches are taken in turn. In the end every block keeps its N largest
    logits. The weights are those from before when this returns or raises. Ctrl-C and SIGTERM end the step and return.

    The estimate of the gradient is unbiased, since the tracker has not seen the residual that it is subtracted from. Its
    variance is that of the residual, to which all blocks add: a block is told right from wrong after about as many steps as
    there are blocks. Fewer steps can only keep close to the masks begun with (a high scale, a low rate).

    Parameters:
        layers: from `linear_layers`; of any network whose losses are given.
        start: masks to begin with, from `wanda` or `magnitude`.
        losses: of the network as it stands when called, such as a `Calibration`.
        recipe: every choice.
        keep: called with the masks so far every `save_every` seconds, at the end, and before an error leaves.
        watch: called after every step.

    Raises:
        DenoiserError: masks that do not fit the layers or the pattern.
        TrainingError: no minibatch, or a loss that is not finite.

    Cost: one pass per step and none backwards; one float32 and one bool per weight beside the network.

    Reference: Sun et al., MaskPro: linear-space probabilistic learning for strict (N:M)-sparsity on large language models,
    2025, arXiv 2506.12876.
    """
    check(start, recipe.pattern, layers)
    if len(losses) < 1:
        raise TrainingError("no minibatch to learn from; expected one or more: Calibration.of(denoiser, tokens)")
    learner = MaskLearner(start, losses, recipe)
    progress = seconds = 0.0
    with stoppable() as stop:
        with masked(layers, learner.kept):
            learner.begin()
        begun = time.monotonic()
        while not stop.asked and progress < 1:
            saved = time.monotonic()
            try:
                with masked(layers, learner.kept):
                    while not stop.asked and progress < 1 and time.monotonic() - saved < recipe.save_every:
                        total = recipe.steps or learner.steps / max(progress, 1e-9)
                        loss, residual = learner.step(total)
                        seconds = time.monotonic() - begun
                        progress = learner.steps / recipe.steps if recipe.steps else seconds / (recipe.seconds or 1.0)
                        done = min(1.0, progress)
                        watch(Turn(learner.steps, done, seconds, loss, residual, learner.tracker, learner.rate))
            finally:
                keep(learner.best())
    status = Status.FINISHED if progress >= 1 else Status.INTERRUPTED
    return LearnedMasks(learner.best(), learner.steps, seconds, status)


def _largest(scores: Tensor, pattern: Pattern) -> Tensor:
    return top(pattern.blocks(scores), pattern.kept).view_as(scores)
