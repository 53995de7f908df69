"""The canvas on a terminal: as it is unmasked, and as a saved run that one scrubs through."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import sleep

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from demask.cli.output import console, say
from demask.errors import SpecError
from demask.generate import Frame, Result

_SHOW = 1.5  # seconds that all pauses of a live view take together
_PAUSE = 0.12  # the longest one
_FRESH = "bold black on green"
_KEYS = {b"\x1b[C": 1, b"\x1b[D": -1, b"\x1bOC": 1, b"\x1bOD": -1, b"l": 1, b"h": -1, b" ": 1}
_ENDS = {b"\x1b[H": 0, b"\x1b[F": -1, b"g": 0, b"G": -1}  # home and end
_QUIT = (b"q", b"\x1b", b"\r", b"\n", b"\x04", b"")


def is_live(screen: Console) -> bool:
    """Return whether a picture can be drawn over and over."""
    return screen.is_terminal and not screen.is_dumb_terminal


def watch(frames: Iterator[Frame | Result], screen: Console, steps: int | None = None) -> Result:
    """Show frames as they come, each for a moment, and return the result that ends them."""
    with Live(console=screen, auto_refresh=False, transient=True) as live:
        for shown in frames:
            if isinstance(shown, Result):
                return shown
            live.update(picture(shown, screen, steps), refresh=True)
            sleep(min(_PAUSE, _SHOW / (steps or 40)))
    raise AssertionError("a stream ends with its result")


def picture(shown: Frame, screen: Console, steps: int | None) -> Group:
    """Return a canvas: masks dim, the tokens of this step bright, and a line on what it took."""
    fresh = set(shown.fresh)
    text = Text(overflow="fold")
    for place, cell in enumerate(shown.cells):
        text.append(cell, style="dim" if shown.masked[place] else _FRESH if place in fresh else "")
    lines = text.wrap(screen, max(8, screen.width - 1))
    most = max(1, screen.height - 4)
    body = Text("\n").join(lines[:most])
    left = sum(shown.masked)
    of = "" if steps is None else f" of {steps}"
    status = f"step {shown.step + 1}{of}   NFE {shown.nfe}   masked {left} of {len(shown.cells)}"
    if len(lines) > most:
        status += f"   ({len(lines) - most} lines below)"
    return Group(Text(status, style="dim", no_wrap=True), Text(), body)


def replay(path: Path, step: int | None) -> None:
    """Show a saved run: one step, all of them, or a scrubber on a terminal.

    Raises:
        SpecError: a step that the run does not have.
    """
    result = Result.load(path)
    frames = list(result.frames())
    screen = console()
    if step is not None:
        if not 0 <= step <= result.steps:
            raise SpecError(f"--step {step}: the run has steps 0 (nothing unmasked) to {result.steps}")
        say(frames[step].text)
    elif is_live(screen) and sys.stdin.isatty():
        _scrub(frames, screen)
        say(result.text)
    else:
        for shown in frames:
            line = shown.text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
            say(f"{shown.step + 1:4d}  {line}")


def _scrub(frames: Sequence[Frame], screen: Console) -> None:
    """Go through frames by keys: left and right, home and end, q."""
    place, last = 0, len(frames) - 1
    help_line = Text("left and right: step   home and end   q: leave", style="dim")
    with _raw(), Live(console=screen, auto_refresh=False, transient=True) as live:
        while True:
            bar = Text("[" + "=" * place + "|" + "-" * (last - place) + "]", style="dim", no_wrap=True)
            live.update(Group(picture(frames[place], screen, last), Text(), bar, help_line), refresh=True)
            pressed = os.read(sys.stdin.fileno(), 8)
            if pressed in _QUIT:
                return
            if pressed in _ENDS:
                place = last if _ENDS[pressed] else 0
            place = min(last, max(0, place + _KEYS.get(pressed, 0)))


@contextmanager
def _raw() -> Iterator[None]:
    """Read keys one by one, without echo; Ctrl-C still interrupts."""
    import termios
    import tty

    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    try:
        tty.setcbreak(handle)
        yield
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)
