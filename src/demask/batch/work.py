"""What is done with some lines of a file: each becomes a record, or a reason why not."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

from demask.errors import DemaskError, GenerateError
from demask.generate import Model, Result

_FIELDS: Final = ("id", "prompt", "template", "max_new_tokens")


@dataclass(frozen=True)
class Line:
    """What one line asks for.

    Parameters:
        number: of the line, from 0: the name of its row, so that its tokens do not depend on the lines around it.
        id: as given, or None.
        prompt: to be continued, or None.
        template: whose gaps are to be filled, or None.
        max_new_tokens: of this line; None: that of all lines.

    Example:
        >>> Line.parse(7, b'{"id": "a", "prompt": "dear anna ,"}')
        Line(number=7, id='a', prompt='dear anna ,', template=None, max_new_tokens=None)
        >>> Line.parse(8, b'"dear max ,"').prompt
        'dear max ,'
    """

    number: int
    id: str | int | None = None
    prompt: str | None = None
    template: str | None = None
    max_new_tokens: int | None = None

    @classmethod
    def parse(cls, number: int, raw: bytes) -> "Line":
        """Return what a line of JSON asks for: a string, or an object with a prompt or a template.

        Raises:
            GenerateError: anything else; says what is wrong.
        """
        try:
            value = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise GenerateError(f"byte {error.start} is not UTF-8; convert the file first") from None
        except (ValueError, RecursionError):
            raise GenerateError(
                'no JSON; expected "a prompt" or {"prompt": ".."}: jq -R . makes it of plain lines'
            ) from None
        body = {"prompt": value} if isinstance(value, str) else value
        if not isinstance(body, Mapping):
            raise GenerateError(
                f"a JSON {type(value).__name__}; expected a string, or an object with a prompt or a template"
            )
        if unknown := sorted(set(body) - set(_FIELDS)):
            raise GenerateError(f"the field {unknown[0]!r} is unknown; there are: {', '.join(_FIELDS)}")
        given: dict[str, Any] = {name: value for name, value in body.items() if value is not None}
        if ("prompt" in given) == ("template" in given):
            raise GenerateError("expected a prompt or a template, one of them")
        for name, kinds in (("prompt", str), ("template", str), ("max_new_tokens", int), ("id", (str, int))):
            if name in given and (not isinstance(given[name], kinds) or isinstance(given[name], bool)):
                raise GenerateError(f"{name} = {str(given[name])[:40]!r} has the type {type(given[name]).__name__}")
        if "template" in given and "max_new_tokens" in given:
            raise GenerateError("max_new_tokens with a template, whose gaps have their sizes; leave it out")
        return cls(number, **given)

    @property
    def names(self) -> dict[str, Any]:
        """What tells this line from others: its number, counted from 1, and its id."""
        return {"line": self.number + 1} | ({} if self.id is None else {"id": self.id})


@dataclass(frozen=True)
class Output:
    """What some lines became.

    Parameters:
        records: a JSON object each, in the order of the lines.
        rejects: likewise, of the lines that could not be done, with the reason.
    """

    records: tuple[str, ...]
    rejects: tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """All that lines have in common.

    Parameters:
        model: name or folder.
        key: of all draws.
        max_new_tokens: of lines that do not say.
        settings: of the recipe, for `Model.generate` and `Model.fill`.
        batch: rows at a time.
        full: whether records hold all of the result: tokens, and when each was unmasked.
    """

    model: str
    key: int = 0
    max_new_tokens: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 16
    full: bool = False

    def do(self, model: Model, first: int, lines: Sequence[bytes]) -> Output:
        """Generate for every line; one that cannot be done is rejected, and hinders no other.

        Parameters:
            model: as loaded.
            first: number of the first line.
            lines: raw.
        """
        good: list[Line] = []
        records: dict[int, str] = {}
        rejects: dict[int, str] = {}

        def reject(names: Mapping[str, Any], number: int, error: Exception) -> None:
            raw = lines[number - first].decode("utf-8", errors="replace")
            rejects[number] = _json({**names, "reason": str(error), "input": raw})

        for number, raw in enumerate(lines, start=first):
            if not raw.strip():
                continue
            try:
                good.append(Line.parse(number, raw))
            except DemaskError as error:
                reject({"line": number + 1}, number, error)
        for several in _alike(good):
            try:
                results = self._generate(model, several)
            except DemaskError:  # at least one of them cannot be done: find out which
                results = []
                for line in several:
                    try:
                        results += self._generate(model, [line])
                    except DemaskError as error:
                        reject(line.names, line.number, error)
                several = [line for line in several if line.number not in rejects]
            for line, result in zip(several, results, strict=True):
                records[line.number] = _json(self._record(line, result))
        return Output(tuple(records[n] for n in sorted(records)), tuple(rejects[n] for n in sorted(rejects)))

    def _generate(self, model: Model, lines: Sequence[Line]) -> list[Result]:
        """Generate for lines that follow each other and are alike."""
        first = lines[0]
        place = (first.number, 0)
        if first.template is not None:
            settings: Any = self.settings
            return [model.fill(first.template, key=self.key, row=place, **settings)]
        prompts = [line.prompt or "" for line in lines]
        most = self.max_new_tokens if first.max_new_tokens is None else first.max_new_tokens
        settings = self.settings
        return model.generate(prompts, most, key=self.key, row=place, batch=self.batch, **settings)

    def _record(self, line: Line, result: Result) -> dict[str, Any]:
        if self.full:
            return {**line.names, **result.to_json()}
        return {
            **line.names, "text": result.text, "gaps": list(result.gaps), "new": result.new, "nfe": result.nfe,
            "law": result.law.name, "call": str(result.call),
        }  # fmt: skip


def _alike(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """Return runs of lines that one call can do: prompts without a gap between their numbers, equally long at most."""

    def kind(pair: tuple[int, Line]) -> tuple[object, ...]:
        place, line = pair
        return (line.number,) if line.template is not None else (line.number - place, line.max_new_tokens)

    for _, group in groupby(enumerate(lines), key=kind):
        yield [line for _, line in group]


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
