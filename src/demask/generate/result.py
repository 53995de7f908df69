"""What was generated: the text, how it came about step by step, and how to make it again."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from demask import files
from demask.contracts import Law
from demask.errors import DemaskError, GenerateError
from demask.information.certificate import Certificate

SCHEMA: Final = "demask.result/1"
MASKED: Final = "░"


@dataclass(frozen=True)
class Call:
    """The call that makes a result again, with `Model.again` or typed.

    Parameters:
        model: name or folder.
        method: "generate" or "fill".
        arguments: of that method, plain values.

    Example:
        >>> print(Call("demask/notes", "generate", {"prompt": "Anna", "max_new_tokens": 8, "key": 3}))
        demask.load('demask/notes').generate('Anna', max_new_tokens=8, key=3)
    """

    model: str
    method: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        first, *rest = self.arguments.items()
        options = "".join(f", {name}={tuple(value) if isinstance(value, list) else value!r}" for name, value in rest)
        return f"demask.load({self.model!r}).{self.method}({first[1]!r}{options})"


@dataclass(frozen=True)
class Frame:
    """The canvas after a step.

    Parameters:
        step: from 0; -1 for the canvas before the first.
        cells: what every token adds to the text; where masked, what stands for a mask.
        masked: which positions are masked.
        fresh: the positions that this step unmasked.
        nfe: forward passes so far.
    """

    step: int
    cells: tuple[str, ...]
    masked: tuple[bool, ...]
    fresh: tuple[int, ...]
    nfe: int

    @property
    def text(self) -> str:
        """The canvas as text."""
        return "".join(self.cells)


@dataclass(frozen=True)
class Result:
    """One generated text.

    Parameters:
        text: what was given, byte for byte, with what was generated in its place, up to the first stop text.
        gaps: the text of every gap; for `generate` one, the continuation.
        tokens: (N,), all of the canvas, the tokens of a stop text among them; behind the first end token, or behind a stop
            text, everything is the end token.
        when: (N,), the step at which each token was last written, from 0; -1 for what was given.
        cells: (N,), what each token adds to the text; a token that is no whole character adds U+FFFD.
        new: tokens generated, up to and including the first end token or stop text.
        passes: (steps,), forward passes after each step.
        law: what the sampler claims about the distribution, given the denoiser's conditionals.
        certificate: of the schedule, if there is one.
        call: makes it again.
    """

    text: str
    gaps: tuple[str, ...]
    tokens: tuple[int, ...]
    when: tuple[int, ...]
    cells: tuple[str, ...]
    new: int
    passes: tuple[int, ...]
    law: Law
    certificate: Certificate | None
    call: Call = field(repr=False)

    @property
    def steps(self) -> int:
        """Steps of the loop."""
        return len(self.passes)

    @property
    def nfe(self) -> int:
        """Forward passes of the denoiser."""
        return self.passes[-1] if self.passes else 0

    @property
    def tokens_per_forward(self) -> float:
        """Generated tokens per forward pass; what stands behind the end does not count."""
        return self.new / max(1, self.nfe)

    def __str__(self) -> str:
        return self.text

    def frames(self) -> Iterator[Frame]:
        """Play it again: the canvas before the first step, and after each.

        A token that was remasked, edited or written over is shown from when it was last written; `Model.stream` shows all.
        """
        for step in range(-1, self.steps):
            masked = [when > step for when in self.when]
            nfe = self.passes[step] if step >= 0 else 0
            yield frame(step, self.cells, masked, (when == step > -1 for when in self.when), nfe)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, from which `from_json` makes an equal result."""
        certificate = None if self.certificate is None else self.certificate.to_json()
        call = {"model": self.call.model, "method": self.call.method, "arguments": dict(self.call.arguments)}
        lists = {name: list(getattr(self, name)) for name in _LISTS}
        body = {"schema": SCHEMA, "text": self.text, **lists, "new": self.new, "law": self.law.name}
        return {**body, "certificate": certificate, "call": call}

    @classmethod
    def from_json(cls, body: Any) -> "Result":
        """Return the result that `to_json` wrote.

        Raises:
            GenerateError: another schema, a field that is missing, unknown or of another type, lengths that do not fit.
        """
        schema = body.get("schema") if isinstance(body, Mapping) else None
        if schema != SCHEMA:
            raise GenerateError(f"the schema is {schema!r}; expected {SCHEMA!r}, as Result.save writes it")
        expected = {"schema", *cls.__dataclass_fields__}
        if odd := sorted(expected ^ set(body)):
            raise GenerateError(f"{', '.join(odd)} missing or unknown; the file was cut or edited: generate it again")
        lists = {name: _list(name, body[name], kind) for name, kind in _LISTS.items()}
        if {len(lists[name]) for name in ("tokens", "when", "cells")} != {len(lists["tokens"])}:
            raise GenerateError("tokens, when and cells have different lengths; expected one of each per position")
        steps = len(lists["passes"])
        if any(not -1 <= when < steps for when in lists["when"]):
            raise GenerateError(f"when has a step outside -1 .. {steps - 1}, the steps that passes has")
        if list(lists["passes"]) != sorted(lists["passes"]):
            raise GenerateError("passes falls; expected the forward passes so far, after every step")
        call = body["call"]
        if not isinstance(call, Mapping) or set(call) != {"model", "method", "arguments"} or not call["arguments"]:
            raise GenerateError(f"call is {str(call)[:60]}; expected model, method and arguments")
        if not isinstance(body["text"], str) or not isinstance(body["new"], int) or body["law"] not in Law.__members__:
            raise GenerateError("text, new or law are not a string, a number and the name of a law")
        try:
            certificate = None if body["certificate"] is None else Certificate.from_json(body["certificate"])
        except DemaskError as error:
            raise GenerateError(f"certificate: {error}") from None
        return cls(
            text=body["text"],
            new=body["new"],
            law=Law[body["law"]],
            certificate=certificate,
            call=Call(str(call["model"]), str(call["method"]), dict(call["arguments"])),
            **lists,
        )

    def save(self, path: str | Path) -> None:
        """Write a JSON file, whole or not at all."""
        files.write(path, json.dumps(self.to_json(), ensure_ascii=False, allow_nan=False).encode() + b"\n")

    @classmethod
    def load(cls, path: str | Path) -> "Result":
        """Read what `save` wrote.

        Raises:
            GenerateError: no such file, or one that is truncated or foreign; names the file.
        """
        try:
            body = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise GenerateError(
                f"{path}: {(error.strerror or str(error)).lower()}; expected what --save wrote"
            ) from None
        except (ValueError, RecursionError):
            raise GenerateError(f"{path} is no JSON, or was cut; expected what Result.save or --save wrote") from None
        try:
            return cls.from_json(body)
        except GenerateError as error:
            raise GenerateError(f"{path}: {error}") from None


_LISTS: Final[dict[str, type]] = {"gaps": str, "tokens": int, "when": int, "cells": str, "passes": int}


def frame(step: int, cells: Sequence[str], masked: Sequence[bool], fresh: Iterable[bool], nfe: int) -> Frame:
    """Return a frame from the cells of all tokens, with masks shown where `masked`."""
    return Frame(
        step=step,
        cells=tuple(MASKED if hidden else cell for cell, hidden in zip(cells, masked, strict=True)),
        masked=tuple(masked),
        fresh=tuple(place for place, new in enumerate(fresh) if new),
        nfe=nfe,
    )


def _list(name: str, value: Any, kind: type) -> tuple[Any, ...]:
    if not isinstance(value, list) or any(not isinstance(item, kind) or isinstance(item, bool) for item in value):
        raise GenerateError(f"{name} is {str(value)[:40]}; expected a list of {kind.__name__}")
    return tuple(value)
