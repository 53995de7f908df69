"""`demask compare --continuous`: what removing noise costs on points of R^d, with coefficients that adapt and others."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from rich import box
from rich.table import Table

from demask import files, panels, plots
from demask.cli.compare import as_csv, parse_counts, parse_specs
from demask.cli.output import console, progress, say_json, short, working
from demask.errors import SpecError
from demask.information.continuous import guarantee, output_kl, path_kl, total_variation
from demask.oracles import Gaussians
from demask.registry import build
from demask.samplers import Backward, Forward

STEPS: Final = "25,50,100,200,400,800"
DIMENSIONS: Final = "8,32,128,512"
RANK: Final = 4
ORACLE: Final = "subspaces"
RULES: Final = ("General()", "LowDimensional()")


@dataclass(frozen=True)
class Row:
    """One rule with one number of steps in one dimension.

    Parameters:
        coefficients: the rule's specification.
        dimension: d.
        rank: k, dimensions of the data, or of each of their parts.
        steps: T.
        path_kl_nats: KL of the path from noise to X_1.
        path_kl_error: its standard error; 0 where it is exact.
        guarantee_nats: a bound of it.
        output_kl_nats: KL(X_1 || Y_1); None where it is not known.
        tv: total variation of X_1 and Y_1; None where it is not known.
    """

    coefficients: str
    dimension: int
    rank: int
    steps: int
    path_kl_nats: float
    path_kl_error: float
    guarantee_nats: float
    output_kl_nats: float | None
    tv: float | None


def run(
    oracle: str | None,
    *,
    steps: str | None,
    dimensions: str | None,
    rank: int | None,
    rules: str | None,
    key: int,
    as_json: bool,
    csv_file: Path | None,
    plot: Path | None,
) -> None:
    """Compare and tell."""
    spec, k = oracle or ORACLE, RANK if rank is None else rank
    counts = parse_counts(steps or STEPS, "--steps", STEPS)
    widths = parse_counts(dimensions or DIMENSIONS, "--dimensions", DIMENSIONS)
    if rank is not None and rank > widths[0]:
        raise SpecError(
            f"--rank {rank} in --dimensions {widths[0]}; data have at most as many dimensions as their space"
        )
    if plot is not None:
        plots.check(plot)
    if csv_file is not None:
        files.check_folder(csv_file)
    found = _rows(spec, counts, widths, k, parse_specs(rules, RULES, "--rules"), key)
    if csv_file is not None:
        files.write(csv_file, as_csv(found).encode())
    if plot is not None:
        with working("drawing"):
            plots.save(panels.continuous([asdict(row) for row in found]), plot)
    if as_json:
        say_json({"distribution": spec, "rank": found[0].rank, "key": key, "rows": [asdict(row) for row in found]})
        return
    screen = console()
    screen.print(f"{spec}, intrinsic dimension {found[0].rank}", soft_wrap=True, markup=False)
    if any(row.path_kl_error for row in found):
        screen.print("every path KL is estimated from 512 drawn paths", soft_wrap=True)
    screen.print(_table(found))
    for path in (csv_file, plot):
        if path is not None:
            screen.print(f"wrote {path}", soft_wrap=True, markup=False)


def measured(
    spec: str = ORACLE, *, steps: Sequence[int], dimensions: Sequence[int], rank: int, key: int = 0
) -> list[dict[str, Any]]:
    """Return a row for every rule, dimension and number of steps, as `demask compare --continuous --json` has them.

    Example:
        >>> [general, low] = measured(steps=[100], dimensions=[32], rank=2)
        >>> round(general["path_kl_nats"], 3), round(low["path_kl_nats"], 3)
        (28.52, 0.636)
    """
    return [asdict(row) for row in _rows(spec, steps, dimensions, rank, RULES, key)]


def _rows(
    spec: str, steps: Sequence[int], dimensions: Sequence[int], rank: int, rules: Sequence[str], key: int
) -> list[Row]:
    coefficients = {text: build(text, "coefficients") for text in rules}
    targets = [build(spec, "distribution", dimension=d, rank=rank, key=key) for d in dimensions]
    cases = [(text, target, count) for text in rules for target in targets for count in steps]
    forwards = {count: Forward(count) for count in steps}
    return [
        _row(text, target, Backward(forwards[count], coefficients[text]), key)
        for text, target, count in progress(cases, "comparing")
    ]


def _row(text: str, target: Gaussians, sampler: Backward, key: int) -> Row:
    path = path_kl(target, sampler, key=key)
    known = target.centred
    return Row(
        text, target.dimension, target.rank, sampler.forward.steps, float(path), path.error, guarantee(target, sampler),
        output_kl(target, sampler) if known else None, total_variation(target, sampler) if known else None,
    )  # fmt: skip


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("coefficients", no_wrap=True)
    for name in ("d", "steps", "path KL\nnats", "guarantee\nnats", "output KL\nnats", "total\nvariation"):
        table.add_column(name, justify="right", no_wrap=True)
    for (rule, dimension), group in groupby(rows, key=lambda row: (row.coefficients, row.dimension)):
        members = list(group)
        for turn, row in enumerate(members):
            error = f" +- {short(1.96 * row.path_kl_error)}" if row.path_kl_error else ""
            table.add_row(
                rule if turn == 0 else "", str(dimension) if turn == 0 else "", str(row.steps),
                short(row.path_kl_nats) + error, short(row.guarantee_nats),
                "-" if row.output_kl_nats is None else short(row.output_kl_nats), "-" if row.tv is None else short(row.tv),
                end_section=turn == len(members) - 1,
            )  # fmt: skip
    return table
