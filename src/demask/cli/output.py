"""How results leave: one JSON object, or tables and lines; progress goes to stderr and only to a terminal."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import log
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

    from demask.curve import Estimate

T = TypeVar("T")
_LN2: Final = log(2)
_WIDTH: Final = 120  # of tables that no terminal limits


def console() -> "Console":
    """Return the console on stdout; tables that are piped are not folded at 80 columns."""
    from rich.console import Console

    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=_WIDTH if wide else None, highlight=False)


def _aside() -> "Console":
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say what takes so long, on stderr while it does, if that is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    with _aside().status(what, spinner="dots"):
        yield


def progress(items: Sequence[T], what: str) -> Iterable[T]:
    """Go through the items, with a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        return items
    from rich.progress import track

    return track(items, what, console=_aside(), transient=True)


def say(text: str) -> None:
    """Print a line as it is."""
    sys.stdout.write(text + "\n")


def say_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object."""
    say(json.dumps(value, ensure_ascii=False, allow_nan=False))


def say_pairs(pairs: Mapping[str, str]) -> None:
    """Print a line per pair, values aligned."""
    width = max(map(len, pairs))
    for name, value in pairs.items():
        say(f"{name:<{width}}  {value}")


def short(value: float) -> str:
    """Return a number in four digits, without an exponent where that is readable.

    Example:
        >>> short(201.823), short(0.0000123), short(1e-17), short(12345.6)
        ('201.8', '1.23e-05', '0', '12346')
    """
    if abs(value) < 1e-12:
        return "0"
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def bits(nats: float, length: int) -> float:
    """Return nats per sequence as bits per token."""
    return nats / _LN2 / length


def estimated(value: "Estimate") -> str:
    """Return a number in nats, with its 95% interval if it was estimated."""
    if value.exact:
        return f"{short(value)} nats"
    low, high = value.interval()
    return f"{short(value)} nats (95%: {short(low)} to {short(high)})"


def listed(sizes: Sequence[int], *, most: int = 20) -> str:
    """Return sizes in one line: runs of equal ones counted, the middle of a long list left out.

    Example:
        >>> listed([5, 3, 1, 1]), listed([1] * 6), listed(range(1, 40), most=6)
        ('5 3 1 1', '1 x6', '1 2 3 .. 37 38 39')
    """
    runs: list[tuple[int, int]] = []
    for size in sizes:
        if runs and runs[-1][0] == size:
            runs[-1] = (size, runs[-1][1] + 1)
        else:
            runs.append((size, 1))
    words: list[str] = []
    for size, times in runs:
        words += [f"{size} x{times}"] if times > 3 else [str(size)] * times
    if len(words) > most:
        words = [*words[: most // 2], "..", *words[-(most // 2) :]]
    return " ".join(words)


def counted(number: float, noun: str) -> str:
    """Return a number and its noun.

    Example:
        >>> counted(1, "step"), counted(16, "step")
        ('1 step', '16 steps')
    """
    return f"{short(number)} {noun}{'' if number == 1 else 's'}"
