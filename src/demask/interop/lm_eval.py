"""lm-evaluation-harness with the models of this library: `python -m demask.interop.lm_eval --model demask --tasks ..`."""

import logging
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final, cast

import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from demask.denoisers.checkpoints import Given
from demask.errors import DemaskError, GenerateError
from demask.generate import Template, load
from demask.generate.recipe import Settings
from demask.generate.score import behind

_LOG: Final = logging.getLogger("demask")
# Names of the harness, and what they are here; what is not among them must be a setting of `generate`.
_NAMES: Final = {"until": "stop", "max_gen_toks": "max_new_tokens", "max_new_tokens": "max_new_tokens"}
_SEVERAL: Final = ("ends", "before", "after")  # facts that are ids, of which the command line may give a single one


@register_model("demask")
class Demask(LM):  # type: ignore[misc]
    """A model of this library in the harness.

    loglikelihood is minus the NELBO of the continuation given the context, by fixed masks: a lower bound on log p, exact
    for continuations of up to log2(passes) tokens of a model that generates its rows at once. Continuations of equal length
    are masked alike, so their differences are less noisy than they are. `is_greedy` is whether the model's own recipe at
    temperature 0 writes the continuation, if `greedy` asks for it, and False otherwise: it costs a generation each.

    generate_until is `Model.generate`. Temperature is 0 unless a task says do_sample.

    A context that is too long is cut from its left, as the harness does, with a warning.

    Parameters:
        model: a name or folder for `demask.load`.
        batch_size: rows at a time.
        device, dtype: where and how to compute; dtype by name, "bfloat16". The harness asks for "cuda:0" where nobody says
            anything, so without a GPU it is the CPU, with a warning.
        passes: forward passes per continuation or window.
        key: of the masks, and of all draws of a generation.
        greedy: whether to find out what greedy decoding writes.
        max_gen_toks: new tokens where a task says nothing.
        settings: of the recipe, "steps=16,schedule=minimax"; or facts of a published checkpoint, "mask=126336,ends=126081":
            those of `demask.denoisers.checkpoints.Given`.

    Raises:
        GenerateError: an unknown setting. What `demask.load` raises.

    Example:
        >>> lm = Demask(model="demask/notes", passes=64)
        >>> lm.tokenizer_name
        'demask/notes'
    """

    def __init__(
        self,
        model: str = "demask/notes",
        *,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        passes: int = 128,
        key: int = 0,
        greedy: bool = False,
        max_gen_toks: int = 256,
        **settings: Any,
    ) -> None:
        super().__init__()
        if isinstance(batch_size, str) and not batch_size.isdigit():
            raise GenerateError(f"batch_size = {batch_size!r}; expected a number of rows, such as batch_size=16")
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            _LOG.warning("device = %r, the harness's default, but torch sees no GPU; computing on the CPU", device)
            device = None
        given = {name: settings.pop(name) for name in Given.__annotations__ if name in settings}
        for name in given.keys() & {*_SEVERAL}:
            given[name] = (given[name],) if isinstance(given[name], int) else tuple(given[name])
        precision = None if dtype is None else _dtype(dtype)
        self.model = load(model, device=device, dtype=precision, **cast(Given, given))
        self.model.recipe.changed(cast(Settings, settings))  # refuses what nobody knows
        self.settings = settings
        self.batch, self.passes, self.key, self.greedy = int(batch_size or 16), passes, key, greedy
        self.most = max_gen_toks

    @property
    def tokenizer_name(self) -> str:
        """What requests are remembered under."""
        return self.model.name

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return minus the NELBO of every continuation given its context, and whether greedy decoding writes it."""
        return [self._continuation(*request.args) for request in tqdm(requests, "loglikelihood", disable=disable_tqdm)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return minus the NELBO of every text; one longer than the context in windows, the last as long as the others."""
        return [self._rolling(request.args[0]) for request in tqdm(requests, "rolling", disable=disable_tqdm)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what the model writes behind every context, up to the first of the stop texts."""
        out: dict[int, str] = {}
        settings = [self._settings(request.args[1]) for request in requests]
        bar = tqdm(total=len(requests), desc="generate_until", disable=disable_tqdm)
        order = sorted(range(len(requests)), key=lambda index: repr(settings[index]))
        for _, group in groupby(order, key=lambda index: repr(settings[index])):
            members = list(group)
            for start in range(0, len(members), self.batch):
                chosen = members[start : start + self.batch]
                new, shaped = settings[chosen[0]]
                texts = [self._shortened(requests[index].args[0], new) for index in chosen]
                results = self.model.generate(texts, new, key=self.key, row=(start, 0), batch=self.batch, **shaped)
                for index, result in zip(chosen, results, strict=True):
                    out[index] = result.gaps[0]
                    self.cache_hook.add_partial("generate_until", requests[index].args, out[index])
                bar.update(len(chosen))
        bar.close()
        return [out[index] for index in range(len(requests))]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation as the model's template writes it.

        Raises:
            GenerateError: an answer that is already begun; templates here end with the question.
        """
        if not add_generation_prompt:
            raise GenerateError(
                "an answer that is already begun cannot be written by the template; leave out gen_prefix"
            )
        return self.model.prompt(chat_history)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the template's text, which requests are remembered under."""
        return str(getattr(getattr(self.model.tokenizer, "chat", None), "text", ""))

    def _continuation(self, context: str, continuation: str) -> tuple[float, bool]:
        shown = context.rstrip()
        text = context[len(shown) :] + continuation  # a space belongs to the word behind it
        tokens, given = self._encoded(shown, text)
        bound = self.model.nelbo(tokens, given, passes=self.passes, key=self.key, batch=self.batch)
        return -float(bound), self.greedy and self._writes(tokens, given)

    def _encoded(self, context: str, text: str) -> tuple[list[int], int]:
        """Return the tokens of both, cut from the left to the model's context, and how many of them are given."""
        tokens, given = behind(self.model.tokenizer, context, text)
        room = self.model.context
        if len(tokens) - given > room:
            raise GenerateError(f"a continuation of {len(tokens) - given} tokens for a context of {room}")
        if (over := len(tokens) - room) > 0:
            _LOG.warning("a context is cut by %d tokens from its left to fit into %d", over, room)
            tokens, given = tokens[over:], given - over
        return tokens, given

    def _writes(self, tokens: list[int], given: int) -> bool:
        decode = self.model.tokenizer.decode
        template = Template((decode(tokens[:given]), len(tokens) - given))
        found = self.model.fill(template, key=self.key, **{**self.settings, "temperature": 0.0})
        return bool(found.gaps[0].strip() == decode(tokens[given:]).strip())

    def _rolling(self, text: str) -> float:
        tokens, width = self.model.tokenizer.encode(text), self.model.context
        total = 0.0
        for start in range(0, len(tokens), width):
            stop = min(start + width, len(tokens))
            first = max(0, stop - width)
            bound = self.model.nelbo(
                tokens[first:stop], start - first, passes=self.passes, key=self.key, batch=self.batch
            )
            total -= float(bound)
        return total

    def _settings(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the number of new tokens and the settings of `generate` that a task's gen_kwargs mean."""
        given = dict(asked)
        sampled = given.pop("do_sample", bool(given.get("temperature", 0)))
        named = {_NAMES.get(name, name): value for name, value in given.items() if value is not None}
        new = named.pop("max_new_tokens", self.most)
        stop = named.pop("stop", [])
        stops = [text for text in ([stop] if isinstance(stop, str) else stop) if text]
        if not sampled:
            named["temperature"] = 0.0
        settings = {**self.settings, **named, **({"stop": stops} if stops else {})}
        self.model.recipe.changed(cast(Settings, settings))
        return int(new), settings

    def _shortened(self, text: str, new: int) -> str:
        """Return a context with room for `new` tokens behind it, cut from its left."""
        tokens, room = self.model.tokenizer.encode(text), self.model.context - new
        if room < 1:
            raise GenerateError(
                f"{new} new tokens in a context of {self.model.context}; write max_gen_toks={-room + 1}"
            )
        if len(tokens) <= room:
            return text
        _LOG.warning("a context is cut by %d tokens from its left to fit into %d", len(tokens) - room, room)
        return self.model.tokenizer.decode(tokens[-room:])


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise GenerateError(f"dtype = {name!r}; expected one of torch's, such as float32 or bfloat16")
    return found


def main() -> None:
    """Run the harness's own command line, with this model registered."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except DemaskError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
