"""DiffusionGemma of transformers with the schedules and orders of this library: `with accepting(model, ..): generate`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from demask.canvas import Canvas, Marginals
from demask.chance import Keyed
from demask.contracts import Order, Schedule, Step
from demask.errors import GenerateError
from demask.generate.recipe import in_steps
from demask.samplers.parallel import largest
from demask.schedules import Unlimited

_STATIC: Final = ("static", "offloaded_static")


class Accepting:
    """What `generate` of DiffusionGemma asks: a first canvas, what is accepted of a step's draws, and noise elsewhere.

    Parameters:
        schedule, order: as everywhere: how many, and which.
        keep: whether what was accepted stays.
        length: positions of a canvas.
        vocabulary: V.

    Reference: EntropyBoundSampler of transformers 5.23, whose methods these are.
    """

    def __init__(self, schedule: Schedule, order: Order, *, keep: bool, length: int, vocabulary: int) -> None:
        self.schedule, self.order, self.keep = schedule, order, keep
        self.length, self.vocabulary = length, vocabulary
        self.accepted_token_mask: Tensor | None = None
        self._turn = 0

    def initialize_canvas(self, batch_size: int, device: torch.device) -> Tensor:
        """Begin a canvas, (B, L) int64: noise, by torch's own generator."""
        key = int(torch.randint(1 << 62, (1,)))
        self._chance = Keyed.of(key, torch.arange(batch_size, device=device))
        self._start = torch.ones(batch_size, self.length, dtype=torch.bool, device=device)
        self._accepted, self._turn = ~self._start, 0
        return self._noise()

    def accept_canvas(self, current_canvas: Tensor, denoiser_canvas: Tensor, logits: Tensor, cur_step: Any) -> Tensor:
        """Accept this step's positions: (B, L) the canvas, the draws, and (B, L, V) the logits -> (B, L)."""
        if not self.keep:
            self._accepted = ~self._start
        canvas = Canvas(current_canvas, self._start & ~self._accepted)
        step = Step(
            canvas, self._start, self._start, lambda _, where: Marginals(where, logits[where]),
            self._chance.fork("step", self._turn), self._chance.fork("run"),
        )  # fmt: skip
        chosen = self._start & False
        if bool(canvas.masked.any()):
            scores = self.order.score(step)
            chosen = largest(scores, self.schedule.count(step, scores))
        self._accepted = self._accepted | chosen
        self.accepted_token_mask = self._accepted
        return torch.where(chosen, denoiser_canvas, current_canvas)

    def renoise_canvas(self, accepted_canvas: Tensor, cur_step: Any) -> Tensor:
        """Put noise wherever nothing is accepted, (B, L)."""
        self._turn += 1
        return torch.where(self._accepted, accepted_canvas, self._noise())

    def _noise(self) -> Tensor:
        return torch.randint(self.vocabulary, self._start.shape, device=self._start.device)


@contextmanager
def accepting(
    model: Any, *, schedule: str | Schedule = "minimax", order: str | Order = "Random()", keep: bool = True
) -> Iterator[Any]:
    """Let `model.generate` accept tokens by a schedule and an order, inside the block.

    The model draws a token at every position at each step; the schedule says how many more of them are accepted, the order
    which, and everything else becomes noise. What comes out is the release's: the mode of every position at the last step,
    which may be an earlier one (`confidence_threshold`, `stability_threshold`). Its entropy bound is

        accepting(model, schedule="Unlimited", order="EntropyBudget(Entropy(), 0.1)", keep=False)

    Draws come from torch's own generator: torch.manual_seed.

    Law: TILTED: temperatures and modes, whatever schedule and order are.
    Cost: that of `generate`; an order that asks for entropies, O(L V).

    Parameters:
        model: a DiffusionGemmaForBlockDiffusion.
        schedule: a specification; one without steps has the model's max_denoising_steps.
        order: a specification. Its scores read what the model says of a position among noise.
        keep: whether what was accepted stays. Without it, every position is judged anew at each step, and only a schedule
            that does not count, "Unlimited", makes sense.

    Raises:
        GenerateError: a model without this hook, a schedule that counts what is not kept; within `generate`, a static
            cache, for which transformers compiles the sampler.

    Example:
        >>> with accepting(torch.nn.Linear(1, 1)):
        ...     pass
        Traceback (most recent call last):
        demask.errors.GenerateError: Linear has no _prepare_sampler; expected transformers' DiffusionGemmaForBlockDiffusion

    Reference: DiffusionGemma (Google, 2026), its sampler hook in transformers 5.23.
    """
    if not hasattr(type(model), "_prepare_sampler"):
        raise GenerateError(
            f"{type(model).__name__} has no _prepare_sampler; expected transformers' DiffusionGemmaForBlockDiffusion"
        )
    free = isinstance(in_steps(schedule, order, 2).schedule, Unlimited)  # and unknown names are refused here
    if not keep and not free:
        raise GenerateError(f"keep=False with schedule={schedule!r}, which counts what is accepted; write 'Unlimited'")

    def prepare(config: Any) -> Accepting:
        if config.cache_implementation in _STATIC and not config.disable_compile:
            raise GenerateError(
                f"cache_implementation={config.cache_implementation!r} compiles the sampler, which this one is not made "
                "for; write disable_compile=True"
            )
        opened = in_steps(schedule, order, config.max_denoising_steps)
        length, vocabulary = model.config.canvas_length, model.config.text_config.vocab_size
        return Accepting(opened.schedule, opened.order, keep=keep, length=length, vocabulary=vocabulary)

    before = model.__dict__.get("_prepare_sampler")
    model._prepare_sampler = prepare
    try:
        yield model
    finally:
        del model._prepare_sampler
        if before is not None:
            model._prepare_sampler = before
