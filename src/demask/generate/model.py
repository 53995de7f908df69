"""A model and its tokenizer: generate, fill, stream, score."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Unpack, overload

import torch

from demask.contracts import Denoiser
from demask.curve import Estimate
from demask.denoisers.wrap import Continued
from demask.errors import GenerateError
from demask.generate.conversation import Messages, written
from demask.generate.job import Job, Row, ending
from demask.generate.recipe import Recipe, Settings
from demask.generate.result import Call, Frame, Result
from demask.generate.score import Score, behind, nelbo
from demask.generate.template import Layout, Template, Tokens
from demask.information.measurement import Measurement
from demask.samplers import Ended, inside

_MOST: Final = 1 << 31  # prompts and samples that have names


@dataclass(frozen=True, eq=False)
class Model:
    """A denoiser with its tokenizer, ready to generate.

    Parameters:
        denoiser: asked on canvases of at most `context` positions.
        tokenizer: `demask.tokenizer.Tokenizer`, or anything with its size, end, encode and decode.
        context: the most positions of a canvas.
        name: by which `load` finds it.
        window: every row is continued to this many positions by masked ones, since the model was trained on such windows;
            None: rows end where their text or their last gap ends.
        filled: whether a text that ends is followed by end tokens up to the window, or by one and then nothing.
        about: what its folder says of it.
        recipe: how it is sampled by default.
        curve: as measured on held-out windows, or None.

    Example:
        >>> from demask.oracles import Chain
        >>> from demask.tokenizer import Tokenizer
        >>> chain = Chain.markov([0.5, 0.5, 0.0], [[0.0, 0.9, 0.1], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], length=9)
        >>> model = Model(chain, Tokenizer.words(["tick", "tock"]), context=9, window=9)
        >>> model.generate("tick", 4, key=3).text
        'tick tock tick tock tick'
        >>> model.fill("tick [MASK] tick").text
        'tick tock tick'
    """

    denoiser: Denoiser
    tokenizer: Tokens
    context: int
    name: str = ""
    window: int | None = None
    filled: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    curve: Measurement | None = None

    @overload
    def generate(
        self,
        prompt: str = "",
        max_new_tokens: int | None = None,
        *,
        key: int = 0,
        row: tuple[int, int] = (0, 0),
        batch: int = 16,
        **settings: Unpack[Settings],
    ) -> Result: ...

    @overload
    def generate(
        self,
        prompt: str | list[str] = "",
        max_new_tokens: int | None = None,
        *,
        n: int,
        key: int = 0,
        row: tuple[int, int] = (0, 0),
        batch: int = 16,
        **settings: Unpack[Settings],
    ) -> list[Result]: ...

    @overload
    def generate(
        self,
        prompt: list[str],
        max_new_tokens: int | None = None,
        *,
        key: int = 0,
        row: tuple[int, int] = (0, 0),
        batch: int = 16,
        **settings: Unpack[Settings],
    ) -> list[Result]: ...

    def generate(
        self,
        prompt: str | list[str] = "",
        max_new_tokens: int | None = None,
        *,
        n: int | None = None,
        key: int = 0,
        row: tuple[int, int] = (0, 0),
        batch: int = 16,
        **settings: Unpack[Settings],
    ) -> Result | list[Result]:
        """Continue a prompt, up to the end of the text or of the room there is.

        Every row is generated as if it were alone: its tokens depend on the key, its prompt and its name (number of the
        prompt, number of the sample), not on the others. A prompt that ends in a space is continued by a token that
        begins with one, where tokens are pieces of text.

        Parameters:
            prompt: a text, which is never changed, or a list of texts.
            max_new_tokens: at most so many; by default as many as the context has room for.
            n: samples per prompt; their sizes are stratified.
            key: any integer.
            row: name of the first row, to make one row of a batch again.
            batch: rows at a time.
            settings: of the recipe: schedule, order, steps, excess, pace, block, over, sampler, temperature, top_k, top_p,
                min_p, repetition_penalty, forbid, end, guidance, stop; see `Recipe`.

        Returns:
            A result for one prompt without `n`; otherwise a list, the samples of a prompt side by side.

        Raises:
            GenerateError: a prompt that leaves no room, max_new_tokens < 1, settings that contradict each other.
            TokenizerError: text that the tokenizer cannot represent.

        Cost: memory for `batch` rows at a time; one NFE per step and unfinished row.
        """
        recipe = self.recipe.changed(settings)
        given = [prompt] if isinstance(prompt, str) else list(prompt)
        places = _places(row, len(given), n, batch)
        layouts = [self._continuation(text, max_new_tokens) for text in given]
        rows = []
        for place in places:
            index = place[0] - row[0]
            arguments = {"prompt": given[index], "max_new_tokens": max_new_tokens}
            rows.append(Row(layouts[index], place, self._call("generate", arguments, key, place, settings)))
        results = self._job(recipe, key, ends=True).results(rows, batch)
        return results[0] if isinstance(prompt, str) and n is None else results

    def chat(
        self,
        messages: Messages,
        max_new_tokens: int | None = None,
        *,
        template: str | None = None,
        key: int = 0,
        row: tuple[int, int] = (0, 0),
        **settings: Unpack[Settings],
    ) -> Result:
        """Answer a conversation; `gaps[0]` of the result is the answer.

        Parameters:
            messages: a text of the user, or messages, each with a role and a content.
            max_new_tokens, key, row, settings: as for `generate`.
            template: Jinja, in place of that of the model's tokenizer. Names of special tokens in a message are those
                tokens.

        Raises:
            GenerateError: messages that are none, no template, and what `generate` refuses.
            TokenizerError: a template that cannot write this conversation.
        """
        return self.generate(self.prompt(messages, template), max_new_tokens, key=key, row=row, **settings)

    def prompt(self, messages: Messages, template: str | None = None) -> str:
        """Return the prompt that a conversation is written as: what `chat` lets the model continue."""
        return written(messages, self.tokenizer, template)

    @overload
    def fill(
        self,
        template: str | Template,
        *,
        key: int = 0,
        row: tuple[int, int] = (0, 0),
        batch: int = 16,
        **settings: Unpack[Settings],
    ) -> Result: ...

    @overload
    def fill(
        self,
        template: str | Template,
        *,
        n: int,
        key: int = 0,
        row: tuple[int, int] = (0, 0),
        batch: int = 16,
        **settings: Unpack[Settings],
    ) -> list[Result]: ...

    def fill(
        self,
        template: str | Template,
        *,
        n: int | None = None,
        key: int = 0,
        row: tuple[int, int] = (0, 0),
        batch: int = 16,
        **settings: Unpack[Settings],
    ) -> Result | list[Result]:
        r"""Fill the gaps of a template, `"def add(a, b):\n    return [MASK:6]"`; see `Template.parse`.

        What stands outside the gaps never changes, byte for byte. A gap takes exactly its number of tokens, none of them
        an end token. The mask token of a published tokenizer is a gap of one token too. What follows the template is
        unknown to the model, unless the template ends with `[END]`.

        Parameters:
            template: text with marks, or a `Template`.
            n, key, row, batch, settings: as for `generate`, without `end` and `stop`.

        Returns:
            A result, or with `n` a list of so many.

        Raises:
            GenerateError: an unknown mark, no gap, a template longer than the context, settings of `generate` alone.
            TokenizerError: text that the tokenizer cannot represent.
        """
        recipe = self._filling(settings)
        parsed = self.template(template) if isinstance(template, str) else template
        rows = [self._template(parsed, key, place, settings) for place in _places(row, 1, n, batch)]
        results = self._job(recipe, key, ends=False, last=parsed.ends).results(rows, batch)
        return results[0] if n is None else results

    def template(self, text: str) -> Template:
        """Read a template as `fill` does; `stream` takes it."""
        return Template.parse(text, getattr(self.tokenizer, "mark", None))

    def stream(
        self,
        prompt: str | Template = "",
        max_new_tokens: int | None = None,
        *,
        key: int = 0,
        row: tuple[int, int] = (0, 0),
        **settings: Unpack[Settings],
    ) -> Iterator[Frame | Result]:
        """Show the canvas before the first step and after every one, then the result.

        The result is that of `generate`, or of `fill` for a `Template`. A reader that stops early costs no further pass.
        """
        job, one = self.prepare(prompt, max_new_tokens, key=key, row=row, **settings)
        return job.stream(one)

    def prepare(
        self,
        prompt: str | Template = "",
        max_new_tokens: int | None = None,
        *,
        key: int = 0,
        row: tuple[int, int] = (0, 0),
        **settings: Unpack[Settings],
    ) -> tuple[Job, Row]:
        """Check everything and compute nothing: what `stream` turns, for a caller who turns it himself.

        Raises: what `generate` raises, or `fill` for a `Template`.
        """
        recipe = self._filling(settings) if isinstance(prompt, Template) else self.recipe.changed(settings)
        if isinstance(prompt, Template):
            one = self._template(prompt, key, row, settings)
        else:
            arguments = {"prompt": prompt, "max_new_tokens": max_new_tokens}
            call = self._call("generate", arguments, key, row, settings)
            one = Row(self._continuation(prompt, max_new_tokens), row, call)
        ends = not isinstance(prompt, Template)
        return self._job(recipe, key, ends=ends, last=one.layout.template.ends), one

    def again(self, call: Call) -> Result:
        """Make a result again.

        Raises:
            GenerateError: a call of another method.
        """
        arguments: dict[str, Any] = dict(call.arguments)
        if "row" in arguments:
            arguments["row"] = tuple(arguments["row"])
        if call.method == "generate":
            result: Result = self.generate(str(arguments.pop("prompt")), **arguments)
            return result
        if call.method == "fill":
            filled: Result = self.fill(**arguments)
            return filled
        raise GenerateError(f"the method {call.method!r}; expected 'generate' or 'fill'")

    def score(
        self, text: str, *, given: str = "", ends: bool = True, passes: int = 512, key: int = 0, batch: int = 32
    ) -> Score:
        """Return the NELBO of a text, an upper bound on -log p(text | given), with its interval over random masks.

        Parameters:
            text: to be scored.
            given: what stands before it. Where its last token would be another one with the text behind it, that one is
                scored too.
            ends: whether the text ends here, so that the end tokens behind it count too; else what follows is unknown.
            passes: forward passes to spend at most; up to log2(passes) tokens are scored exactly.
            key: of the masks.
            batch: rows at a time.

        Raises:
            GenerateError: an empty text, one longer than the context, too few passes for an interval.

        Example:
            >>> from math import log
            >>> from demask.oracles import Chain
            >>> from demask.tokenizer import Tokenizer
            >>> model = Model(Chain.markov([0.5, 0.5, 0.0], [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.0, 0.0, 1.0]], length=6),
            ...               Tokenizer.words(["tick", "tock"]), context=6, window=6)
            >>> low, high = model.score("tick tock").nelbo.interval()
            >>> low <= 3 * log(2) + 1e-6 and 3 * log(2) - 1e-6 <= high  # 1/2 to begin, 1/2 to go on, 1/2 to end
            True
        """
        tokens, shown = behind(self.tokenizer, given, text)
        if not text or shown == len(tokens):
            raise GenerateError("an empty text; expected one or more tokens to score")
        bound = self.nelbo(tokens, shown, ends=ends, passes=passes, key=key, batch=batch)
        return Score(bound, len(tokens) - shown + (self._ending(len(tokens)) if ends else 0), len(text.encode()))

    def nelbo(
        self,
        tokens: Sequence[int],
        given: int = 0,
        *,
        ends: bool = False,
        passes: int = 512,
        key: int = 0,
        batch: int = 32,
    ) -> Estimate:
        """Return the NELBO of tokens[given:], given those before: what `score` says of texts.

        Parameters, Raises: those of `score`.
        """
        row = [*tokens, *[self.tokenizer.end] * (self._ending(len(tokens)) if ends else 0)]
        self._fits(len(row))
        block = self.recipe.block if self.recipe.over == "row" else None
        data = torch.tensor(row, device=self._device)
        return nelbo(self._asked(ends=ends), data, given, block=block, passes=passes, key=key, batch=batch)

    def _ending(self, length: int) -> int:
        """Return how many end tokens stand behind a text that ends after so many tokens."""
        return ending(length, self._filled)

    @cached_property
    def _device(self) -> torch.device:
        return torch.device(getattr(self.denoiser, "device", "cpu"))

    @property
    def _filled(self) -> int | None:
        """The window that end tokens fill up, or None."""
        return self.window if self.filled else None

    def _asked(self, *, ends: bool) -> Denoiser:
        """Return what is asked on rows whose text ends with them, or goes on unknown."""
        return (
            self.denoiser
            if self.window is None or (ends and not self.filled)
            else Continued(self.denoiser, self.window)
        )

    def _job(self, recipe: Recipe, key: int, *, ends: bool, last: bool = False) -> Job:
        """Return what rows have in common; `ends`: the end may be drawn, `last`: their text ends with them."""
        sampler = recipe.open(self.curve)
        return Job(
            denoiser=self._asked(ends=last),
            tokenizer=self.tokenizer,
            window=self._filled,
            device=self._device,
            recipe=recipe,
            sampler=inside(sampler, Ended, self.tokenizer.end) if ends else sampler,
            key=key,
            ends=ends,
            curve=self.curve,
        )

    def _fits(self, length: int) -> None:
        if length > self.context:
            raise GenerateError(
                f"{length} tokens for a context of {self.context}; shorten the text by {length - self.context}"
            )

    def _continuation(self, prompt: str, most: int | None) -> Layout:
        if not isinstance(prompt, str):
            raise GenerateError(f"a prompt of type {type(prompt).__name__}; expected a text, or a list of texts")
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise GenerateError(f"max_new_tokens = {most!r}; expected an integer >= 1, or None for as many as fit")
        shown = len(Layout.of(Template((prompt, 1)), self.tokenizer).tokens) - 1
        room = self.context - shown
        if room < 1:
            raise GenerateError(
                f"the prompt has {shown} tokens and leaves no room in a context of {self.context}; "
                f"shorten it to {self.context - 1} or fewer"
            )
        if most is not None and most > room:
            raise GenerateError(
                f"max_new_tokens = {most}, but the prompt's {shown} tokens leave room for {room} in a context of "
                f"{self.context}; write max_new_tokens={room}, or shorten the prompt"
            )
        return Layout.of(Template((prompt, room if most is None else most)), self.tokenizer)

    def _filling(self, settings: Settings) -> Recipe:
        """Return the recipe of a template, whose gaps hold no end and stop nowhere."""
        for name, given in (("end", settings.get("end")), ("stop", settings.get("stop"))):
            if given is not None:
                raise GenerateError(
                    f"{name} = {given!r} is for generate: a gap takes exactly its tokens, and none ends it"
                )
        return self.recipe.changed(settings)

    def _template(self, template: Template, key: int, row: tuple[int, int], settings: Settings) -> Row:
        layout = Layout.of(template, self.tokenizer)
        self._fits(len(layout.tokens) + template.ends)
        return Row(layout, row, self._call("fill", {"template": str(template)}, key, row, settings))

    def _call(self, method: str, arguments: dict[str, Any], key: int, row: tuple[int, int], settings: Settings) -> Call:
        if any(isinstance(x, bool) or not isinstance(x, int) or not 0 <= x < _MOST for x in row) or len(row) != 2:
            raise GenerateError(
                f"row = {row!r}; expected two integers >= 0: number of the prompt, number of the sample"
            )
        plain = {name: _plain(value) for name, value in settings.items() if value is not None}
        named = {"row": list(row)} if tuple(row) != (0, 0) else {}
        return Call(self.name, method, {**arguments, "key": key, **named, **plain})


def _places(row: tuple[int, int], prompts: int, n: int | None, batch: int) -> list[tuple[int, int]]:
    """Return the names of all rows, the samples of a prompt side by side."""
    samples = 1 if n is None else n
    for name, number in (("n", samples), ("batch", batch)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise GenerateError(f"{name} = {number!r}; expected an integer >= 1")
    return [(row[0] + prompt, row[1] + sample) for prompt in range(prompts) for sample in range(samples)]


def _plain(value: Any) -> Any:
    """Return a setting as JSON can hold it: components by their specification."""
    if isinstance(value, list | tuple):
        return list(value)
    return value if isinstance(value, str | int | float) else repr(value)
