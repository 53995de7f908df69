"""diffusers' block-wise pipelines with the schedules and orders of this library: `LLaDA2Pipeline(scheduler=Unmasking())`."""

from dataclasses import dataclass, replace

import torch
from diffusers import ConfigMixin, SchedulerMixin, __version__
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor

from demask.canvas import Canvas, Marginals
from demask.chance import Keyed
from demask.errors import GenerateError
from demask.generate.recipe import Recipe, in_steps
from demask.masks import without
from demask.orders import LeftToRight
from demask.samplers import Parallel
from demask.samplers.parallel import State
from demask.schedules import Unlimited

_REST = Parallel(Unlimited(), LeftToRight())


@dataclass
class UnmaskingOutput(BaseOutput):  # type: ignore[misc]
    """One step of a block.

    Parameters:
        prev_sample: (B, L) int64, the block after it.
        transfer_index: (B, L) bool, positions unmasked.
        editing_transfer_index: (B, L) bool, visible tokens replaced.
        sampled_tokens: (B, L) int64, a draw for every position that was asked; elsewhere what stands there.
        sampled_probs: (B, L), the probability of each draw; 1 where nothing was asked.
        pred_logits: (B, L, V), as they came.
    """

    prev_sample: Tensor
    transfer_index: Tensor
    editing_transfer_index: Tensor
    sampled_tokens: Tensor
    sampled_probs: Tensor
    pred_logits: Tensor


class Unmasking(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Unmask a block by a schedule and an order, in place of `BlockRefinementScheduler`.

    A block's sizes are drawn when it begins, for the positions that are masked then, and the pipeline's
    num_inference_steps is their number of steps K; what is still masked at the last one is unmasked there. Rows draw apart
    from each other. `generator` decides everything; without one torch's own does.

    The pipeline's own commit rule is what is replaced: its `threshold` and `minimal_topk` are not read; a threshold is an
    order here, "Threshold(Confidence(), 0.7)". Its editing is kept: a visible token that is no prompt gives way to a draw
    of larger probability than `editing_threshold`; pass editing_threshold=None to keep the law of schedule and order.

    Law: per block, that of `Parallel(schedule, order)`; TILTED with editing, a temperature or a cut.
    Cost: the pipeline's, one pass of the whole row per step, less the pass that it makes when a block is full.

    Parameters:
        schedule: a specification without steps, "minimax", "uniform", "cosine"; or with its own, "uniform(steps=8)".
        order: a specification.
        block_length: positions of a block where the pipeline is not told.
        num_inference_steps: of a block, before `set_timesteps`.

    Raises:
        GenerateError, SpecError: a specification that names nothing known.

    Example:
        >>> scheduler = Unmasking(schedule="uniform", order="LeftToRight()")
        >>> scheduler.set_timesteps(2, block_length=4)
        >>> block = torch.full((1, 4), 9)
        >>> logits = torch.eye(10)[None, [3, 1, 4, 1]] * 50
        >>> scheduler.step(logits, 0, block, mask_token_id=9).prev_sample
        tensor([[3, 1, 9, 9]])

    Reference: the contract of LLaDA2Pipeline in diffusers 0.42.
    """

    order = 1

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        schedule: str = "minimax",
        order: str = "Random()",
        block_length: int = 32,
        num_inference_steps: int = 32,
    ) -> None:
        self.set_timesteps(num_inference_steps)

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None, block_length: int | None = None
    ) -> None:
        """Begin a text: K steps per block.

        Raises:
            GenerateError: fewer than 1 step, or blocks of fewer than 1 position.
        """
        size = self.config["block_length"] if block_length is None else block_length
        for name, number in (("num_inference_steps", num_inference_steps), ("block_length", size)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise GenerateError(f"{name} = {number!r}; expected an integer >= 1")
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.arange(num_inference_steps - 1, -1, -1, device=device)
        self._sampler = in_steps(self.config["schedule"], self.config["order"], num_inference_steps)
        self._full = False
        self._state: State | None = None
        self._chance: Keyed | None = None

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        mask_token_id: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        sampling_method: str = "auto",
        threshold: float | None = None,
        editing_threshold: float | None = None,
        minimal_topk: int | None = None,
        prompt_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> UnmaskingOutput | tuple[Tensor, ...]:
        """Unmask this step's positions of a block, and edit others.

        Parameters:
            model_output: (B, L, V) logits of the block.
            timestep: number of the step within the block, from 0, where the block begins, as the pipeline of diffusers 0.42
                says it; a fraction, as of a clock that runs from 1 to 0, is refused.
            sample: (B, L) int64, the block.
            mask_token_id: what stands where nothing does; never drawn.
            temperature, top_p, top_k: how tokens are drawn; temperature 0, or sampling_method "greedy", is the mode.
            sampling_method: "auto", "multinomial" or "greedy".
            editing_threshold: for visible tokens; None or <= 0 for no editing.
            prompt_mask: (L,) bool, positions that are never edited.
            generator: that the block's key is drawn from.
            threshold, minimal_topk: not read; they belong to the rule that this one replaces.
            return_dict: False for a tuple of the same.

        Raises:
            GenerateError: no mask, a sampling method that nobody knows, or a timestep that is no number of a step.
        """
        if mask_token_id is None:
            raise GenerateError(
                "no mask_token_id; this scheduler unmasks. For a canvas of noise: demask.interop.diffusion_gemma"
            )
        if sampling_method not in ("auto", "multinomial", "greedy"):
            raise GenerateError(f"sampling_method = {sampling_method!r}; expected 'auto', 'multinomial' or 'greedy'")
        turn, masked = _turn(timestep), sample == mask_token_id
        canvas = Canvas(sample.masked_fill(masked, 0), masked)
        if turn == 0 or self._state is None or self._chance is None or self._state.canvas.shape != canvas.shape:
            key = int(torch.randint(1 << 62, (1,), generator=generator, device=getattr(generator, "device", "cpu")))
            self._chance = Keyed.of(key, torch.arange(len(sample), device=sample.device))
            self._state = self._sampler.init(canvas, self._chance.fork("run"))
        chance = self._chance.fork("step", turn)
        logits = model_output.index_fill(-1, torch.tensor([mask_token_id], device=sample.device), -torch.inf)

        def network(_: Canvas, where: Tensor) -> Marginals:
            return Marginals(where, logits[where])

        shaping = {"temperature": 0.0 if sampling_method == "greedy" else temperature, "top_p": top_p, "top_k": top_k}
        laws = Recipe().changed(shaping).wrap(network, ends=())  # type: ignore[arg-type]
        kept = torch.zeros_like(masked)
        tokens = sample
        open_rows = masked.any(1)
        if bool(open_rows.any()):
            sampler = _REST if turn >= self.num_inference_steps - 1 else self._sampler
            state, info = sampler.step(replace(self._state, canvas=canvas), laws, chance)
            self._state, kept = state, info.kept
            tokens = torch.where(kept, state.canvas.tokens, sample)
        edits = torch.zeros_like(masked)
        drawn, probability = tokens, torch.ones(sample.shape, device=sample.device)
        if editing_threshold is not None and editing_threshold > 0:
            shown = ~masked if prompt_mask is None else without(~masked, prompt_mask.expand_as(masked))
            answer = laws(canvas, shown)
            drafted = chance.fork("edit").categorical(answer)
            sure = answer.logp(drafted).exp()
            edits = shown & (answer.spread(drafted) != sample) & (answer.spread(sure) > editing_threshold)
            tokens = torch.where(edits, answer.spread(drafted), tokens)
            drawn = torch.where(shown, answer.spread(drafted), drawn)
            probability = torch.where(shown, answer.spread(sure).float(), probability)
        if bool(kept.any()):
            answer = network(canvas, kept)
            probability = torch.where(kept, answer.spread(answer.logp(tokens[kept]).exp()).float(), probability)
        self._full = not bool((tokens == mask_token_id).any())
        found = (tokens, kept, edits, drawn, probability, model_output)
        return UnmaskingOutput(*found) if return_dict else found

    def check_block_should_continue(
        self,
        step_idx: int,
        masks_remaining: bool | Tensor,
        editing_enabled: bool,
        editing_transfer_index: Tensor,
        post_steps: int,
        max_post_steps: int,
        finished: Tensor,
    ) -> bool:
        """Return whether the block needs another step: it has masks left, or the last one edited something."""
        if bool(finished.all()):
            return False
        if not self._full:
            return step_idx < self.num_inference_steps
        if not editing_enabled or post_steps > max_post_steps:
            return False
        return bool(masks_remaining) or bool(editing_transfer_index.any())

    def check_eos_finished(
        self,
        cur_x: Tensor,
        sampled_tokens: Tensor,
        final_transfer: Tensor,
        finished: Tensor,
        eos_token_id: int,
        mask_token_id: int,
        prompt_length: int,
    ) -> Tensor:
        """Return the rows whose text ends: an end token behind the prompt, and nothing masked before it; (B,) bool."""
        behind = cur_x[:, prompt_length:]
        ends = behind == eos_token_id
        before = ends.cumsum(1) == 0
        return finished | (ends.any(1) & ~(before & (behind == mask_token_id)).any(1))


def _turn(timestep: int | Tensor) -> int:
    """Return the number of a step; a clock that is taken for one would begin a new block at every step, and say nothing."""
    found = float(timestep)
    if not found.is_integer() or found < 0:
        raise GenerateError(
            f"timestep = {found:g}; expected the number of the step within its block, as the pipelines of diffusers 0.42 "
            f"say it. This is diffusers {__version__}: install diffusers==0.42.*"
        )
    return int(found)
