"""`demask compare`: what every schedule costs on a distribution that is known exactly."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from io import StringIO
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.table import Table

from demask import files, plots
from demask.cli.choose import Choice, settles_steps
from demask.cli.knowledge import at_most, known_dtc, must_know_curve
from demask.cli.output import bits, console, estimated, progress, say_json, short, working
from demask.cli.source import Source
from demask.curve import Curve, Estimate
from demask.errors import LawError, SpecError
from demask.information import law
from demask.oracles import Oracle
from demask.orders import Random
from demask.samplers import Parallel
from demask.schedules import Sizes

SPECS: Final = (
    "uniform",
    "cosine",
    'geometric(direction="decreasing")',
    'geometric(direction="increasing")',
    'binomial(clock="linear")',
    'binomial(clock="log-linear")',
    "sequential",
    'fixed(target="both")',
    'minimax(target="tc")',
    'minimax(target="dtc")',
    'minimax(target="both")',
    'minimax(target="complexity")',
    "two_number",
    "optimal",
)
STEPS: Final = "4,8,16,32"
_SMALL: Final = (256, 5)  # sequences and positions up to which the law of the output is found by enumeration
_PATHS: Final = 60_000


@dataclass(frozen=True)
class Row:
    """One schedule with one number of steps.

    Parameters:
        schedule: its specification.
        steps: K, as asked, or as the schedule says itself.
        path_kl_nats: expected path KL on the curve.
        path_kl_bits_per_token: the same per position.
        guarantee_nats: the largest path KL over all distributions with the same TC and DTC.
        guarantee_bits_per_token: the same per position.
        output_kl_nats: KL from the distribution to the law of the output; None where it is not enumerable.
    """

    schedule: str
    steps: int
    path_kl_nats: float
    path_kl_bits_per_token: float
    guarantee_nats: float
    guarantee_bits_per_token: float
    output_kl_nats: float | None


def run(
    source: Source,
    *,
    steps: str,
    schedules: str | None,
    as_json: bool,
    csv_file: Path | None,
    plot: Path | None,
) -> None:
    """Compare and tell."""
    counts, specs = parse_steps(steps), parse_specs(schedules)
    if plot is not None:
        plots.check(plot)
    if csv_file is not None:
        files.check_folder(csv_file)
    with working("measuring the distribution"):
        oracle = source.open()
        curve = must_know_curve(oracle)
        tc, dtc, entropy = oracle.tc(), _dtc(oracle, curve), oracle.entropy()
    measure = partial(_row, oracle=oracle, curve=curve, tc=at_most(tc), dtc=at_most(dtc))
    rows = sorted((measure(*case) for case in progress(_cases(specs, counts), "comparing")), key=attrgetter("steps"))
    if csv_file is not None:
        files.write(csv_file, as_csv(rows).encode())
    if plot is not None:
        with working("drawing"):
            plots.save(plots.compare([asdict(row) for row in rows]), plot)
    if as_json:
        totals = {name: _total(value) for name, value in (("entropy", entropy), ("tc", tc), ("dtc", dtc))}
        shape = {"length": oracle.length, "vocabulary": oracle.vocabulary, "curve_exact": curve.exact}
        say_json({"model": source.describe(oracle), **shape, **totals, "rows": [asdict(row) for row in rows]})
        return
    screen = console()
    screen.print(f"{source.describe(oracle)}, length {oracle.length}", soft_wrap=True, markup=False)
    screen.print(f"TC {estimated(tc)}, DTC {estimated(dtc)}, entropy {estimated(entropy)}", soft_wrap=True)
    if not curve.exact:
        screen.print("the curve is estimated by sampling, and with it every path KL", soft_wrap=True)
    screen.print(_table(rows))
    for path in (csv_file, plot):
        if path is not None:
            screen.print(f"wrote {path}", soft_wrap=True, markup=False)


def measured(oracle: Oracle, steps: Sequence[int], *, specs: Sequence[str] = SPECS) -> list[dict[str, Any]]:
    """Return a row for every schedule and number of steps, as `demask compare --json` has them.

    Example:
        >>> from demask.oracles import parity
        >>> [row] = measured(parity(4), [2], specs=["uniform"])
        >>> round(row["path_kl_nats"], 4), round(row["guarantee_nats"], 4)
        (0.6931, 0.6931)
    """
    curve = must_know_curve(oracle)
    tc, dtc = at_most(oracle.tc()), at_most(_dtc(oracle, curve))
    measure = partial(_row, oracle=oracle, curve=curve, tc=tc, dtc=dtc)
    return [asdict(measure(*case)) for case in _cases(specs, steps)]


def parse_steps(text: str) -> list[int]:
    """Return the numbers of steps in a list such as 4,8,16.

    Raises:
        SpecError: anything that is not a whole number >= 1, or one listed twice.
    """
    return parse_counts(text, "--steps", STEPS)


def parse_counts(text: str, option: str, example: str) -> list[int]:
    """Return the whole numbers >= 1 in the list that an option was given.

    Raises:
        SpecError: anything else, or one listed twice.
    """
    counts: list[int] = []
    for word in text.split(","):
        if not (word.strip().isascii() and word.strip().isdigit() and int(word) >= 1):
            raise SpecError(f"{option} {text!r}: {word.strip()!r} is not a whole number >= 1; write {option} {example}")
        if int(word) in counts:
            raise SpecError(f"{option} {text!r}: {int(word)} is listed twice")
        counts.append(int(word))
    return sorted(counts)


def parse_specs(text: str | None, known: Sequence[str] = SPECS, option: str = "--schedules") -> list[str]:
    """Return the specifications in a list such as uniform;cosine, all known ones by default.

    Raises:
        SpecError: an empty list.
    """
    if text is None:
        return list(known)
    specs = list(dict.fromkeys(spec.strip() for spec in text.split(";") if spec.strip()))
    if not specs:
        raise SpecError(f"{option} {text!r} names none; write {option} '{known[0]};{known[-1]}'")
    return specs


def as_csv(rows: Sequence[Any]) -> str:
    """Return rows, data classes of one kind, with a header; numbers in full, nothing where there is none."""
    out = StringIO()
    writer = csv.DictWriter(out, list(asdict(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in asdict(row).items()} for row in rows)
    return out.getvalue()


def _dtc(oracle: Oracle, curve: Curve) -> Estimate:
    dtc = known_dtc(oracle)
    return curve.dtc if dtc is None else dtc


def _cases(specs: Sequence[str], counts: Sequence[int]) -> list[tuple[str, int | None]]:
    """Return every schedule with every number of steps, or once if it says its steps itself."""
    own = [spec for spec in specs if settles_steps(spec)]
    return [(spec, count) for count in counts for spec in specs if spec not in own] + [(spec, None) for spec in own]


def _row(spec: str, steps: int | None, *, oracle: Oracle, curve: Curve, tc: float, dtc: float) -> Row:
    sizes = Choice(spec, None, steps, oracle.length).open(oracle)
    if not isinstance(sizes, Sizes):
        raise SpecError(f"{spec} does not fix the law of its sizes beforehand, so it has no exact cost; leave it out")
    path, bound = sizes.cost(curve), sizes.guarantee(tc=tc, dtc=dtc)
    n, taken = oracle.length, getattr(sizes, "steps", oracle.length) if steps is None else steps
    return Row(spec, taken, path, bits(path, n), bound, bits(bound, n), _output_kl(oracle, sizes))


def _output_kl(oracle: Oracle, sizes: Sizes) -> float | None:
    sequences, positions = _SMALL
    if oracle.length > positions or oracle.vocabulary**oracle.length > sequences:
        return None
    try:
        output = law(oracle, Parallel(sizes, Random()), limit=_PATHS)
    except LawError:
        return None
    return oracle.to_table().kl(output)


def _total(value: Estimate) -> dict[str, float]:
    low, high = value.interval()
    return {"nats": float(value), "low": float(low), "high": float(high)}


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("steps", justify="right", no_wrap=True, min_width=5)
    table.add_column("schedule", no_wrap=True)
    for name in ("path KL\nnats", "path KL\nbits/token", "guarantee\nnats", "guarantee\nbits/token", "output KL\nnats"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("best", no_wrap=True)
    for steps, group in groupby(rows, key=lambda row: row.steps):
        members = list(group)
        best, safest = (min(map(attrgetter(name), members)) for name in ("path_kl_nats", "guarantee_nats"))
        for turn, row in enumerate(members):
            wins, safe = row.path_kl_nats <= _tie(best), row.guarantee_nats <= _tie(safest)
            cells = [
                short(row.path_kl_nats),
                short(row.path_kl_bits_per_token),
                short(row.guarantee_nats),
                short(row.guarantee_bits_per_token),
                "-" if row.output_kl_nats is None else short(row.output_kl_nats),
            ]
            table.add_row(
                str(steps) if turn == 0 else "",
                row.schedule,
                *cells,
                {(True, True): "both", (True, False): "path KL", (False, True): "guarantee"}.get((wins, safe), ""),
                style="bold" if wins else None,
                end_section=turn == len(members) - 1,
            )
    return table


def _tie(value: float) -> float:
    """Return what still counts as equal."""
    return value * (1 + 1e-9) + 1e-12
