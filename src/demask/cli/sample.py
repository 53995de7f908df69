"""`demask sample`: the canvas is unmasked before one's eyes, and what that costs is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import inf
from pathlib import Path
from time import sleep
from types import TracebackType
from typing import Any, ClassVar

import torch
from rich.console import Console
from rich.live import Live
from rich.text import Text

from demask import plots
from demask.canvas import Canvas
from demask.cli.choose import Choice, build_order
from demask.cli.knowledge import at_most, known_curve, known_dtc
from demask.cli.output import bits, console, estimated, listed, say, say_json, say_pairs, short, working
from demask.cli.source import Source
from demask.collect import Sizes as SizesSeen
from demask.contracts import Collector, Denoiser, Info, Order, Schedule
from demask.curve import Curve, Estimate
from demask.denoisers import Tempered
from demask.errors import SpecError
from demask.loop import Run, sample
from demask.oracles import Oracle
from demask.orders import Random
from demask.samplers import Parallel
from demask.schedules import Sizes
from demask.schedules.plan import Target

_SHOW = 1.5  # seconds that all pauses take together
_PAUSE = 0.12  # the longest one
_MASK = "·"
_FRESH = "not dim bold black on green"
_TARGETS: tuple[tuple[Target, str], ...] = (("tc", "TC"), ("dtc", "DTC"), ("both", "min(TC, DTC)"))


@dataclass
class Watch:
    """Show the first row while it is unmasked: masked cells dim, those of this step bright.

    Parameters:
        console: a terminal.
        cells: what every token looks like, one column each.
        rows: of the batch.
        steps: how many there will be, None if unknown.
    """

    name: ClassVar[str] = "watch"
    console: Console
    cells: Sequence[str]
    rows: int
    steps: int | None
    _turn: int = 0
    _live: Live = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Watch":
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def see(self, info: Info) -> None:
        """Draw the canvas after a step, and pause so that a human sees it."""
        self._turn += 1
        self._live.update(self._picture(info), refresh=True)
        sleep(min(_PAUSE, _SHOW / (self.steps or 40)))

    def result(self) -> None:
        """Nothing is kept."""

    def _picture(self, info: Info) -> Text:
        tokens, masked, fresh = (x[0].tolist() for x in (info.canvas.tokens, info.canvas.masked, info.kept))
        width = max(8, self.console.width - 1)
        lines = -(-len(tokens) // width)
        if lines > self.console.height - 3:  # show what fits
            tokens = tokens[: width * max(1, self.console.height - 4)]
        total = "" if self.steps is None else f" of {self.steps}"
        of = "" if self.rows == 1 else f", row 1 of {self.rows}"
        done = len(masked) - sum(masked)
        picture = Text(f"step {self._turn}{total}, {done} of {len(masked)} tokens{of}\n", style="dim", no_wrap=True)
        styles = ["dim" if m else _FRESH if f else "not dim" for m, f in zip(masked, fresh, strict=True)]
        for begin in range(0, len(tokens), width):
            picture.append("\n")
            for style, run in groupby(range(begin, min(begin + width, len(tokens))), key=styles.__getitem__):
                picture.append("".join(_MASK if masked[i] else self.cells[tokens[i]] for i in run), style=style)
        return picture


@dataclass(frozen=True)
class Claims:
    """What theory says of the run.

    Parameters:
        path_kl: expected path KL on the curve, nats; None where it is not known.
        guarantee: the largest path KL over all distributions with these totals, nats; None where there is none.
        why: what they rest on, or why there are none.
    """

    path_kl: float | None
    guarantee: float | None
    why: str


def run(
    source: Source,
    choice: Choice,
    *,
    order: str,
    key: int,
    rows: int,
    temperature: float,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Fit, sample, and tell."""
    if source.text is None:
        raise SpecError("no text to fit a chain to; give --text FILE, or --text - for stdin")
    if plot is not None:
        plots.check(plot)
    ranking = build_order(order)
    with working("fitting the chain"):
        oracle = source.open()
        schedule = choice.open(oracle)
        tc, dtc = oracle.tc(), known_dtc(oracle)
        claims = _claims(schedule, ranking, temperature, known_curve(oracle), tc, dtc)
    denoiser: Denoiser = oracle if temperature == 1 else Tempered(oracle, temperature)
    cells = cells_of(oracle)
    sampler, canvas = Parallel(schedule, ranking), Canvas.blank(rows, oracle.length)
    screen = console()
    seen: list[Collector] = [SizesSeen()]
    live = screen.is_terminal and not screen.is_dumb_terminal and not as_json
    with _watched(screen, cells, rows, schedule) if live else working("sampling") as watch:
        result = sample(denoiser, sampler, canvas, key=key, collect=[*seen, *([watch] if watch else [])])
    texts = oracle.decode(result.tokens)
    if plot is not None:
        with working("drawing"):
            plots.save(plots.canvas(result, [cells[token] for token in result.tokens[0].tolist()]), plot)
    if as_json:
        say_json(_json(result, texts, oracle, schedule, ranking, claims, tc, dtc))
        return
    for number, text in enumerate(texts, start=1):
        if rows > 1:
            say(f"--- {number} of {rows}")
        say(text)
    say("")
    say_pairs(_pairs(result, oracle, source, schedule, ranking, claims, tc, dtc))
    if plot is not None:
        say(f"\nwrote {plot}")


def _watched(screen: Console, cells: Sequence[str], rows: int, schedule: Schedule) -> Watch:
    steps = getattr(schedule, "steps", None)
    return Watch(screen, cells, rows, steps if isinstance(steps, int) else None)


def cells_of(oracle: Oracle) -> list[str]:
    """Return what each token looks like in one column of a terminal or one cell of a picture."""
    symbols = oracle.decode(torch.arange(oracle.vocabulary)[:, None])
    stand_in = {"\n": "↵", "\t": "→", "\r": "←", "\u00a0": " "}
    return [stand_in.get(s, s if s.isprintable() and len(s) == 1 else "\ufffd") for s in symbols]


def _claims(
    schedule: Schedule, order: Order, temperature: float, curve: Curve | None, tc: Estimate, dtc: Estimate | None
) -> Claims:
    if not isinstance(order, Random):
        return Claims(
            None, None, f"none: it holds for uniformly random positions, and {order!r} chooses them by a rule"
        )
    if not isinstance(schedule, Sizes):
        return Claims(None, None, f"none: {schedule!r} does not fix the law of the sizes beforehand")
    if temperature != 1:
        return Claims(None, None, f"none: at temperature {temperature:g} the output is not meant to follow the chain")
    totals = {"tc": at_most(tc)} | ({} if dtc is None else {"dtc": at_most(dtc)})
    bound = schedule.guarantee(**totals)
    named = " and ".join(f"{name.upper()} <= {short(value)}" for name, value in totals.items())
    sure = "" if tc.exact and (dtc is None or dtc.exact) else " (upper ends of their 95% intervals)"
    why = f"for every distribution with {named} nats{sure}"
    return Claims(None if curve is None else schedule.cost(curve), bound, why)


def _pairs(
    result: Run,
    oracle: Oracle,
    source: Source,
    schedule: Schedule,
    order: Order,
    claims: Claims,
    tc: Estimate,
    dtc: Estimate | None,
) -> dict[str, str]:
    n = oracle.length
    drawn = _sizes(result)
    more = "" if len(drawn) == 1 else f"  (row 1 of {len(drawn)})"
    pairs = {
        "model": source.describe(oracle),
        "schedule": repr(schedule),
        "order": repr(order),
        "key": str(result.key),
        "steps": _each(result.steps.tolist()),
        "NFE per row": _each(result.nfe.tolist()),
        "sizes drawn": listed(drawn[0]) + more,
        "status": f"{result.status.name}: {result.status.value}",
        "law": f"{result.law.name}: {result.law.value}",
        "TC, DTC": f"{estimated(tc)}, {'unknown' if dtc is None else estimated(dtc)}",
    }
    if claims.path_kl is not None:
        pairs["expected path KL"] = (
            f"{short(claims.path_kl)} nats ({short(bits(claims.path_kl, n))} bits per token), on the chain's own curve"
        )
    elif claims.guarantee is not None:
        pairs["expected path KL"] = "not computed: the curve of this chain takes too long; --markov 1 has a formula"
    if claims.guarantee is None:
        pairs["guarantee"] = claims.why
    else:
        bound = f"E KL <= {short(claims.guarantee)} nats ({short(bits(claims.guarantee, n))} bits per token)"
        pairs["guarantee"] = f"{bound} {claims.why}"
        assert isinstance(schedule, Sizes)
        pairs["constants"] = ", ".join(
            f"E KL <= {short(schedule.constant(target))} {name}" for target, name in _TARGETS
        )
    return pairs


def _json(
    result: Run,
    texts: list[str],
    oracle: Oracle,
    schedule: Schedule,
    order: Order,
    claims: Claims,
    tc: Estimate,
    dtc: Estimate | None,
) -> dict[str, Any]:
    bound = claims.guarantee
    return {
        "key": result.key,
        "tokens": result.tokens.tolist(),
        "text": texts,
        "when": result.when.tolist(),
        "nfe": result.nfe.tolist(),
        "steps": result.steps.tolist(),
        "sizes": _sizes(result),
        "status": result.status.name,
        "law": result.law.name,
        "tc": float(tc),
        "dtc": None if dtc is None else float(dtc),
        "path_kl_nats": claims.path_kl,
        "guarantee_nats": bound,
        "guarantee_bits_per_token": None if bound is None else bits(bound, oracle.length),
        "guarantee_basis": claims.why,
        "schedule": repr(schedule),
        "order": repr(order),
    }


def _sizes(result: Run) -> list[list[int]]:
    """Return the sizes of every row, steps that unmasked nothing left out."""
    return [[size for size in row if size] for row in result.collected["sizes"].T.tolist()]


def _each(values: list[int]) -> str:
    low, high = min(values, default=inf), max(values, default=0)
    return str(high) if low == high else f"{low} to {high}"
