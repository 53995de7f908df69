"""transformers' `generate` with the loop of this library: `model.generate(ids, custom_generate=decoding(mask=..))`."""

from dataclasses import dataclass
from typing import Any, Final, Unpack, cast

import torch
from torch import Tensor

from demask.canvas import ABSENT, Canvas
from demask.denoisers.checkpoints.base import Checkpoint
from demask.denoisers.checkpoints.facts import Facts
from demask.denoisers.checkpoints.remote import Whole
from demask.errors import GenerateError
from demask.generate.recipe import Recipe, Settings
from demask.loop import Status, sample
from demask.samplers import Ended, inside

# What `generate` itself is told, by its own names.
_SHAPING: Final = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "end")
_PROCESSORS: Final = {
    "MinPLogitsWarper", "RepetitionPenaltyLogitsProcessor", "TemperatureLogitsWarper", "TopKLogitsWarper",
    "TopPLogitsWarper",
}  # fmt: skip
_CRITERIA: Final = {"MaxLengthCriteria", "EosTokenCriteria"}
_CONTEXTS: Final = ("max_position_embeddings", "max_sequence_length", "model_length", "n_positions")


@dataclass(frozen=True)
class Decoding:
    """What `decoding` returns: `generate` calls it in place of its own loop.

    Parameters:
        recipe: schedule, order, steps, blocks.
        mask: the id that stands for a masked position; None: the configuration's mask_token_id.
        shift: whether the logits at position i predict the token at i + 1.
        key: of all draws.
    """

    recipe: Recipe
    mask: int | None
    shift: bool
    key: int

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any = (),
        stopping_criteria: Any = (),
        generation_config: Any = None,
        **inputs: Any,
    ) -> Any:
        """Write the new tokens behind the prompts, (B, N) -> (B, N + new); a prompt may be padded on either side.

        Raises:
            GenerateError: a processor or criterion that this loop cannot follow, or no mask.
        """
        _refuse(logits_processor, stopping_criteria)
        ends = _ids(generation_config.eos_token_id)
        denoiser = self._denoiser(model, ends)
        seen = inputs.get("attention_mask")
        new = generation_config.max_length - input_ids.shape[1]
        prompt = input_ids if seen is None else input_ids.masked_fill(seen == 0, ABSENT)
        blank = torch.zeros(len(input_ids), new, dtype=torch.int64, device=input_ids.device)
        canvas = Canvas(
            torch.cat((prompt, blank), 1),
            torch.cat((torch.zeros_like(prompt).bool(), torch.ones_like(blank).bool()), 1),
        )
        sampler = self.recipe.open()
        if ends:
            sampler = inside(sampler, Ended, ends[0])
        laws = self._shaped(generation_config).wrap(denoiser, ends=ends)
        run = sample(laws, sampler, canvas, key=self.key)
        if run.status is not Status.FINISHED:
            raise GenerateError(
                "the rows are not finished after 4096 steps; use a schedule that unmasks more at a time"
            )
        written = _cut(run.tokens[:, input_ids.shape[1] :], ends, generation_config.pad_token_id)
        sequences = torch.cat((input_ids, written), 1)
        if not generation_config.return_dict_in_generate:
            return sequences
        from transformers.generation.utils import GenerateDecoderOnlyOutput

        return GenerateDecoderOnlyOutput(sequences=cast(torch.LongTensor, sequences))

    def _denoiser(self, model: Any, ends: tuple[int, ...]) -> Checkpoint:
        config = model.config
        mask = getattr(config, "mask_token_id", None) if self.mask is None else self.mask
        if mask is None:
            raise GenerateError("the configuration names no mask_token_id; say which id is the mask: decoding(mask=..)")
        context = next((getattr(config, name) for name in _CONTEXTS if getattr(config, name, None)), 1 << 20)
        fillers = ends or (int(mask == 0),)
        facts = Facts(type(model).__name__, config.vocab_size, context, mask, fillers, shift=self.shift)
        return Checkpoint(Whole(model), facts)

    def _shaped(self, config: Any) -> Recipe:
        """Return the recipe with what `generate` was told of the laws; without sampling, the mode."""
        if not config.do_sample:
            return self.recipe.changed({"temperature": 0.0, "repetition_penalty": config.repetition_penalty})
        return self.recipe.changed({
            "temperature": config.temperature, "top_k": config.top_k or None, "top_p": config.top_p, "min_p": config.min_p,
            "repetition_penalty": config.repetition_penalty,
        })  # fmt: skip


def decoding(*, mask: int | None = None, shift: bool = False, key: int = 0, **settings: Unpack[Settings]) -> Decoding:
    """Return a `custom_generate` for masked diffusion models of transformers: this library's loop, schedules and orders.

    `generate` stays what says how many tokens, how they are drawn (do_sample, temperature, top_k, top_p, min_p,
    repetition_penalty), which ids end a text and what fills up behind them; without do_sample, tokens are the mode. It does
    not pass a streamer on, so none is written to.

    Law: that of the recipe.   Cost: its passes, each over whole rows, with logits of all positions: the model is not cut
    in two. `demask.load` cuts the families that it knows, and asks for less.

    Parameters:
        mask: the id that stands for a masked position; None: the model's config.mask_token_id.
        shift: whether the logits at position i predict the token at i + 1, as Dream's do.
        key: of all draws; a row's draws do not depend on how many rows there are.
        settings: schedule, order, steps, block, .., those of `demask.generate.Recipe`.

    Raises:
        GenerateError: an unknown setting, or one that belongs to `generate`.

    Example:
        >>> decoding(mask=126336, schedule="minimax", steps=16).recipe.open()
        Parallel(minimax(steps=16), Random())
        >>> decoding(temperature=0.5)
        Traceback (most recent call last):
        demask.errors.GenerateError: temperature = 0.5 belongs to generate: model.generate(.., temperature=0.5)
    """
    for name in _SHAPING:
        if name in settings:
            value = dict(settings)[name]
            raise GenerateError(f"{name} = {value!r} belongs to generate: model.generate(.., {name}={value!r})")
    return Decoding(Recipe().changed(settings), mask, shift, key)


def _refuse(processors: Any, criteria: Any) -> None:
    for what, given, known in (("processor", processors, _PROCESSORS), ("criterion", criteria, _CRITERIA)):
        if others := [type(one).__name__ for one in given if type(one).__name__ not in known]:
            raise GenerateError(
                f"the {what} {others[0]} reads texts that grow from the left; positions are unmasked in any order here, so "
                f"leave it out: known are {', '.join(sorted(known))}"
            )


def _ids(given: Any) -> tuple[int, ...]:
    if given is None:
        return ()
    return tuple(int(one) for one in given) if isinstance(given, list | tuple | Tensor) else (int(given),)


def _cut(tokens: Tensor, ends: tuple[int, ...], filler: int | None) -> Tensor:
    """Fill up behind the first end of every row."""
    if not ends:
        return tokens
    ended = torch.isin(tokens, torch.tensor(ends, device=tokens.device))
    behind = (ended.cumsum(1) - ended.long()) > 0
    return tokens.masked_fill(behind, ends[0] if filler is None else filler)
