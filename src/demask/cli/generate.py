"""`demask generate`: continue a prompt, one or many."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from demask import files
from demask.cli import facts
from demask.cli.live import is_live, replay, watch
from demask.cli.output import console, say, say_json, short, working
from demask.errors import GenerateError, SpecError
from demask.generate import Model, Result, Template, load
from demask.generate.recipe import Settings


def run(
    prompt: str | None,
    model: str,
    said: Sequence[str] | None,
    settings: Settings,
    *,
    n: int,
    key: int,
    max_new_tokens: int | None,
    chat: bool,
    save: Path | None,
    as_json: bool,
    jsonl: bool,
    replayed: Path | None,
    step: int | None,
) -> None:
    """Generate and tell."""
    if replayed is not None:
        if prompt is not None or save is not None or as_json or jsonl:
            raise SpecError(f"--replay {replayed} shows a saved run; leave out the prompt, --save, --json and --jsonl")
        replay(replayed, step)
        return
    if step is not None:
        raise SpecError(f"--step {step} is for --replay RUN.json")
    check_save(save, n)
    given = facts.read(said)
    if jsonl:
        if prompt not in (None, "-") or save is not None or as_json:
            raise SpecError("--jsonl reads prompts from stdin and prints one result per line; leave out the rest")
        prompts = list(_prompts())
        with working("loading"):
            loaded = load(model, **given)
        prompts = [loaded.prompt(text) for text in prompts] if chat else prompts
        with working("generating"):
            results = loaded.generate(prompts, max_new_tokens, n=n, key=key, **settings)
        for result in results:
            say_json(result.to_json())
        return
    text = read(prompt or "")
    with working("loading"):
        loaded = load(model, **given)
    text = loaded.prompt(text) if chat else text
    if n > 1:
        with working("generating"):
            several = loaded.generate(text, max_new_tokens, n=n, key=key, **settings)
        tell(several, as_json=as_json, answers=chat)
        return
    show(loaded, text, max_new_tokens, key=key, settings=settings, save=save, as_json=as_json, answers=chat)


def show(
    model: Model,
    prompt: str | Template,
    max_new_tokens: int | None = None,
    *,
    key: int,
    settings: Settings,
    save: Path | None,
    as_json: bool,
    answers: bool = False,
) -> None:
    """Generate or fill one text, before one's eyes on a terminal; keep it, and tell."""
    screen = console()
    frames = model.stream(prompt, max_new_tokens, key=key, **settings)
    if is_live(screen) and not as_json:
        result = watch(frames, screen, settings.get("steps"))
    else:
        with working("generating"):
            result = next(shown for shown in frames if isinstance(shown, Result))
    if save is not None:
        result.save(save)
    tell([result], as_json=as_json, answers=answers)
    if is_live(screen) and not as_json:
        facts = f"{result.new} tokens, {result.nfe} NFE, {short(result.tokens_per_forward)} tokens per pass, key {key}"
        screen.print(f"\n{facts}, {result.law.name}", style="dim", markup=False, soft_wrap=True)
        if save is not None:
            screen.print(f"wrote {save}: demask generate --replay {save}", style="dim", markup=False, soft_wrap=True)


def tell(results: list[Result], *, as_json: bool, answers: bool = False) -> None:
    """Print the texts, or of conversations the answers, and nothing else; or one JSON object."""
    if as_json:
        bodies = [result.to_json() for result in results]
        say_json(bodies[0] if len(bodies) == 1 else {"results": bodies})
        return
    for number, result in enumerate(results, start=1):
        if len(results) > 1:
            say(f"--- {number} of {len(results)}")
        say(result.gaps[0] if answers else result.text)


def read(text: str) -> str:
    """Return a text that was typed, or stdin for "-", without the newline that ends it.

    Raises:
        GenerateError: bytes that are not UTF-8.
    """
    if text != "-":
        return text
    return _decoded(sys.stdin.buffer.read()).removesuffix("\n")


def check_save(save: Path | None, n: int) -> None:
    """Raise if the run cannot be kept."""
    if save is None:
        return
    if n > 1:
        raise SpecError(f"--save {save} keeps one run, not --n {n}; use --json for all of them")
    files.check_folder(save)


def _prompts() -> Iterator[str]:
    for number, line in enumerate(_decoded(sys.stdin.buffer.read()).splitlines(), start=1):
        try:
            value: Any = json.loads(line)
        except ValueError:
            value = None
        prompt = value.get("prompt") if isinstance(value, dict) else value
        if not isinstance(prompt, str):
            raise GenerateError(
                f'line {number} of stdin is {line[:40]!r}; expected a JSON string, or {{"prompt": ".."}}: '
                "jq -R . makes JSON of plain lines"
            )
        yield prompt


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise GenerateError(
            f"stdin: byte {raw[error.start]:#04x} at offset {error.start} is not UTF-8; convert it first"
        ) from None
