"""Answers in the shape of OpenAI's, with what a diffusion model has to tell besides."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from demask.generate import Frame, Result


@dataclass(frozen=True)
class Shape:
    """How one request is answered.

    Parameters:
        id: of the request.
        kind: "text" of completions, "chat", or "fill".
        model: its name.
        seed: with which the same request gives the same answer.
        echo: whether the prompt stands before its completion.
        steps: whether every token's step is told.
        created: seconds of the epoch.
    """

    id: str
    kind: Literal["text", "chat", "fill"]
    model: str
    seed: int
    echo: bool = False
    steps: bool = False
    created: int = 0

    def whole(self, results: Sequence[Result]) -> dict[str, Any]:
        """Return the answer to a request that does not stream."""
        name = "chat.completion" if self.kind == "chat" else "text_completion"
        choices = [self._choice(index, result) for index, result in enumerate(results)]
        return self._head(name) | {"choices": choices, "usage": usage(results)}

    def part(self, index: int, text: str = "", *, reason: str | None = None, **more: Any) -> dict[str, Any]:
        """Return one chunk of a stream."""
        name = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        body = {"delta": {"role": "assistant", "content": text}} if self.kind == "chat" else {"text": text}
        choice = {"index": index, **body, "logprobs": None, "finish_reason": reason}
        return self._head(name) | {"choices": [choice | more]}

    def last(self, index: int, text: str, result: Result) -> dict[str, Any]:
        """Return the chunk that ends a row."""
        return self.part(index, text, reason=reason(result), demask=self._told(result))

    def usage(self, results: Sequence[Result]) -> dict[str, Any]:
        """Return the chunk that tells what a stream has cost."""
        name = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        return self._head(name) | {"choices": [], "usage": usage(results)}

    def text(self, result: Result) -> str:
        """Return what is answered of a row: its completion, or all of a template."""
        return result.text if self.echo or self.kind == "fill" else result.gaps[0]

    def _choice(self, index: int, result: Result) -> dict[str, Any]:
        text = self.text(result)
        body: dict[str, Any] = {"text": text}
        if self.kind == "chat":
            body = {"message": {"role": "assistant", "content": text, "refusal": None}}
        elif self.kind == "fill":
            body["gaps"] = list(result.gaps)
        more = {"logprobs": None, "finish_reason": reason(result), "demask": self._told(result)}
        return {"index": index, **body, **more}

    def _told(self, result: Result) -> Mapping[str, Any]:
        told: dict[str, Any] = {"nfe": result.nfe, "steps": result.steps, "law": result.law.name}
        told["tokens_per_forward"] = round(result.tokens_per_forward, 3)
        told["certificate"] = None if result.certificate is None else result.certificate.to_json()
        if self.steps:
            told |= {"cells": list(result.cells), "when": list(result.when), "result": result.to_json()}
        return told

    def _head(self, name: str) -> dict[str, Any]:
        created = self.created or int(time.time())
        return {"id": self.id, "object": name, "created": created, "model": self.model, "seed": self.seed}


def usage(results: Iterable[Result]) -> dict[str, Any]:
    """Return what rows have cost.

    The given tokens of a prompt count once for each of its samples.
    """
    given = new = nfe = 0
    for result in results:
        given += sum(when == -1 for when in result.when)
        new += result.new
        nfe += result.nfe
    total = {"prompt_tokens": given, "completion_tokens": new, "total_tokens": given + new}
    return total | {"nfe": nfe, "tokens_per_forward": round(new / max(1, nfe), 3)}


def reason(result: Result) -> str:
    """Return why a row ended: "stop" at an end of its own, "length" where its room was full."""
    return "stop" if result.new < sum(when >= 0 for when in result.when) else "length"


def canvas(frame: Frame, entropies: Sequence[float | None]) -> dict[str, Any]:
    """Return a canvas as plain values, with the entropies of the laws that its fresh tokens were drawn from, in nats."""
    values = {"step": frame.step, "cells": list(frame.cells), "masked": list(frame.masked)}
    return values | {"fresh": list(frame.fresh), "entropies": list(entropies), "nfe": frame.nfe}
