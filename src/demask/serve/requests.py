"""What a client may ask: every field is honoured, or refused by name."""

import ast
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from demask.errors import GenerateError, SpecError
from demask.generate import Model
from demask.generate.template import Template
from demask.registry import KINDS, parsed, plain

_KINDS: Final = ("schedule", "order", "verifier", "sampler", "strategy", "potential")
_LOCAL: Final = {"learned"}  # reads a folder: not for those who are elsewhere
_NAMES: Final = frozenset(plain(name) for kind in _KINDS for name in KINDS[kind]) - _LOCAL
_MOST: Final = 1 << 20  # tokens, steps, samples
_LARGEST: Final = 4096  # number in a specification: of particles, say, which all take memory

Text = Annotated[str, Field(max_length=1 << 20)]
Spec = Annotated[str, Field(max_length=200)]
Count = Annotated[int, Field(ge=1, le=_MOST)]
Zero = Annotated[float, Field(ge=0, le=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Strict):
    """What a stream tells besides."""

    include_usage: bool = False


class Common(_Strict):
    """What all requests have in common: OpenAI's names, and ours through `extra_body`."""

    model: Annotated[str, Field(max_length=256)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    stream_mode: Literal["block", "canvas"] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Count | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    guidance: Annotated[float, Field(ge=-100, le=100)] | None = None
    steps: Count | None = None
    excess: Annotated[float, Field(gt=0)] | None = None
    pace: Annotated[float, Field(ge=1)] | None = None
    block: Count | None = None
    schedule: Spec | None = None
    order: Spec | None = None
    sampler: Spec | None = None
    deadline: Annotated[float, Field(gt=0)] | None = None
    return_steps: bool = False
    user: Annotated[str, Field(max_length=256)] | None = None

    def settings(self) -> dict[str, Any]:
        """Return what changes the recipe.

        Raises:
            SpecError: a specification that names what a request may not.
        """
        for text in (self.schedule, self.order, self.sampler):
            check(text)
        order = self.order
        if self.block is not None:
            if self.sampler is not None:
                raise GenerateError("block and sampler: give one of them; a sampler has its own order")
            order = f"Blockwise({order or 'Random()'}, {self.block})"
        names = ("schedule", "sampler", "steps", "excess", "pace", "temperature", "top_k", "top_p", "min_p")
        more = {name: getattr(self, name) for name in (*names, "repetition_penalty", "guidance")}
        return {"order": order} | more


class Fill(Common):
    """`/v1/fill`: gaps in a template, `"dear [MASK] ,"`."""

    template: Text
    n: Count = 1

    def prompts(self, model: Model) -> list[tuple[str | Template, int | None]]:
        """Return what is to be completed, with the most tokens of each."""
        return [(Template.parse(self.template), None)]


class Completion(Common):
    """`/v1/completions`."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=4096)] = ""
    suffix: Text | None = None
    max_tokens: Count | None = None
    n: Count = 1
    stop: Text | list[Text] | None = None
    echo: bool = False
    best_of: Literal[1] | None = None
    logprobs: None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    def settings(self) -> dict[str, Any]:
        """Return what changes the recipe."""
        return super().settings() | {"stop": self.stop}

    def prompts(self, model: Model) -> list[tuple[str | Template, int | None]]:
        """Return what is to be completed, with the most tokens of each."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if self.suffix is None:
            return [(prompt, self.max_tokens) for prompt in prompts]
        if self.max_tokens is None:
            raise GenerateError("suffix without max_tokens; say how many tokens stand between prompt and suffix")
        return [(Template((prompt, self.max_tokens, self.suffix)), None) for prompt in prompts]


class Message(_Strict):
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: Text


class Chat(Common):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Count = 1
    stop: Text | list[Text] | None = None
    logprobs: Literal[False] | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    def settings(self) -> dict[str, Any]:
        """Return what changes the recipe."""
        return super().settings() | {"stop": self.stop}

    def prompts(self, model: Model) -> list[tuple[str | Template, int | None]]:
        """Return what is to be completed: of a model without a chat template, the one message as it is.

        Raises:
            GenerateError: a conversation for a model without a template, or two limits.
            TokenizerError: a template that cannot write this conversation.
        """
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise GenerateError("max_tokens and max_completion_tokens: give one of them")
        most = self.max_completion_tokens or self.max_tokens
        if getattr(model.tokenizer, "chat", None) is not None:
            return [(model.prompt([message.model_dump() for message in self.messages]), most)]
        if len(self.messages) != 1 or self.messages[0].role != "user":
            raise GenerateError(
                "this model has no chat template; send one message of the role 'user', or use /v1/completions"
            )
        return [(self.messages[0].content, most)]


def check(text: str | None) -> None:
    """Refuse a specification that names more than schedules, orders, verifiers and samplers.

    Raises:
        SpecError: a name that is not allowed, a number above 4096, a word that is no option.

    Example:
        >>> check("Threshold(Blockwise(Confidence(), 32), 0.9)")
        >>> check("markov(length=9)")
        Traceback (most recent call last):
        demask.errors.SpecError: 'markov' is not for requests; see demask list
    """
    if text is None:
        return
    try:
        tree = parsed(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise SpecError("a specification that cannot be read; write name or name(option=value)") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and plain(node.id) not in _NAMES | {"inf"}:
            raise SpecError(f"{node.id!r} is not for requests; see demask list")
        if not isinstance(node, ast.Constant):
            continue
        if isinstance(node.value, bool | None):
            continue
        if isinstance(node.value, int | float) and not abs(node.value) <= _LARGEST:
            raise SpecError(f"a number above {_LARGEST} in a specification")
        if isinstance(node.value, str) and not (node.value.isidentifier() and len(node.value) < 33):
            raise SpecError("a text in a specification that is no option")
        if not isinstance(node.value, int | float | str):
            raise SpecError("a specification holds numbers, words and names")
